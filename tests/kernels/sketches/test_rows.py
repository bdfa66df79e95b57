"""Rows of a sketch equal projected Jacobians for any use of a leaf, portion, order, output and type; invalid calls are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError
from ntk_select.kernels.engine import GeneralRouteWarning
from ntk_select.kernels.sketches import execute, forward
from ntk_select.kernels.sketches.projection import KINDS

pytestmark = pytest.mark.usefixtures("quickly")

conv = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
QUICK = (("countsketch", "full"), pytest.param("kronecker", "trace", marks=pytest.mark.nightly))
EVERY_PAIR = [*QUICK, *(pytest.param(kind, outputs, marks=pytest.mark.slow) for kind, outputs in zip(KINDS, ("trace", "full") * 3, strict=False))]
EVERY = [
    pytest.param(kind, marks=() if kind == "countsketch" else pytest.mark.nightly if kind == "kronecker" else pytest.mark.slow) for kind in KINDS
]


# A small network: a convolution, a scale, a dense layer.

N, C = 5, 3
SHAPES = {"conv": (3, 3, 2, 4), "scale": (4,), "head": (4, C)}


def small(p, x):
    h = jnp.tanh(conv(x, p["conv"], (1, 1), "SAME") * p["scale"])
    return h.mean((1, 2)) @ p["head"]


@pytest.fixture(scope="module")
def params(oracle):
    return {name: oracle.draw(*shape, seed=seed) for seed, (name, shape) in enumerate(SHAPES.items())}


@pytest.fixture(scope="module")
def x(oracle):
    return oracle.draw(N, 4, 4, 2, seed=9)


@pytest.fixture(scope="module")
def jacobian(oracle, params, x):
    return oracle.jacobians(small, params, x)


def paired_with(jacobian: np.ndarray, outputs, project) -> np.ndarray:
    """The rows that `outputs` asks for, from the Jacobian (n, c, p) of a leaf and project(cotangent) -> S."""
    if isinstance(outputs, str) and outputs == "trace":
        return sum(jacobian[:, c] @ project(c) for c in range(jacobian.shape[1])) * jacobian.shape[1] ** -0.5
    if isinstance(outputs, str) and outputs != "sum":
        return jacobian @ project(0)
    cotangents = np.ones(jacobian.shape[1]) if isinstance(outputs, str) else outputs
    return np.einsum("ncp,nc->np", jacobian, np.broadcast_to(cotangents, jacobian.shape[:2])) @ project(0)


# What is sketched.


@pytest.mark.parametrize(
    "outputs", ["trace", "full", "each", *(pytest.param(word, marks=pytest.mark.nightly) for word in ("diagonal", "sum", "one"))]
)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "countsketch" else pytest.mark.slow) for kind in ("countsketch", "srht", "rademacher")]
)
def test_outputs_are_summed_kept_apart_or_averaged_with_projections_of_their_own(oracle, explicit, params, x, jacobian, kind, outputs):
    outputs = {"one": oracle.draw(C), "each": oracle.draw(N, C)}.get(outputs, outputs)
    options = {"dim": 16, "blocks": 1 if kind == "rademacher" else 2, "seed": 4}
    found = ns.sketch(small, params, x, kind=kind, outputs=outputs, by_layer=True, **options)
    assert list(found) == list(jacobian)
    for name, rows in jacobian.items():
        project = lambda c, name=name, p=rows.shape[-1]: explicit.projection(kind, name, p, cotangent=c, **options)  # noqa: E731
        oracle.close(found[name], paired_with(rows, outputs, project))
    oracle.close(ns.sketch(small, params, x, kind=kind, outputs=outputs, **options), sum(found.values()))


@pytest.mark.parametrize("outputs", [pytest.param("trace", marks=pytest.mark.nightly), "full"])
def test_examples_are_paired_as_the_exact_kernel_pairs_them(oracle, params, x, outputs):
    """With one leaf and room enough a Hadamard sketch of outputs kept apart is exact; the trace needs products between outputs to vanish."""
    z = ns.sketch(small, params, x, kind="srht", dim=128, outputs=outputs, layers="conv")
    exact = ns.ntk(small, params, x, outputs=outputs, layers="conv")
    if outputs == "full":
        oracle.close(np.einsum("iak,jbk->ijab", z, z), exact)
    else:
        many = np.mean([(z := ns.sketch(small, params, x, kind="srht", dim=128, seed=seed, layers="conv")) @ z.T for seed in range(100)], axis=0)
        assert np.linalg.norm(many - exact) < 0.1 * np.linalg.norm(exact)


def test_layers_choose_what_is_added_up(oracle, params, x):
    parts = ns.sketch(small, params, x, dim=16, by_layer=True)
    oracle.close(ns.sketch(small, params, x, dim=16, layers="conv|head"), parts["conv"] + parts["head"])
    oracle.close(ns.sketch(small, params, x, dim=16, layers=lambda name: name == "scale"), parts["scale"])


@jax.tree_util.register_pytree_with_keys_class
class Reversed:
    """Parameters that flatten in the opposite order, under the same paths."""

    def __init__(self, held):
        self.held = held

    def tree_flatten_with_keys(self):
        names = sorted(self.held, reverse=True)
        return [(jax.tree_util.DictKey(name), self.held[name]) for name in names], tuple(names)

    @classmethod
    def tree_unflatten(cls, names, leaves):
        return cls(dict(zip(names, leaves, strict=True)))


@pytest.mark.parametrize("kind", [*EVERY, pytest.param("jvp", marks=pytest.mark.slow)])
def test_the_order_of_the_leaves_does_not_matter(oracle, params, x, kind):
    backwards = Reversed(params)
    assert [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(backwards)] == ["scale", "head", "conv"]
    found = ns.sketch(lambda p, x: small(p.held, x), backwards, x, dim=16, kind=kind)
    oracle.close(found, ns.sketch(small, params, x, dim=16, kind=kind))


def test_names_seeds_and_nothing_else_choose_the_projection(oracle, params, x):
    first = ns.sketch(small, params, x, dim=16)
    np.testing.assert_array_equal(ns.sketch(small, params, x, dim=16), first)
    assert not np.allclose(ns.sketch(small, params, x, dim=16, seed=1), first)
    renamed = ns.sketch(
        lambda p, x: small({"conv": p["other"], **p}, x), {"other": params["conv"], "scale": params["scale"], "head": params["head"]}, x, dim=16
    )
    assert not np.allclose(renamed, first)


def test_leaves_of_the_same_shape_and_use_are_sketched_each_with_its_own_projection(oracle, explicit):
    """They are stacked and processed by one loop."""

    def fn(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"] + p["s"]) @ p["b"] + p["t"]) @ p["head"]

    shapes = {"a": (4, 4), "b": (4, 4), "head": (4, 2), "s": (4,), "t": (4,)}
    params, x = {name: oracle.draw(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}, oracle.draw(3, 4, seed=9)
    found, expected = ns.sketch(fn, params, x, dim=16, seed=2), 0
    for name, rows in oracle.jacobians(fn, params, x).items():
        expected = expected + paired_with(
            rows, "trace", lambda c, name=name, p=rows.shape[-1]: explicit.projection("countsketch", name, p, 16, seed=2, cotangent=c)
        )
    oracle.close(found, expected)


# How a leaf is used.

OIHW = (3, 2, 1, 0)


def uses(p, x):
    """x (n, 4, 4, 3): weights as they are, moved, computed, shared; windows that see little but padding."""
    weight = p["standardised"] - p["standardised"].mean((0, 1, 2))
    h = jnp.tanh(conv(x, weight / jnp.sqrt((weight**2).mean((0, 1, 2)) + 0.1), (1, 1), "SAME"))  # (n, 4, 4, 4)
    h = jnp.tanh(conv(h, p["channels first"].transpose(2, 3, 1, 0), (2, 2), "SAME"))  # (n, 2, 2, 5)
    h = jnp.tanh(conv(h, p["groups of none"][::-1], (2, 2), "SAME", feature_group_count=5) + p["shift"])  # (n, 1, 1, 5)
    h = jnp.tanh(conv(h, p["window on one entry"], (1, 1), "SAME"))  # 3 x 3 on 1 x 1
    h = jnp.tanh(conv(jnp.tanh(conv(h, p["twice"], (1, 1), "SAME")), p["twice"], (1, 1), ((2, 0), (2, 0))))  # other taps count in the second use
    h = h.reshape(len(x), -1)  # (n, 5)
    h = jnp.tanh(jnp.tanh(h @ p["shared"]) @ p["shared"])
    h = jnp.tanh(h @ p["transposed"].T)
    h = jnp.tanh(h @ p["reshaped"].reshape(5, 4)) * p["scale"]
    h = jnp.tanh(h @ p["two layouts"] + h @ p["two layouts"].T)
    h = jnp.tanh(h @ p["low rank"]["left"] @ p["low rank"]["right"] + h @ (p["product"]["left"] @ p["product"]["right"]))
    return h @ p["narrow"].astype(h.dtype)


USED = {
    "standardised": (3, 3, 3, 4),
    "channels first": (5, 4, 1, 2),
    "groups of none": (2, 2, 1, 5),
    "shift": (5,),
    "window on one entry": (3, 3, 5, 2),
    "twice": (3, 3, 2, 2),
    "shared": (2, 2),
    "transposed": (5, 2),
    "reshaped": (5, 2, 2),
    "scale": (4,),
    "two layouts": (4, 4),
    "low rank": {"left": (4, 2), "right": (2, 4)},
    "product": {"left": (4, 2), "right": (2, 4)},
    "narrow": (4, 2),
}
KIND_OF_USE = {
    "standardised": "derived",
    "channels first": "conv",
    "groups of none": "conv",
    "shift": "elementwise",
    "window on one entry": "conv",
    "twice": "conv",
    "shared": "dense",
    "transposed": "dense",
    "reshaped": "dense",
    "scale": "elementwise",
    "two layouts": "derived",
    "low rank/left": "dense",
    "low rank/right": "dense",
    "product/left": "derived",
    "product/right": "derived",
    "narrow": "dense",
}


@pytest.fixture(scope="module")
def used(oracle):
    """Parameters, examples, Jacobian of each leaf."""
    shapes, treedef = jax.tree.flatten(USED, is_leaf=lambda shape: isinstance(shape, tuple))
    params = jax.tree.unflatten(treedef, [oracle.draw(*shape, seed=seed) for seed, shape in enumerate(shapes)])
    params["narrow"] = params["narrow"].astype(np.float32)
    x = oracle.draw(3, 4, 4, 3, seed=77)
    return params, x, oracle.jacobians(uses, params, x)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("countsketch", "full"), pytest.param("countsketch", "trace", marks=pytest.mark.slow), pytest.param("srht", "sum", marks=pytest.mark.slow)],
)
def test_entries_of_a_gradient_are_counted_in_the_order_of_the_leaf(oracle, explicit, used, kind, outputs):
    """However it is used, Z of a leaf is its flattened Jacobian times the projection of as many entries."""
    params, x, jacobian = used
    assert oracle.kinds(uses, params, x) == KIND_OF_USE
    found = ns.sketch(uses, params, x, kind=kind, dim=16, seed=6, outputs=outputs, by_layer=True)
    assert list(found) == list(jacobian)
    for name, rows in jacobian.items():
        project = lambda c, name=name, p=rows.shape[-1]: explicit.projection(kind, name, p, 16, seed=6, cotangent=c)  # noqa: E731
        # The gradient of a leaf in float32 has that precision.
        oracle.close(found[name], paired_with(rows, outputs, project), 1e-6 if name == "narrow" else 1e-12)


def test_a_kronecker_sketch_sees_the_operand_of_a_use(oracle, explicit, used):
    """Of a weight that is moved before its use, matrices belong to the operand; of a window, to all of its taps."""
    params, x, jacobian = used
    found = ns.sketch(
        uses,
        params,
        x,
        kind="kronecker",
        dim=8,
        blocks=2,
        outputs="sum",
        by_layer=True,
        layers="transposed|channels|window|twice|shared|product|scale",
    )
    summed = {name: rows.sum(1) for name, rows in jacobian.items()}
    operands = {
        "transposed": ((1, 2, 5), summed["transposed"].reshape(-1, 5, 2).swapaxes(1, 2)),
        "channels first": ((1, 8, 5), summed["channels first"].reshape(-1, 5, 4, 1, 2).transpose(0, 3, 4, 2, 1)),
        "window on one entry": ((1, 45, 2), summed["window on one entry"]),
        "twice": ((1, 18, 2), summed["twice"]),
        "shared": ((1, 2, 2), summed["shared"]),
    }
    for name, (shape, rows) in operands.items():
        matrix = explicit.kronecker(name, shape, (2, 2), blocks=2)
        oracle.close(found[name], rows.reshape(len(x), -1) @ matrix, 1e-5)
    for name in ("scale", "product/left", "product/right"):
        oracle.close(found[name], summed[name] @ explicit.projection("countsketch", name, summed[name].shape[1], 8, blocks=2))


def test_a_leaf_on_the_general_route_is_sketched_in_its_own_order(oracle, explicit):
    def fn(p, x):
        columns = jnp.asarray(p["table"])[:, jnp.clip(x.astype(int), 0, 5)]
        return jnp.tanh(columns.sum(2).T) @ p["head"]

    params, x = {"table": oracle.draw(3, 6), "head": oracle.draw(3, 2)}, np.arange(8.0).reshape(4, 2)
    with pytest.warns(GeneralRouteWarning, match="table"):
        found = ns.sketch(fn, params, x, dim=8, outputs="sum", by_layer=True)
    for name, rows in oracle.jacobians(fn, params, x).items():
        oracle.close(found[name], rows.sum(1) @ explicit.projection("countsketch", name, rows.shape[-1], 8))


def test_leaves_that_are_not_used_are_zero_as_in_the_exact_kernel(oracle, params, x):
    def fn(p, x):
        return small(p["in"], x)

    both = {"in": params, "never": oracle.draw(2, 3)}
    found = ns.sketch(fn, both, x, dim=16, by_layer=True)
    assert list(found) == ["in/conv", "in/head", "in/scale", "never"]
    assert not found["never"].any()
    oracle.close(sum(found.values()), ns.sketch(fn, both, x, dim=16))


@pytest.mark.parametrize("kind", ["countsketch", "gaussian", "kronecker", "jvp"])
def test_where_no_leaf_is_used_the_sketch_is_zero(oracle, params, x, kind):
    z = ns.sketch(small, {**params, "never": oracle.draw(2, 3)}, x, dim=16, kind=kind, layers="never")
    assert z.shape == (N, 16)
    assert not z.any()


# Portions.


@pytest.mark.parametrize(("kind", "outputs"), [*EVERY_PAIR, *(pytest.param("jvp", outputs, marks=pytest.mark.slow) for outputs in ("trace", "full"))])
def test_the_batch_size_does_not_matter(oracle, params, x, kind, outputs):
    every = ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs, blocks=2)
    for batch_size in (1, 3):
        oracle.close(ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs, blocks=2, batch_size=batch_size), every)


@pytest.mark.parametrize("kind", ["countsketch", pytest.param("jvp", marks=pytest.mark.nightly)])
def test_cotangents_of_single_examples_stay_with_their_examples(oracle, params, x, kind):
    outputs = oracle.draw(N, C)
    every = ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs)
    oracle.close(ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs, batch_size=2), every)


@pytest.fixture
def recorded(monkeypatch):
    """The portions of the last call."""
    found, portions = [], execute.portions

    def record(*given, **options):
        found.append(portions(*given, **options))
        return found[-1]

    monkeypatch.setattr(execute, "portions", record)
    return found


@pytest.mark.parametrize(("kind", "outputs"), [("kronecker", "trace"), *EVERY_PAIR])
def test_a_small_memory_takes_examples_and_cotangents_in_turn(oracle, params, x, recorded, kind, outputs):
    sketched = lambda **options: ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs, **options)  # noqa: E731
    whole = sketched(memory_gb=1)
    assert recorded[-1][:2] == (N, C)
    seen = {}
    for memory in np.geomspace(recorded[-1].bytes, 1, 60)[1:]:
        try:
            seen.setdefault(recorded_sizes(sketched, recorded, memory), memory)
        except ConfigError:  # not even one example with one cotangent
            break
    else:
        pytest.fail("no budget is too small")
    assert {batch for batch, _ in seen} >= {3, 2, 1}
    assert {chunk for batch, chunk in seen if batch == 1} == {3, 2, 1}
    for memory in (seen[3, 3], seen[1, 2], seen[1, 1]):
        oracle.close(sketched(memory_gb=memory / 1e9), whole)


class Enough(Exception):
    """Raised where only the portions are wanted."""


def recorded_sizes(sketched, recorded, memory: float) -> tuple[int, int]:
    """Examples and cotangents at a time within a budget of `memory` bytes, without any work."""
    with pytest.MonkeyPatch.context() as patch:

        def stop(*given, **options):
            raise Enough

        patch.setattr(execute.Batches, "rows", stop)
        with pytest.raises(Enough):
            sketched(memory_gb=memory / 1e9)
    assert recorded[-1].bytes <= memory
    return recorded[-1][:2]


@pytest.mark.parametrize(("kind", "outputs"), [("kronecker", "trace"), *EVERY_PAIR])
@pytest.mark.parametrize("rows", [2, pytest.param(1, marks=pytest.mark.nightly)])
def test_wide_leaves_a_few_examples_at_a_time_give_the_same(oracle, monkeypatch, params, x, kind, outputs, rows):
    """`rows` examples of the widest leaf at a time; the last piece overlaps the one before."""
    whole = ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs)
    monkeypatch.setattr(execute, "LEAF_BYTES", {})
    monkeypatch.setattr(execute, "LEAF_BYTES_ELSEWHERE", rows * params["conv"].size * 8 * C)
    oracle.close(ns.sketch(small, params, x, dim=16, kind=kind, outputs=outputs), whole)


@pytest.mark.parametrize("outputs", ["trace", pytest.param("full", marks=pytest.mark.nightly)])
def test_directions_of_forward_mode_in_several_portions_give_the_same(oracle, monkeypatch, params, x, outputs):
    whole = ns.sketch(small, params, x, dim=32, kind="jvp", outputs=outputs)
    monkeypatch.setattr(forward, "DIRECTIONS", 7)
    oracle.close(ns.sketch(small, params, x, dim=32, kind="jvp", outputs=outputs), whole)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["countsketch", "jvp"])
def test_two_calls_with_one_seed_belong_together(oracle, params, x, kind):
    every = ns.sketch(small, params, x, dim=32, kind=kind, seed=5)
    parts = [ns.sketch(small, params, part, dim=32, kind=kind, seed=5) for part in (x[:2], x[2:])]
    oracle.close(np.concatenate(parts), every)


def test_progress_is_told_after_every_batch(params, x):
    told = []
    ns.sketch(small, params, x, dim=16, batch_size=2, progress=lambda *given: told.append(given))
    assert told == [(2, 5, "2 of 5 examples"), (4, 5, "4 of 5 examples"), (5, 5, "5 of 5 examples")]


# Types.


@pytest.mark.parametrize("kind", ["countsketch", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("jvp", "srht", "kronecker"))])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(jnp.bfloat16, 0.05, id="bfloat16"), pytest.param(jnp.float32, 1e-5, id="float32", marks=pytest.mark.nightly)],
)
def test_half_and_single_precision_are_summed_in_float32(oracle, params, x, kind, dtype, tolerance):
    rounded, examples = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, x))
    found = ns.sketch(small, rounded, examples, dim=64, kind=kind)
    assert found.dtype == np.float32
    exactly = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (rounded, examples))
    expected = ns.sketch(small, *exactly, dim=64, kind=kind)
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_python_numbers_among_the_parameters_are_leaves(oracle, explicit):
    def fn(p, x):
        return x @ p["w"] * p["scale"] * p["times"]

    params, x = {"w": oracle.draw(4, 2), "scale": 1.5, "times": 2}, oracle.draw(3, 4)
    for kind in ("countsketch", "rademacher"):
        found = ns.sketch(fn, params, x, dim=8, kind=kind, outputs="sum", by_layer=True)
        assert list(found) == ["scale", "w"]
        oracle.close(found["scale"], 2 * (x @ params["w"]).sum(1, keepdims=True) @ explicit.projection(kind, "scale", 1, 8))
    oracle.close(ns.sketch(fn, params, x, dim=8, kind="jvp", outputs="sum"), sum(found.values()))


# What is refused.


def spoilt(p, x):
    """The derivative by p["root"] is 0 / 0 where the first feature is zero; that by p["w"] is finite while x is."""
    return jnp.tanh(x @ p["w"]) + jnp.sqrt(p["root"] * x[:, :1])


SPOILT = {"root": np.ones(1), "w": np.ones((3, 2))}


@pytest.mark.parametrize("batch_size", [2, pytest.param(None, marks=pytest.mark.nightly)])
def test_gradients_that_are_not_finite_are_refused_with_leaf_and_example(batch_size):
    x = np.abs(np.random.default_rng(0).normal(size=(7, 3)))
    x[4, 0] = 0
    assert np.isfinite(np.asarray(spoilt(SPOILT, x))).all()
    with pytest.raises(ModelError, match=r"The gradient with respect to 'root' contains NaN or infinity at example 4\. Usual causes: half precision"):
        ns.sketch(spoilt, SPOILT, x, dim=8, batch_size=batch_size)
    with pytest.raises(ModelError, match="with respect to 'root' contains NaN or infinity at example 4"):
        ns.sketch(spoilt, SPOILT, x, dim=8, outputs=np.ones((7, 2)), batch_size=batch_size, by_layer=True)
    assert np.isfinite(ns.sketch(spoilt, SPOILT, x, dim=8, layers="w")).all()


@pytest.mark.parametrize("kind", ["kronecker", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("rademacher", "gaussian", "srht"))])
def test_every_kind_names_the_leaf(kind):
    x = np.ones((3, 3))
    x[1, 0] = 0
    with pytest.raises(ModelError, match="The gradient with respect to 'root' contains NaN or infinity at example 1"):
        ns.sketch(spoilt, SPOILT, x, dim=8, kind=kind)


def test_inputs_of_a_weight_that_are_not_finite_are_refused_with_its_name():
    x = np.ones((3, 3))
    x[2, 1] = np.inf
    with pytest.raises(ModelError, match="The gradient with respect to 'w' contains NaN or infinity at example 2"):
        ns.sketch(lambda p, x: x @ p["w"], {"w": np.ones((3, 2))}, x, dim=8)


def test_forward_mode_names_the_example():
    x = np.ones((5, 3))
    x[3, 0] = 0
    with pytest.raises(ModelError, match=r"A sketched gradient contains NaN or infinity at example 3\. Usual causes"):
        ns.sketch(spoilt, SPOILT, x, dim=8, kind="jvp", batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "higher"}, "precision='higher' is unknown"),
        ({"batch_size": 0}, "batch_size=0 must be a positive number of examples"),
        ({"memory_gb": 0}, "memory_gb=0 must be a positive number of gigabytes"),
        ({"progress": 3}, r"progress= must be a function of \(done, total, what\); given: int"),
        ({"by_layer": True, "kind": "jvp"}, "by_layer=True needs reverse mode and a result in memory.*another kind than 'jvp'"),
        ({"by_layer": True, "out": "folder"}, "by_layer=True needs reverse mode and a result in memory.*no out="),
        ({"out": 3}, "out= takes the path of a folder; given: int"),
        (
            {"dim": "auto", "kind": "kronecker"},
            "dim='auto' needs a kind with a known error bound, but that of 'kronecker' depends on the gradients",
        ),
        ({"dim": "auto", "kind": "jvp"}, "dim='auto' needs a kind with a known error bound, but that of 'jvp'"),
        (
            {"dim": "auto", "error": 0.001},
            r"error=0\.001 needs 2000000 columns, more than 1048576\. Try: error=0\.0014 or more, or the exact ns\.ntk",
        ),
        ({"dim": 2, "kind": "jvp"}, r"needs one column for each of 3 outputs per direction, but a block has 2 columns\. Try: dim=96 or more"),
        ({"dim": 8, "kind": "jvp", "blocks": 4}, "a block has 2 columns.*Try: dim=96 or more, or fewer blocks"),
        ({"outputs": "all"}, "outputs='all' is unknown"),
        ({"outputs": np.ones(4)}, r"have shape \(4,\); with 5 examples and 3 outputs"),
        ({"outputs": (np.ones(3), np.ones(3))}, "A pair of cotangents"),
        ({"layers": "convolution"}, "layers='convolution' matches no floating-point parameter"),
        (
            {"memory_gb": 1e-9},
            r"Sketching 1 example at a time needs about .* GB, above the budget of 1e-09 GB\. Try: memory_gb=0\.1 or more, a smaller dim=",
        ),
        ({"memory_gb": 1e-9, "batch_size": 4}, "Sketching 4 examples at a time needs about"),
        (
            {"memory_gb": 1e-9, "kind": "jvp"},
            r"One direction and one example need about .* GB, above the budget of 1e-09 GB\. Try: memory_gb=0\.1 or more",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(params, x, options, message):
    with pytest.raises(ConfigError, match=message):
        ns.sketch(small, params, x, **{"dim": 16, **options})


def test_examples_must_be_numbers(params):
    with pytest.raises(ConfigError, match=r"x has shape \(0, 4, 4, 2\); it must be \(n, ...\) with at least one example"):
        ns.sketch(small, params, np.zeros((0, 4, 4, 2)), dim=16)


def test_what_a_refusal_of_few_columns_says_to_type_is_taken(params, x):
    assert ns.sketch(small, params, x, kind="jvp", dim=96, blocks=4).shape == (N, 96)


@pytest.mark.parametrize(
    ("options", "dim"), [({}, 5056), ({"error": 0.1}, 256), ({"error": 0.125}, 128), ({"error": 0.1, "blocks": 3}, 384), ({"error": 0.9}, 64)]
)
def test_the_dimension_follows_from_the_error(params, x, options, dim):
    """2 / error^2 columns, rounded up to a multiple of 64 a block."""
    assert ns.sketch(small, params, x, layers="scale", **options).shape == (N, dim)


# Whole networks.

FAMILIES = {
    "resnet basic": ("resnet18", 8, {"stage_sizes": (1, 1), "widths": (3, 4), "stem": "small"}),
    "resnet bottleneck": ("resnet50", 9, {"stage_sizes": (1, 1), "widths": (2, 3), "stem": "small_strided"}),
    "densenet": ("densenet121", 33, {"block_sizes": (1, 2), "growth": 3, "initial": 4, "bottleneck": 2}),
    "alexnet": ("alexnet", 63, {"hidden": 5}),
}


PAIRS = [(kind, family) for kind in ("countsketch", "kronecker") for family in FAMILIES if (kind, family) != ("countsketch", "alexnet")]
PAIRS += [("srht", "densenet"), ("gaussian", "resnet bottleneck"), ("rademacher", "resnet basic"), ("jvp", "resnet basic")]
"""A projection does not know the network that the rows come from; only what reads the factors of a layer meets every family."""


@pytest.fixture(scope="module")
def experts(random_expert):
    """{family: (function, parameters, examples, exact kernel)}, created on first use."""
    made = {}

    def of(family):
        if family not in made:
            expert, x = random_expert(*FAMILIES[family])
            fn = lambda p, x: expert.apply_fn({"params": p, **expert.state}, x)  # noqa: E731
            made[family] = fn, expert.params, x, ns.ntk(fn, expert.params, x)
        return made[family]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family"), PAIRS)
def test_the_kernel_of_every_family_is_within_the_predicted_error(experts, kind, family):
    """E |K^ - K|_F^2 = ((tr K)^2 + |K|_F^2) / dim for independent columns; of a Kronecker sketch bounded by gradients of rank one."""
    dim, blocks = 512, 8
    fn, params, x, exact = experts(family)
    z = ns.sketch(fn, params, x, dim=dim, kind=kind, blocks=blocks)
    squared, trace = (exact**2).sum(), np.trace(exact)
    if kind == "kronecker":
        sides = (8, 8)
        bound = (2 / sides[0] + 2 / sides[1] + 4 / (sides[0] * sides[1])) / blocks * trace**2 / squared
    else:
        bound = (1 + trace**2 / squared) / dim
    assert np.linalg.norm(z @ z.T - exact) < 3 * np.sqrt(bound * squared)
