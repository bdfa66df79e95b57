"""The experts: architectures in Flax, their weights, and the zoo that comes with the package."""

from pathlib import Path

from .architectures import ARCHITECTURES, build, fresh_expert, initialise, make_expert
from .own_linen import linen_expert
from .own_nnx import nnx_expert
from .zoo import FolderZoo, StoredExpert, open_zoo

ZOO = FolderZoo(Path(__file__).parent / "weights")
"""The embedded experts."""

__all__ = [
    "ARCHITECTURES",
    "ZOO",
    "FolderZoo",
    "StoredExpert",
    "build",
    "fresh_expert",
    "initialise",
    "linen_expert",
    "make_expert",
    "nnx_expert",
    "open_zoo",
]
