"""The self-check holds for healthy models, and each of its laws fails where something is wrong."""

import dataclasses
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine import GeneralRouteWarning
from ntk_select.kernels.selfcheck import Check, SelfCheck, _relative, selfcheck

pytestmark = pytest.mark.usefixtures("quickly")

MODULE = importlib.import_module("ntk_select.kernels.selfcheck")
STATISTICS, INDEPENDENT, DERIVATIVES, FINITE = "no batch statistics", "examples are independent", "derivatives fit values", "the kernel is finite"
FULL, TRACE, SYMMETRIC, DEFINITE = "engine = Jacobian, full", "engine = Jacobian, trace", "exactly symmetric", "positive semi-definite"
OF_KERNELS = {FULL, TRACE, SYMMETRIC, DEFINITE}
LAWS = [STATISTICS, INDEPENDENT, DERIVATIVES, FINITE, FULL, TRACE, SYMMETRIC, DEFINITE]

_draw = np.random.default_rng(0).normal
PARAMS = {"w": _draw(size=(4, 5)), "out": {"kernel": _draw(size=(5, 3)), "bias": _draw(size=3)}}
X = _draw(size=(5, 4))
X[4] = X[3]  # the same example twice: the kernel is singular


def head(params, h):
    return h @ params["out"]["kernel"] + params["out"]["bias"]


def network(params, x):
    return head(params, jnp.tanh(x @ params["w"]))


def found(result, verdict="FAILS"):
    return {check.law for check in result.checks if check.verdict == verdict}


def line(result, law):
    (check,) = [check for check in result.checks if check.law == law]
    return check


@pytest.fixture
def without_engine(monkeypatch):
    """Kernels are identities: for checks of the function alone."""
    monkeypatch.setattr(MODULE, "ntk", lambda fn, params, x, **_: np.eye(len(x)))


def test_every_law_holds_for_an_ordinary_network():
    result = selfcheck(network, PARAMS, X)
    assert result.holds
    assert [check.law for check in result.checks] == LAWS
    assert found(result, "holds") == set(LAWS)
    assert result.subject == "5 examples, 3 outputs, float64"
    assert [line(result, law).tolerance for law in (INDEPENDENT, DERIVATIVES, FULL, TRACE, SYMMETRIC, DEFINITE)] == [1e-9, 1e-4, 1e-9, 1e-9, 0, 1e-10]
    assert line(result, DEFINITE).remark.endswith("rank 12 of 15.")


class Linen(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        h = nn.BatchNorm(use_running_average=not self.train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(7)(nn.max_pool(nn.relu(h), (2, 2), strides=(2, 2)).mean((1, 2)))


IMAGES = _draw(size=(10, 4, 4, 2)).astype(np.float32)


def linen(train=False):
    module = Linen(train)
    variables = jax.jit(Linen().init)(jax.random.key(0), IMAGES[:1])

    def fn(params, x):
        out = module.apply({"params": params, "batch_stats": variables["batch_stats"]}, x, mutable=["batch_stats"] if train else False)
        return out[0] if train else out

    return fn, variables["params"]


def nnx_model():
    model = nnx.Sequential(nnx.Linear(32, 6, rngs=nnx.Rngs(0)), nnx.gelu, nnx.LayerNorm(6, rngs=nnx.Rngs(0)), nnx.Linear(6, 7, rngs=nnx.Rngs(1)))
    graph, state = nnx.split(model)
    return lambda params, x: nnx.merge(graph, params)(x.reshape(-1, 32)), nnx.to_pure_dict(state)


def plain():
    def fn(params, x):
        h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(h).mean((1, 2)) @ params["head"] * params["scale"]

    return fn, {"conv": _draw(size=(3, 3, 2, 4)).astype(np.float32), "head": _draw(size=(4, 7)).astype(np.float32), "scale": 2, "n": np.int32(3)}


@pytest.mark.nightly
@pytest.mark.parametrize("model", [linen, nnx_model, plain])
def test_healthy_networks_hold_in_single_precision_with_many_outputs_and_examples(model):
    fn, params = model()
    result = selfcheck(fn, params, IMAGES)
    assert found(result, "holds") == set(LAWS), result
    assert result.subject == "8 examples, 3 random combinations of 7 outputs, float32"
    assert (line(result, FULL).tolerance, line(result, DERIVATIVES).tolerance) == (1e-4, 0.1)


def test_one_example_and_some_layers_are_enough():
    result = selfcheck(network, PARAMS, X[:1], layers="out")
    assert found(result, "holds") == set(LAWS)
    assert result.subject == "1 example, 3 outputs, float64"


def test_examples_may_be_a_tree_of_arrays_and_outputs_a_vector():
    fn = lambda params, x: (network(params, x["tokens"]) * x["mask"]).sum(1)  # noqa: E731
    result = selfcheck(fn, PARAMS, {"tokens": X, "mask": np.ones((5, 3))})
    assert found(result, "holds") == set(LAWS), result
    assert result.subject == "5 examples, 1 outputs, float64"


def test_half_precision_anywhere_is_compared_with_its_own_tolerance():
    result = selfcheck(lambda p, x: head(p, jnp.tanh((x @ p["w"]).astype(jnp.bfloat16))), PARAMS, X)
    assert found(result, "skipped") == {DERIVATIVES}
    assert result.holds
    assert result.subject.endswith("bfloat16")
    assert line(result, FULL).tolerance == 0.1
    assert line(result, DERIVATIVES).remark == "finite differences of bfloat16 are too coarse."


def test_where_an_accelerator_may_round_the_tolerance_is_larger(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(MODULE, "ntk", lambda *_, **__: np.eye(5))
    assert line(selfcheck(network, PARAMS, X, precision="high"), TRACE).tolerance == 1e-2
    assert line(selfcheck(network, PARAMS, X), TRACE).tolerance == 1e-9


def trained(params, x):
    h = x @ params["w"]
    return head(params, jnp.tanh((h - h.mean(0)) / jnp.sqrt(h.var(0) + 1)))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: (trained, PARAMS, X), id="plain"),
        pytest.param(lambda: (*linen(train=True), IMAGES), id="linen", marks=pytest.mark.nightly),
    ],
)
def test_batch_norm_in_training_mode_fails_and_its_kernel_is_skipped(model):
    result = selfcheck(*model())
    assert found(result) == {INDEPENDENT}
    assert not result.holds
    assert "batch norm in training mode" in line(result, INDEPENDENT).remark
    assert found(result, "skipped") == {FINITE, *OF_KERNELS}
    assert line(result, TRACE).remark == f"It needs the law: {INDEPENDENT}."


def test_batch_norm_in_training_mode_is_seen_by_the_engine_where_one_example_cannot_show_it():
    result = selfcheck(trained, PARAMS, X[:1])
    assert found(result) == {FINITE}
    assert "batch norm (or dropout) is in training mode" in line(result, FINITE).remark
    assert found(result, "skipped") >= OF_KERNELS


def test_it_runs_without_implicit_promotion_of_types():
    fn, params = plain()
    with jax.numpy_dtype_promotion("strict"):
        result = selfcheck(lambda p, x: fn(p | {"scale": np.float32(2)}, x), params, IMAGES)
    assert found(result, "holds") == set(LAWS), result
    assert result.subject == "8 examples, 3 random combinations of 7 outputs, float32"
    assert (line(result, FULL).tolerance, line(result, DERIVATIVES).tolerance) == (1e-4, 0.1)


@jax.custom_jvp
def steep(h):
    return jnp.tanh(h)


steep.defjvp(lambda primals, tangents: (steep(*primals), 2 * tangents[0] * (1 - jnp.tanh(primals[0]) ** 2)))


def stopped(params, x):
    h = x @ params["w"]
    return head(params, jnp.tanh(h) * jax.lax.stop_gradient(h))


def rounded(params, x):
    """A straight-through estimator."""
    h = x @ params["w"]
    return head(params, h + jax.lax.stop_gradient(jnp.round(h) - h))


def solved(params, x):
    """A solver that is called symmetric, of a matrix that is not: forward and reverse mode differ."""
    a = jnp.asarray(np.eye(5) + 0.1 * np.arange(25.0).reshape(5, 5) ** 0.5, x.dtype)

    def solve(h):
        return jax.lax.custom_linear_solve(lambda u: a @ u, h, lambda _, b: jnp.linalg.solve(a, b), symmetric=True)

    return head(params, jnp.tanh(jax.vmap(solve)(x @ params["w"])))


def endless(params, x):
    """The reverse mode of a relu leaves out what the forward mode multiplies by zero."""
    return head(params, jnp.sqrt(jax.nn.relu(x @ params["w"])))


def squashed(slope):
    @jax.custom_vjp
    def squash(h):
        return jnp.tanh(h)

    squash.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (slope * g * (1 - jnp.tanh(h) ** 2),))
    return lambda params, x: head(params, squash(x @ params["w"]))


@pytest.mark.usefixtures("without_engine")
@pytest.mark.parametrize(
    ("fn", "cause"),
    [
        (lambda params, x: head(params, steep(x @ params["w"])), "a custom_jvp"),
        pytest.param(stopped, "stop_gradient", marks=pytest.mark.nightly),
        pytest.param(rounded, "straight-through estimators", marks=pytest.mark.nightly),
        (solved, "a solver called symmetric that is not"),
        (endless, "zero times infinity"),
        (squashed(2), "Reverse mode only"),
    ],
    ids=["custom_jvp", "stop_gradient", "straight-through", "solver", "relu", "custom_vjp"],
)
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.nightly)])
def test_a_derivative_that_is_not_that_of_the_values_fails(fn, cause, dtype):
    result = selfcheck(fn, jax.tree.map(dtype, PARAMS), dtype(X))
    assert found(result) == {DERIVATIVES}, result
    assert cause in line(result, DERIVATIVES).remark


@pytest.mark.usefixtures("without_engine")
def test_a_custom_vjp_is_checked_in_reverse_mode():
    result = selfcheck(squashed(1), PARAMS, X)
    assert found(result, "holds") == set(LAWS)
    assert line(result, DERIVATIVES).remark.startswith("Reverse mode only: a custom_vjp leaves no forward mode")


@pytest.mark.usefixtures("without_engine")
@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        pytest.param(X, np.float32, id="random, float32"),
        pytest.param(0 * X, np.float64, id="zero, float64"),
        pytest.param(X, np.float64, id="random, float64", marks=pytest.mark.nightly),
        pytest.param(0 * X, np.float32, id="zero, float32", marks=pytest.mark.nightly),
    ],
)
def test_a_kink_is_no_wrong_derivative(x, dtype):
    """With inputs and biases of zero every relu sits on its kink."""
    params = jax.tree.map(dtype, PARAMS | {"b": np.zeros(5)})
    result = selfcheck(lambda params, x: head(params, jax.nn.relu(x @ params["w"] + params["b"])), params, dtype(x))
    assert found(result, "holds") == set(LAWS), result


@pytest.mark.usefixtures("without_engine")
def test_a_wrong_derivative_at_a_kink_is_no_excuse():
    result = selfcheck(lambda params, x: head(params, steep(jax.nn.relu(x @ params["w"] + params["b"]))), PARAMS | {"b": np.zeros(5)}, 0 * X)
    assert found(result) == {DERIVATIVES}


@pytest.mark.usefixtures("without_engine")
def test_outputs_without_slopes_are_no_failure():
    result = selfcheck(lambda params, x: network(params, x) * 0, PARAMS, X)
    assert found(result, "skipped") == {DERIVATIVES}
    assert "hardly depend on the parameters" in line(result, DERIVATIVES).remark


@pytest.mark.usefixtures("without_engine")
def test_names_of_batch_statistics_are_noticed():
    params = {"params": PARAMS, "batch_stats": {"bn": {"mean": np.zeros(5), "var": np.ones(5)}}}

    def fn(variables, x):
        bn = variables["batch_stats"]["bn"]
        return head(variables["params"], jnp.tanh((x @ variables["params"]["w"] - bn["mean"]) / bn["var"]))

    result = selfcheck(fn, params, X)
    assert found(result, "notice") == {STATISTICS}
    assert result.holds
    assert line(result, STATISTICS).remark.startswith("batch_stats/bn/mean, batch_stats/bn/var: if these are batch statistics")
    assert not found(selfcheck(fn, params, X, layers="^params"), "notice")


def less_definite(theta):
    flat = theta.transpose(0, 2, 1, 3).reshape(15, 15)
    flat = flat - 1.5e-10 * np.linalg.eigvalsh(flat)[-1] * np.eye(15)
    return flat.reshape(5, 3, 5, 3).transpose(0, 2, 1, 3)


def nudged(theta):
    theta = theta.copy()
    theta[0, 1, 0, 0] *= 1 + 1e-14
    return theta


@pytest.mark.parametrize(
    ("law", "outputs", "change"),
    [
        (FULL, "full", lambda theta: theta * (1 + 1e-8)),
        (TRACE, "trace", lambda theta: 3 * theta),
        (SYMMETRIC, "full", nudged),
        (DEFINITE, "full", less_definite),
    ],
)
def test_one_wrong_piece_of_the_engine_breaks_its_law_and_no_other(law, outputs, change, monkeypatch):
    def wrong(*given, **options):
        theta = np.asarray(ns.ntk(*given, **options))
        return change(theta) if options["outputs"] == outputs and "method" not in options else theta

    monkeypatch.setattr(MODULE, "ntk", wrong)
    result = selfcheck(network, PARAMS, X)
    assert found(result) == {law}, result
    assert not result.holds
    assert not found(result, "skipped")
    check = line(result, law)
    assert check.difference > check.tolerance
    assert check.remark.startswith("Usual cause: ")
    assert check.remark in str(result)


@pytest.mark.nightly
def test_a_use_of_a_weight_that_the_engine_drops_is_seen(monkeypatch):
    """Only the first of two uses of a weight counts (nngeometry's issue 94): symmetric and definite all the same."""

    def shared(params, x, second=lambda w: w):
        return head(params, jnp.tanh(jnp.tanh(x @ params["w"]) @ second(params["w"])))

    def dropping(fn, params, x, **options):
        return ns.ntk(fn if "method" in options else lambda params, x: shared(params, x, jax.lax.stop_gradient), params, x, **options)

    params = PARAMS | {"w": _draw(size=(4, 4)), "out": {"kernel": _draw(size=(4, 3)), "bias": np.zeros(3)}}
    assert selfcheck(shared, params, X).holds
    monkeypatch.setattr(MODULE, "ntk", dropping)
    result = selfcheck(shared, params, X)
    assert found(result) == {FULL, TRACE}
    assert "please report it" in line(result, FULL).remark


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_without_a_finite_kernel_its_laws_are_skipped(outputs, monkeypatch):
    monkeypatch.setattr(MODULE, "ntk", lambda *_, **options: np.eye(5) * (np.nan if options["outputs"] == outputs else 1))
    result = selfcheck(network, PARAMS, X)
    assert found(result) == {FINITE}
    assert found(result, "skipped") == OF_KERNELS
    assert line(result, SYMMETRIC).remark == f"It needs the law: {FINITE}."


def test_the_message_of_an_error_is_the_remark():
    result = selfcheck(lambda params, x: head(params, jnp.sqrt(0 * (x @ params["w"]))), PARAMS, X)
    assert found(result) == {DERIVATIVES, FINITE}
    assert line(result, FINITE).remark.startswith("ModelError: The gradient with respect to 'w' contains NaN or infinity at example 0.")


def test_outputs_that_are_nan_are_no_dependence_between_examples():
    result = selfcheck(lambda params, x: network(params, x) * jnp.nan, PARAMS, X)
    assert FINITE in found(result)
    assert INDEPENDENT in found(result, "holds")


def test_a_general_route_is_warned_of_once():
    with pytest.warns(GeneralRouteWarning) as warned:
        result = selfcheck(lambda p, x: head(p, jnp.cumsum(x * p["w"][:, 0], 1) @ p["w"]), PARAMS, X)
    assert result.holds
    assert len(warned) == 1


def test_a_tolerance_and_a_seed_may_be_chosen():
    fn, params = (lambda p, x: jnp.tanh(x @ p["w"])), jax.tree.map(np.float32, PARAMS)  # five outputs, of which three combinations are compared
    strict, one, other = (selfcheck(fn, params, X.astype(np.float32), **options) for options in ({"tolerance": 1e-30}, {}, {"seed": 1}))
    assert (line(strict, INDEPENDENT).verdict, line(strict, INDEPENDENT).tolerance) == ("FAILS", 1e-30)
    assert line(one, DEFINITE).remark.startswith("Eigenvalues")
    assert line(one, DEFINITE).remark != line(other, DEFINITE).remark


def test_the_result_reads_as_a_table():
    checks = (
        Check("a law", "this and that", "holds", 1e-12, 1e-9),
        Check("another", "x", "FAILS", 0.5, 1e-9, "Usual cause: none."),
        Check("no number", "y", "holds", tolerance=0.1),
    )
    result = SelfCheck("5 examples, 3 outputs, float64", checks)
    assert str(result).splitlines() == [
        "5 examples, 3 outputs, float64: 2 holds, 1 FAILS",
        "",
        "law        compared       difference  tolerance  verdict",
        "a law      this and that     1.0e-12    1.0e-09  holds",
        "another    x                 5.0e-01    1.0e-09  FAILS",
        "    Usual cause: none.",
        "no number  y                       -    1.0e-01  holds",
    ]
    assert repr(result) == str(result)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.subject = ""


def test_relative_differences():
    assert _relative([1, 2], [1, 2]) == _relative([0], [0]) == _relative([np.nan, np.inf], [np.nan, np.inf]) == 0
    assert _relative([1, 3], [1, 2]) == 0.5
    assert _relative([1e-300], [0]) == _relative([1, 2], [[1, 2]]) == np.inf
    assert np.isnan(_relative([np.nan], [1]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"precision": "float64"}, r"precision='float64' is unknown.* Allowed: default, high, highest"),
        ({"tolerance": 0}, r"tolerance=0 must be a positive number"),
        ({"tolerance": True}, r"tolerance=True must be"),
        ({"tolerance": "1e-3"}, r"tolerance='1e-3' must be"),
        ({"seed": -1}, r"seed=-1 must be a whole number from 0"),
        ({"seed": 1.0}, r"seed=1.0 must be"),
        ({"layers": "head"}, r"layers='head' matches no floating-point parameter"),
        ({"x": X[:0]}, r"x has shape \(0, 4\); it must be \(n, ...\) with at least one example"),
        ({"x": X[:, :3]}, r"fn\(params, x\) failed for a single example of shape \(1, 3\)"),
        ({"fn": lambda params, x: network(params, x)[:, :, None]}, r"it must return one array"),
        ({"params": {"w": np.arange(3)}}, r"params hold no floating-point array to differentiate"),
    ],
)
def test_bad_input_is_named_in_a_sentence(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        selfcheck(**{"fn": network, "params": PARAMS, "x": X} | change)
