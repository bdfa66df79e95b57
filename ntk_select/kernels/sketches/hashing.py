"""Random numbers of a sketch: hashes of (seed, leaf, entry, column), generated on the fly and never stored.

A random word is a function of its address alone: the seed, the path of the leaf, the indices of block and cotangent, the
linear index of the entry in the leaf, the column. It does not depend on the order of leaves, on batches, on the device, or
on the configuration and version of `jax.random`. Words, signs, shifts and permutations are exact integers; normal numbers
are rounded by the device's logarithm.

`SCHEME` is the version of these definitions; stored sketches record it.

Reference: the mixing function is the two-multiplication 32-bit finaliser found by Wellons ("lowbias32", 2018).
"""

import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SCHEME = 1
WORDS = 4  # of a key: two for entries, two for everything else (shifts, samples)

_GOLDEN = 0x9E3779B9


def mix(words):
    """A bijection of 32-bit words that changes each bit of the output with probability 1/2 when any bit of the input changes."""
    words = words ^ (words >> 16)
    words = words * np.uint32(0x7FEB352D)
    words = words ^ (words >> 15)
    words = words * np.uint32(0x846CA68B)
    return words ^ (words >> 16)


def leaf_keys(seed: int | np.integer, name: str, blocks: int | np.integer, cotangents: np.ndarray) -> np.ndarray:
    """Keys (cotangents, blocks, WORDS) of one leaf.

    Args:
      seed: any whole number.
      name: path of the leaf.
      blocks: number of independent sketches side by side.
      cotangents: numbers of the cotangents (t,); those that share a row of the sketch differ, so that they are independent.
    """
    digest = hashlib.blake2b(f"ntk_select sketch {SCHEME}\0{int(seed)}\0{name}".encode(), digest_size=4 * WORDS).digest()
    key = np.frombuffer(digest, "<u4").astype(np.uint32)
    key = _derived(key, np.asarray(cotangents, np.uint32)[:, None, None])
    return _derived(key, np.arange(blocks, dtype=np.uint32)[None, :, None])


def _derived(key: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Another key for each number."""
    place = np.arange(WORDS, dtype=np.uint32) * np.uint32(_GOLDEN)
    return mix(mix(number + place ^ key) + np.roll(key, 1, axis=-1))


def words(key, index):
    """Uniform 32-bit words at `index`; `key` are two words."""
    return mix(mix(index ^ key[0]) + key[1])


def word_table(key, index, columns):
    """Uniform 32-bit words (len(index), len(columns)), as a table of addresses (entry, column)."""
    return mix(mix(mix(index ^ key[0])[:, None] + mix(columns ^ key[1])[None, :]) + key[1])


def flipped(words, values):
    """Values with random signs: the first bit of each word."""
    return jnp.where(words >> 31 == 0, values, -values)


def normals(words):
    """Standard normal numbers in float32, from the upper 23 bits of each word."""
    uniform = ((words >> 9).astype(jnp.float32) + 0.5) * np.float32(2.0**-22) - 1  # odd multiples of 2^-23, within (-1, 1)
    return np.float32(np.sqrt(2)) * lax.erf_inv(uniform)


def permuted(key, index, log2: int):
    """Places of `index` under a random permutation of the numbers below 2^log2."""
    if log2 == 0:
        return index
    mask, half = np.uint32(2**log2 - 1), max(1, log2 // 2)
    for round_ in range(4):
        # Each step is a bijection of the numbers below 2^log2: an addition, an odd factor, a shift onto itself.
        index = (index + words(key, jnp.uint32(round_ * 4 + 1))) & mask
        index = (index * (words(key, jnp.uint32(round_ * 4 + 2)) | np.uint32(1))) & mask
        index = index ^ (index >> half)
    return index


def accumulate(count: int, step: Callable, total):
    """step(count - 1, .. step(1, step(0, total))). Reverse mode regenerates the random numbers of a step instead of storing them."""
    return lax.fori_loop(0, count, jax.checkpoint(step, prevent_cse=False), total)
