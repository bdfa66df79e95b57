"""How does one leaf contribute to a tile, in blocks that suit the machine?"""

import jax
from jax import lax

from ntk_select.engine.choice import Choice, formed_bytes, parameter_tile
from ntk_select.engine.contract import add_gradient_tile, add_pair_tile, form_gradients, host_tile
from ntk_select.engine.tile import Tile
from ntk_select.engine.uses import Use

PIECE = 2**16  # entries of a gradient that are summed in the type of the computation before float64 takes over


def add_leaf(tile: Tile, choice: Choice, uses: tuple[Use, ...], part1, part2, *, m: int, symmetric: bool) -> None:
    """Adds what one leaf contributes.

    Args:
      tile: that grows.
      choice: what is stored of the leaf, and the space in which it is contracted.
      uses: of the leaf as a weight; none for other leaves.
      part1, part2: what is stored, of either side.
      m: cotangents an example.
      symmetric: both sides are the same, so that the lower half of the tile is enough.
    """
    n1, n2 = (len(jax.tree.leaves(part)[0]) for part in (part1, part2))
    pairing, place = tile.pairing, tile.place

    def tiles(size):
        if place.mesh is not None:
            size2 = size if n2 % size == 0 else n2
            return n1, size2, [(0, j) for j in range(0, n2, size2)]
        size1, size2 = (size, size) if n1 == n2 else (min(n1, size), min(n2, size))
        if n1 % size1 or n2 % size2:
            return n1, n2, [(0, 0)]
        pairs = [(i, j) for i in range(0, n1, size1) for j in range(0, i + 1 if symmetric else n2, size2)]
        return size1, size2, pairs

    if place.mesh is not None:
        part2 = place.everywhere(part2)
    if choice.space == "sample":
        size1, size2, pairs = tiles(choice.sizes.pair_tile(max(n1, n2)))
        for i, j in pairs:
            tile.add(lambda total, i=i, j=j: add_pair_tile(pairing, size1, size2, uses, choice.stored, total, part1, part2, i, j))
        return
    if place.on_host(tile.dtype):
        for rows1, rows2 in _gradients(choice, uses, part1, part2, m, symmetric, tile.float64):
            tile.add_host(host_tile(pairing, rows1, rows2))
        return
    size1, size2, pairs = tiles(parameter_tile(max(n1, n2)))
    for rows1, rows2 in _gradients(choice, uses, part1, part2, m, symmetric, tile.float64):
        for i, j in pairs:
            tile.add(lambda total, i=i, j=j, a=rows1, b=rows2: add_gradient_tile(pairing, size1, size2, total, a, b, i, j))


def _gradients(choice: Choice, uses, part1, part2, m: int, symmetric: bool, float64: bool):
    """The gradients of both sides, in pieces that add up to the leaf."""
    if choice.stored == "gradients":
        if not float64 or part1.shape[1] * part1.shape[3] <= PIECE:
            yield part1, part1 if symmetric else part2
            return
        axis = 1 if part1.shape[1] > 1 else 3
        for first, last in _cut(part1.shape[axis], max(1, PIECE // (part1.shape[1] * part1.shape[3] // part1.shape[axis]))):
            rows1 = lax.slice_in_dim(part1, first, last, axis=axis)
            yield rows1, rows1 if symmetric else lax.slice_in_dim(part2, first, last, axis=axis)
        return
    sizes = choice.sizes
    n = max(len(jax.tree.leaves(part)[0]) for part in (part1, part2))
    limit = min(formed_bytes() // (n * m * sizes.item), PIECE if float64 else formed_bytes())  # entries of the leaf at a time
    channels = sizes.width_in // sizes.taps
    a_tap = sizes.groups * channels * sizes.width_out
    at_once = max(1, min(sizes.taps, limit // a_tap)) if choice.stored == "inputs" else sizes.taps
    for window in _cut(sizes.taps, at_once):
        columns = (window[1] - window[0]) * channels
        for first, last in _cut(columns, max(1, limit // (sizes.groups * sizes.width_out))):
            rows1 = form_gradients(uses, choice.stored, window, last - first, part1, first)
            yield rows1, rows1 if symmetric else form_gradients(uses, choice.stored, window, last - first, part2, first)


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    """Pieces of at most `most`, alike but for the last, so that there is little to compile."""
    step = -(-length // -(-length // most))
    return [(first, min(first + step, length)) for first in range(0, length, step)]
