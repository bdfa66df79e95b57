"""A kernel that grows in memory, tile by tile."""

import math

import numpy as np

from ntk_select.engine.plan import Plan
from ntk_select.errors import ConfigError


class InMemory:
    """Takes tiles and gives the whole: the sink of kernels that are not sent to disk.

    Args:
      plan: for the cuts.
      shape: of a kernel.
      dtype: of its numbers.
      names: of the kernels: of the leaves, or "" for their sum.

    Raises:
      ConfigError: the kernels do not fit into memory; also from `recut`. That is seen before anything is computed. Of a plan with a
        single tile the tile will be the kernel.
    """

    def __init__(self, plan: Plan, shape: tuple[int, ...], dtype, names: tuple[str, ...] = ("",)):
        self.plan, self._shape, self._dtype, self._names = plan, shape, np.dtype(dtype), names
        self.kernels: dict[str, np.ndarray] = {}
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
                raise ConfigError(f"The kernel itself, {size}, does not fit into memory. Type: out= a folder, or outputs='trace'") from error
            raise ConfigError(
                f"The kernels of {len(self._names)} layers, {size} each, do not fit into memory. Type: layers= one at a time"
            ) from error

    def done(self, i: int, j: int) -> bool:
        """Whether the tile lies within one that was written."""
        a, b, c, d = self._ends(i, j)
        return any(top <= a and b <= bottom and left <= c and d <= right for top, bottom, left, right in self._marks)

    def recut(self, plan: Plan) -> "InMemory":
        """The same kernels, to go on by another plan."""
        self.plan = plan
        self._make_room()
        return self

    def _ends(self, i: int, j: int) -> tuple[int, ...]:
        columns = self.plan.rows if self.plan.columns is None else self.plan.columns
        return (*self.plan.rows[i : i + 2], *columns[j : j + 2])

    def write(self, i: int, j: int, tiles: dict[str, np.ndarray]) -> None:
        """Takes a tile, and its mirror image where the kernel is symmetric."""
        columns = self.plan.rows if self.plan.columns is None else self.plan.columns
        for name, tile in tiles.items():
            if tile.shape == self._shape:
                self.kernels[name] = tile
            else:
                put_tile(self.kernels[name], tile, slice(*self.plan.rows[i : i + 2]), slice(*columns[j : j + 2]), symmetric=self.plan.columns is None)
        self._marks.append(self._ends(i, j))

    def result(self, by_layer: bool) -> np.ndarray | dict[str, np.ndarray]:
        """The kernel, or the kernels of the leaves."""
        return self.kernels if by_layer else self.kernels[""]


def put_tile(kernel: np.ndarray, tile: np.ndarray, rows: slice, columns: slice, *, symmetric: bool) -> None:
    """kernel[rows, columns] = tile, and its transpose on the other side of a symmetric kernel."""
    kernel[rows, columns] = tile
    if symmetric and rows != columns:
        kernel[columns, rows] = swapped(tile)


def swapped(kernel: np.ndarray) -> np.ndarray:
    """The kernel of the examples the other way round: (n2, n1), and the outputs in turn."""
    return kernel.transpose(1, 0, *range(kernel.ndim - 1, 1, -1))
