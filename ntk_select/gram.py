"""How are Gram matrices of gradients computed, block by block, in bounded memory?"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

BLOCK_BYTES = 2**28


def _symmetric(kernel: np.ndarray) -> np.ndarray:
    return (kernel + kernel.T) / 2


def conv_gram(
    inputs: Num[Array, "n h w cin"],
    cotangents: Num[Array, "n m p q cout"],
    *,
    window: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> Float[np.ndarray, "n n"]:
    """Inner products of the examples' gradients with respect to a convolution kernel.

    The gradient of example i for output m is sum_s P_is (outer) M_ims, with P_is the patch of the input at
    position s and M_ims the cotangent of the convolution's output there. Of two exact ways the one with fewer
    products is taken: form the gradients and multiply them (parameter space), or multiply patches with patches
    and cotangents with cotangents and sum over pairs of positions (sample space; wins on small maps).

    Args:
      inputs: what entered the convolution.
      cotangents: of its output, for m outputs of the network; the kernels of the m are added.
      window, strides, padding: of the convolution, NHWC.

    Returns:
      (n, n), float64, symmetric.

    Cost: n^2 times the smaller of m k cout and s^2 (k + m cout), with k = kh kw cin and s = p q.
    """
    _, m, p, q, cout = cotangents.shape
    size = window[0] * window[1] * inputs.shape[-1]
    positions = p * q
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    if positions**2 * (size + m * cout) < m * size * cout:
        return _symmetric(_sample_space(padded, cotangents, window, strides))
    return _symmetric(_parameter_space(padded, cotangents, window, strides))


@partial(jax.jit, static_argnames=("window", "strides", "positions"))
def _patches(padded, *, window, strides, positions):
    """The inputs of every output position: (n, p * q, kh * kw * cin)."""
    (p, q), n = positions, len(padded)
    views = [
        padded[:, i : i + strides[0] * (p - 1) + 1 : strides[0], j : j + strides[1] * (q - 1) + 1 : strides[1]]
        for i in range(window[0])
        for j in range(window[1])
    ]
    return jnp.concatenate(views, axis=-1).reshape(n, p * q, -1)


@jax.jit
def _gradient_products(patches, cotangents):
    # As matmul: the same product written as an einsum over "nsk,nmso" takes ten times as long on CPU.
    rows = jnp.matmul(cotangents.swapaxes(2, 3), patches[:, None], precision="highest").reshape(len(patches), -1)
    return jnp.matmul(rows, rows.T, precision="highest")


def _parameter_space(padded, cotangents, window, strides):
    n, m, p, q, cout = cotangents.shape
    cotangents = cotangents.reshape(n, m, p * q, cout)
    whole = n * m * window[0] * window[1] * padded.shape[-1] * cout * padded.dtype.itemsize
    if whole <= BLOCK_BYTES:
        return np.asarray(_gradient_products(_patches(padded, window=window, strides=strides, positions=(p, q)), cotangents), np.float64)
    block = max(1, BLOCK_BYTES // (n * m * padded.shape[-1] * padded.dtype.itemsize))
    kernel = np.zeros((n, n))
    for i in range(window[0]):
        for j in range(window[1]):
            patches = _patches(padded[:, i:, j:], window=(1, 1), strides=strides, positions=(p, q))
            for first in range(0, cout, block):
                kernel += np.asarray(_gradient_products(patches, cotangents[..., first : first + block]))
    return kernel


@jax.jit
def _position_products(patches, cotangents, other_patches, other_cotangents):
    return jnp.einsum(
        "isjt,isjt->ij",
        jnp.einsum("isk,jtk->isjt", patches, other_patches, precision="highest"),
        jnp.einsum("imso,jmto->isjt", cotangents, other_cotangents, precision="highest"),
        precision="highest",
    )


def _sample_space(padded, cotangents, window, strides):
    n, m, p, q, cout = cotangents.shape
    patches = _patches(padded, window=window, strides=strides, positions=(p, q))
    cotangents = cotangents.reshape(n, m, p * q, cout)
    tile = int(min(n, max(1, (BLOCK_BYTES // (2 * padded.dtype.itemsize)) ** 0.5 // (p * q))))
    kernel = np.zeros((n, n))
    for row in range(0, n, tile):
        for column in range(0, row + 1, tile):
            rows, columns = slice(row, row + tile), slice(column, column + tile)
            block = np.asarray(_position_products(patches[rows], cotangents[rows], patches[columns], cotangents[columns]))
            kernel[rows, columns] = block
            kernel[columns, rows] = block.T
    return kernel
