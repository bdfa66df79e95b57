"""Experts: architectures in Flax, their weights, and the embedded zoo."""

from pathlib import Path

from ntk_select._moved import renamed
from ntk_select.models import expert_folder as expert_folder
from ntk_select.models.architectures import ARCHITECTURES, build, fresh_expert, initialise, make_expert
from ntk_select.models.flax_experts import linen_expert, nnx_expert
from ntk_select.models.timm_zoo import timm_expert
from ntk_select.models.torch_experts import torch_expert
from ntk_select.models.zoo import FolderZoo, StoredExpert, open_zoo

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
    "timm_expert",
    "torch_expert",
]

__getattr__ = renamed(__name__, {"weights": "expert_folder"})
