"""Destinations of the tiles of a kernel: the protocol `Sink`, and kernels in memory. Kernels on disk are in `store`."""

import math
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.contract import swapped
from ntk_select.kernels.engine.plan import Plan


@runtime_checkable  # for the type checker of the tests
class Sink(Protocol):
    """Destination of tiles."""

    def done(self, i: int, j: int) -> bool:
        """Whether tile (i, j) was written before."""

    def write(self, i: int, j: int, tiles: dict[str, Any]) -> None:
        """Takes tile (i, j): {"": kernel}, or one kernel per leaf."""

    def retile(self, plan: Plan) -> "Sink":
        """The same sink for a plan whose tile bounds are a superset of the previous ones; finished tiles stay."""

    def result(self, by_layer: bool) -> Any:
        """Everything that was written."""


class InMemory:
    """Sink of kernels in memory. A kernel of one tile stays on the device; others are assembled on the host.

    Args:
      plan: Plan that defines the tile bounds.
      shape: Shape of a kernel.
      dtype: Type of its numbers.
      names: Names of the kernels: leaves, or "" for their sum.

    Raises:
      ConfigError: the kernels do not fit into memory; also from `retile`. This is checked before anything is computed.
    """

    def __init__(self, plan: Plan, shape: tuple[int, ...], dtype, names: tuple[str, ...] = ("",)):
        self.plan, self._shape, self._dtype, self._names = plan, shape, np.dtype(dtype), names
        self.kernels: dict[str, Any] = {}
        self._marks: list[tuple[int, ...]] = []
        self._make_room()

    def _make_room(self) -> None:
        if self.plan.count_tiles() == 1 or self.kernels:
            return
        try:
            self.kernels = {name: np.zeros(self._shape, self._dtype) for name in self._names}
        except MemoryError as error:
            size = f"{math.prod(self._shape) * self._dtype.itemsize / 1e9:.2g} GB"
            if self._names == ("",):
                raise ConfigError(f"The kernel itself, {size}, does not fit into memory. Try: out= a folder, or outputs='trace'") from error
            raise ConfigError(f"The kernels of {len(self._names)} layers, {size} each, do not fit into memory. Try: layers= one at a time") from error

    def done(self, i: int, j: int) -> bool:
        """Whether the tile is contained in one that was written."""
        a, b, c, d = self._ends(i, j)
        return any(top <= a and b <= bottom and left <= c and d <= right for top, bottom, left, right in self._marks)

    def retile(self, plan: Plan) -> "InMemory":
        """The same kernels, continued with another plan."""
        self.plan = plan
        self._make_room()
        return self

    def _ends(self, i: int, j: int) -> tuple[int, ...]:
        columns = self.plan.rows if self.plan.columns is None else self.plan.columns
        return (*self.plan.rows[i : i + 2], *columns[j : j + 2])

    def write(self, i: int, j: int, tiles: dict[str, Any]) -> None:
        """Takes a tile, and its mirror image where the kernel is symmetric."""
        a, b, c, d = self._ends(i, j)
        for name, tile in tiles.items():
            if tile.shape == self._shape:
                self.kernels[name] = tile
                continue
            tile = np.asarray(tile)
            self.kernels[name][a:b, c:d] = tile
            if self.plan.columns is None and i != j:
                self.kernels[name][c:d, a:b] = swapped(tile)
        self._marks.append((a, b, c, d))

    def result(self, by_layer: bool) -> Any:
        """The kernel, or the kernels of the leaves."""
        if self._dtype == np.float64 and not jax.config.jax_enable_x64:  # JAX would take such an array for float32
            self.kernels = {name: np.asarray(kernel) for name, kernel in self.kernels.items()}
        for name in self._names:  # leaves without influence on the outputs
            if name not in self.kernels:
                self.kernels[name] = np.zeros(self._shape, self._dtype)
        return {name: self.kernels[name] for name in self._names} if by_layer else self.kernels[""]
