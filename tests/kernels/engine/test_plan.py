"""The plan counts what the computation costs, keeps to the memory that it is given, and says what it will do."""

import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, GeneralRouteWarning
from ntk_select.kernels.engine import plan as plan_module
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.arguments import available_memory, read_outputs
from ntk_select.kernels.engine.byte_cache import ByteCache
from ntk_select.kernels.engine.costs import padded, parameter_block
from ntk_select.kernels.engine.factors import factors
from ntk_select.kernels.engine.plan import COMPILER_BYTES, DISPATCH, make_plan, side_keys, stored_of


def two_layers(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def scaled_first(p, x):
    return jnp.tanh((x * p["scale"]) @ p["a"]) @ p["b"]


def convolution(p, x):
    h = jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(h).mean((1, 2)) @ p["v"]


def deep(p, x):
    for name in sorted(p):
        x = jnp.tanh(x @ p[name])
    return x.mean(1)


TWO = {"a": np.ones((5, 7)), "b": np.ones((7, 3))}
CONVOLUTION = {"w": np.ones((3, 3, 2, 4)), "v": np.ones((4, 3))}
DEEP = {f"w{k:02}": np.ones((24, 24)) for k in range(6)} | {"w99": np.ones((24, 3))}
SHAPE = jax.ShapeDtypeStruct
BUDGETS = 1e-3 * 10 ** -np.arange(0, 1.5, 0.05)  # from a megabyte down, in gigabytes
X = SHAPE((4, 5), np.float64)


def ways(plan):
    """How each leaf is treated, by name."""
    return {leaf.use.name: leaf.choice for leaf in plan.leaves}


def bytes_of(plan, name):
    """What is kept of one example."""
    return next(leaf.stored_bytes for leaf in plan.leaves if leaf.use.name == name)


# Counts, by hand. n = 4 examples, c = 3 cotangents. A symmetric kernel in one tile has n * (n + n) / 2 = 16 pairs.


def test_passes_are_counted_as_by_hand():
    """Forwards both products; backwards only the second, because nothing before the first is differentiated."""
    plan = ns.ntk_plan(two_layers, TWO, X)
    forward, backward = 2 * 5 * 7 + 2 * 7 * 3, 2 * 7 * 3
    assert plan.pass_flops == 4 * (forward + 3 * backward)
    assert ns.ntk_plan(two_layers, TWO, X, outputs="sum").pass_flops == 4 * (forward + backward)
    assert ns.ntk_plan(two_layers, TWO, X, SHAPE((2, 5), np.float64)).pass_flops == 6 * (forward + 3 * backward)
    assert ns.ntk_plan(scaled_first, TWO | {"scale": np.ones(5)}, X).pass_flops == 4 * (forward + 3 * (backward + 2 * 5 * 7))
    assert ns.ntk_plan(two_layers, TWO, X, layers="b").pass_flops == 4 * forward


@pytest.mark.parametrize(
    ("outputs", "rows", "pairs"),
    [
        ("trace", 2 * 35 * 3, 2 * (5 + 3 * 7 + 1)),
        ("sum", 2 * 35, 2 * (5 + 7 + 1)),
        ("diagonal", 2 * 35 * 3, 2 * (5 + 3 * 7 + 3)),
        ("full", 2 * 35 * 9, 2 * (5 + 3 * 7 + 9 * 7)),
    ],
)
def test_contractions_are_counted_as_by_hand(outputs, rows, pairs):
    m = 1 if outputs == "sum" else 3
    found = {space: ways(ns.ntk_plan(two_layers, TWO, X, outputs=outputs, space=space))["a"] for space in ("parameter", "sample")}
    assert found["parameter"].flops == 16 * rows + 4 * 2 * 35 * m  # the products, after the gradients were formed
    assert found["sample"].flops == 16 * pairs


def test_contractions_of_a_convolution_are_counted_as_by_hand():
    """36 positions, 9 taps of 2 channels, 4 channels out. In sample space positions are paired in blocks of 4 x 4 examples."""
    plans = {
        space: ns.ntk_plan(convolution, CONVOLUTION, SHAPE((16, 6, 6, 2), np.float64), outputs="sum", space=space)
        for space in ("parameter", "sample")
    }
    rows, pairs = (ways(plan)["w"] for plan in plans.values())
    block = pairs.sizes.pair_block(16)
    assert rows.flops == 16 * 16 * 2 * 72 + 16 * 2 * 36 * 72
    assert pairs.flops == 16 * (16 + block) / 2 * 2 * 36**2 * (18 + 4 + 1)
    assert bytes_of(plans["sample"], "w") == 8 * (6 * 6 * 2 + 36 * 4)  # the inputs as they came, and the cotangents
    assert bytes_of(plans["parameter"], "w") == 8 * min(72, 6 * 6 * 2 + 36 * 4)


def test_half_of_a_long_symmetric_product_is_saved_block_by_block():
    """600 examples: four blocks along a side, ten of sixteen of them on and below the diagonal."""
    plan = ns.ntk_plan(two_layers, TWO, SHAPE((608, 5), np.float64), outputs="sum", space="parameter")
    assert parameter_block(608) == 152
    assert ways(plan)["b"].flops == 608 * 608 * 10 / 16 * 2 * 21 + 608 * 2 * 21


def test_rows_of_a_table_are_counted_as_rows():
    """In sample space two positions are compared, whatever the length of the table."""
    fn = lambda p, x: p["t"][x].sum(1)  # noqa: E731
    short, long = (ways(ns.ntk_plan(fn, {"t": SHAPE((rows, 3), np.float32)}, SHAPE((4, 6), np.int32)))["t"] for rows in (50, 50_000))
    assert long.space == "sample"
    assert ways(ns.ntk_plan(fn, {"t": SHAPE((50, 3), np.float32)}, SHAPE((4, 6), np.int32), space="sample"))["t"].flops == long.flops
    assert long.flops == 16 * 2 * 6 * 6 * (1 + 3 * 3 + 1)
    assert short.work <= long.work


def test_totals_are_the_sum_of_their_parts():
    plan = ns.ntk_plan(convolution, CONVOLUTION, SHAPE((16, 6, 6, 2), np.float64))
    assert plan.flops == plan.pass_flops + sum(way.flops for way in ways(plan).values())
    assert plan.work == plan.pass_flops + sum(way.work for way in ways(plan).values()) + DISPATCH * 2  # two leaves, in one round
    assert plan.passes == 16
    assert plan.stored_bytes == 16 * sum(leaf.stored_bytes for leaf in plan.leaves)


def test_each_leaf_takes_the_space_that_is_priced_lower():
    wide, long = SHAPE((8, 1, 512), np.float32), SHAPE((8, 512, 4), np.float32)
    fn = lambda p, x: jnp.tanh(x @ p["w"]).sum(1)  # noqa: E731
    for x, width, space in ((wide, 512, "sample"), (long, 4, "parameter")):
        params = {"w": np.ones((width, width), np.float32)}
        free, *forced = (ways(ns.ntk_plan(fn, params, x, outputs="sum", space=choice))["w"] for choice in (None, "parameter", "sample"))
        assert free.space == space
        assert free.work == min(way.work for way in forced)
        assert [way.space for way in forced] == ["parameter", "sample"]


def test_leaves_without_structure_stay_in_parameter_space():
    fn = lambda p, x: jnp.tanh((x * p["scale"]) @ (p["a"] * 2)) @ p["b"]  # noqa: E731
    found = ways(ns.ntk_plan(fn, TWO | {"scale": np.ones(5)}, X, space="sample"))
    assert {name: (way.space, way.stored) for name, way in found.items()} == {
        "a": ("parameter", "gradients"),
        "b": ("sample", "inputs"),
        "scale": ("parameter", "gradients"),
    }


# Memory.


def left_to_the_compiler(plan):
    return int(min(COMPILER_BYTES, plan.memory / 5))


def read(fn, params, x, outputs, n):
    analysed = analyse(fn, params, x)
    structure = analysed.structure
    return analysed, read_outputs(outputs, n, None, structure.outputs, structure.dtype)


@pytest.mark.parametrize("outputs", ["sum", "trace"])
@pytest.mark.parametrize(
    ("fn", "params", "x"),
    [(deep, DEEP, SHAPE((8, 3, 24), np.float64)), (convolution, CONVOLUTION, SHAPE((8, 6, 6, 2), np.float64))],
    ids=["products", "convolution"],
)
def test_the_predicted_peak_is_near_what_xla_needs_for_a_pass(fn, params, x, outputs):
    """XLA needs at most a quarter more, and at least a quarter of it: contraction and kernel are predicted too.

    What is left to the compiler is not counted.
    """
    (structure, values, leaves), wanted = read(fn, params, x, outputs, 8)
    plan = make_plan(structure, wanted, 8, None, memory=10**10)
    assert plan.batch == 8
    compiled = structure.jit(factors, stored_of(plan, 0)).lower(values, leaves, x, wanted.left).compile()
    found = compiled.memory_analysis()
    assert found.output_size_in_bytes == pytest.approx(plan.stored_bytes, abs=200)  # and a few pointers
    assert 0.25 <= (found.temp_size_in_bytes + found.output_size_in_bytes) / (plan.peak_bytes - left_to_the_compiler(plan)) <= 1.25


@pytest.mark.parametrize(
    ("outputs", "x2"),
    [
        ("trace", None),
        ("trace", SHAPE((4, 3, 24), np.float64)),
        ("full", None),
        ("full", SHAPE((4, 3, 24), np.float64)),
    ],
    ids=["symmetric", "rectangle", "full, symmetric", "full, rectangle"],
)
@pytest.mark.parametrize("n", [6, pytest.param(3, marks=pytest.mark.nightly)])
def test_budgets_are_kept_to(outputs, x2, n):
    (structure, *_), wanted = read(deep, DEEP, SHAPE((n, 3, 24), np.float64), outputs, n)
    n2 = None if x2 is None else x2.shape[0]
    plans = [make_plan(structure, wanted, n, n2, memory=int(1e9 * budget)) for budget in BUDGETS[:: 1 if n == 3 else 4]]
    assert all(plan.peak_bytes <= plan.memory for plan in plans)
    assert max(len(plan.groups) for plan in plans) > 2


def test_more_memory_never_costs_more():
    (structure, *_), wanted = read(deep, DEEP, SHAPE((6, 3, 24), np.float64), "trace", 6)
    work = [make_plan(structure, wanted, 6, None, memory=int(1e9 * budget)).work for budget in BUDGETS[::2]]
    assert work == sorted(work)


def test_products_in_flight_do_not_add_up_over_layers():
    """They outweigh the passes here, and one layer is done at a time."""
    x, options = SHAPE((6, 200, 24), np.float64), {"outputs": "full", "space": "sample", "batch_size": 1}
    one, three = (ns.ntk_plan(deep, {f"w{k}": np.ones((24, 24)) for k in range(layers)}, x, **options) for layers in (1, 3))
    assert one.peak_bytes - one.stored_bytes == three.peak_bytes - three.stored_bytes


def test_one_kernel_a_leaf_takes_more_room():
    plain, split = (ns.ntk_plan(deep, DEEP, SHAPE((50, 3, 24), np.float64), by_layer=by_layer) for by_layer in (False, True))
    assert split.peak_bytes > plain.peak_bytes
    assert split.flops == plain.flops


def test_without_a_budget_a_part_of_the_free_memory_is_taken():
    assert 2**20 < available_memory(None) < 2**50
    assert available_memory(1.5) == 1_500_000_000


def test_more_devices_have_room_for_more():
    (structure, *_), wanted = read(deep, DEEP, SHAPE((64, 3, 24), np.float64), "trace", 64)
    one, four = (make_plan(structure, wanted, 64, None, memory=800_000, devices=devices, batch_size=1) for devices in (1, 4))
    assert len(four.groups) < len(one.groups)
    assert four.work < one.work
    assert four.peak_bytes <= 800_000


def test_least_recently_used_values_are_evicted_first():
    cache = ByteCache(room=10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert cache.used == 8
    cache.put("large", 4, 20)
    assert cache.get("large") == 4


# Portions.


def test_tiles_cover_a_symmetric_kernel_once_and_rounds_all_cotangents():
    plan = ns.ntk_plan(deep, DEEP, SHAPE((6, 3, 24), np.float64), outputs="full", memory_gb=6e-5)
    chunks, groups = len(plan.chunks) - 1, len(plan.groups)
    assert (len(plan.rows), chunks) > (2, 1)
    assert list(plan.tiles()) == [(i, j) for i in range(len(plan.rows) - 1) for j in range(i + 1)]
    assert list(plan.rounds()) == list(itertools.product(range(groups), range(chunks), range(chunks)))
    assert sorted(itertools.chain(*plan.groups)) == list(range(len(plan.leaves)))
    assert plan.rows[0] == plan.chunks[0] == 0
    assert (plan.rows[-1], plan.chunks[-1]) == (6, 3)
    diagonal = ns.ntk_plan(deep, DEEP, SHAPE((6, 3, 24), np.float64), outputs="diagonal", memory_gb=4e-5)
    assert len(diagonal.chunks) > 2
    assert all(left == right for _, left, right in diagonal.rounds())


def test_only_the_sides_of_a_symmetric_tile_on_the_diagonal_are_the_same():
    symmetric = ns.ntk_plan(two_layers, TWO, X)
    rectangle = ns.ntk_plan(two_layers, TWO, X, X)
    assert len(set(side_keys(symmetric, 1, 1, 0, 2, 2))) == 1
    assert len(set(side_keys(symmetric, 1, 0, 0, 2, 2))) == len(set(side_keys(symmetric, 1, 1, 0, 0, 2))) == 2
    assert len(set(side_keys(rectangle, 1, 1, 0, 2, 2))) == 2


def test_lengths_of_buffers_and_blocks_fit_together():
    for n in range(1, 3000):
        assert n <= padded(n) <= n + 31
        assert padded(n) % parameter_block(n) == 0


def test_planning_does_not_go_through_millions_of_tiles(monkeypatch):
    calls, sides = itertools.count(), plan_module.side_keys

    def counted(*arguments):
        assert next(calls) < 200_000
        return sides(*arguments)

    monkeypatch.setattr(plan_module, "side_keys", counted)
    params = {f"{k:02}": SHAPE((256, 256), np.float32) for k in range(20)}
    fn = lambda p, x: sum(jnp.tanh(x @ p[name]) for name in p)  # noqa: E731
    ns.ntk_plan(fn, params, SHAPE((4000, 256), np.float32), outputs="sum", memory_gb=0.05)


# What a person reads.


def test_shapes_are_enough_and_nothing_is_compiled(compilations):
    fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    shapes = jax.tree.map(lambda leaf: SHAPE(leaf.shape, leaf.dtype), TWO)
    plan = ns.ntk_plan(fn, shapes, X, SHAPE((2, 5), np.float64), outputs="full", memory_gb=1)
    assert str(plan) == str(ns.ntk_plan(fn, TWO, np.ones((4, 5)), np.ones((2, 5)), outputs="full", memory_gb=1))
    assert compilations == []


def test_arguments_mean_the_same_as_for_the_kernel():
    names = inspect.signature(ns.ntk_plan).parameters
    assert set(names) < set(inspect.signature(ns.ntk).parameters)
    assert all(parameter.default == inspect.signature(ns.ntk).parameters[name].default for name, parameter in names.items())


def test_the_table_names_each_layer_its_way_and_the_totals():
    params = CONVOLUTION | {"idle": np.ones(2), "scale": np.float64(2)}
    fn = lambda p, x: convolution(p, x * p["scale"])  # noqa: E731
    plan = ns.ntk_plan(fn, params, SHAPE((4, 6, 6, 2), np.float64), memory_gb=1)
    table = str(plan)
    assert repr(plan) == table
    for line in (
        r"kernel of 4 x 4 examples, 3 cotangents \(trace\), symmetric$",
        r"operations: [\d.]+ kFLOP, [\d.]+ k of them in 4 passes through the network \(each example once\)",
        r"memory: [\d.]+ MB at most, [\d.]+ kB of them gradients and factors; budget 1 GB",
        "portions: 1 tile, 1 group of layers, 1 chunk of cotangents, 4 examples per pass",
        r"w  +3x3x2x4  conv  +36  (parameter|sample)  +(gradients|inputs|patches)  +[\d.]+ k? *[\d.]+ k +[\d.]+%",
        r"v  +4x3  dense  +1  ",
        r"scale +\(\)  elementwise  +-  parameter  gradients ",
        "without influence on the outputs: idle",
    ):
        assert re.search(f"^{line}", table, re.MULTILINE), f"{line} in\n{table}"
    assert not re.search("symmetric", str(ns.ntk_plan(convolution, CONVOLUTION, SHAPE((4, 6, 6, 2), np.float64), SHAPE((3, 6, 6, 2), np.float64))))


def test_the_table_says_why_a_leaf_takes_the_general_route():
    with pytest.warns(GeneralRouteWarning):
        plan = ns.ntk_plan(
            lambda p, x: p["t"][x[:, 0], x[:, 1]][:, None] @ p["w"],
            {"t": SHAPE((4, 3), np.float32), "w": SHAPE((1, 2), np.float32)},
            SHAPE((5, 2), np.int32),
        )
    assert "t: general route, used by gather" in str(plan)


def test_the_table_says_how_often_examples_pass_and_cuts_long_lists():
    params = {f"w{k:02}": np.ones((24, 24)) for k in range(45)}
    plan = ns.ntk_plan(deep, params, SHAPE((6, 3, 24), np.float64), memory_gb=1.2e-3)
    table = str(plan)
    assert plan.passes > 6
    assert f"in {plan.passes} passes through the network (each example {plan.passes / 6:.2g} times)" in table
    assert len(re.findall(r"^w\d\d ", table, re.MULTILINE)) == 40
    assert re.search(r"^and 5 more, [\d.]+% of the work$", table, re.MULTILINE)


def test_a_function_that_uses_no_leaf_has_a_plan():
    plan = ns.ntk_plan(lambda p, x: x, {"w": np.ones(3)}, X)
    assert plan.unused == ("w",)
    assert "without influence on the outputs: w" in str(plan)
    assert plan.leaves == plan.groups == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_gb": -1}, "memory_gb=-1 must be a positive number of gigabytes, for example memory_gb=4"),
        ({"memory_gb": 1e-8}, r"Not even one example at a time fits into 1e-08 GB: about [\d.e-]+ GB are needed. Try: memory_gb=[\d.e-]+ or more"),
        ({"space": "weights"}, "space='weights' is unknown"),
        ({"outputs": "mean"}, "outputs='mean' is unknown"),
        ({"layers": "c"}, "layers='c' matches no floating-point parameter"),
        ({"x1": SHAPE((4, 5), np.complex64)}, "x1 must be one array of numbers"),
        ({"x2": SHAPE((4, 6), np.float64)}, "they must be the same"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ns.ntk_plan(two_layers, TWO, **{"x1": X, **options})
