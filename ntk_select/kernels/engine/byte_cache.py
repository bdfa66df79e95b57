"""LRU cache of gradients and factors with a byte budget; the plan simulates it, the execution fills it."""

from collections import OrderedDict


class ByteCache:
    """LRU cache with a byte budget."""

    def __init__(self, room: float):
        self.room, self.used, self._values = room, 0, OrderedDict()

    def get(self, key):
        """The value, or None."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def make_room(self, size: int, keep=None) -> None:
        """Evicts values until `size` more bytes fit, but never the one under `keep`."""
        for key in [key for key in self._values if key != keep]:
            if self.used + size <= self.room:
                break
            self.used -= self._values.pop(key)[1]

    def put(self, key, value, size: int, keep=None) -> None:
        """Stores a value of `size` bytes."""
        self.make_room(size, keep)
        self._values[key] = (value, size)
        self.used += size
