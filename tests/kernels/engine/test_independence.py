"""A function in which one example influences another has no kernel and is refused; healthy ones are not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError

pytestmark = pytest.mark.usefixtures("quickly")
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
REFUSED = r"depend on the other examples of the batch: batch norm .* Try: use_running_average=True \(linen\), model.eval\(\) \(nnx\)"


class Linen(nn.Module):
    """Batch norm and dropout, in training mode or not."""

    train: bool
    drop: float = 0.0
    over_batch: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train, momentum=0.9)(nn.Dense(5)(x))
        x = nn.Dropout(self.drop, deterministic=not self.drop, broadcast_dims=())(jnp.tanh(x))
        return nn.Dense(2)(x)


def linen(train, drop=0.0):
    module = Linen(train, drop)
    variables = jax.jit(Linen(False).init)(jax.random.key(0), X)

    def fn(params, x):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        rngs = {"dropout": jax.random.key(1)} if drop else None
        return module.apply(given, x, mutable=["batch_stats"], rngs=rngs)[0] if train else module.apply(given, x, rngs=rngs)

    return fn, variables["params"]


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.bn = nnx.Linear(4, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.dropout, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jnp.tanh(self.bn(self.first(x)))))


def of_nnx(train):
    model = Nnx()
    model.train() if train else model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return (lambda params, x: nnx.merge(graph, params, rest, copy=True)(x)), params


def test_nnx_in_training_mode_that_cannot_be_traced_is_refused_with_the_remedy():
    graph, params, rest = nnx.split(Nnx(), nnx.Param, ...)
    with pytest.raises(ConfigError, match=r"TraceContextError: .* Try: use_running_average=True \(linen\), model.eval\(\) \(nnx\)"):
        ns.ntk(lambda params, x: nnx.merge(graph, params, rest)(x), params, X)


@pytest.mark.filterwarnings("error")
def test_batch_statistics_among_the_parameters_are_told_unless_the_leaves_are_chosen():
    module = Linen(False)
    variables = jax.jit(module.init)(jax.random.key(0), X)
    with pytest.warns(
        UserWarning, match=r"batch statistics, .*: batch_stats/BatchNorm_0/mean, batch_stats/BatchNorm_0/var. Try: layers='\^params/'"
    ) as told:
        ns.ntk_plan(module.apply, variables, X)
    assert told[0].filename == __file__
    ns.ntk_plan(module.apply, variables, X, layers="^params/")
    ns.ntk_plan(lambda params, x: module.apply({**variables, "params": params}, x), variables["params"], X)
    model = Nnx()
    model.eval()
    graph, state = nnx.split(model)
    with pytest.warns(UserWarning, match=r"batch statistics, .*: bn/mean, bn/var. Try: .* nnx.split\(model, nnx.Param, ...\)"):
        ns.ntk_plan(lambda state, x: nnx.merge(graph, state)(x), state, X)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    ns.ntk_plan(lambda params, x: nnx.merge(graph, params, rest)(x), params, X)


def plain(change):
    """A product whose outputs are changed."""
    return (lambda p, x: change(jnp.tanh(x @ p["w"]), x)), {"w": np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)}


DEPENDENT = {
    "batch norm of linen": lambda: linen(train=True),
    "dropout of linen": lambda: linen(train=False, drop=0.5),
    "batch norm and dropout of nnx": lambda: of_nnx(train=True),
    "mean over the batch": lambda: plain(lambda y, x: y - y.mean(0)),
    "mean over the inputs": lambda: plain(lambda y, x: y * (1 + x.mean())),
    "the neighbour": lambda: plain(lambda y, x: y + 0.1 * jnp.roll(y, 1, axis=0)),
    "the first example": lambda: plain(lambda y, x: y * x[0, 0]),
    "the length of the batch": lambda: plain(lambda y, x: y / len(x)),
    "the place in the batch": lambda: plain(lambda y, x: y * (1.0 + jnp.arange(len(x))[:, None])),
    "sorted": lambda: plain(lambda y, x: jnp.sort(y, axis=0) + 2 * jnp.sort(y, axis=0)[::-1]),
    "noise by the shape of the batch": lambda: plain(lambda y, x: y + jax.random.normal(jax.random.key(0), y.shape)),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependence_is_refused_by_kernels_and_not_by_plans(name):
    fn, params = DEPENDENT[name]()
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(fn, params, X)
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk_fn(fn, params, X)
    assert ns.ntk_plan(fn, params, X).flops > 0


@pytest.mark.parametrize(
    "options", [{"method": "jacobian"}, {"method": "vector-product"}, {"by_layer": True}, {"x2": X + 1}, {"outputs": "full"}], ids=str
)
def test_dependence_is_refused_whatever_is_asked(options):
    fn, params = DEPENDENT["mean over the batch"]()
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(fn, params, X, **options)


def test_dependence_is_refused_at_every_call():
    fn, params = DEPENDENT["the neighbour"]()
    for _ in range(3):
        with pytest.raises(ModelError, match=REFUSED):
            ns.ntk(fn, params, X)


def test_a_dependent_function_is_refused_after_a_healthy_one_with_the_same_operations_at_one_example():
    """At a single example a mean over the batch of products is the same program with an independent one."""
    params = {"w": np.ones((4, 2), np.float32)}
    healthy, dependent = (lambda p, x: (x @ p["w"]) - 0 * x.sum(1, keepdims=True)), (lambda p, x: (x @ p["w"]) - 0.5 * (x @ p["w"])[::-1])
    ns.ntk(healthy, params, X)
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(dependent, params, X)
    made = [lambda p, x, m=m: jnp.tanh(x @ p["w"]) - (m(x) if m else 0 * x[:, :1]) for m in (None, lambda x: x.mean())]
    ns.ntk(made[0], params, X)
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(made[1], params, X)


def test_an_order_over_the_batch_is_a_dependence():
    params = {"w": np.ones((4, 2), np.float32)}
    for x in (X, X[::-1], np.sort(X, 0)):
        with pytest.raises(ModelError, match=REFUSED):
            ns.ntk(lambda p, x: jnp.sort(x, 0) @ p["w"], params, x)


@pytest.mark.parametrize("x", [np.ones((5, 4), np.float32), X[:1], np.zeros((3, 4), np.float32)], ids=["equal", "one", "zeros"])
@pytest.mark.parametrize("name", ["batch norm of linen", "mean over the inputs", "the neighbour"])
def test_equal_examples_and_single_ones_hide_no_dependence(name, x):
    fn, params = DEPENDENT[name]()
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(fn, params, x)


@pytest.mark.parametrize("x", [np.array([[0, 1], [3, 2]]), np.ones((3, 2), int), np.array([[1, 2]])], ids=["different", "equal", "one"])
def test_tokens_hide_no_dependence(x):
    params = {"table": np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)}
    assert ns.ntk(lambda p, x: p["table"][x].mean(1), params, x).shape == (len(x), len(x))
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(lambda p, x: p["table"][x].mean(1) - 0.5 * p["table"][x].mean((0, 1)), params, x)


HEALTHY = {
    "linen in evaluation mode": lambda: linen(train=False),
    "nnx in evaluation mode": lambda: of_nnx(train=False),
    "a network": lambda: plain(lambda y, x: y),
    "layer norm": lambda: plain(lambda y, x: (y - y.mean(1, keepdims=True)) / jnp.sqrt(y.var(1, keepdims=True) + 1e-5)),
    "constant outputs": lambda: plain(lambda y, x: 0 * y),
    "large outputs": lambda: plain(lambda y, x: 1e10 * y),
    "small outputs": lambda: plain(lambda y, x: 1e-10 * y),
    "map over examples": lambda: plain(lambda y, x: jax.lax.map(jnp.tanh, y)),
}


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(X, id="different"),
        pytest.param(np.ones((5, 4), np.float32), id="equal", marks=pytest.mark.nightly),
        pytest.param(X[:1], id="one", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_functions_are_not_refused(name, x):
    fn, params = HEALTHY[name]()
    kernel = np.asarray(ns.ntk(fn, params, x))
    assert np.isfinite(kernel).all()
    leaves = jax.tree.leaves(jax.jit(jax.vmap(lambda e: jax.jacrev(lambda p: fn(p, e[None])[0])(params)))(x))
    rows = np.concatenate([np.asarray(leaf, np.float64).reshape(len(x), 2, -1) for leaf in leaves], -1)
    expected = np.einsum("icp,jcp->ij", rows, rows) / 2
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("where", "dtype"),
    [
        ("params", jnp.bfloat16),
        ("inside", jnp.bfloat16),
        ("outputs", jnp.float16),
        pytest.param("params", jnp.float16, marks=pytest.mark.nightly),
        pytest.param("inside", jnp.float16, marks=pytest.mark.nightly),
        pytest.param("outputs", jnp.bfloat16, marks=pytest.mark.nightly),
    ],
)
def test_half_precision_is_not_taken_for_dependence_and_hides_none(dtype, where):
    rng = np.random.default_rng(2)
    params = {"a": rng.normal(size=(64, 64)).astype(np.float32) / 8, "b": rng.normal(size=(64, 3)).astype(np.float32) / 8}
    x = rng.normal(size=(8, 64)).astype(np.float32)
    if where == "params":
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def fn(p, x, spoil=0.0):
        a, b, h = (leaf.astype(dtype) if where == "inside" else leaf for leaf in (p["a"], p["b"], x))
        y = jnp.tanh(h @ a) @ b
        y = y - spoil * y.mean(0)
        return y.astype(dtype) if where == "outputs" else y.astype(jnp.float32)

    assert np.isfinite(np.asarray(ns.ntk(fn, params, x))).all()
    with pytest.raises(ModelError, match=REFUSED):
        ns.ntk(lambda p, x: fn(p, x, 1.0), params, x)


def test_functions_that_take_one_example_alone_are_refused_with_the_reason():
    params = {"w": np.ones((4, 2), np.float32)}
    with pytest.raises(ConfigError, match=r"failed for several examples together: .* It must take any number of examples"):
        ns.ntk(lambda p, x: x.reshape(1, 4) @ p["w"], params, X)
    with pytest.raises(ConfigError, match=r"returns float32\[1, 2\] for four examples; it must return one row for each"):
        ns.ntk(lambda p, x: (x @ p["w"])[:1], params, X)


def test_the_check_is_made_once_for_each_function(compilations):
    calls = []

    def fn(p, x):
        calls.append(len(x))
        return x @ p["w"]

    params = {"w": np.ones((4, 2), np.float32)}
    ns.ntk(fn, params, X)
    assert 4 in calls
    calls.clear()
    compilations.clear()
    ns.ntk(fn, params, X)
    assert calls == [1]
    assert compilations == []
