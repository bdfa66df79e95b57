"""Random projections: the available kinds, and the configuration of one."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.kernels.sketches import countsketch, dense, kronecker, srht

MAX_DIM = 2**20
ENTRY_ERROR = 0.02


@dataclass(frozen=True)
class Kind:
    """A kind of random projection.

    Attributes:
      init: init(rows, width of a block, blocks, dtype) -> state of zeros.
      update: update(state, gradients (e, t, p), keys (t, blocks, 4)) -> state.
      finalize: finalize(state) -> Z (e, dim).
      update_factors: update_factors(state, ops, per_cotangent, factors, input key, keys) -> state, for weights, without their gradients.
      independent_columns: all columns are independent, so blocks are only groups of columns.
      law: whether (|x|^2 |y|^2 + <x, y>^2) / dim bounds the variance of an entry, whatever the gradients. Otherwise it
        depends on their ranks, and the error is estimated from the disagreement of blocks.
      blocks: default number, given the dimension; scores need at least two.
    """

    init: Callable
    update: Callable
    finalize: Callable
    update_factors: Callable | None = None
    independent_columns: bool = False
    law: bool = True
    blocks: Callable[[int], int] = lambda _: 1


def _near_32(dim: int) -> int:
    """The divisor of `dim` nearest to 32 on a logarithmic scale."""
    divisors = [d for small in range(1, int(dim**0.5) + 1) if dim % small == 0 for d in (small, dim // small)]
    return min(divisors, key=lambda d: (max(d / 32, 32 / d), d))


def _dense(kind: str) -> Kind:
    return Kind(dense.init, partial(dense.update, kind), dense.finalize, independent_columns=True)


FORWARD = "jvp"
KINDS: dict[str, Kind] = {
    "countsketch": Kind(countsketch.init, countsketch.update, countsketch.finalize),
    "rademacher": _dense("rademacher"),
    "gaussian": _dense("gaussian"),
    "srht": Kind(srht.init, srht.update, srht.finalize),
    "kronecker": Kind(kronecker.init, kronecker.update, kronecker.finalize, kronecker.update_factors, law=False, blocks=_near_32),
}
ALL_KINDS = (*KINDS, FORWARD)


@dataclass(frozen=True)
class Sketch:
    """Configuration of a random projection.

    Args:
      dim: columns of the sketch, or "auto": as many as `error` needs.
      kind: "countsketch", "rademacher", "gaussian", "srht", "kronecker" or "jvp".
      seed: the same seed gives the same projection, on any device, for any batch size and order of the layers.
      blocks: independent sketches of dim / blocks columns each. Two or more give an error estimate without a formula.
        None: chosen by kind and purpose.
      error: Requested standard error, for dim="auto": of a score or, without a score, of an entry of the kernel
        in units of the norms of its two gradients.

    Raises:
      ConfigError: an invalid value.
    """

    dim: int | np.integer | str = "auto"
    kind: str = "countsketch"
    seed: int | np.integer = 0
    blocks: int | np.integer | None = None
    error: float | np.floating | None = None

    def __post_init__(self):
        if self.kind not in ALL_KINDS:
            raise ConfigError(f"kind={self.kind!r} is unknown.{did_you_mean(str(self.kind), ALL_KINDS)}")
        if not _is_auto(self.dim) and not (is_whole(self.dim) and 1 <= self.dim <= MAX_DIM):
            raise ConfigError(f"dim={self.dim!r} must be a whole number from 1 to {MAX_DIM}, or 'auto'.")
        if not is_whole(self.seed):
            raise ConfigError(f"seed={self.seed!r} must be a whole number. Try: seed=0")
        if self.blocks is not None and not (is_whole(self.blocks) and self.blocks >= 1):
            raise ConfigError(f"blocks={self.blocks!r} must be a whole number from 1, or None.")
        if self.blocks is not None and not _is_auto(self.dim) and self.dim % self.blocks:
            better = max(1, min(round(self.dim / self.blocks), MAX_DIM // self.blocks)) * self.blocks
            raise ConfigError(f"dim={self.dim} cannot be split into {self.blocks} blocks of equal width. Try: dim={better}")
        if self.error is not None and not (isinstance(self.error, numbers.Real) and not isinstance(self.error, bool) and 0 < self.error < 1):
            raise ConfigError(f"error={self.error!r} must be a number between 0 and 1, for example error=0.005.")
        if self.error is not None and not _is_auto(self.dim):
            raise ConfigError(f"error= determines the dimension, but dim={self.dim} is given. Try: dim='auto', or omit error.")

    @property
    def width(self) -> int:
        """Columns of a block."""
        return int(self.dim // self.blocks)

    def with_blocks(self, least: int = 1) -> "Sketch":
        """With the given number of blocks, or the default of the kind, at least `least` if that divides `dim`."""
        if self.blocks is not None:
            return self
        suggested = KINDS[self.kind].blocks(self.dim) if self.kind in KINDS else 1
        return replace(self, blocks=suggested if suggested >= least else least if self.dim % least == 0 else 1)


class Layout(NamedTuple):
    """Static arguments of the compiled program of a batch.

    Attributes:
      kind, width, blocks: Kind of the projection, width of a block, number of blocks.
      per_cotangent: each cotangent has a row of its own.
      together: cotangents per backward pass, or directions per forward pass.
      formed_bytes: bytes of gradients of one leaf formed at a time.
      by_layer: one sketch per leaf.
    """

    kind: str
    width: int
    blocks: int
    per_cotangent: bool
    together: int
    formed_bytes: float
    by_layer: bool = False


def as_sketch(value) -> Sketch:
    """A `Sketch`, from a dimension or unchanged. Raises ConfigError for anything else."""
    if isinstance(value, Sketch):
        return value
    if _is_auto(value) or is_whole(value):
        return Sketch(value)
    given = repr(value) if isinstance(value, (str, float, bool)) else f"a {type(value).__name__}"
    raise ConfigError(f"sketch= is {given}; it must be ns.Sketch(dim=..., kind=...), a dimension, or 'auto'.")


def _is_auto(value) -> bool:
    return isinstance(value, str) and value == "auto"


def decided(sketch: Sketch, least_blocks: int = 1) -> Sketch:
    """Resolves dim="auto" to the dimension that bounds the error of an entry, and blocks=None to a number.

    Raises:
      ConfigError: "auto" for a kind whose error depends on the gradients, or an error that needs more than `MAX_DIM` columns.
    """
    if sketch.dim != "auto":
        return sketch.with_blocks(least_blocks)
    if sketch.kind == FORWARD or not KINDS[sketch.kind].law:
        raise ConfigError(
            f"dim='auto' needs a kind with a known error bound, but that of {sketch.kind!r} depends on the gradients. "
            "Try: dim=8192, or another kind; ns.lgc(..., sketch=...) measures its error."
        )
    error = ENTRY_ERROR if sketch.error is None else sketch.error
    blocks = sketch.blocks or least_blocks
    dim = rounded_up(2 / error**2, blocks)
    if dim > MAX_DIM:
        raise ConfigError(
            f"error={error} needs {dim} columns, more than {MAX_DIM}. Try: error={(2 / MAX_DIM) ** 0.5:.2g} or more, or the exact ns.ntk."
        )
    return replace(sketch, dim=dim, blocks=blocks, error=None)


def rounded_up(dim: float, blocks: int) -> int:
    """The next multiple of 64 columns per block."""
    return 64 * blocks * max(1, math.ceil(dim / (64 * blocks) - 1e-9))
