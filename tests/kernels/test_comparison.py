"""Sketched kernels compared with exact ones: errors, scores, ranking, time, memory, and the figure."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select import Expert, Sketch, gradient_sketch
from ntk_select.errors import ConfigError, DataError, MissingDependencyError, ModelError, TaskError
from ntk_select.kernels import comparison_plot
from ntk_select.kernels.compare import compare, peak_added
from ntk_select.kernels.comparison import Comparison, ExactCell, LeftOut, SketchCell, merged
from ntk_select.kernels.comparison_plot import comparison_figure

CLASSES, WIDTH, OUTPUTS = 3, 6, 4
LABELS = np.repeat(np.arange(CLASSES), 5)

pytestmark = pytest.mark.usefixtures("quickly")


def network(variables, x):
    """Logits of one hidden layer; "hidden" stands for the last convolution."""
    params = variables["params"]
    return jnp.tanh(x @ params["hidden"]) @ params["head"]["kernel"]


def features(variables, x):
    return jnp.tanh(x @ variables["params"]["hidden"])


def expert_of(seed, **parts):
    rng = np.random.default_rng(seed)
    params = {"hidden": rng.normal(size=(20, WIDTH)) / 20**0.5, "head": {"kernel": rng.normal(size=(WIDTH, OUTPUTS))}}
    return Expert(f"expert {seed}", network, params, features_fn=features, head=("head",), **{"last_conv": ("hidden",)} | parts)


def inputs_of(seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(CLASSES, 20))[LABELS] + spread * rng.normal(size=(len(LABELS), 20))


def explicit_kernel(expert, x):
    """From the closed form of the gradient: d logit_c / d hidden_ij = x_i (1 - tanh^2)_j head_jc."""
    head = expert.params["head"]["kernel"]
    slopes = 1 - np.tanh(x @ expert.params["hidden"]) ** 2
    rows = np.einsum("ni,nj,jc->ncij", x, slopes, head).reshape(len(x), OUTPUTS, -1)
    return np.einsum("ncp,mcp->nm", rows, rows) / OUTPUTS


def pearson(kernel, labels):
    return np.corrcoef(kernel.ravel(), (labels[:, None] == labels).ravel())[0, 1]


@pytest.fixture(scope="module")
def compared(quickly):
    experts = {f"expert {seed}": expert_of(seed) for seed in range(3)}
    return experts, compare(experts, inputs_of(), LABELS, dims=(32, 8), seeds=(3, 5), memory=False)


def test_errors_and_scores_are_those_of_the_kernels(compared):
    experts, found = compared
    x = inputs_of()
    assert [cell.expert for cell in found.exact] == list(experts)
    assert len(found.rows) == 3 * 6 * 2 * 2
    assert found.dims == (8, 32)
    for cell in found.exact:
        kernel = explicit_kernel(experts[cell.expert], x)
        assert cell.correlation == pytest.approx(pearson(kernel, LABELS), abs=1e-10)
        assert cell.norm == pytest.approx(np.sqrt((kernel**2).sum()), rel=1e-10)
        assert cell.effective_rank == pytest.approx(np.trace(kernel) ** 2 / (kernel**2).sum(), rel=1e-10)
        assert (cell.images, cell.bytes) == (15, 15 * 15 * 8)
        # The kinds differ in the sketch alone, which is compared for the first expert.
        for row in (row for row in found.rows if row.expert == cell.expert and (row.kind == "gaussian" or cell is found.exact[0])):
            sketched = gradient_sketch(experts[row.expert], x, Sketch(row.dim, row.kind, row.seed))
            estimate = sketched.sketch @ sketched.sketch.T
            assert row.error == pytest.approx(np.sqrt(((estimate - kernel) ** 2).sum() / (kernel**2).sum()), rel=1e-6)
            assert row.law == pytest.approx(np.sqrt((1 + cell.effective_rank) / row.dim), rel=1e-10)
            assert (row.predicted_error, row.measured_error) == (sketched.predicted_error(), sketched.measured_error())
            assert row.bytes == 15 * row.dim * sketched.sketch.itemsize
            if row.correlation is None:
                continue
            assert row.correlation_error == pytest.approx(row.correlation - cell.correlation, abs=1e-12)
            if row.low is not None:
                assert row.holds == (row.low <= pearson(kernel, LABELS) <= row.high)
                assert row.low <= row.correlation <= row.high


def test_every_kind_has_a_cell_for_every_dimension_and_seed(compared):
    found = compared[1]
    addresses = {(row.expert, row.kind, row.dim, row.seed) for row in found.rows}
    assert len(addresses) == len(found.rows)
    assert {row.seed for row in found.rows} == {3, 5}
    assert found.kinds == ("countsketch", "rademacher", "gaussian", "srht", "kronecker", "jvp")


def test_summaries_are_root_mean_squares_over_experts_and_seeds(compared):
    found = compared[1]
    for summary in found.summaries():
        rows = [row for row in found.rows if (row.kind, row.dim) == (summary.kind, summary.dim)]
        assert summary.cells == len(rows) == 6
        assert summary.error == pytest.approx(np.sqrt(np.mean([row.error**2 for row in rows])))
        assert summary.law == pytest.approx(found.law(summary.dim)) == pytest.approx(np.sqrt(np.mean([row.law**2 for row in rows])))
        told = [row.holds for row in rows if row.holds is not None]
        assert summary.held == (None if not told else pytest.approx(np.mean(told)))
        assert summary.seconds == np.median([row.seconds for row in rows if row.seconds is not None])


@pytest.mark.parametrize("kind", ["gaussian", pytest.param("rademacher", marks=pytest.mark.nightly)])
def test_the_error_of_dense_sketches_follows_the_law_and_falls_with_the_root_of_the_dimension(kind):
    found = compare({"one": expert_of(1)}, inputs_of(), LABELS, kinds=(kind,), dims=(16, 256), seeds=range(60), memory=False)
    assert found.slopes() == {kind: pytest.approx(-0.5, abs=0.06)}
    for summary in found.summaries():
        assert summary.error == pytest.approx(summary.law, rel=0.25)
        assert found.law(summary.dim) == pytest.approx(np.sqrt((1 + found.exact[0].effective_rank) / summary.dim))


def test_labels_that_are_shuffled_leave_the_errors_and_take_the_scores_away():
    options = {"kinds": ("gaussian",), "dims": (256,), "seeds": range(6), "memory": False}
    x = inputs_of(spread=0.3)
    true = compare({"one": expert_of(0)}, x, LABELS, **options)
    shuffled = compare({"one": expert_of(0)}, x, np.random.default_rng(0).permutation(LABELS), **options)
    assert [row.error for row in true.rows] == [row.error for row in shuffled.rows]
    assert true.exact[0].correlation > 0.5
    assert abs(shuffled.exact[0].correlation) < 0.2
    assert all(abs(row.correlation) < 0.3 for row in shuffled.rows)
    assert all(row.correlation > 0.4 for row in true.rows)
    assert np.mean([row.holds for row in (*true.rows, *shuffled.rows)]) >= 0.75


def cell(expert, correlation, **parts):
    return replace(ExactCell(expert, 4, correlation, 2.0, 1.0, 0.5, 128), **parts)


def row(expert, seed, correlation, **parts):
    error = None if correlation is None else 0.1
    made = SketchCell(expert, "gaussian", 8, seed, 2, 0.3, 0.6, 0.5, 0.4, correlation, error, 0.1, None, None, None, 0.2, 0.1, 128)
    return replace(made, **parts)


def hand_made(*orders, exact=(0.3, 0.2, 0.1)):
    names = "abc"[: len(exact)]
    rows = [row(name, seed, value) for seed, order in enumerate(orders) for name, value in zip(names, order, strict=True)]
    return Comparison("last_conv", "trace", tuple(map(cell, names, exact)), tuple(rows))


def test_the_change_of_the_ranking_is_that_by_hand():
    swapped, turned = hand_made((0.9, 0.1, 0.5), (0.1, 0.2, 0.3)).rankings()
    assert (swapped.spearman, swapped.kendall, swapped.same_first) == (pytest.approx(0.5), pytest.approx(1 / 3), True)
    assert (turned.spearman, turned.kendall, turned.same_first) == (pytest.approx(-1), pytest.approx(-1), False)
    (summary,) = hand_made((0.9, 0.1, 0.5), (0.1, 0.2, 0.3)).summaries()
    assert (summary.spearman, summary.kendall, summary.same_first) == (pytest.approx(-0.25), pytest.approx(-1 / 3), 0.5)


@pytest.mark.parametrize(
    ("exact", "order"),
    [
        ((0.3, None, 0.1), (1.0, 2.0, 3.0)),
        ((0.3, 0.2, 0.1), (1.0, None, 3.0)),
        ((0.3, 0.2, 0.1), (1.0, 1.0, 1.0)),
        ((0.2, 0.2), (0.1, 0.3)),
        ((0.3,), (0.3,)),
    ],
)
def test_without_a_value_for_every_expert_or_without_an_order_nothing_is_said_of_the_ranking(exact, order):
    found = hand_made(order, exact=exact)
    assert found.rankings() == ()
    assert found.summaries()[0].spearman is None
    assert "Spearman" not in found.table()[0]


def test_kinds_with_one_dimension_or_no_error_have_no_slope():
    assert hand_made((0.3, 0.2, 0.1)).slopes() == {}
    none = Comparison("all", "trace", (cell("a", 0.1),), tuple(row("a", 0, 0.1, dim=dim, error=0.0) for dim in (8, 16)))
    assert none.slopes() == {}
    halved = replace(none, rows=tuple(row("a", 0, 0.1, dim=dim, error=1 / dim) for dim in (8, 16, 32)))
    assert halved.slopes() == {"gaussian": pytest.approx(-1)}


def test_the_table_has_a_row_for_each_kind_and_dimension_and_no_empty_column(compared):
    columns, rows = compared[1].table()
    assert [line[:2] for line in rows][:3] == [("countsketch", "8"), ("countsketch", "32"), ("rademacher", "8")]
    assert len(rows) == 12
    assert {"error", "law", "predicted", "measured", "LGC error", "Spearman", "same first"} <= set(columns)
    kronecker = dict(zip(columns, next(line for line in rows if line[0] == "kronecker"), strict=True))
    assert kronecker["predicted"] == "-"
    assert all(len(line) == len(columns) for line in rows)


def test_plain_values_go_through_json_and_back(compared):
    found = compared[1]
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Comparison.from_dict(json.loads(text)) == found
    assert len(json.loads(text)["summaries"]) == 12
    assert set(json.loads(text)["slopes"]) == set(found.kinds)


@pytest.mark.parametrize("record", [{}, {"layers": "all", "outputs": "trace", "exact": [{"expert": "a"}], "rows": [], "left_out": []}])
def test_other_records_are_refused(record):
    with pytest.raises(DataError, match="This is not a comparison that this version saved"):
        Comparison.from_dict(record)


def test_parts_put_together_say_what_the_whole_says(compared):
    found = compared[1]
    parts = [
        Comparison(found.layers, found.outputs, (exact,), tuple(row for row in found.rows if row.expert == exact.expert)) for exact in found.exact
    ]
    assert merged(parts) == found
    assert merged(parts).rankings() == found.rankings()
    with pytest.raises(ConfigError, match="Expert 'expert 0' is in two of the comparisons"):
        merged([*parts, parts[0]])
    with pytest.raises(ConfigError, match="differentiate different layers or outputs"):
        merged([parts[0], replace(parts[1], layers="all")])
    with pytest.raises(ConfigError, match="There is no comparison to merge"):
        merged([])


def test_experts_are_loaded_where_they_are_needed_and_inputs_may_differ_by_expert():
    loads = []

    def load():
        loads.append(1)
        return expert_of(0)

    options = {"kinds": ("gaussian",), "dims": (16,), "seeds": (0,), "memory": False}
    found = compare({"a": load, "b": expert_of(1)}, lambda expert: inputs_of(int(expert.name[-1])), LABELS, **options)
    assert sum(loads) == 2  # once to look whether it fits
    for place, exact in enumerate(found.exact):
        assert exact.norm == pytest.approx(np.linalg.norm(explicit_kernel(expert_of(place), inputs_of(place))))


def test_the_first_of_several_seeds_is_not_timed_and_a_single_one_is(compared):
    assert {row.seed for row in compared[1].rows if row.seconds is None} == {3}
    assert all(row.sketch_seconds is None or row.seconds >= row.sketch_seconds > 0 for row in compared[1].rows)
    single = compare({"a": expert_of(0)}, inputs_of(), LABELS, kinds=("gaussian",), dims=(8,), seeds=(0,), memory=False)
    assert single.rows[0].seconds > 0
    assert (single.rows[0].peak_bytes, single.exact[0].peak_bytes) == (None, None)


def test_other_layers_and_outputs_are_compared_as_well():
    options = {"kinds": ("rademacher",), "dims": (64,), "seeds": (0,), "memory": False}
    found = compare({"a": expert_of(0)}, inputs_of(), LABELS, layers="head", outputs="sum", **options)
    hidden = np.tanh(inputs_of() @ expert_of(0).params["hidden"])
    assert found.exact[0].norm == pytest.approx(np.linalg.norm(OUTPUTS * hidden @ hidden.T))


def test_progress_counts_from_nothing_to_all():
    calls = []
    options = {"kinds": ("gaussian", "srht"), "dims": (8,), "seeds": (0,), "memory": False}
    compare({"a": expert_of(0), "b": expert_of(1)}, inputs_of(), LABELS, progress=lambda *call: calls.append(call), **options)
    assert [(done, steps) for done, steps, _ in calls] == [(step, 6) for step in range(7)]
    assert [what for *_, what in calls] == ["a: exact", "a: gaussian, 8", "a: srht, 8", "b: exact", "b: gaussian, 8", "b: srht, 8", "done"]


def test_a_sketch_that_cannot_be_had_is_left_out_and_said_and_the_rest_goes_on():
    found = compare({"a": expert_of(0), "b": expert_of(1)}, inputs_of(), LABELS, kinds=("jvp", "gaussian"), dims=(2, 16), seeds=(0,), memory=False)
    assert [(left.expert, left.kind, left.dim) for left in found.left_out] == [("a", "jvp", 2), ("b", "jvp", 2)]
    assert "one column for each of 4 outputs" in found.left_out[0].reason
    assert {(row.kind, row.dim) for row in found.rows} == {("jvp", 16), ("gaussian", 2), ("gaussian", 16)}


def test_slow_kinds_may_end_earlier():
    found = compare(
        {"a": expert_of(0)}, inputs_of(), LABELS, kinds=("jvp", "srht"), dims=(8, 16), seeds=(0,), most_dim={"jvp": 8, "gaussian": 1}, memory=False
    )
    assert [(row.kind, row.dim) for row in found.rows] == [("jvp", 8), ("srht", 8), ("srht", 16)]


def test_a_score_without_a_value_leaves_the_errors():
    # Every example is the same, so that the kernel is constant.
    found = compare({"a": expert_of(0)}, np.ones((15, 20)), LABELS, kinds=("gaussian",), dims=(8,), seeds=(0,), memory=False)
    assert found.exact[0].correlation is None
    assert found.rows[0].error > 0
    assert (found.rows[0].correlation, found.rows[0].correlation_error, found.rows[0].holds) == (None, None, None)


def test_a_kernel_of_zeros_is_refused():
    with pytest.raises(ModelError, match="The kernel of expert 'a' is zero"):
        compare({"a": expert_of(0)}, np.zeros((15, 20)), LABELS, kinds=("gaussian",), dims=(8,), memory=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kinds": ("gausian",)}, ConfigError, "kind='gausian' is unknown. Did you mean 'gaussian'"),
        ({"kinds": "gaussian"}, ConfigError, r"kinds='gaussian' must be a sequence. Try: kinds=\('gaussian',\)"),
        ({"kinds": ()}, ConfigError, "kinds= names no kind of sketch"),
        ({"dims": ()}, ConfigError, r"dims=\(\) must be a sequence of whole numbers, one at least. Try: dims=\(256, 1024\)"),
        ({"dims": ("auto",)}, ConfigError, "dims=.*must be a sequence of whole numbers"),
        ({"dims": 64}, ConfigError, "dims=64 must be a sequence"),
        ({"dims": (0,)}, ConfigError, "dim=0 must be a whole number from 1"),
        ({"dims": (2**21,)}, ConfigError, "dim=2097152 must be a whole number from 1"),
        ({"seeds": ()}, ConfigError, r"seeds=\(\) must be a sequence of whole numbers, one at least. Try: seeds=\(0, 1\)"),
        ({"seeds": (True,)}, ConfigError, r"seeds=\(True,\) must be a sequence of whole numbers"),
        ({"blocks": 3}, ConfigError, "dim=8 cannot be split into 3 blocks"),
        ({"most_dim": {"jpv": 8}}, ConfigError, "most_dim: there is no sketch 'jpv'. Did you mean 'jvp'"),
        ({"most_dim": {"gaussian": 4}}, ConfigError, "most_dim leaves no dimension: the smallest is 8"),
        ({"progress": 3}, ConfigError, "progress=.*given: int"),
        ({"layers": "convolution"}, ConfigError, "layers='convolution' matches no parameter"),
        ({"layers": None}, ConfigError, "layers=None must be 'last_conv', 'all', or a regular expression"),
        ({"outputs": "tarce"}, ConfigError, "outputs='tarce' is unknown. Did you mean 'trace'"),
        ({"outputs": np.ones(4)}, ConfigError, "outputs=.* is unknown"),
        ({"experts": {}}, ConfigError, "experts= takes a mapping from names to experts"),
        ({"experts": [1]}, ConfigError, "experts= takes a mapping from names to experts"),
        ({"experts": {"a": 3}}, ConfigError, r"experts\['a'\] gives a int; expected an Expert, or a function that returns one"),
        ({"experts": {"a": lambda: None}}, ConfigError, r"experts\['a'\] gives a NoneType"),
        (
            {"experts": {"a": expert_of(0), "b": expert_of(1, last_conv=None)}},
            ModelError,
            "Expert 'expert 1' has no last_conv",
        ),
        ({"labels": np.zeros(15, int)}, TaskError, "All examples are of one class; a correlation with the labels needs at least two"),
        ({"labels": LABELS[:14]}, TaskError, r"The inputs have shape \(15, 20\) for 14 labels"),
        ({"labels": LABELS * 0.5}, TaskError, "Labels have type float64"),
        ({"inputs": lambda expert: inputs_of()[:3]}, TaskError, r"The inputs of a have shape \(3, 20\) for 15 labels"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(changes, error, message, monkeypatch):
    monkeypatch.setattr("ntk_select.kernels.compare.gradient_kernel", lambda *_, **__: pytest.fail("a kernel was computed"))
    arguments = {
        "experts": {"a": expert_of(0)},
        "inputs": inputs_of(),
        "labels": LABELS,
        "kinds": ("gaussian",),
        "dims": (8,),
        "seeds": (0,),
    } | changes
    with pytest.raises(error, match=message):
        compare(arguments.pop("experts"), arguments.pop("inputs"), arguments.pop("labels"), **arguments)


def test_memory_is_that_of_the_highest_point_and_unknown_elsewhere(monkeypatch, tmp_path):
    def run():
        return np.ones(2**23).sum() + len(bytearray(2**20))

    found = peak_added(run)
    if found is not None:
        assert 0.9 * 2**26 <= found <= 1.5 * 2**26
    calls = []
    monkeypatch.setattr("ntk_select.kernels.compare.PROCESS", tmp_path / "nowhere")
    assert peak_added(lambda: calls.append(1)) is None
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert peak_added(lambda: calls.append(1)) is None
    assert not calls


def svg_of(found, **options):
    pytest.importorskip("matplotlib")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "same"}):
        return comparison_figure(found, file_format="svg", **options).decode()


def test_the_figure_names_each_kind_once_and_draws_the_law(compared):
    found = compared[1]
    text = svg_of(found, title="cost $5")
    for kind in found.kinds:
        assert text.count(f">{kind}<") == 1
    assert text.count(">exact kernel<") == 1
    assert text.count(">predicted standard error<") == 1
    assert "relative error of the kernel" in text
    assert "cost $5" in text
    assert "Spearman with the exact order of 3 experts" in text
    assert comparison_figure(found).startswith(b"\x89PNG")


def test_the_lines_of_the_figure_are_the_summaries_and_the_law(compared):
    pytest.importorskip("matplotlib")
    found = compared[1]
    axis = comparison_plot._figure(found, "").axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    for kind in found.kinds:
        np.testing.assert_allclose(lines[kind].get_ydata(), [summary.error for summary in found.summaries() if summary.kind == kind])
    (law,) = (line for label, line in lines.items() if label.startswith("law"))
    np.testing.assert_allclose(law.get_ydata(), [found.law(dim) for dim in (8, 32)])
    assert law.get_linestyle() == "--"
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert len({look[0] for look in comparison_plot.LOOKS.values()}) == 6


def test_a_single_expert_has_no_panel_for_the_order():
    found = Comparison("all", "trace", (cell("a", 0.1),), (row("a", 0, 0.1),))
    text = svg_of(found)
    assert "Spearman" not in text
    assert "peak memory" not in text


def test_without_sketches_or_matplotlib_there_is_no_figure(compared, monkeypatch):
    pytest.importorskip("matplotlib")
    nothing = Comparison("all", "trace", (cell("a", 0.1),), (), (LeftOut("a", "jvp", 2, "Too few columns."),))
    with pytest.raises(ConfigError, match="There is no sketch to draw. jvp: Too few columns"):
        comparison_figure(nothing)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="The figure of a comparison needs the package matplotlib"):
        comparison_figure(compared[1])
