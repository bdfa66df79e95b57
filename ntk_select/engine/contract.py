"""How do the factors of two sets of examples become a tile of the kernel?

In parameter space: form the gradients, multiply them. In sample space: multiply inputs with inputs and cotangents with
cotangents, for all pairs of positions, then sum the products; no gradient is formed. Both are exact.

Letters: a, b examples of the two sides; m outputs; g groups; s, t positions; k, o width in and out.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ntk_select.engine.factors import outer
from ntk_select.engine.structure import Tap


def _wide(*arrays):
    """In which type to sum products of these: float32 at least."""
    return jnp.result_type(jnp.float32, *(array.dtype for array in arrays))


def gradient_tile(pairing: str, rows1, rows2):
    """Tile of the kernel from gradients (a, r, m, o) and (b, r, m, o)."""
    wide = _wide(rows1, rows2)
    if pairing == "trace":
        return jnp.matmul(rows1.reshape(len(rows1), -1), rows2.reshape(len(rows2), -1).T, preferred_element_type=wide)
    rows1, rows2 = (rows.transpose(0, 2, 1, 3).reshape(len(rows), rows.shape[2], -1) for rows in (rows1, rows2))
    if pairing == "diagonal":
        return jnp.einsum("amp,bmp->abm", rows1, rows2, preferred_element_type=wide)
    a, m, p = rows1.shape
    return jnp.matmul(rows1.reshape(a * m, p), rows2.reshape(-1, p).T, preferred_element_type=wide).reshape(a, m, -1, m).transpose(0, 2, 1, 3)


def host_tile(pairing: str, rows1, rows2) -> np.ndarray:
    """As `gradient_tile`, by the BLAS of NumPy: XLA on CPUs is several times slower at long, narrow products."""
    same = rows1 is rows2
    wide = _wide(rows1, rows2)
    rows1, rows2 = (np.asarray(rows).astype(wide, copy=False) for rows in (rows1, rows2))
    if pairing == "trace":
        flat = rows1.reshape(len(rows1), -1)
        return flat @ (flat if same else rows2.reshape(len(rows2), -1)).T
    a, m = len(rows1), rows1.shape[2]
    left = np.ascontiguousarray(rows1.transpose(2, 0, 1, 3)).reshape(m, a, -1)
    right = left if same else np.ascontiguousarray(rows2.transpose(2, 0, 1, 3)).reshape(m, len(rows2), -1)
    if pairing == "diagonal":
        return np.stack([x @ y.T for x, y in zip(left, right, strict=True)], axis=-1)
    flat1, flat2 = left.reshape(-1, left.shape[2]), right.reshape(-1, right.shape[2])
    return (flat1 @ (flat1 if same else flat2).T).reshape(m, a, m, -1).transpose(1, 3, 0, 2)


def pair_tile(pairing: str, patches1, cotangents1, patches2, cotangents2):
    """Tile of the kernel from patches (a, g, s, k) and cotangents (a, g, s, m, o)."""
    wide = _wide(cotangents1, cotangents2, patches1)
    if not jnp.issubdtype(patches1.dtype, jnp.floating):
        patches1, patches2 = patches1.astype(wide), patches2.astype(wide)
    einsum = partial(jnp.einsum, preferred_element_type=wide)
    inputs = einsum("agsk,bgtk->gasbt", patches1, patches2)
    if pairing == "trace":
        flat1, flat2 = (cotangents.reshape(*cotangents.shape[:3], -1) for cotangents in (cotangents1, cotangents2))
        return (inputs * einsum("agsq,bgtq->gasbt", flat1, flat2)).sum((0, 2, 4))
    if pairing == "diagonal":
        one = lambda left, right: (inputs * einsum("agso,bgto->gasbt", left, right)).sum((0, 2, 4))  # noqa: E731
        return jnp.stack([one(cotangents1[:, :, :, m], cotangents2[:, :, :, m]) for m in range(cotangents1.shape[3])], axis=-1)

    def against(b):
        products, cotangents = b  # (g, a, s, t), (g, t, m, o)
        return einsum("agsmo,gasno->amn", cotangents1.astype(wide), einsum("gast,gtno->gasno", products, cotangents.astype(wide)))

    return lax.map(against, (inputs.transpose(3, 0, 1, 2, 4), cotangents2)).swapaxes(0, 1)


def _part(tree, start, size: int):
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size, 0), tree)


def _add(total, tile, i, j):
    """Adds a tile at (i, j) of the two leading axes."""
    start = (i, j, *(0,) * (total.ndim - 2))
    return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, tile.shape) + tile.astype(total.dtype), start)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def add_gradient_tile(pairing: str, size1: int, size2: int, total, rows1, rows2, i, j):
    """`total` with the tile of rows i.. and j.. added, from stored gradients."""
    return _add(total, gradient_tile(pairing, _part(rows1, i, size1), _part(rows2, j, size2)), i, j)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=5)
def add_pair_tile(pairing: str, size1: int, size2: int, uses: tuple, kept: str, total, factors1, factors2, i, j):
    """`total` with the tile of rows i.. and j.. added, in sample space; several uses stand side by side as positions."""
    sides = (_side(uses, kept, _part(factors, start, size)) for factors, start, size in ((factors1, i, size1), (factors2, j, size2)))
    (patches1, cotangents1), (patches2, cotangents2) = sides
    return _add(total, pair_tile(pairing, patches1, cotangents1, patches2, cotangents2), i, j)


def _side(uses, kept, factors):
    patches = [x if kept == "patches" else jax.vmap(use.patches)(x) for use, (x, _) in zip(uses, factors, strict=True)]
    return tuple(jnp.concatenate(parts, axis=2) for parts in (patches, [cotangents for _, cotangents in factors]))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def form_gradients(uses: tuple, kept: str, taps: tuple[int, int], width: int, factors, first):
    """Gradients (n, r, m, o) from stored factors: of some taps of the window, and of `width` columns of their patches."""
    total = 0
    for use, (x, cotangents) in zip(uses, factors, strict=True):
        patches = jax.vmap(partial(use.patches, first=taps[0], last=taps[1]))(x) if kept == "inputs" else x
        if width < patches.shape[-1]:
            patches = lax.dynamic_slice_in_dim(patches, first, width, axis=3)
        total = total + jax.vmap(outer)(patches, cotangents)
    return total.reshape(len(total), -1, *total.shape[3:])


def uses_of(taps: tuple[Tap, ...], numbers: tuple[int, ...]) -> tuple:
    """The uses of some taps, as a static argument."""
    return tuple(taps[number].use for number in numbers)
