"""Does the self-check hold where it should, and does each of its laws fail, alone, where something is wrong?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.engine import structure
from ntk_select.engine.kernel import ntk
from ntk_select.engine.routes import ntk_vector_product
from ntk_select.engine.structure import GeneralRouteWarning
from ntk_select.errors import ConfigError
from ntk_select.selfcheck import Check, SelfCheck, function, kernel, run, selfcheck, subject
from ntk_select.selfcheck.laws import ADJOINT, APART, FINITE, LAWS
from ntk_select.selfcheck.record import relative
from ntk_select.selfcheck.subject import inner

pytestmark = pytest.mark.usefixtures("quickly")

_draw = np.random.default_rng(0).normal
PARAMS = {"w": _draw(size=(4, 5)), "out": {"kernel": _draw(size=(5, 3)), "bias": _draw(size=3)}}
X = _draw(size=(5, 4))
X[4] = X[3]  # the same example twice: the kernel is singular

SLOPES, EULER = "derivatives fit values", "Euler: <W, grad f> = f"
OF_FN = {APART, ADJOINT, SLOPES, EULER}
ORACLES = {
    "engine = textbook, full",
    "engine = textbook, trace",
    "v' Theta v = ||grad||^2",
    "diagonal = squared norms",
    "Theta v = product without Theta",
}


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
def only(monkeypatch):
    """Tries some of the laws only, where the others have nothing to add."""

    def choose(laws):
        monkeypatch.setattr(run, "LAWS", [law for law in LAWS if law.law in laws])

    return choose


def test_every_law_holds_for_an_ordinary_network():
    result = selfcheck(network, PARAMS, X)
    assert result.holds
    assert found(result, "holds") == {law.law for law in LAWS}
    assert len(result.checks) == len({law.law for law in LAWS}) == 20
    assert "divides the error by 4.0 (4 where fn is smooth)" in line(result, SLOPES).remark
    assert line(result, EULER).remark == "Tried on out/bias, out/kernel."
    assert line(result, "positive semi-definite").remark.endswith("rank 12 of 15.")


def convolution(params, x):
    h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(h).mean((1, 2)) @ params["head"] * params["scale"]


def test_laws_hold_in_single_precision_with_many_outputs_and_examples(only):
    only(
        {law.law for law in LAWS}
        - {"Theta(x2, x1) = Theta(x1, x2)'", "Theta of 2 f = 4 Theta", "trace and sum are parts of full", "float32 = float64"}
    )
    params = {"conv": _draw(size=(3, 3, 2, 4)).astype(np.float32), "head": _draw(size=(4, 7)).astype(np.float32), "scale": 2, "count": np.int32(3)}
    result = selfcheck(convolution, params, _draw(size=(10, 4, 4, 2)).astype(np.float32))
    assert result.holds, result
    assert len(found(result, "holds")) == len(result.checks) == 16
    assert result.subject == "8 examples, 3 random combinations of 7 outputs, float32"
    assert line(result, "engine = textbook, full").tolerance == 1e-4


def test_without_float64_the_sums_are_compared(only):
    only({FINITE, "float32 = float64"})
    with jax.enable_x64(False):
        result = selfcheck(network, jax.tree.map(np.float32, PARAMS), X.astype(np.float32))
    assert result.holds
    assert "Only the sums were in float64" in line(result, "float32 = float64").remark
    assert line(result, "float32 = float64").difference < 1e-5


def test_one_example_and_some_layers_are_enough(only):
    only(OF_FN | {FINITE, *ORACLES, "order and batches do not matter", "Theta(x2, x1) = Theta(x1, x2)'"})
    result = selfcheck(network, PARAMS, X[:1], layers="out")
    assert result.holds
    assert result.subject == "1 example, 3 outputs, float64"


def test_half_precision_anywhere_is_checked_with_its_own_tolerance(only):
    only(OF_FN | {FINITE, "engine = textbook, full"})
    result = selfcheck(lambda p, x: head(p, jnp.tanh((x @ p["w"]).astype(jnp.bfloat16))), PARAMS, X)
    assert result.holds, result
    assert result.subject.endswith("bfloat16")
    assert line(result, FINITE).verdict == "holds"
    assert line(result, "engine = textbook, full").tolerance == 0.1
    assert line(result, SLOPES).remark == "differences of numbers this coarse say nothing."


# One wrong piece each, and the one law that it breaks.


KNOWN = {}


def known(route, fn, params, x1, x2=None, **options):
    """What a route gives, computed once for all tests. Functions here are `network` and its double."""
    given = tuple(array if array is None else (array.shape, array.tobytes()) for array in (x1, x2))
    key = route, fn is network, given, *options.items()
    if key not in KNOWN:
        KNOWN[key] = route(fn, params, x1, x2, **options)
    return KNOWN[key]


def engine(change):
    """The engine, with some of its kernels changed."""

    def wrong(fn, params, x1, x2=None, **options):
        return change(known(ntk, fn, params, x1, x2, **options), {"fn": fn, "x1": x1, "x2": x2, **options})

    return lambda patch: patch.setattr(subject, "ntk", wrong)


def when(condition, change):
    return engine(lambda theta, asked: change(theta) if condition(asked) else theta)


def less_definite(theta):
    flat = theta.transpose(0, 2, 1, 3).reshape(15, 15)
    flat = flat - 1.5e-10 * np.linalg.eigvalsh(flat)[-1] * np.eye(15)
    return flat.reshape(5, 3, 5, 3).transpose(0, 2, 1, 3)


def nudged(theta):
    theta = theta.copy()
    theta[0, 1, 0, 0] *= 1 + 1e-14
    return theta


def inner_wrong_at(calls):
    """The product of the sum's gradient is the first that the laws of the kernel take; norms of single outputs follow."""

    def patch(monkeypatch):
        count = iter(range(100))
        monkeypatch.setattr(kernel, "inner", lambda a, b: inner(a, b) * (1.01 if next(count) in calls else 1))

    return patch


def product(*given, **options):
    """Computed once: v is drawn from the same seed in all tests."""
    if "product" not in KNOWN:
        KNOWN["product"] = ntk_vector_product(*given, **options)
    return KNOWN["product"]


WRONG = {
    "engine = textbook, full": when(lambda a: a.get("method") and a["outputs"] == "full", lambda k: k * np.array([1, 1, 1 + 1e-8])),
    "engine = textbook, trace": when(lambda a: a.get("method") and a["outputs"] == "trace", lambda k: 3 * k),
    "sample space = parameter space": when(lambda a: a.get("space") == "sample", lambda k: k + 1e-6),
    "v' Theta v = ||grad||^2": inner_wrong_at({0}),
    "Theta v = product without Theta": lambda patch: patch.setattr(kernel, "ntk_vector_product", lambda *a, **o: 1.01 * product(*a, **o)),
    "diagonal = squared norms": inner_wrong_at(set(range(1, 100))),
    "sum over layers = whole": when(lambda a: a.get("by_layer"), lambda k: {name: leaf for name, leaf in k.items() if name != "w"}),
    "trace and sum are parts of full": when(lambda a: a["outputs"] == "sum", lambda k: np.diag(np.diag(k))),
    "Theta of 2 f = 4 Theta": when(lambda a: a["fn"] is not network, lambda k: k / 2),
    "order and batches do not matter": when(lambda a: a.get("batch_size"), lambda k: k[::-1, ::-1]),
    "Theta(x2, x1) = Theta(x1, x2)'": when(lambda a: a["x2"] is not None and len(a["x1"]) < 5, lambda k: k[::-1]),
    "exactly symmetric": when(lambda a: a["outputs"] == "full" and a["fn"] is network and "method" not in a, nudged),
    "positive semi-definite": when(lambda a: a["outputs"] == "full" and a["fn"] is network and "method" not in a, less_definite),
    "float32 = float64": when(lambda a: a["x1"].dtype == np.float32, lambda k: k * 1.01),
    EULER: lambda patch: patch.setattr(function, "homogeneous", lambda _: [1]),
}


@pytest.mark.parametrize("law", WRONG)
def test_one_wrong_piece_breaks_its_law_and_no_other(law, monkeypatch):
    when(lambda _: False, None)(monkeypatch)
    monkeypatch.setattr(kernel, "ntk_vector_product", product)
    WRONG[law](monkeypatch)
    result = selfcheck(network, PARAMS, X)
    assert found(result) == {law}, result
    assert not result.holds
    assert not found(result, "skipped")
    check = line(result, law)
    assert check.difference > check.tolerance
    assert check.remark.startswith("Usual cause: ")
    assert check.remark in str(result)


def trained(params, x):
    """Batch norm in training mode."""
    h = x @ params["w"]
    return head(params, jnp.tanh((h - h.mean(0)) / jnp.sqrt(h.var(0) + 1)))


def solved(params, x):
    """A solver that is called symmetric, of a matrix that is not."""
    a = jnp.eye(5) + 0.1 * jnp.arange(25.0).reshape(5, 5) ** 0.5

    def solve(h):
        return jax.lax.custom_linear_solve(lambda u: a @ u, h, lambda _, b: jnp.linalg.solve(a, b), symmetric=True)

    return head(params, jnp.tanh(jax.vmap(solve)(x @ params["w"])))


@jax.custom_jvp
def steep(h):
    return jnp.tanh(h)


steep.defjvp(lambda primals, tangents: (steep(*primals), 2 * tangents[0] * (1 - jnp.tanh(primals[0]) ** 2)))


def stopped(params, x):
    h = x @ params["w"]
    return head(params, jnp.tanh(h) * jax.lax.stop_gradient(h))


def rapid(params, x):
    """float32 does not know the phase."""
    return head(params, jnp.sin(3e4 * jnp.tanh(1e-3 * (x @ params["w"])) + 2e5))


@pytest.mark.parametrize(
    ("fn", "law", "cause"),
    [
        (trained, APART, "batch norm in training mode"),
        (solved, ADJOINT, "a solver called symmetric that is not"),
        (lambda params, x: head(params, steep(x @ params["w"])), SLOPES, "a custom_jvp, custom_vjp or stop_gradient with another derivative"),
        (stopped, SLOPES, "stop_gradient"),
        (rapid, "float32 = float64", "large numbers through a sine"),
    ],
    ids=["batch norm", "solver", "custom_jvp", "stop_gradient", "sine"],
)
def test_a_model_that_breaks_one_law_is_told_why(fn, law, cause, only):
    """Of all laws those on which such a model may have a bearing."""
    only(OF_FN | {FINITE, *ORACLES, "float32 = float64"} - {"engine = textbook, trace"})
    result = selfcheck(fn, PARAMS, X)
    assert found(result) == {law}, result
    assert cause in line(result, law).remark
    if fn is solved:
        assert found(result, "skipped") == {"Theta v = product without Theta", "float32 = float64"}
        assert line(result, "Theta v = product without Theta").remark == f"It needs the law: {ADJOINT}."
        assert line(result, "float32 = float64").remark.startswith("fn does not take float32: ")
    else:
        assert not found(result, "skipped")


def shared(params, x):
    """The first weight is used twice."""
    return head(params, jnp.tanh(jnp.tanh(x @ params["w"]) @ params["w"]))


def test_a_cross_term_that_the_engine_drops_is_seen_by_every_oracle(monkeypatch, only):
    """Only the first of several uses of a weight counts (nngeometry's issue 94). The other laws cannot see that."""
    only(OF_FN | {FINITE, *ORACLES, "sum over layers = whole", "exactly symmetric", "positive semi-definite"})
    leaf_of = structure._leaf
    monkeypatch.setattr(structure, "_leaf", lambda *given: dataclasses.replace(leaf_of(*given), taps=leaf_of(*given).taps[:1]))
    result = selfcheck(shared, PARAMS | {"w": _draw(size=(4, 4)), "out": {"kernel": _draw(size=(4, 3)), "bias": np.zeros(3)}}, X)
    assert found(result) == ORACLES
    assert "please report it" in line(result, "v' Theta v = ||grad||^2").remark


@pytest.mark.parametrize("slope", [1, 2])
def test_a_custom_vjp_has_no_forward_mode_but_slopes(slope, only):
    @jax.custom_vjp
    def squashed(h):
        return jnp.tanh(h)

    squashed.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (slope * g * (1 - jnp.tanh(h) ** 2),))
    only(OF_FN | {FINITE, "Theta v = product without Theta"})
    result = selfcheck(lambda params, x: head(params, squashed(x @ params["w"])), PARAMS, X)
    assert found(result, "skipped") == {ADJOINT, "Theta v = product without Theta"}
    assert "custom_vjp" in line(result, ADJOINT).remark
    assert found(result) == (set() if slope == 1 else {SLOPES})


def test_a_kink_is_no_wrong_derivative(only):
    """With inputs and biases of zero every relu of the first layer sits on its kink; the other examples move the biases."""
    only({SLOPES})
    params = PARAMS | {"b": np.zeros(5)}
    fn = lambda params, x: head(params, jax.nn.relu(x @ params["w"] + params["b"]))  # noqa: E731
    assert found(selfcheck(fn, params, X), "holds") == {SLOPES}
    result = selfcheck(fn, params, X * (np.arange(5) > 0)[:, None])
    assert found(result, "skipped") == {SLOPES}
    assert "kinks lie nearer than any step" in line(result, SLOPES).remark


def test_outputs_without_slopes_are_no_failure(only):
    only({SLOPES})
    result = selfcheck(lambda params, x: network(params, x) * 0, PARAMS, X)
    assert "hardly depend on the parameters" in line(result, SLOPES).remark


def test_names_of_batch_statistics_are_noticed(only):
    only({"no batch statistics", FINITE})
    params = {"params": PARAMS, "batch_stats": {"bn": {"mean": np.zeros(5), "var": np.ones(5)}}}

    def fn(variables, x):
        bn = variables["batch_stats"]["bn"]
        return head(variables["params"], jnp.tanh((x @ variables["params"]["w"] - bn["mean"]) / bn["var"]))

    result = selfcheck(fn, params, X)
    assert found(result, "notice") == {"no batch statistics"}
    assert result.holds
    assert line(result, "no batch statistics").remark.startswith("batch_stats/bn/mean, batch_stats/bn/var: if these are batch statistics")
    assert not found(selfcheck(fn, params, X, layers="^params"), "notice")


def test_without_a_finite_kernel_the_laws_of_the_kernel_are_skipped(monkeypatch):
    when(lambda a: a["outputs"] == "trace", lambda k: k * np.nan)(monkeypatch)
    result = selfcheck(network, PARAMS, X)
    assert found(result) == {FINITE}
    assert found(result, "skipped") == {law.law for law in LAWS if FINITE in law.needs}
    assert line(result, "exactly symmetric").remark == f"It needs the law: {FINITE}."


def test_what_an_error_says_is_the_remark(only):
    only({FINITE, "exactly symmetric"})
    result = selfcheck(lambda params, x: head(params, jnp.sqrt(0 * (x @ params["w"]))), PARAMS, X)
    assert found(result) == {FINITE}
    assert line(result, FINITE).remark.startswith("ModelError: The gradient with respect to 'w' holds NaN or infinity at example 0.")


def test_zero_times_infinity_in_one_of_two_directions_is_seen(only):
    """The reverse mode of a relu leaves out what the forward mode multiplies by zero."""
    only({ADJOINT, SLOPES, FINITE})
    result = selfcheck(lambda params, x: head(params, jnp.sqrt(jax.nn.relu(x @ params["w"]))), PARAMS, X)
    assert found(result) == {ADJOINT}
    assert "zero times infinity" in line(result, ADJOINT).remark
    assert "       nan    1.0e-09  FAILS" in str(result)


@pytest.mark.parametrize("last", [False, True])
def test_nan_is_not_lost_among_several_comparisons(last, monkeypatch, only):
    only({FINITE, "sample space = parameter space"})
    when(lambda a: a.get("space") == ("parameter" if last else "sample"), lambda k: k * np.nan)(monkeypatch)
    assert found(selfcheck(network, PARAMS, X)) == {"sample space = parameter space"}


def test_no_homogeneous_layer_no_euler(only):
    only({EULER})
    result = selfcheck(lambda params, x: jnp.tanh(network(params, x)), PARAMS, X)
    assert "linear and homogeneous" in line(result, EULER).remark
    result = selfcheck(lambda params, x: jnp.sin(x * params), np.ones(4), X)
    assert found(result, "skipped") == {EULER}


def test_a_bias_without_a_common_path_is_found_by_its_shape(only):
    only({EULER})
    params = {"w1": PARAMS["w"], "b1": np.ones(5), "w2": PARAMS["out"]["kernel"], "b2": np.ones(3)}
    result = selfcheck(lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], params, X)
    assert line(result, EULER).remark == "Tried on w2, b2."


def test_a_general_route_is_warned_of_once(only):
    only({FINITE, "engine = textbook, trace"})
    with pytest.warns(GeneralRouteWarning) as warned:
        result = selfcheck(lambda p, x: head(p, jnp.cumsum(x * p["w"][:, 0], 1) @ p["w"]), PARAMS, X)
    assert result.holds
    assert len(warned) == 1


def test_a_tolerance_and_a_seed_may_be_chosen(only):
    only({"v' Theta v = ||grad||^2", SLOPES, FINITE})
    strict, other = selfcheck(network, PARAMS, X, tolerance=1e-30), selfcheck(network, PARAMS, X, seed=1)
    assert line(strict, "v' Theta v = ||grad||^2").tolerance == 1e-30
    assert line(strict, SLOPES).tolerance == 1e-4
    assert line(strict, SLOPES).difference != line(other, SLOPES).difference


def test_the_result_reads_as_a_table():
    checks = (Check("a law", "this and that", "holds", 1e-12, 1e-9), Check("another", "x", "FAILS", 0.5, 1e-9, "Usual cause: none."))
    result = SelfCheck("5 examples, 3 outputs, float64", checks)
    assert str(result).splitlines() == [
        "5 examples, 3 outputs, float64: 1 holds, 1 FAILS",
        "",
        "law      compared       difference  tolerance  verdict",
        "a law    this and that     1.0e-12    1.0e-09  holds",
        "another  x                 5.0e-01    1.0e-09  FAILS",
        "    Usual cause: none.",
    ]
    assert repr(result) == str(result)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.subject = ""


def test_relative_differences():
    assert relative([1, 2], [1, 2]) == relative([0], [0]) == 0
    assert relative([1, 3], [1, 2]) == 0.5
    assert relative([1e-300], [0]) == relative([1, 2], [[1, 2]]) == np.inf
    assert np.isnan(relative([np.nan], [1]))


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
        ({"fn": lambda params, x: network(params, x).sum(1)}, r"it must return one array \(n, c\)"),
        ({"params": {"w": np.arange(3)}}, r"matches no floating-point parameter"),
    ],
)
def test_bad_input_is_named_in_a_sentence(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        selfcheck(**{"fn": network, "params": PARAMS, "x": X} | change)
