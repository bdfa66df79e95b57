"""Programs: functions with the same operations are one object, functions that differ in anything that counts are not."""

from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntk_select as ns
from ntk_select.kernels.engine import program as program_module
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.digest import digest_of_function, digest_of_program
from ntk_select.kernels.engine.program import MAX_BYTES, MAX_UNROLLED, calls_python, evaluate, outputs_of, trace, value_of

pytestmark = pytest.mark.usefixtures("quickly")
X = np.random.default_rng(0).normal(size=(3, 4))


def program_of(fn, *arguments):
    return trace(fn, *(arguments or (X,)))[0]


def ruled(slope, kind="jvp", captured=None):
    """A function with a derivative rule of its own."""
    if kind == "jvp":
        f = jax.custom_jvp(lambda x: jnp.sin(x))
        f.defjvp(lambda primals, tangents: (f(*primals), tangents[0] * slope if captured is None else tangents[0] * captured))
    else:
        f = jax.custom_vjp(lambda x: jnp.sin(x))
        f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * slope if captured is None else g * captured,))
    return lambda x: f(x) + 1


def capturing(shape=(4,), dtype=np.float64, seed=0):
    array = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return lambda x: jnp.tanh(x * array) @ jnp.ones((4, 2))


# Pairs of functions with the same operations.
SAME = {
    "lambdas": lambda: [lambda x: jnp.tanh(x) @ x.T for _ in range(2)],
    "other names": lambda: [lambda x: jnp.tanh(x), lambda examples: jnp.tanh(examples)],
    "captured arrays": lambda: [capturing(seed=seed) for seed in range(2)],
    "results that nobody needs": lambda: [lambda x, a=a: (jnp.tanh(x), x @ a)[0] for a in (np.ones((4, 2)), np.ones((4, 7)))],
    "jitted": lambda: [jax.jit(lambda x: jnp.sin(x) * 2) for _ in range(2)],
    "jitted and written out": lambda: [jax.jit(lambda x: jnp.sin(x)), lambda x: jnp.sin(x)],
    "loops": lambda: [lambda x: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h), x) for _ in range(2)],
    "long loops": lambda: [lambda x: lax.fori_loop(0, MAX_UNROLLED + 1, lambda i, h: jnp.sin(h), x) for _ in range(2)],
    "branches": lambda: [lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x) for _ in range(2)],
    "forward rules": lambda: [ruled(2.0) for _ in range(2)],
    "reverse rules": lambda: [ruled(2.0, "vjp") for _ in range(2)],
    "arrays in long loops": lambda: [
        lambda x, a=a: lax.fori_loop(0, MAX_UNROLLED + 1, lambda i, h: jnp.sin(h * a), x) for a in np.random.default_rng(0).normal(size=(2, 4))
    ],
}
# Pairs of functions that differ.
DIFFERENT = {
    "operation": lambda: [lambda x: jnp.sin(x), lambda x: jnp.cos(x)],
    "order": lambda: [lambda x: jnp.sin(jnp.cos(x)), lambda x: jnp.cos(jnp.sin(x))],
    "operand": lambda: [lambda x: jnp.sin(x) - x, lambda x: x - jnp.sin(x)],
    "number": lambda: [lambda x: x * 2.0, lambda x: x * 3.0],
    "sign of zero": lambda: [lambda x: jnp.arctan2(x, 0.0), lambda x: jnp.arctan2(x, -0.0)],
    "next number": lambda: [lambda x: x * 2.0, lambda x: x * np.nextafter(2.0, 3)],
    "cast": lambda: [lambda x: x.astype(np.float32).astype(float), lambda x: x.astype(jnp.bfloat16).astype(float)],
    "captured shape": lambda: [capturing((4,)), capturing((1, 4))],
    "captured type": lambda: [capturing(dtype=np.float64), capturing(dtype=np.float32)],
    "forward rule": lambda: [ruled(2.0), ruled(3.0)],
    "reverse rule": lambda: [ruled(2.0, "vjp"), ruled(3.0, "vjp")],
    "kind of rule": lambda: [ruled(2.0, "vjp"), ruled(2.0)],
    "rule or none": lambda: [ruled(1.0), lambda x: jnp.sin(x) + 1],
    "captured by a forward rule": lambda: [ruled(0, captured=np.full(4, value)) for value in (2.0, 3.0)],
    "captured by a reverse rule": lambda: [ruled(0, "vjp", np.full(4, value)) for value in (2.0, 3.0)],
    "length of a long loop": lambda: [lambda x, n=n: lax.fori_loop(0, n, lambda i, h: jnp.sin(h), x) for n in (70, 71)],
    "branch": lambda: [lambda x, f=f: lax.cond(x.sum() > 0, jnp.sin, f, x) for f in (jnp.cos, jnp.tan)],
    "number in a branch": lambda: [lambda x, c=c: lax.cond(x.sum() > 0, lambda x: x * c, jnp.sin, x) for c in (0.0, -0.0)],
    "axis": lambda: [lambda x: x[:, :3].sum(0), lambda x: x[:, :3].sum(1)],
    "precision": lambda: [lambda x, p=p: jnp.dot(x, x.T, precision=p) for p in ("highest", "default")],
    "output": lambda: [lambda x: (jnp.sin(x), jnp.cos(x))[0], lambda x: (jnp.sin(x), jnp.cos(x))[1]],
}


@pytest.mark.parametrize("name", SAME)
def test_functions_with_the_same_operations_are_one_program(name):
    one, two = map(program_of, SAME[name]())
    assert one is two
    assert hash(one) == hash(two)


@pytest.mark.parametrize("name", DIFFERENT)
def test_functions_that_differ_are_two_programs(name):
    one, two = map(program_of, DIFFERENT[name]())
    assert one is not two
    assert one != two
    assert digest_of_program(DIFFERENT[name]()[0], X) != digest_of_program(DIFFERENT[name]()[1], X)


@pytest.mark.parametrize("arguments", [(X.astype(np.float32),), (X[:2],)], ids=["type", "shape"])
def test_arguments_of_another_kind_make_another_program(arguments):
    assert program_of(jnp.tanh) is not program_of(jnp.tanh, *arguments)


def test_weak_types_are_told_apart():
    assert program_of(lambda a: a + X, 1.0) is not program_of(lambda a: a + X, np.float64(1))


def test_what_cannot_be_compared_is_shared_with_nothing():
    """Callbacks to Python, and large arrays inside an operation."""
    called = lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)  # noqa: E731
    one, two = program_of(called), program_of(called)
    assert one is not two
    assert calls_python(one)
    assert not calls_python(program_of(jnp.sin))
    assert digest_of_program(called, X) is None
    large = np.ones((MAX_BYTES // 32 + 1, 4))
    f = jax.custom_jvp(lambda x: x * 2)
    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0] * jnp.asarray(large).sum(0)))
    assert program_of(f) is not program_of(f)


def test_a_callback_is_called_and_differs_from_call_to_call():
    """A function that reads the world gives what the world is now."""
    state = {"by": 2.0}

    def fn(p, x):
        by = jax.pure_callback(lambda: np.float64(state["by"]), jax.ShapeDtypeStruct((), np.float64), vmap_method="sequential")
        return x @ p["w"] * by

    params, kernels = {"w": np.ones((4, 2))}, []
    for by in (2.0, 3.0):
        state["by"] = by
        kernels.append(np.asarray(ns.ntk(fn, params, X)))
    np.testing.assert_allclose(kernels[0], 4 * X @ X.T, rtol=1e-12)
    np.testing.assert_allclose(kernels[1], 9 * X @ X.T, rtol=1e-12)


@pytest.mark.parametrize("name", [*SAME, *DIFFERENT])
def test_programs_give_what_their_functions_give(name):
    for fn in (SAME | DIFFERENT)[name]():
        program, values = trace(fn, X)
        expected = fn(X)
        env = evaluate(program, values, [X])
        for found in ([env[var] for var in program.outvars], outputs_of(program, values, [X])):
            np.testing.assert_allclose(found[0], expected, rtol=1e-14, atol=0)
            assert found[0].dtype == expected.dtype


@pytest.mark.parametrize("name", ["forward rule", "reverse rule", "captured by a forward rule", "captured by a reverse rule"])
def test_rules_are_respected_in_kernels_of_functions_that_differ_in_them_alone(oracle, name):
    """One after the other, so that a program taken for the other would give its numbers."""
    params = {"w": oracle.draw(4, 4)}
    for rule in DIFFERENT[name]():
        fn = lambda p, x, rule=rule: rule(x @ p["w"])  # noqa: E731
        oracle.close(ns.ntk(fn, params, X), oracle.paired(oracle.jacobians(fn, params, X)["w"], None, "trace"))


@pytest.mark.parametrize("length", [0, 1, 5, MAX_UNROLLED, MAX_UNROLLED + 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_of_any_length_are_what_they_were(length, reverse):
    rows = np.random.default_rng(1).normal(size=(length, 4)) / 4

    def fn(x, rows):
        def body(carry, row):
            carry = jnp.tanh(carry + row)
            return carry, carry.sum()

        last, sums = lax.scan(body, x, rows, reverse=reverse)
        return last, sums

    program, values = trace(fn, X, rows)
    assert ("scan" in [eqn.name for eqn in program.eqns]) == (length > MAX_UNROLLED)
    env = evaluate(program, values, [X, rows])
    for var, expected in zip(program.outvars, fn(X, rows), strict=True):
        np.testing.assert_allclose(env[var], expected, rtol=1e-12, atol=1e-14)


def test_values_belong_to_the_call_and_not_to_the_program():
    one, two = capturing(seed=0), capturing(seed=1)
    (program, first), (same, second) = trace(one, X), trace(two, X)
    assert program is same
    assert not any(isinstance(value, (np.ndarray, jax.Array)) and value.size > 1 for value in vars(program).values())
    for fn, values in ((one, first), (two, second)):
        np.testing.assert_allclose(evaluate(program, values, [X])[program.outvars[0]], fn(X), rtol=1e-14)


def test_equations_may_be_intercepted_and_left_out():
    program, values = trace(lambda x: jnp.sin(jnp.cos(x)), X)
    env = evaluate(program, values, [X], interceptor=lambda index, eqn, inputs: [2 * out for out in eqn.run(*inputs)])
    np.testing.assert_allclose(env[program.outvars[0]], 2 * np.sin(2 * np.cos(X)), rtol=1e-14)
    assert program.outvars[0] not in evaluate(program, values, [X], only=frozenset([0]))


def test_old_programs_are_forgotten(monkeypatch):
    """As many as PROGRAMS stay."""
    first = program_of(lambda x: x * 0.125)
    for number in range(program_module.PROGRAMS + 1):
        program_of(lambda x, n=float(number + 1): x * n)
    assert program_of(lambda x: x * 0.125) is not first
    assert program_of(lambda x: x * 0.125) == first


def test_compiled_functions_stay_with_their_program():
    program, _ = trace(lambda x: jnp.sin(x) * 0.75, X)
    run = lambda program, power, values, x: outputs_of(program, values, [x])[0] ** power  # noqa: E731
    assert program.jit(run, 2) is program.jit(run, 2)
    assert program.jit(run, 2) is not program.jit(run, 3)
    np.testing.assert_allclose(program.jit(run, 2)((), X), (np.sin(X) * 0.75) ** 2, rtol=1e-14)


def test_digests_follow_captured_arrays_and_chosen_leaves():
    params = {"a": np.ones((4, 2)), "b": np.ones((4, 2))}

    def digest(seed, layers=None):
        captured = np.random.default_rng(seed).normal(size=4)
        return digest_of_function(analyse(lambda p, x: jnp.tanh(x * captured) @ p["a"] + x @ p["b"], params, X, layers))

    assert digest(0) == digest(0)
    assert len({digest(0), digest(1), digest(0, "a"), digest(0, "b")}) == 4


@dataclass(frozen=True)
class Scaled:
    scale: object

    def __call__(self, x):
        return x * self.scale


@dataclass(frozen=True, slots=True)
class Slotted:
    scale: float


@dataclass(eq=False)
class Changeable:
    scale: float

    def __call__(self, x):
        return x * self.scale


class WithMore(Scaled):
    def __call__(self, x):
        return x * self.more


class Module(nn.Module):
    width: int = 3
    inner: object = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


def test_what_may_change_is_no_value():
    for constant in (Scaled(2.0), Scaled((1, "a", None)), Scaled(Scaled(1)), Slotted(2.0), Scaled(Module()), Module(), Module(inner=Scaled(1))):
        assert value_of(constant) is not None
    more = WithMore(2.0)
    more.more = 3.0
    for other in (Scaled(np.ones(2)), Scaled([1]), Scaled(lambda x: x), Changeable(2.0), more, Module(inner=np.ones(2)), lambda x: x):
        assert value_of(other) is None


def test_a_value_is_traced_once_and_equal_values_share_the_trace():
    calls = []

    @dataclass(frozen=True)
    class Counted:
        scale: float

        def __call__(self, x):
            calls.append(self.scale)
            return x * self.scale

    first, second, other = (trace(Counted(scale), np.ones(3))[0] for scale in (2.0, 2.0, 3.0))
    assert calls == [2.0, 3.0]
    assert first is second
    assert other != first


def test_a_function_that_changed_is_traced_again():
    changed = Changeable(2.0)
    first = trace(changed, np.ones(3))[0]
    changed.scale = 3.0
    assert trace(changed, np.ones(3))[0] != first


@dataclass(frozen=True)
class Uncompared:
    scale: float
    offset: float = field(default=0.0, compare=False)

    def __call__(self, x):
        return x * self.scale + self.offset * isinstance(self.scale, float)


def test_equal_functions_that_compute_something_else_are_told_apart():
    for one, other in ((Uncompared(1.0), Uncompared(1.0, 5.0)), (Uncompared(1, 5.0), Uncompared(1.0, 5.0)), (Uncompared(0.0), Uncompared(-0.0))):
        assert one == other
        assert value_of(one) != value_of(other)
    values = [outputs_of(*trace(fn, np.ones(3)), [np.ones(3)])[0][0] for fn in (Uncompared(1.0), Uncompared(1.0, 5.0), Uncompared(1, 5.0))]
    assert values == [1, 6, 1]
