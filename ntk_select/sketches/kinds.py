"""Which kinds of sketches are there, and what does each need?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ntk_select.sketches import countsketch, dense, hadamard, kronecker


@dataclass(frozen=True)
class Kind:
    """A kind of random projection.

    Attributes:
      empty: empty(rows, width of a block, blocks, dtype) -> total, before anything is added.
      add: add(total, gradients (e, t, p), keys) -> total.
      finished: finished(total) -> Z (e, dim).
      add_factors: add_factors(uses, apart, total, factors, keys) -> total, where a weight needs no gradient.
      independent_columns: blocks are but groups of columns.
      law: whether (|x|^2 |y|^2 + <x, y>^2) / dim bounds the variance of an entry, whatever the gradients. Otherwise it
        depends on their ranks, and only blocks that disagree can tell the error.
      blocks: how many by default, given the dimension; scores want two at least.
    """

    empty: Callable
    add: Callable
    finished: Callable
    add_factors: Callable | None = None
    independent_columns: bool = False
    law: bool = True
    blocks: Callable[[int], int] = lambda _: 1


def _near_32(dim: int) -> int:
    """The divisor of `dim` that is nearest to 32 on a logarithmic scale."""
    divisors = [d for small in range(1, int(dim**0.5) + 1) if dim % small == 0 for d in (small, dim // small)]
    return min(divisors, key=lambda d: (max(d / 32, 32 / d), d))


def _dense(kind: str) -> Kind:
    return Kind(dense.empty, partial(dense.add, kind), dense.finished, independent_columns=True)


FORWARD = "jvp"
KINDS: dict[str, Kind] = {
    "countsketch": Kind(countsketch.empty, countsketch.add, countsketch.finished),
    "rademacher": _dense("rademacher"),
    "gaussian": _dense("gaussian"),
    "srht": Kind(hadamard.empty, hadamard.add, hadamard.finished),
    "kronecker": Kind(kronecker.empty, kronecker.add, kronecker.finished, kronecker.add_factors, law=False, blocks=_near_32),
}
