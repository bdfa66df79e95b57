"""Where and in which type a part is computed, and the experts and images in that type."""

import resource
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

import ntk_select as ns
from ntk_select._runtime.memory import free_memory


@dataclass(frozen=True)
class Setting:
    """A device, a type, and the size of the checks.

    Attributes:
      accelerator: whether the part is computed on JAX's default device, instead of the CPU.
      dtype: "float32" or "float64".
      tiny: the smallest sizes that still compute everything.
      rounded: weights and inputs are rounded to the 10 bits of TF32, as its products round them: the negative control.
      size, networks, shapes, dense: those of the timed kernels.
    """

    accelerator: bool
    dtype: str = "float32"
    tiny: bool = False
    rounded: bool = False
    size: int = 224
    networks: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    dense: int = 8192

    def cast(self, tree: Any) -> Any:
        """A tree with its floating-point leaves in this type."""
        return jax.tree.map(self._leaf, tree)

    def _leaf(self, leaf):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind != "f":
            return leaf
        return (to_tf32(leaf) if self.rounded else leaf).astype(self.dtype)

    def noise(self, *shape: int, seed: int = 0) -> np.ndarray:
        """Standard normal numbers, the same in both types."""
        return self._leaf(np.random.default_rng(seed).normal(size=shape).astype(np.float32))

    def expert(self, name: str, classes: int | None = None) -> ns.Expert:
        """An embedded expert, with a new head if `classes` are given."""
        expert = ns.open_zoo("builtin")[name]()
        expert = expert if classes is None else ns.with_new_head(expert, classes)
        return replace(expert, params=self.cast(expert.params), state=self.cast(expert.state))

    @cached_property
    def digits(self) -> ns.Task:
        """Handwritten digits."""
        return ns.load_task("digits")

    def images(self, expert: ns.Expert, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Network inputs and labels of the first digits."""
        return self._leaf(expert.preprocess(self.digits.images[:count])), self.digits.labels[:count]

    @property
    def memory(self) -> float:
        """Bytes of memory: of the device, or what is free on the host."""
        return (self._device_memory or {}).get("bytes_limit") or free_memory()

    @property
    def peak(self) -> float | None:
        """Largest number of bytes in use so far, on the device or by this process; None if the device does not say."""
        if self.accelerator:
            return (self._device_memory or {}).get("peak_bytes_in_use")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @property
    def _device_memory(self) -> dict | None:
        return jax.local_devices()[0].memory_stats() if self.accelerator else None


def to_tf32(array: np.ndarray) -> np.ndarray:
    """Float32 numbers rounded to 10 bits after the leading one."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
