"""What is asked of a sketch: its kind, dimension, seed, and blocks?"""

import math
import numbers
from dataclasses import dataclass, replace

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.sketches.kinds import FORWARD, KINDS
from ntk_select.whole import is_whole

ALL_KINDS = (*KINDS, FORWARD)
MOST_DIM = 2**20


@dataclass(frozen=True)
class Sketch:
    """How gradients are projected.

    Args:
      dim: columns of the sketch, or "auto": as many as `error` asks for.
      kind: "countsketch", "rademacher", "gaussian", "srht", "kronecker" or "jvp".
      seed: the same seed gives the same projection, on any device, for any batch size and order of the layers.
      blocks: independent sketches side by side, each of dim / blocks columns. Two or more tell the error without any
        formula. None takes what the kind and the purpose suggest.
      error: with dim="auto", the standard error that is wanted: of a score, or, where there is no score, of an entry of
        the kernel in units of the norms of its two gradients.

    Raises:
      ConfigError: a value that is not allowed.
    """

    dim: int | str = "auto"
    kind: str = "countsketch"
    seed: int = 0
    blocks: int | None = None
    error: float | None = None

    def __post_init__(self):
        if self.kind not in ALL_KINDS:
            raise ConfigError(f"kind={self.kind!r}: there is no such sketch.{did_you_mean(str(self.kind), ALL_KINDS)}")
        if not _is_auto(self.dim) and not (is_whole(self.dim) and 1 <= self.dim <= MOST_DIM):
            raise ConfigError(f"dim={self.dim!r} must be a whole number from 1 to {MOST_DIM}, or 'auto'.")
        if not is_whole(self.seed):
            raise ConfigError(f"seed={self.seed!r} must be a whole number.")
        if self.blocks is not None and not (is_whole(self.blocks) and self.blocks >= 1):
            raise ConfigError(f"blocks={self.blocks!r} must be a whole number from 1, or None.")
        if self.blocks is not None and not _is_auto(self.dim) and self.dim % self.blocks:
            raise ConfigError(
                f"dim={self.dim} cannot be cut into {self.blocks} blocks of the same width. Type: dim={max(1, min(round(self.dim / self.blocks), MOST_DIM // self.blocks)) * self.blocks}"
            )
        if self.error is not None and (
            not isinstance(self.error, numbers.Real) or isinstance(self.error, bool) or not 0 < self.error < 1 or not math.isfinite(self.error)
        ):
            raise ConfigError(f"error={self.error!r} must be a number between 0 and 1, for example error=0.005.")
        if self.error is not None and not _is_auto(self.dim):
            raise ConfigError(f"error= chooses the dimension, and dim={self.dim} is given already. Type: dim='auto', or leave error out.")

    @property
    def width(self) -> int:
        """Columns of a block."""
        return self.dim // self.blocks

    def with_blocks(self, least: int = 1) -> "Sketch":
        """With the number of blocks decided: what was asked for, or what the kind suggests, at least `least` where that divides `dim`."""
        if self.blocks is not None:
            return self
        suggested = KINDS[self.kind].blocks(self.dim) if self.kind in KINDS else 1
        return replace(self, blocks=suggested if suggested >= least else least if self.dim % least == 0 else 1)


def as_sketch(value) -> Sketch:
    """A `Sketch`, from a dimension alone or as it is. Raises ConfigError for anything else."""
    if isinstance(value, Sketch):
        return value
    if _is_auto(value) or is_whole(value):
        return Sketch(value)
    given = repr(value) if isinstance(value, (str, float, bool)) else f"a {type(value).__name__}"
    raise ConfigError(f"sketch= is {given}; it must be ns.Sketch(dim=..., kind=...), a dimension, or 'auto'.")


def _is_auto(value) -> bool:
    return isinstance(value, str) and value == "auto"
