"""`ntk-select kernel --kind sketch` estimates the exact kernel with its error, and compares sketches with the exact kernel."""

import json
import shlex

import numpy as np
import pytest

from ntk_select import (
    Sketch,
    SketchedKernel,
    gradient_sketch,
    kernel_label_correlation,
    ntk,
    probe_sample,
    sketch,
    sketched_correlation,
)
from ntk_select.cli import main
from ntk_select.cli.kernel import sketch_lines
from ntk_select.data import load_task
from ntk_select.errors import MissingDependencyError
from ntk_select.kernels import compare as compare_module
from ntk_select.kernels.comparison import COLUMNS, Comparison
from ntk_select.kernels.saved_kernel import load_kernel
from ntk_select.kernels.sketches.hashing import SCHEME
from ntk_select.models import open_zoo

PER_CLASS = 3


@pytest.fixture(scope="module", autouse=True)
def always_quickly(quickly):
    """Compilation is most of what these tests do."""


@pytest.fixture(scope="module")
def zoo(write_zoo):
    return write_zoo("ash")


@pytest.fixture(scope="module")
def npz(write_task):
    return write_task("things")


@pytest.fixture
def ran(zoo, npz, capsys):
    """ran("--json", ...) sketches the small expert on the small task: exit status, stdout and stderr."""

    def run(*options, kind="sketch", expert="ash"):
        capsys.readouterr()
        status = main(["kernel", "--expert", expert, "--task", npz, "--zoo", zoo, "--per-class", str(PER_CLASS), "--kind", kind, *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def probed(zoo, npz):
    """The expert, its inputs and labels."""
    expert, sample = open_zoo([zoo])["ash"](), probe_sample(load_task(npz), per_class=PER_CLASS)
    return expert, np.asarray(expert.preprocess(sample.images)), sample.labels


def params_only(path):
    return path.startswith("params/")


def test_the_file_holds_the_sketch_and_its_kernel_and_says_which_it_is(ran, probed, tmp_path):
    expert, x, labels = probed
    options = ("--sketch", "rademacher", "--dim", "64", "--sketch-seed", "5", "--blocks", "4", "--json", "--out", str(tmp_path / "kernel.npz"))
    status, out, _ = ran(*options)
    saved, record = load_kernel(tmp_path / "kernel.npz"), json.loads(out)
    z = sketch(expert.apply_fn, expert.variables, x, dim=64, kind="rademacher", seed=5, blocks=4, layers=params_only)
    assert status == 0
    np.testing.assert_allclose(saved.sketch, z, rtol=1e-5, atol=1e-5 * np.abs(z).max())
    np.testing.assert_allclose(saved.kernel, saved.sketch.astype(float) @ saved.sketch.T.astype(float), rtol=1e-12)
    assert saved.provenance["kind"] == "sketch"
    assert saved.provenance["sketch"] == {"kind": "rademacher", "dim": 64, "blocks": 4, "seed": 5, "scheme": SCHEME, "directions": False}
    assert saved.provenance["layers"]["pattern"] == "all"
    score = sketched_correlation(SketchedKernel(saved.sketch, "rademacher", 4), labels)
    assert (record["score"]["value"], record["score"]["low"], record["score"]["high"]) == (score.value, score.low, score.high)
    assert record["predicted_error"] == saved.sketched().predicted_error()
    assert record["provenance"] == saved.provenance


def test_a_large_sketch_is_near_the_exact_kernel_and_no_other_expert_layer(ran, probed, tmp_path):
    expert, x, labels = probed
    ran("--dim", "16384", "--sketch", "srht", "--out", str(tmp_path / "kernel.npz"))
    exact = np.asarray(ntk(expert.apply_fn, expert.variables, x, layers=params_only), float)
    saved = load_kernel(tmp_path / "kernel.npz")
    error = np.linalg.norm(saved.kernel - exact) / np.linalg.norm(exact)
    assert error < 4 * saved.sketched().predicted_error() < 0.1
    assert saved.summary()["score"]["low"] - 0.02 <= kernel_label_correlation(exact, labels) <= saved.summary()["score"]["high"] + 0.02
    wrong = np.asarray(ntk(expert.apply_fn, expert.variables, x, layers="params/fc"), float)
    assert np.linalg.norm(saved.kernel - wrong) > np.linalg.norm(saved.kernel - exact) * 3


@pytest.mark.parametrize("kind", ["countsketch", "jvp", pytest.param("kronecker", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("outputs", ["trace", "sum"])
def test_of_a_pooled_last_convolution_it_is_the_gradient_sketch(ran, probed, tmp_path, kind, outputs):
    expert, x, _ = probed
    ran("--layers", "last_conv", "--outputs", outputs, "--sketch", kind, "--dim", "128", "--out", str(tmp_path / "kernel.npz"))
    saved, expected = load_kernel(tmp_path / "kernel.npz"), gradient_sketch(expert, x, Sketch(128, kind), outputs=outputs)
    np.testing.assert_allclose(saved.kernel, expected.kernel, rtol=1e-4, atol=1e-5 * np.abs(expected.kernel).max())
    assert (saved.sketched().blocks, saved.sketched().directions) == (expected.blocks, expected.directions)
    assert saved.provenance["layers"]["paths"] == ["/".join(expert.last_conv.path)]


def typed_next(out):
    """The command after "Next...: "."""
    return shlex.split(out[out.index("Next") :].partition(": ")[2])[1:]


def test_it_says_for_people_how_sure_it_is_and_what_to_type_next_works(ran, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--layers", "last_conv", "--dim", "256", "--sketch-seed", "3")
    record = json.loads(ran(*options, "--json")[1])
    status, out, _ = ran(*options)
    assert status == 0
    assert "sketch of ash on things: 6 x 6, float64" in out
    assert f"Sketch: countsketch, 256 columns in 2 blocks, seed 3, scheme {SCHEME}." in out
    assert f"{record['predicted_error']:.4f} predicted by the formula, {record['measured_error']:.4f} measured from the spread of the blocks." in out
    score = record["score"]
    assert f"Correlation with the labels: {score['value']:.4f}, 95 % interval for the exact kernel [{score['low']:.4f}, {score['high']:.4f}]." in out
    assert not list(tmp_path.iterdir())
    assert main(typed_next(out)) == 0
    assert load_kernel("kernel.npz").provenance["sketch"]["seed"] == 3
    assert load_kernel("kernel.npz").summary()["score"] == score
    assert "load_kernel('kernel.npz')" in capsys.readouterr().out


def test_where_nothing_tells_the_error_this_is_said(ran):
    out = ran("--layers", "last_conv", "--sketch", "kronecker", "--dim", "64", "--blocks", "1")[1]
    assert "Sketch: kronecker, 64 columns in 1 block, seed 0" in out
    assert "Relative error of the kernel: unknown; more blocks allow an estimate." in out
    assert "no interval; more blocks allow one." in out
    which = {"kind": "gaussian", "dim": 1, "blocks": 1, "seed": 0, "scheme": SCHEME}
    lines = sketch_lines({"predicted_error": 1.5, "measured_error": None, "score": None}, which)
    assert lines[1:] == [
        "Relative error of the kernel: 1.5000 predicted by the formula.",
        "Correlation with the labels: none, the kernel is constant or indistinguishable from sketching noise.",
    ]


def test_dim_auto_and_the_default_are_numbers_in_the_file(ran, tmp_path):
    for options, dim in (((), 8192), (("--dim", "auto"), 5120)):
        ran("--layers", "last_conv", *options, "--out", str(tmp_path / "kernel.npz"))
        assert load_kernel(tmp_path / "kernel.npz").sketch.shape == (6, dim)


def test_the_heat_map_lies_beside_the_file(ran, tmp_path):
    pytest.importorskip("matplotlib")
    ran("--layers", "last_conv", "--dim", "64", "--out", str(tmp_path / "kernel.npz"))
    assert (tmp_path / "kernel.png").read_bytes().startswith(b"\x89PNG")


COMPARED = ("--compare", "exact", "--layers", "last_conv", "--dim", "16", "64", "--repeats", "2")
TWO_KINDS = ("--sketch", "countsketch", "gaussian")


@pytest.mark.slow
def test_compared_with_exact_the_file_holds_every_cell_and_the_figure_lies_beside_it(ran, probed, tmp_path):
    pytest.importorskip("matplotlib")
    expert, x, labels = probed
    status, out, err = ran(*COMPARED, *TWO_KINDS, "--sketch-seed", "4", "--json", "--out", str(tmp_path / "runs" / "comparison.json"))
    record = json.loads((tmp_path / "runs" / "comparison.json").read_text())
    assert status == 0
    assert json.loads(out) == record | {"files": [str(tmp_path / "runs" / f"comparison.{end}") for end in ("json", "png")]}
    assert err.count("wrote ") == 2
    assert (tmp_path / "runs" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    found = Comparison.from_dict(record)
    assert {(row.kind, row.dim, row.seed) for row in found.rows} == {
        (kind, dim, seed) for kind in ("countsketch", "gaussian") for dim in (16, 64) for seed in (4, 5)
    }
    path = "/".join(("params", *expert.last_conv.path))
    exact = np.asarray(ntk(expert.apply_fn, expert.variables, x, layers=path.__eq__), float)
    assert found.exact[0].correlation == pytest.approx(kernel_label_correlation(exact, labels), abs=1e-5)
    for row in found.rows:
        estimate = gradient_sketch(expert, x, Sketch(row.dim, row.kind, row.seed)).kernel
        assert row.error == pytest.approx(np.linalg.norm(estimate - exact) / np.linalg.norm(exact), rel=1e-3)
    made = record["provenance"]
    assert made["sketch"] == {"kinds": ["countsketch", "gaussian"], "dims": [16, 64], "seeds": [4, 5], "blocks": None, "scheme": SCHEME}
    assert (made["expert"], made["layers"], made["outputs"]) == ("ash", "last_conv", "trace")


def test_compared_with_exact_the_table_has_the_law_and_what_to_type_next_works(ran, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute, known = compare_module.compare, []

    def compare_once(*given, **options):
        known[:] = known or [compute(*given, **options)]
        return known[0]

    monkeypatch.setattr(compare_module, "compare", compare_once)
    status, out, _ = ran(*COMPARED)
    assert status == 0
    assert "ash on things: sketched and exact kernel of 6 images, layers last_conv, 2 seeds" in out
    for head in ("kind", "dim", "error", "law", "LGC error", "seconds"):
        assert f" {head} " in out
    assert "Exact: LGC 0." in out
    for column in ("error", "law", "LGC error", "seconds"):
        assert f"{column}: {COLUMNS[column].meaning}" in out
    assert "Spearman" not in out  # of one expert there is none
    assert "Law: sqrt((1 + r) / k), r = (tr K)^2 / |K|^2 = " in out
    assert "Error falls with k to the power: " in out
    assert typed_next(out)[-2:] == ["--out", "comparison.json"]
    folder = [word.replace("comparison.json", "runs") for word in typed_next(out)]  # a folder gets both files
    assert main(folder) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["comparison.json", "comparison.png"]
    after = capsys.readouterr().out
    assert main(typed_next(after)) == 0
    assert load_kernel("kernel.npz").provenance["sketch"]["dim"] == 64


@pytest.mark.slow
def test_a_kind_that_cannot_be_had_is_said_and_the_status_is_1(ran, tmp_path):
    options = ("--compare", "exact", "--layers", "last_conv", "--dim", "2", "--repeats", "1")
    status, out, _ = ran(*options, "--sketch", "jvp", "gaussian")
    assert status == 1
    assert "jvp, 2 columns: kind='jvp' needs one column for each of 2 outputs" in out
    assert "gaussian" in out
    status, out, err = ran(*options, "--sketch", "jvp", "--out", str(tmp_path / "comparison.json"))
    assert status == 1
    assert "No figure was written." in err
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


@pytest.mark.slow
def test_all_means_every_kind(ran):
    record = json.loads(ran("--compare", "exact", "--layers", "last_conv", "--sketch", "all", "--dim", "8", "--repeats", "1", "--json")[1])
    assert {row["kind"] for row in record["rows"]} == {"countsketch", "rademacher", "gaussian", "srht", "kronecker", "jvp"}


@pytest.mark.slow
def test_without_matplotlib_the_numbers_are_saved_all_the_same(ran, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise MissingDependencyError("Try: pip install matplotlib")

    monkeypatch.setattr("ntk_select.kernels.comparison_plot.comparison_figure", failing)
    status, _, err = ran(*COMPARED, "--out", str(tmp_path / "comparison.json"))
    assert status == 0
    assert "No figure was written. Try: pip install matplotlib" in err
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sketch", "countskech"), "--sketch countskech: there is no such sketch. Did you mean 'countsketch'"),
        (("--sketch",), "--sketch names no kind. Allowed: countsketch"),
        (("--dim", "many"), "--dim many must be a whole number, or auto."),
        (("--dim", "auto", "--sketch", "kronecker"), "dim='auto' needs a kind with a known error bound"),
        (("--blocks", "3", "--dim", "64"), "dim=64 cannot be split into 3 blocks of equal width"),
        (("--dim", "64", "128"), "Several sketches at once are for comparing. With --dim, try: --compare exact"),
        (("--sketch", "all"), "Several sketches at once are for comparing. With --sketch, try: --compare exact"),
        (("--repeats", "2"), "Several sketches at once are for comparing. With --repeats, try: --compare exact"),
        (("--plan",), "--plan: a sketch needs no plan"),
        (("--float64",), "--float64: the kernel of a sketch is always summed in float64. Try: no --float64"),
        (("--by-layer",), "--by-layer separates the layers of an exact kernel. For a sketch of one layer, try: --layers PATTERN"),
        (("--outputs", "full"), "--outputs full: a sketch has one row per image. Try: --outputs trace, or sum"),
        (("--outputs", "diagonal"), "--outputs diagonal: a sketch has one row per image."),
        (("--layers", "fd"), "layers='fd' matches no parameter."),
        (("--compare", "exact", "--dim", "auto"), "--dim auto chooses one dimension, and --compare exact needs given ones. Try: --dim 512"),
        (("--compare", "exact", "--precision", "high"), "--precision: exact and sketched kernels are compared at full precision"),
        (("--compare", "exact", "--memory-gb", "2"), "--memory-gb: exact and sketched kernels are compared at full precision"),
        (("--compare", "exact", "--dim", "0"), "dim=0 must be a whole number from 1"),
        (("--compare", "exact", "--layers", "fd"), "layers='fd' matches no parameter."),
        (("--compare", "exact", "--out", "kernel.npz"), "--out 'kernel.npz' does not end in .json. Try: --out comparison.json"),
        (("--out", "kernel.json"), "--out 'kernel.json' does not end in .npz. Try: --out kernel.npz"),
    ],
)
def test_what_is_refused_is_one_sentence_and_status_2(ran, options, message, monkeypatch):
    for place in ("expert_kernel.sketch", "expert_kernel.gradient_sketch", "compare.gradient_kernel"):
        monkeypatch.setattr(f"ntk_select.kernels.{place}", lambda *_, **__: pytest.fail("something was computed"))
    status, out, err = ran("--json", *options)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("ntk", ("--dim", "64"), "--dim"),
        ("ntk", ("--compare", "exact", "--sketch", "srht"), "--sketch, --compare"),
        ("feature", ("--sketch-seed", "1", "--blocks", "2", "--repeats", "3"), "--blocks, --sketch-seed, --repeats"),
    ],
)
def test_options_of_a_sketch_belong_to_a_sketch(ran, kind, options, named):
    status, _, err = ran(*options, kind=kind)
    assert status == 2
    assert f"{named} cannot be combined with --kind {kind}. Try: --kind sketch" in err
