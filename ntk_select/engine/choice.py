"""Which space is the cheaper one for one leaf: that of its parameters or that of the examples?"""

import math
from dataclasses import dataclass

import jax

from ntk_select.engine.cost import BALANCE, Sizes

# Gradients formed at a time, at contraction. On the host small blocks come from memory that is mapped already.
FORMED_BYTES = {"cpu": 2**23}
FORMED_BYTES_ELSEWHERE = 2**28


@dataclass(frozen=True)
class Choice:
    """How one leaf is treated: `space` is "parameter" or "sample", `stored` what is kept of each example (see `Stored`)."""

    space: str
    stored: str
    flops: float
    work: float
    sizes: Sizes


def choose(
    sizes: Sizes, structured: bool, m: int, pairing: str, n1: int, n2: int | None, *, longest: int, space=None, parts: int = 1, meetings: float = 1
) -> Choice:
    """The cheaper space for one leaf.

    Args:
      sizes: of the leaf.
      structured: whether sample space is possible.
      m, pairing: cotangents at a time and how they are paired; `parts` such portions make the whole.
      n1, n2, longest: examples on either side, and of one side in memory.
      space: the space, when it is given.
      meetings: how often gradients are formed where only factors are kept.
    """
    n, products = n1 + (n2 or 0), parts * parts if pairing == "full" else parts
    # The BLAS of the host needs half of a symmetric product; elsewhere only whole tiles are left out.
    tile = 1 if jax.devices()[0].platform == "cpu" else parameter_tile(longest)
    pairs = _pairs(n1, n2, tile) * products
    flops = pairs * sizes.gradient_pair_flops(m, pairing)
    work = flops + BALANCE * 3 * n * sizes.stored("gradients", m)
    if not structured:
        return Choice("parameter", "gradients", flops, work, sizes)
    kept = min(("inputs", "patches"), key=lambda what: sizes.stored(what, m))
    cheapest = min(("gradients", kept), key=lambda what: sizes.stored(what, m))
    formed = n * parts * sizes.gradient_flops(m) * (1 if cheapest == "gradients" else meetings)
    in_parameters = Choice("parameter", cheapest, flops + formed, work + formed, sizes)
    pairs = _pairs(n1, n2, sizes.pair_tile(padded(longest))) * products
    flops = pairs * sizes.position_pair_flops(m, pairing)
    work = flops + BALANCE * (pairs * sizes.position_pair_bytes(m, pairing) + n * sizes.stored(kept, m))
    in_samples = Choice("sample", kept, flops, work, sizes)
    if space is not None:
        return in_samples if space == "sample" else in_parameters
    return min(in_parameters, in_samples, key=lambda choice: choice.work)


def formed_bytes() -> int:
    """Bytes of gradients that are formed at a time."""
    return FORMED_BYTES.get(jax.devices()[0].platform, FORMED_BYTES_ELSEWHERE)


def parameter_tile(n: int) -> int:
    """Examples along one side of a tile in parameter space: halves and quarters only of what is long enough to gain."""
    n = padded(n)
    return n if n < 256 else n // 2 if n < 512 else n // 4


def padded(n: int) -> int:
    """Length of the buffers: a round number, so that tiles fit; rows beyond n stay zero."""
    multiple = 1 if n <= 8 else 8 if n <= 64 else 16 if n <= 256 else 32
    return multiple * math.ceil(n / multiple)


def _pairs(n1: int, n2: int | None, tile: int) -> float:
    return n1 * (n1 + min(tile, n1)) / 2 if n2 is None else n1 * n2
