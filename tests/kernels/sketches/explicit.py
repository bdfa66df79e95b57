"""The random projections entry by entry, from the description of scheme 1, with Python integers and NumPy.

Nothing of the library is used here.
"""

import hashlib
import struct
from functools import cache

import numpy as np
from scipy.linalg import hadamard
from scipy.special import ndtri

FULL = 2**32 - 1
GOLDEN = 0x9E3779B9


def mix(word: int) -> int:
    """lowbias32."""
    word ^= word >> 16
    word = word * 0x7FEB352D & FULL
    word ^= word >> 15
    word = word * 0x846CA68B & FULL
    return word ^ word >> 16


@cache
def key(seed: int, name: str, block: int = 0, cotangent: int = 0) -> tuple[int, ...]:
    """The four words of a leaf's block and cotangent."""
    digest = hashlib.blake2b(b"ntk_select sketch 1\0" + str(seed).encode() + b"\0" + name.encode(), digest_size=16).digest()
    words = struct.unpack("<4I", digest)
    for number in (cotangent, block):
        words = tuple(mix(mix((number + place * GOLDEN & FULL) ^ words[place]) + words[place - 1] & FULL) for place in range(4))
    return words


def word(key, index: int) -> int:
    """The word at one address."""
    return mix(mix(index ^ key[0]) + key[1] & FULL)


def table_word(key, index: int, column: int) -> int:
    """The word at an address of two numbers."""
    return mix(mix(mix(index ^ key[0]) + mix(column ^ key[1]) & FULL) + key[1] & FULL)


def sign(word: int) -> int:
    """By the first bit."""
    return -1 if word >> 31 else 1


def normal(word: int) -> float:
    """The quantile of the upper 23 bits."""
    return float(ndtri(((word >> 9) + 0.5) / 2**23))


def permuted(key, index: int, bits: int) -> int:
    """Four rounds of an addition, an odd factor and a shift."""
    if bits == 0:
        return index
    mask = 2**bits - 1
    for number in range(4):
        index = index + word(key, 4 * number + 1) & mask
        index = index * (word(key, 4 * number + 2) | 1) & mask
        index ^= index >> max(1, bits // 2)
    return index


def projection(kind: str, name: str, p: int, dim: int, *, seed: int = 0, blocks: int = 1, cotangent: int = 0, longest: int = 20) -> np.ndarray:
    """S (p, dim): the sketch of gradients g (n, p) of the leaf `name` is g @ S. All kinds but "kronecker"."""
    if kind in ("rademacher", "gaussian", "jvp"):
        return _dense(kind, key(seed, name, 0, cotangent), p, dim) * dim**-0.5
    width = dim // blocks
    make = {"countsketch": _countsketch, "srht": lambda *given: _srht(*given, longest)}[kind]
    return np.concatenate([make(key(seed, name, block, cotangent), p, width) for block in range(blocks)], axis=1) * blocks**-0.5


def _dense(kind, key, p, dim):
    if kind == "gaussian":
        return np.array([[normal(table_word(key, index, column)) for column in range(dim)] for index in range(p)])
    return np.array([[1 - 2 * (table_word(key, index, column // 32) >> column % 32 & 1) for column in range(dim)] for index in range(p)])


def _countsketch(key, p, width):
    matrix = np.zeros((p, width))
    for index in range(p):
        shift = word(key[2:], index // width) % width
        matrix[index, (index + shift) % width] = sign(word(key, index))
    return matrix


def _srht(key, p, width, longest):
    bits = max(min((p - 1).bit_length(), longest), (width - 1).bit_length())
    rows, length = hadamard(2**bits), 2**bits
    matrix = np.zeros((p, width))
    for index in range(p):
        piece, place = divmod(index, length)
        own = [word(key[2:], piece), word(key[2:], piece + 2**31)]
        after = [one ^ 0x5851F42D for one in own]
        for column in range(width):
            taken = permuted(own, column, bits)
            matrix[index, column] = sign(word(key, index)) * rows[taken, place] * sign(word(after, column))
    return matrix * width**-0.5


def kronecker(name: str, shape: tuple[int, int, int], sides: tuple[int, int], *, seed: int = 0, blocks: int = 1, cotangent: int = 0) -> np.ndarray:
    """S (g k o, dim) of a weight in the form (g, k, o), with matrices of `sides` columns from both sides; keys 1.. are those of cotangents."""
    g, k, o = shape
    ka, kg = sides
    parts = []
    for block in range(blocks):
        left, right = key(seed, name, block, 0), key(seed, name, block, cotangent)[2:]
        a = np.array([[normal(table_word(left, index, column)) for column in range(ka)] for index in range(g * k)]).reshape(g, k, ka)
        b = np.array([[normal(table_word(right, index, column)) for column in range(kg)] for index in range(g * o)]).reshape(g, o, kg)
        parts.append(np.einsum("gka,goc->gkoac", a, b).reshape(g * k * o, ka * kg))
    return np.concatenate(parts, axis=1) * (blocks * ka * kg) ** -0.5
