"""Invalid configurations of a sketch are refused with a hint; dimension and blocks are as documented."""

import dataclasses
import math
import re

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.sketches.projection import ALL_KINDS, MAX_DIM, as_sketch, decided

WITH_LAW = ("countsketch", "rademacher", "gaussian", "srht")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_is_a_sketch(kind):
    sketch = ns.Sketch(64, kind, seed=-3, blocks=4)
    assert (sketch.dim, sketch.kind, sketch.seed, sketch.blocks, sketch.width) == (64, kind, -3, 4, 16)
    assert hash(sketch) == hash(ns.Sketch(64, kind, -3, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sketch.dim = 3


def test_unknown_kinds_are_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"kind='countsketh' is unknown. Did you mean 'countsketch'.* Allowed: .*kronecker"):
        ns.Sketch(64, "countsketh")
    with pytest.raises(ConfigError, match=r"kind=3 is unknown. Allowed: "):
        ns.Sketch(64, 3)


@pytest.mark.parametrize("dim", [0, -1, 2.0, 1.5, "64", "many", None, True, MAX_DIM + 1])
def test_a_dimension_is_a_whole_number_or_auto(dim):
    with pytest.raises(ConfigError, match=rf"dim={re.escape(repr(dim))} must be a whole number from 1 to 1048576, or 'auto'"):
        ns.Sketch(dim)


@pytest.mark.parametrize("seed", [1.5, 1.0, "1", None, False])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ConfigError, match=rf"seed={seed!r} must be a whole number. Try: seed=0"):
        ns.Sketch(64, seed=seed)


@pytest.mark.parametrize("blocks", [0, -2, 2.0, "2", True])
@pytest.mark.parametrize("dim", [64, "auto"])
def test_blocks_are_counted_from_one(dim, blocks):
    with pytest.raises(ConfigError, match=rf"blocks={blocks!r} must be a whole number from 1, or None"):
        ns.Sketch(dim, blocks=blocks)


@pytest.mark.parametrize(("dim", "blocks", "better"), [(10, 3, 9), (11, 3, 12), (2, 8, 8), (100, 64, 128)])
def test_blocks_have_the_same_width(dim, blocks, better):
    with pytest.raises(ConfigError, match=rf"dim={dim} cannot be split into {blocks} blocks of equal width. Try: dim={better}$"):
        ns.Sketch(dim, blocks=blocks)
    assert ns.Sketch(better, blocks=blocks).width == better // blocks


@pytest.mark.parametrize(("dim", "blocks"), [(1000, 7), (5, 3), (MAX_DIM - 1, 2), (MAX_DIM, 3), (MAX_DIM, 700)])
def test_the_dimension_that_an_error_suggests_is_allowed(dim, blocks):
    with pytest.raises(ConfigError) as error:
        ns.Sketch(dim, blocks=blocks)
    better = int(re.search(r"Try: dim=(\d+)", str(error.value)).group(1))
    assert ns.Sketch(better, blocks=blocks).dim == better


@pytest.mark.parametrize("error", [0, 1, -0.1, 2.0, math.nan, math.inf, "small", True, 0.1j])
def test_an_error_lies_between_0_and_1(error):
    with pytest.raises(ConfigError, match=rf"error={re.escape(repr(error))} must be a number between 0 and 1"):
        ns.Sketch(error=error)


def test_an_error_chooses_the_dimension_that_is_not_given():
    with pytest.raises(ConfigError, match=r"error= determines the dimension, but dim=64 is given. Try: dim='auto', or omit error"):
        ns.Sketch(64, error=0.1)
    assert ns.Sketch(error=0.1).dim == "auto"


def test_numbers_of_numpy_are_numbers():
    assert ns.Sketch(np.int64(64), seed=np.uint8(3), blocks=np.int32(2)).width == 32
    assert as_sketch(np.int64(64)) == ns.Sketch(64)
    assert ns.Sketch(error=np.float32(0.5)).error == 0.5


def test_a_dimension_alone_is_a_sketch():
    assert as_sketch(8192) == ns.Sketch(8192)
    assert as_sketch("auto") == ns.Sketch() == ns.Sketch("auto", "countsketch", 0, None, None)
    given = ns.Sketch(64, "srht", seed=7)
    assert as_sketch(given) is given


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (64.0, "64.0"),
        ("64", "'64'"),
        ("countsketch", "'countsketch'"),
        (True, "True"),
        (None, "a NoneType"),
        ({"dim": 64}, "a dict"),
        ((64, "srht"), "a tuple"),
        ([64], "a list"),
        (np.array([64, 128]), "a ndarray"),
        (np.array(["auto", "auto"]), "a ndarray"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_no_sketch(value, given):
    with pytest.raises(ConfigError, match=rf"sketch= is {given}; it must be ns.Sketch\(dim=..., kind=...\), a dimension, or 'auto'"):
        as_sketch(value)


def test_an_array_is_no_dimension():
    with pytest.raises(ConfigError, match=r"dim=array.* must be a whole number"):
        ns.Sketch(np.array([64, 128]))


def test_a_dimension_alone_is_held_to_the_same_limits():
    with pytest.raises(ConfigError, match="dim=0 must be a whole number"):
        as_sketch(0)


@pytest.mark.parametrize("kind", [*WITH_LAW, "jvp"])
def test_one_block_unless_more_are_wanted_and_fit(kind):
    assert ns.Sketch(64, kind).with_blocks().blocks == 1
    assert ns.Sketch(64, kind).with_blocks(2).blocks == 2
    assert ns.Sketch(63, kind).with_blocks(2).blocks == 1
    assert ns.Sketch(63, kind).with_blocks(3).blocks == 3


def test_kronecker_takes_the_number_of_blocks_that_is_nearest_to_32():
    for dim in [*range(1, 400), 1000, 1024, 4096, 5000, 8192, 9973, 10_000, MAX_DIM]:
        divisors = [d for d in range(1, min(dim, 2000) + 1) if dim % d == 0]
        distances = {d: abs(math.log2(d) - 5) for d in divisors}
        chosen = ns.Sketch(dim, "kronecker").with_blocks()
        assert dim % chosen.blocks == 0
        assert distances[chosen.blocks] == pytest.approx(min(distances.values()), abs=1e-12)
        assert chosen.width * chosen.blocks == dim


def test_kronecker_keeps_its_blocks_where_fewer_would_be_enough():
    assert ns.Sketch(8192, "kronecker").with_blocks(2).blocks == 32
    assert ns.Sketch(8192, "kronecker").with_blocks(64).blocks == 64


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_explicit_blocks_are_unchanged(kind):
    for blocks in (1, 2, 4):
        requested = ns.Sketch(64, kind, blocks=blocks)
        assert requested.with_blocks(8) is requested
        assert decided(requested, 8) is requested


@pytest.mark.parametrize("kind", WITH_LAW)
@pytest.mark.parametrize("error", [0.3, 0.1, 0.02, 0.005, 0.0014])
@pytest.mark.parametrize(("blocks", "least"), [(None, 1), (None, 2), (3, 1)])
def test_the_dimension_bounds_the_error_of_every_entry_and_not_by_far(kind, error, blocks, least):
    """The variance of an entry is 2 / dim at most, in units of the norms of its gradients."""
    found = decided(ns.Sketch(kind=kind, blocks=blocks, error=error, seed=5), least)
    assert found.blocks == (blocks or least)
    assert found.dim % (64 * found.blocks) == 0
    assert math.sqrt(2 / found.dim) <= error * (1 + 1e-9)
    assert math.sqrt(2 / (found.dim - 64 * found.blocks)) > error if found.dim > 64 * found.blocks else True
    assert (found.kind, found.seed, found.error) == (kind, 5, None)


def test_the_error_of_an_entry_is_two_hundredths_unless_said():
    assert decided(ns.Sketch()) == decided(ns.Sketch(error=0.02)) != decided(ns.Sketch(error=0.021))


def test_a_dimension_that_is_given_stays():
    assert decided(ns.Sketch(100, "srht", 3)) == ns.Sketch(100, "srht", 3, blocks=1)
    assert decided(ns.Sketch(100, "srht", 3), 2) == ns.Sketch(100, "srht", 3, blocks=2)
    assert decided(ns.Sketch(96, "kronecker")).blocks == 32


@pytest.mark.parametrize("kind", ["kronecker", "jvp"])
def test_kinds_whose_error_is_not_known_beforehand_need_a_dimension(kind):
    with pytest.raises(ConfigError, match=rf"dim='auto' needs a kind with a known error bound, but that of '{kind}' .* Try: dim=8192"):
        decided(ns.Sketch(kind=kind))


@pytest.mark.parametrize("blocks", [None, 2])
def test_an_error_that_needs_too_many_columns_is_refused_with_one_that_does_not(blocks):
    with pytest.raises(ConfigError, match=r"error=0.001 needs 20000\d\d columns, more than 1048576. Try: error=0.0014 or more, or the exact ns.ntk"):
        decided(ns.Sketch(error=0.001, blocks=blocks))
    assert decided(ns.Sketch(error=0.0014, blocks=blocks)).dim <= MAX_DIM
