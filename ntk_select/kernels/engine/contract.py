"""Contraction of the factors of two sets of examples into a block of the kernel.

In parameter space: form the gradients X' G and multiply them. In sample space: sum((X1 X2') * (G1 G2')) over all pairs of
positions; no gradient is formed. Both are exact, traceable and differentiable; loops are `lax.scan`s on the device.

Letters: a, b examples of the two sides; m outputs; g groups; s, t positions; k, o width in and out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from ntk_select.kernels.engine.factors import outer
from ntk_select.kernels.engine.layer_ops import Embedding, LayerOp, summing_type

FLOAT64_TERMS = 2**10  # products summed in the computation's dtype before accumulation in float64
MIRRORED = 512  # rows of the blocks that are mirrored: transposing a large matrix at once is slow to compile and to run


@dataclass(frozen=True)
class Contraction:
    """Contraction of one leaf.

    Attributes:
      name: key of the kernel that it is added to.
      ops: the operations of a weight; empty for other leaves.
      space: "parameter" or "sample".
      stored: see `Stored`.
      block: examples along one side of a block of pairs.
      entries: number of entries of the leaf whose gradients are formed or multiplied at a time.
    """

    name: str
    ops: tuple[LayerOp, ...]
    space: str
    stored: str
    block: int
    entries: int


def contract(contractions: tuple[Contraction, ...], pairing: str, symmetric: bool, spread: bool, totals: dict, parts1: list, parts2: list) -> dict:
    """`totals` with the contribution of each leaf added.

    Args:
      contractions: one for each of the parts.
      pairing: Pairing of the cotangents: "trace", "diagonal" or "full".
      symmetric: both sides are the same; then only blocks on and below the diagonal are filled.
      spread: the examples of the first side are sharded over devices and are not split into blocks.
      totals: name -> (a, b), (a, b, m) or (a, b, m, m).
      parts1, parts2: stored factors of each leaf, for either side.
    """
    totals = dict(totals)
    for contraction, part1, part2 in zip(contractions, parts1, parts2, strict=True):
        add = _in_sample_space if contraction.space == "sample" else _in_parameter_space
        totals[contraction.name] = add(contraction, pairing, symmetric, spread, totals[contraction.name], part1, part1 if symmetric else part2)
    return totals


def zero_totals(names: Iterable[str], shape: tuple[int, ...], dtype) -> dict[str, Float[Array, "a b ..."]]:
    """Kernels of zeros."""
    return {name: jnp.zeros(shape, dtype) for name in names}


def _in_sample_space(contraction: Contraction, pairing: str, symmetric: bool, spread: bool, total, part1, part2):
    def block(one, other):
        return pair_block(pairing, *_operands(contraction, one, other))

    return _blocks(block, contraction.block, symmetric, spread, total, part1, part2)


def _in_parameter_space(contraction: Contraction, pairing: str, symmetric: bool, spread: bool, total, part1, part2):
    limit, last = contraction.entries, jax.tree.leaves(part1)[-1]
    if total.dtype == jnp.float64 and last.dtype != jnp.float64:
        limit = min(limit, max(16, FLOAT64_TERMS // last.shape[-2]))
    for count, piece in _pieces(contraction, part1, limit):

        def add(total, index, piece=piece):
            rows1 = piece(part1, index)
            rows2 = rows1 if symmetric else piece(part2, index)
            return _blocks(partial(gradient_block, pairing), contraction.block, symmetric, spread, total, rows1, rows2)

        total = add(total, 0) if count == 1 else lax.scan(lambda total, index, add=add: (add(total, index), None), total, jnp.arange(count))[0]
    return total


def _blocks(block: Callable, size: int, symmetric: bool, spread: bool, total, part1, part2):
    """`total` with block(part of side 1, part of side 2) added for all pairs of parts."""
    n1, n2 = total.shape[:2]
    size1, size2 = min(n1, size), min(n2, size)
    if spread or n1 % size1:
        size1 = n1
    if n2 % size2:
        size2 = n2
    lower = symmetric and size1 == size2
    pairs = [(i, j) for i in range(0, n1, size1) for j in range(0, i + 1 if lower else n2, size2)]
    if len(pairs) == 1:
        return total + block(part1, part2).astype(total.dtype)

    def add(total, pair):
        i, j = pair
        found = block(_rows(part1, i, size1), _rows(part2, j, size2)).astype(total.dtype)
        start = (i, j, *[jnp.zeros_like(i)] * (total.ndim - 2))
        return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, found.shape) + found, start), None

    return lax.scan(add, total, tuple(map(jnp.array, zip(*pairs, strict=True))))[0]


def _rows(tree, start, size: int):
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size, 0), tree)


def _pieces(contraction: Contraction, part, limit: int) -> list[tuple[int, Callable]]:
    """Slices of the gradients that make up the leaf: pairs (count, piece(part, number) -> (n, r, m, o)) of equal sizes."""
    if contraction.stored == "gradients":
        axis = 1 if part.shape[1] > 1 else 3
        length = part.shape[axis]
        each = max(1, limit // (part.shape[1] * part.shape[3] // length))
        return _portions(length, each, lambda part, start, size: lax.dynamic_slice_in_dim(part, start, size, axis))
    first = contraction.ops[0]
    if contraction.stored == "patches" or first.taps == 1:
        columns = partial(_formed, contraction, None)
        return _portions(first.width_in, max(1, limit // (first.groups * first.width_out)), columns)
    channels = first.width_in // first.taps
    found = []
    for count, piece in _portions(channels, max(1, limit // (first.groups * first.width_out)), lambda part, start, size: (part, start, size)):

        def of_tap(part, number, count=count, piece=piece):
            part, start, size = piece(part, number % count)
            return _formed(contraction, number // count, part, start, size)

        found.append((count * first.taps, of_tap))
    return found


def _portions(length: int, size: int, piece: Callable) -> list[tuple[int, Callable]]:
    """piece(part, start, size) over a length: as many of equal size as fit, and the remainder."""
    size = -(-length // -(-length // min(size, length)))
    count, rest = divmod(length, size)
    found = [(count, lambda part, number: piece(part, number * size, size))]
    return found + ([(1, lambda part, _: piece(part, count * size, rest))] if rest else [])


def _formed(contraction: Contraction, tap, part, start, size: int) -> Float[Array, "n r m o"]:
    """Gradients from stored factors, for `size` columns of the patches of all taps or of one."""
    total = 0
    for op, (x, cotangents) in zip(contraction.ops, part, strict=True):
        see = op.patches if tap is None else partial(op.patches_of_tap, number=tap)
        patches = x if contraction.stored == "patches" else jax.vmap(see)(x)
        if size < patches.shape[-1]:
            patches = lax.dynamic_slice_in_dim(patches, start, size, axis=3)
        total = total + jax.vmap(outer)(patches, cotangents)
    return total.reshape(len(total), -1, *total.shape[3:])


def _operands(contraction: Contraction, one, other):
    """Products of the inputs (g, a, s, b, t), and the cotangents (a, g, s, m, o) of both sides; several operations are concatenated along the positions."""
    cotangents = [jnp.concatenate([left for _, left in side], axis=2) for side in (one, other)]
    wide = _wide(*cotangents)
    if contraction.stored == "inputs" and all(isinstance(op, Embedding) for op in contraction.ops):
        rows = [jnp.concatenate([jax.vmap(op.rows)(x) for op, (x, _) in zip(contraction.ops, side, strict=True)], axis=1) for side in (one, other)]
        inside = (rows[0] >= 0) & (rows[0] < contraction.ops[0].width_in)  # an index out of range reads nothing
        same = (rows[0][:, :, None, None] == rows[1][None, None]) & inside[:, :, None, None]
        return same[None].astype(wide), *cotangents
    patches = []
    for side in (one, other):
        each = [x if contraction.stored == "patches" else jax.vmap(op.patches)(x) for op, (x, _) in zip(contraction.ops, side, strict=True)]
        each = jnp.concatenate(each, axis=2)
        patches.append(each if jnp.issubdtype(each.dtype, jnp.floating) else each.astype(wide))
    return jnp.einsum("agsk,bgtk->gasbt", *patches, preferred_element_type=_wide(*patches)), *cotangents


def _wide(*arrays):
    """Accumulation dtype for products of these arrays."""
    return summing_type(*(array.dtype for array in arrays))


def gradient_block(pairing: str, rows1: Float[ArrayLike, "a r m o"], rows2: Float[ArrayLike, "b r m o"]) -> Float[Array, "a b ..."]:
    """Block of the kernel from gradients."""
    wide = _wide(rows1, rows2)
    if pairing == "trace":
        return jnp.matmul(rows1.reshape(len(rows1), -1), rows2.reshape(len(rows2), -1).T, preferred_element_type=wide)
    left, right = (rows.transpose(0, 2, 1, 3).reshape(len(rows), rows.shape[2], -1) for rows in (rows1, rows2))
    if pairing == "diagonal":
        return jnp.einsum("amp,bmp->abm", left, right, preferred_element_type=wide)
    a, m, p = left.shape
    b, n, _ = right.shape
    product = jnp.matmul(left.reshape(a * m, p), right.reshape(b * n, p).T, preferred_element_type=wide)
    return product.reshape(a, m, b, n).transpose(0, 2, 1, 3)


def pair_block(
    pairing: str, inputs: Shaped[ArrayLike, "g a s b t"], left: Float[ArrayLike, "a g s m o"], right: Float[ArrayLike, "b g t n o"]
) -> Float[Array, "a b ..."]:
    """Block of the kernel from products of inputs and from cotangents."""
    wide = _wide(left, right, inputs)
    einsum = partial(jnp.einsum, preferred_element_type=wide)
    inputs = inputs.astype(wide)
    if pairing == "trace":
        flat1, flat2 = (cotangents.reshape(*cotangents.shape[:3], -1) for cotangents in (left, right))
        return (inputs * einsum("agsq,bgtq->gasbt", flat1, flat2)).sum((0, 2, 4))
    if pairing == "diagonal":
        each = [(inputs * einsum("agso,bgto->gasbt", left[:, :, :, m], right[:, :, :, m])).sum((0, 2, 4)) for m in range(left.shape[3])]
        return jnp.stack(each, axis=-1)

    def against(b):
        products, cotangents = b  # (g, a, s, t), (g, t, n, o)
        return einsum("agsmo,gasno->amn", left.astype(wide), einsum("gast,gtno->gasno", products, cotangents.astype(wide)))

    return lax.map(against, (inputs.transpose(3, 0, 1, 2, 4), right)).swapaxes(0, 1)


def finish(pairing: str, symmetric: bool, shape: tuple[int, int], m: int, total: Float[Array, "a b ..."]) -> Float[Array, "n1 n2 ..."]:
    """The kernel from its sums: mirrored if symmetric, without padding, and for "trace" divided by m."""
    kernel = mirrored(total) if symmetric else total
    kernel = kernel[: shape[0], : shape[1]]
    return kernel / m if pairing == "trace" else kernel


def mirrored(kernel: Float[ArrayLike, "n n ..."]) -> Float[Array, "n n ..."]:
    """Copies the lower triangle to the upper one, transposed; the diagonal is the mean of both."""
    n = len(kernel)
    size = max(size for size in range(1, min(n, MIRRORED) + 1) if n % size == 0)
    if size < 32:  # no useful divisor
        size = n
    kernel = _diagonal_blocks(kernel, size)
    pairs = [(i, j) for i in range(0, n, size) for j in range(0, i, size)]
    if not pairs:
        return kernel

    def copy(kernel, pair):
        i, j = pair
        rest = [jnp.zeros_like(i)] * (kernel.ndim - 2)
        found = lax.dynamic_slice(kernel, (i, j, *rest), (size, size, *kernel.shape[2:]))
        return lax.dynamic_update_slice(kernel, swapped(found), (j, i, *rest)), None

    return lax.scan(copy, kernel, tuple(map(jnp.array, zip(*pairs, strict=True))))[0]


def _diagonal_blocks(kernel, size: int):
    rows, columns = (lax.broadcasted_iota(jnp.int32, (size, size, *(1,) * (kernel.ndim - 2)), axis) for axis in (0, 1))

    def mirror(kernel, i):
        start = (i, i, *[jnp.zeros_like(i)] * (kernel.ndim - 2))
        found = lax.dynamic_slice(kernel, start, (size, size, *kernel.shape[2:]))
        other = swapped(found)
        found = jnp.where(rows > columns, found, jnp.where(rows < columns, other, (found + other) / 2))
        return lax.dynamic_update_slice(kernel, found, start), None

    if size == len(kernel):
        return mirror(kernel, 0)[0]
    return lax.scan(mirror, kernel, jnp.arange(0, len(kernel), size))[0]


def swapped(kernel: Any) -> Any:
    """The transposed kernel: (n2, n1), with the output axes swapped."""
    return kernel.transpose(1, 0, *range(kernel.ndim - 1, 1, -1))


def layer_kernel(contraction: Contraction, part: list, n: int) -> Float[Array, "n n"]:
    """Inner products of the gradients of one leaf, summed over its cotangents, from what is stored of the padded examples."""
    length = len(jax.tree.leaves(part)[0])
    dtype = jnp.float64 if jax.config.jax_enable_x64 else _wide(*jax.tree.leaves(part))
    totals = contract((contraction,), "trace", True, False, zero_totals([contraction.name], (length, length), dtype), [part], [part])
    return finish("trace", True, (n, n), 1, totals[contraction.name])
