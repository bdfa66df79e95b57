"""A kernel that grows in memory, tile by tile."""

import numpy as np

from ntk_select.engine.plan import Plan


class InMemory:
    """Takes tiles and gives the whole: the sink of kernels that are not sent to disk."""

    def __init__(self, plan: Plan):
        self.plan, self.kernels = plan, {}

    def done(self, i: int, j: int) -> bool:
        """Nothing is there before it is computed."""
        del i, j
        return False

    def write(self, i: int, j: int, tiles: dict[str, np.ndarray]) -> None:
        """Takes a tile, and its mirror image where the kernel is symmetric."""
        columns = self.plan.rows if self.plan.columns is None else self.plan.columns
        shape = (self.plan.rows[-1], columns[-1])
        for name, tile in tiles.items():
            if tile.shape[:2] == shape:
                self.kernels[name] = tile
                continue
            kernel = self.kernels.setdefault(name, np.zeros((*shape, *tile.shape[2:]), tile.dtype))
            put_tile(kernel, tile, slice(*self.plan.rows[i : i + 2]), slice(*columns[j : j + 2]), symmetric=self.plan.columns is None)

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
