"""LGC from sketched gradients equals the exact LGC up to its standard error, for experts and functions alike."""

import functools

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, ModelError, TaskError, UndefinedScoreError
from ntk_select.experts.expert import Expert
from ntk_select.kernels.sketches.projection import ALL_KINDS
from ntk_select.models import ZOO

pytestmark = pytest.mark.usefixtures("quickly")

REVERSE = tuple(kind for kind in ALL_KINDS if kind != "jvp")
SMALL = {
    "resnet": ("resnet18", 8, {"stage_sizes": (1,), "widths": (4,), "stem": "small"}),
    "densenet": ("densenet_small", 8, {"block_sizes": (1, 2), "growth": 4, "initial": 6}),
}
N, C = 24, 4
LABELS = np.arange(N) % 3
COTANGENT, COTANGENTS = np.array([1.0, -2.0, 0.5, 0.0]), np.random.default_rng(3).normal(size=(N, C))
OUTPUTS = {"trace": "trace", "sum": "sum", "features": "features", "cotangent": COTANGENT, "cotangents": COTANGENTS}
PAIRS = [(kind, list(OUTPUTS)[(place + turn) % 5]) for place, kind in enumerate(ALL_KINDS) for turn in (0, 2)]
"""Every kind with two kinds of outputs, every kind of outputs with two kinds of sketch at least: a compilation of seconds each."""


@pytest.fixture(scope="module", params=SMALL)
def ending(request, random_expert):
    return random_expert(*SMALL[request.param], classes=C, labels=LABELS)


@pytest.fixture(scope="module")
def small(random_expert):
    return random_expert(*SMALL["resnet"], classes=C, labels=LABELS)


@functools.cache
def embedded(name, per_class):
    expert, sample = ZOO[name](), ns.probe_sample(load_task("digits"), per_class=per_class)
    return expert, expert.preprocess(sample.images), sample.labels


def near(score, exact, most=0.15):
    """Within four standard errors, which are no excuse for a useless estimate."""
    error = score.measured_error if score.standard_error is None else score.standard_error
    assert 0 < error < most
    assert abs(score.value - exact) < 4 * error


def network(params, x):
    return np.tanh(1.0) * jax.nn.softplus(x @ params["w"]) @ params["v"]


_rng = np.random.default_rng(7)
PARAMS = {"w": _rng.normal(size=(6, 5)), "v": _rng.normal(size=(5, C))}
X = _rng.normal(size=(N, 6)) + _rng.normal(size=(3, 6))[LABELS]


def of_function(sketch=None, labels=LABELS, layers="all", **options):
    return ns.lgc(network, X, labels, params=PARAMS, layers=layers, sketch=sketch, **options)


def quick(*kinds, of=ALL_KINDS):
    """All kinds, those that are not given as nightly cases."""
    return [pytest.param(kind, marks=() if kind in kinds else pytest.mark.nightly) for kind in of]


def check_last_convolution(expert, x, kind, outputs):
    requested = ns.Sketch(1536, kind, blocks=16)
    kernel = ns.gradient_sketch(expert, x, requested, outputs=outputs)
    score = ns.lgc(expert, x, LABELS, outputs=outputs, sketch=requested)
    near(score, ns.lgc(expert, x, LABELS, outputs=outputs), most=0.25)
    assert score == ns.sketched_correlation(kernel, LABELS)
    averaged = isinstance(outputs, str) and outputs != "sum"
    assert kernel.has_law == (kind != "kronecker" and not (kind == "jvp" and averaged))


@pytest.mark.parametrize("outputs", ["trace", pytest.param("cotangents", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", quick("countsketch", "kronecker", "jvp"))
def test_the_last_convolution_by_every_kind(small, kind, outputs):
    check_last_convolution(*small, kind, OUTPUTS[outputs])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "outputs"), PAIRS)
def test_the_last_convolution_by_every_kind_and_of_every_output(ending, kind, outputs):
    check_last_convolution(*ending, kind, OUTPUTS[outputs])


@pytest.mark.parametrize("kind", quick(of=("countsketch", "kronecker")))
def test_all_layers_of_a_small_expert(small, kind):
    expert, x = small
    near(ns.lgc(expert, x, LABELS, layers="all", sketch=ns.Sketch(1536, kind, blocks=16)), ns.lgc(expert, x, LABELS, layers="all"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "outputs"), [*PAIRS[::2], ("kronecker", "cotangents")])
def test_all_layers_of_a_small_expert_by_every_kind(small, kind, outputs):
    expert, x = small
    options = {"layers": "all", "outputs": OUTPUTS[outputs]}
    near(ns.lgc(expert, x, LABELS, sketch=ns.Sketch(1536, kind, blocks=16), **options), ns.lgc(expert, x, LABELS, **options), most=0.25)


@pytest.mark.slow
def test_all_layers_of_a_small_densenet(random_expert):
    expert, x = random_expert(*SMALL["densenet"], classes=C, labels=LABELS)
    near(ns.lgc(expert, x, LABELS, layers="all", sketch=ns.Sketch(1536, blocks=16)), ns.lgc(expert, x, LABELS, layers="all"), most=0.25)


@pytest.mark.parametrize("kind", quick(of=("countsketch", "kronecker", "jvp")))
def test_the_last_convolution_of_an_embedded_expert(kind):
    expert, x, labels = embedded("cifar10-resnet_small", 3)
    near(ns.lgc(expert, x, labels, sketch=ns.Sketch(2048, kind, blocks=16)), ns.lgc(expert, x, labels))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "outputs"), [(kind, ("trace", "sum", "features")[place % 3]) for place, kind in enumerate(ALL_KINDS)])
@pytest.mark.parametrize("name", ["cifar10-resnet_small", "cifar10-densenet_small"])
def test_the_last_convolution_of_embedded_experts_by_every_kind(name, kind, outputs):
    expert, x, labels = embedded(name, 3)
    requested = ns.Sketch(4096 if kind == "jvp" else 2048, kind, blocks=16)  # a direction of forward mode fills a column for each feature
    near(ns.lgc(expert, x, labels, outputs=outputs, sketch=requested), ns.lgc(expert, x, labels, outputs=outputs))


@pytest.mark.slow
def test_all_layers_of_an_embedded_expert():
    expert, x, labels = embedded("cifar10-resnet_small", 2)
    near(ns.lgc(expert, x, labels, layers="all", sketch=ns.Sketch(2048, blocks=16)), ns.lgc(expert, x, labels, layers="all"))


@pytest.mark.parametrize("outputs", ["trace", *(pytest.param(other, marks=pytest.mark.slow) for other in ("features", "cotangents"))])
@pytest.mark.parametrize("kind", quick("kronecker", of=REVERSE))
def test_the_sketch_of_a_pooled_last_convolution_is_unbiased(small, kind, outputs):
    expert, x = small
    x, outputs = x[:7], COTANGENTS[:7] if outputs == "cotangents" else outputs
    kernels = np.array([ns.gradient_sketch(expert, x, ns.Sketch(64, kind, seed), outputs=outputs).kernel for seed in range(60)])
    exact = ns.gradient_kernel(expert, x, outputs=outputs)
    errors = kernels.std(0, ddof=1) / np.sqrt(len(kernels))
    scores = ((kernels.mean(0) - exact) / errors)[np.triu_indices(7)]
    assert np.abs(scores).max() < 4.5
    wrong = ((kernels.mean(0) - 2 * exact) / errors)[np.diag_indices(7)]
    assert (wrong < -4.5).all()


@pytest.mark.parametrize("kind", quick("countsketch", of=("countsketch", "rademacher", "gaussian", "srht")))
def test_the_law_bounds_the_spread_of_a_pooled_last_convolution(small, kind):
    expert, x = small
    kernels = np.array([ns.gradient_sketch(expert, x[:7], ns.Sketch(64, kind, seed)).kernel for seed in range(60)])
    exact = ns.gradient_kernel(expert, x[:7])
    scale = np.diagonal(exact)
    spread = ((kernels - exact) ** 2).mean(0).sum() / ((np.outer(scale, scale) + exact**2) / 64).sum()
    assert 0.4 < spread < 1.4


def check_rows(expert, x, kind, blocks, outputs):
    """One cotangent, one random projection: both routes give the same numbers, and not only the same kernel."""
    pooled = ns.gradient_sketch(expert, x, ns.Sketch(64, kind, 5, blocks), outputs=outputs).sketch
    of_last = "/".join(("params", *expert.last_conv.path)).__eq__
    rows = ns.sketch(expert.apply_fn, expert.variables, x, dim=64, kind=kind, seed=5, blocks=blocks, layers=of_last, outputs=outputs)
    np.testing.assert_allclose(pooled, rows, rtol=0, atol=1e-10 * np.abs(rows).max())


@pytest.mark.parametrize("outputs", ["sum", "cotangents"])
@pytest.mark.parametrize("kind", quick("countsketch", "kronecker", of=REVERSE))
def test_rows_of_a_pooled_last_convolution_are_those_of_its_leaf(small, kind, outputs):
    check_rows(*small, kind, 4, OUTPUTS[outputs])


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["sum", "cotangent", "cotangents"])
@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("kind", REVERSE)
def test_rows_of_any_pooled_last_convolution_are_those_of_its_leaf(ending, kind, blocks, outputs):
    check_rows(*ending, kind, blocks, OUTPUTS[outputs])


def test_batches_and_order_do_not_change_rows(small, rng):
    expert, x = small
    order = rng.permutation(N)
    rows = ns.gradient_sketch(expert, x, 256).sketch
    np.testing.assert_allclose(ns.gradient_sketch(expert, x[order], 256, batch_size=5).sketch, rows[order], rtol=0, atol=1e-12 * np.abs(rows).max())


@pytest.mark.nightly
def test_shuffled_labels_score_nothing_on_an_embedded_expert(rng):
    expert, x, labels = embedded("cifar10-resnet_small", 3)
    kernel = ns.gradient_sketch(expert, x, ns.Sketch(4096))
    true = ns.sketched_correlation(kernel, labels, diagonal=False)
    shuffled = np.array([ns.sketched_correlation(kernel, rng.permutation(labels), diagonal=False).value for _ in range(100)])
    assert true.low > shuffled.max()
    assert abs(shuffled.mean()) < 4 * shuffled.std() / 10


@pytest.mark.parametrize("kind", quick("countsketch", "jvp"))
@pytest.mark.parametrize("layers", [pytest.param("all", marks=pytest.mark.nightly), "w"])
def test_a_function_by_every_kind(kind, layers):
    near(of_function(ns.Sketch(2048, kind, blocks=16), layers=layers), of_function(layers=layers))


@pytest.mark.parametrize("outputs", ["trace", "sum", "cotangent", "cotangents"])
def test_a_function_with_any_outputs(outputs):
    near(of_function(4096, outputs=OUTPUTS[outputs]), of_function(outputs=OUTPUTS[outputs]))


@pytest.mark.parametrize(
    "variant",
    [
        *(pytest.param(one, marks=pytest.mark.nightly) for one in ({"diagonal": False}, {"center": True}, {"normalize": True})),
        {"diagonal": False, "center": True, "normalize": True},
    ],
)
def test_variants_of_the_score_reach_the_sketch(variant):
    requested = ns.Sketch(8192, "gaussian")  # a CountSketch of so few parameters is right most of the time, and else far off
    score = of_function(requested, **variant)
    near(score, of_function(**variant), most=0.02)
    kernel = ns.gradient_sketch(network, X, requested, params=PARAMS, layers="all")
    assert score == ns.sketched_correlation(kernel, LABELS, **variant)
    assert score.value != of_function(requested).value


def test_a_dimension_alone_is_a_countsketch_of_two_blocks():
    assert (
        of_function(8192) == of_function(ns.Sketch(8192)) == of_function(ns.Sketch(8192, "countsketch", 0, 2)) != of_function(ns.Sketch(8192, seed=1))
    )
    kernel = ns.gradient_sketch(network, X, 8192, params=PARAMS, layers="all")
    assert (kernel.kind, kernel.dim, kernel.blocks) == ("countsketch", 8192, 2)
    assert of_function(8192).dim == 8192


def test_auto_takes_the_columns_that_the_error_asks_for():
    assert of_function("auto") == of_function(ns.Sketch(error=0.005))
    assert of_function("auto").standard_error < 1.05 * 0.005
    rough, fine = of_function(ns.Sketch(error=0.1)), of_function(ns.Sketch(error=0.002))
    assert rough.dim == 2048 < fine.dim <= 65_536
    assert rough.standard_error < 0.1
    assert 0.0015 < fine.standard_error < 1.05 * 0.002
    near(fine, of_function())


def test_auto_makes_room_for_the_outputs_of_a_direction():
    """Forward mode is for functions with many outputs, each of which fills a column."""
    params = {"w": np.random.default_rng(0).normal(size=(6, 200))}
    options = {"params": params, "layers": "all"}
    score = ns.lgc(lambda params, x: x @ params["w"], X, LABELS, sketch=ns.Sketch(kind="jvp", error=0.05), **options)
    near(score, ns.lgc(lambda params, x: x @ params["w"], X, LABELS, **options))


def test_auto_asks_a_pooled_expert_once(small, monkeypatch):
    """The forward passes serve the pilot and the sketch after it."""
    from ntk_select.kernels import gradients

    expert, x = small
    passes, forward = [], gradients.forward
    monkeypatch.setattr(gradients, "forward", lambda *args, **options: passes.append(1) or forward(*args, **options))
    score = ns.lgc(expert, x, LABELS, sketch=ns.Sketch(error=2e-4))
    assert score.dim > 2048
    assert passes == [1]
    near(score, ns.lgc(expert, x, LABELS), most=2.2e-4)


def test_a_kernel_alone_takes_the_error_of_an_entry():
    kernel = ns.gradient_sketch(network, X, "auto", params=PARAMS, layers="all")
    assert (kernel.dim, kernel.blocks) == (5120, 2)
    exact = ns.gradient_kernel(network, X, params=PARAMS, layers="all")
    norms = np.sqrt(np.diagonal(exact))
    assert np.sqrt((((kernel.kernel - exact) / np.outer(norms, norms)) ** 2).mean()) < 0.02
    assert (kernel.standard_error() / np.outer(norms, norms)).max() < 0.02 * 1.1
    with pytest.raises(ConfigError, match=r"dim='auto' needs a kind with a known error bound.*ns.lgc\(..., sketch=...\) measures its error"):
        ns.gradient_sketch(network, X, ns.Sketch(kind="kronecker"), params=PARAMS, layers="all")


def test_without_a_sketch_lgc_is_a_number_and_with_one_it_is_a_score():
    assert isinstance(of_function(), float)
    assert isinstance(of_function(512), ns.SketchedScore)


def test_an_expert_without_a_head_has_features(small):
    expert, x = small
    parts = {"params": expert.params, "state": expert.state, "last_conv": expert.last_conv, "taps_fn": expert.taps_fn}
    headless = Expert("headless", expert.apply_fn, **parts)
    near(ns.lgc(headless, x, LABELS, outputs="features", sketch=2048), ns.lgc(expert, x, LABELS, outputs="features"))
    with pytest.raises(ModelError, match="'headless' has no head, .*Try: outputs='features'"):
        ns.lgc(headless, x, LABELS, sketch=2048)
    with pytest.raises(ModelError, match="'headless' has no features_fn, which outputs='features' needs"):
        ns.lgc(headless, x, LABELS, layers="all", outputs="features", sketch=2048)


def test_an_expert_without_a_pooled_ending_takes_the_engine(small):
    expert, x = small
    bare = Expert("bare", expert.apply_fn, expert.params, expert.state, last_conv=expert.last_conv.path)
    np.testing.assert_allclose(
        ns.gradient_sketch(bare, x, 64, outputs="sum").sketch, ns.gradient_sketch(expert, x, 64, outputs="sum").sketch, rtol=0, atol=1e-10
    )
    with pytest.raises(ModelError, match="'unknown' has no last_conv"):
        ns.lgc(Expert("unknown", expert.apply_fn, expert.params, expert.state), x, LABELS, sketch=64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": "full"}, ConfigError, "outputs='full' is unknown"),
        ({"outputs": np.ones(3)}, ConfigError, r"allowed are \(4,\) and \(24, 4\)"),
        ({"sketch": 2048.0}, ConfigError, "sketch= is 2048.0; it must be ns.Sketch"),
        ({"sketch": "countsketch"}, ConfigError, "sketch= is 'countsketch'; it must be ns.Sketch"),
        ({"sketch": 0}, ConfigError, "dim=0 must be a whole number"),
        ({"sketch": ns.Sketch(3, "jvp", blocks=1), "layers": "all"}, ConfigError, "kind='jvp' needs one column for each of 4 outputs"),
        ({"labels": LABELS[:-1]}, TaskError, "The sketch has 24 rows for 23 labels"),
        ({"labels": LABELS * 1.0}, TaskError, "a row of integers"),
        ({"labels": LABELS * 0}, UndefinedScoreError, "All examples are of one class"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(small, options, error, message):
    expert, x = small
    with pytest.raises(error, match=message):
        ns.lgc(expert, x, **{"labels": LABELS, "sketch": 64} | options)


def test_labels_are_checked_before_any_work(small, monkeypatch):
    from ntk_select.kernels import gradients

    monkeypatch.setattr(gradients, "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(TaskError, match="a row of integers"):
        ns.lgc(*small, LABELS * 1.0, sketch=64)


def test_gradients_that_are_not_finite_are_named():
    faulty = X.copy()
    faulty[5] = np.nan
    with pytest.raises(ModelError, match="contains NaN or infinity at example 5"):
        ns.lgc(network, faulty, LABELS, params=PARAMS, layers="all", sketch=64)
