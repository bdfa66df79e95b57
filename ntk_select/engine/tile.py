"""Where do the contributions of the leaves to one tile of the kernel add up?"""

import jax.numpy as jnp
import numpy as np

from ntk_select.engine.memory import swapped
from ntk_select.engine.placement import Placement


class Tile:
    """A tile that grows leaf by leaf: on the device in the type of the computation, on the host also in float64.

    Args:
      pairing: of the cotangents, "trace", "diagonal" or "full".
      chunks: cuts of the cotangents; a round treats those between two cuts.
      whole: examples on either side.
      dtype: of the computation.
      float64: every portion is added on the host in float64.
      place: where arrays lie.
    """

    def __init__(self, pairing: str, chunks: tuple[int, ...], whole: tuple[int, int], dtype, float64: bool, place: Placement):
        self.pairing, self.chunks, self.whole, self.float64, self.dtype, self.place = pairing, chunks, whole, float64, dtype, place
        self.total, self.round = None, (0, 0)
        shape = {"trace": (), "diagonal": (chunks[-1],), "full": (chunks[-1],) * 2}[pairing]
        self.host = np.zeros((*whole, *shape), np.float64 if float64 else dtype)

    def start(self, left: int, right: int) -> None:
        """Begins a round, unless one goes on."""
        if self.total is None:
            chunks = self.chunks
            m1, m2 = (chunks[part + 1] - chunks[part] for part in (left, right))
            shape = {"trace": (), "diagonal": (m1,), "full": (m1, m2)}[self.pairing]
            rows, columns = map(self.place.padded, self.whole)
            self.total = self.place.spread(jnp.zeros((rows, columns, *shape), self.dtype))
            self.round = (left, right)

    def add(self, function, *arguments) -> None:
        """total = function(total, ...)."""
        self.total = function(self.total, *arguments)
        if self.float64:
            self._to_host(*self.round)
            self.total = jnp.zeros_like(self.total)

    def add_host(self, tile: np.ndarray) -> None:
        """Adds a whole tile that is on the host already."""
        self._put(tile, *self.round)

    def flush(self, left: int, right: int) -> None:
        """Ends a round."""
        if self.total is not None:
            self._to_host(left, right)
            self.total = None

    def _to_host(self, left: int, right: int) -> None:
        self._put(np.asarray(self.total), left, right)

    def _put(self, tile: np.ndarray, left: int, right: int) -> None:
        chunks = self.chunks
        cotangents = (slice(chunks[left], chunks[left + 1]), slice(chunks[right], chunks[right + 1]))
        place = {"trace": (), "diagonal": cotangents[:1], "full": cotangents}[self.pairing]
        self.host[(slice(None), slice(None), *place)] += tile[: self.whole[0], : self.whole[1]]

    def result(self, symmetric: bool) -> np.ndarray:
        """The tile; of a tile on the diagonal only the lower part was computed. The trace is the mean over the cotangents."""
        kernel = mirrored(self.host) if symmetric else self.host
        return kernel / self.chunks[-1] if self.pairing == "trace" else kernel


def mirrored(kernel: np.ndarray) -> np.ndarray:
    """The lower part is kept, the upper one is its transpose; on the diagonal the mean of both."""
    other = swapped(kernel)
    below = np.tri(len(kernel), k=-1, dtype=bool).reshape(*kernel.shape[:2], *(1,) * (kernel.ndim - 2))
    return np.where(below, kernel, np.where(below.swapaxes(0, 1), other, (kernel + other) / 2))
