"""Seeded weights and images of the parity tests, equal with and without PyTorch.

Only NumPy's `RandomState` is used: its stream is frozen, so the stored reference outputs stay valid.
"""

import zlib
from collections.abc import Mapping

import numpy as np

SIZES = (97, 224)
NUM_CLASSES = 10


def seeded_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A PyTorch state dict (float64) in which nothing is left at its initial value; each tensor depends on its name alone.

    Convolutions and dense layers keep the size of what passes through them; batch norm is random throughout; what
    ends a residual branch is weak, so that the deepest network neither explodes nor forgets its input.
    """
    return {key: _tensor(key, shape, shapes, seed) for key, shape in shapes.items()}


def seeded_images(size: int, count: int = 2, seed: int = 1) -> np.ndarray:
    """Normalised images (count, size, size, 3) of coloured squares under noise, float64."""
    random = np.random.RandomState(seed)
    squares, nearest = random.uniform(-1.5, 1.5, (count, 5, 5, 3)), np.arange(size) * 5 // size
    return squares[:, nearest][:, :, nearest] + random.uniform(-0.5, 0.5, (count, size, size, 3))


def _tensor(key: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], seed: int) -> np.ndarray:
    random = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    layer, _, kind = key.rpartition(".")
    if len(shape) > 1:
        bound = np.sqrt((6 if len(shape) == 4 else 3) / np.prod(shape[1:]))
        return random.uniform(-bound, bound, shape)
    if kind == "running_var":
        return random.uniform(0.5, 2, shape)
    if kind == "weight":
        return random.uniform(0.5, 1.5, shape) * (0.3 if _ends_branch(layer, shapes) else 1)
    return random.uniform(-0.3, 0.3, shape)


def _ends_branch(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    block, _, norm = layer.rpartition(".")
    return "layer" in block and norm == ("bn3" if f"{block}.bn3.weight" in shapes else "bn2")


def names_digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """One number for all names and shapes, in any order."""
    return f"{zlib.crc32(repr(sorted((key, tuple(shape)) for key, shape in shapes.items())).encode()):08x}"
