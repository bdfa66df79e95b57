"""The architecture of a PyTorch state dict, by its names and shapes, and its number of classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .architectures import ARCHITECTURES, build
from .mapping import Tensor, convertible_names, tensor_table

BLOCKS = (r"layer(\d+)\.(\d+)\..*", r"features\.denseblock(\d+)\.denselayer(\d+)\..*")
"""Names that say how many blocks each stage has."""


def num_classes(state: Mapping[str, np.ndarray], architecture: str) -> int:
    """Rows of the head's weights, 0 where no tensor is the head's; 1 when they are not what they should be, which the conversion then reports."""
    weight, *others = _head(architecture)
    if not any(key in state for key in (weight, *others)):
        return 0 if state.keys() & _table(architecture).keys() else 1
    head = state.get(weight)
    return len(head) if head is not None and head.ndim == 2 and len(head) else 1


@dataclass(frozen=True)
class Layout:
    """The tensors of an architecture's state dict.

    Args:
      network: name of its class of networks.
      body: shapes by name, without the head.
      head: shapes of the head's weight and bias, with one class.
    """

    network: str
    body: Mapping[str, tuple[int, ...]]
    head: Mapping[str, tuple[int, ...]]

    @property
    def head_layer(self) -> str:
        """The head's name, as "fc"."""
        return next(iter(self.head)).rpartition(".")[0]


@lru_cache(maxsize=32)
def layout(architecture: str) -> Layout:
    """The tensors of an architecture."""
    table, head = _table(architecture), _head(architecture)
    body = {key: row.shape for key, row in table.items() if key not in head}
    return Layout(type(build(architecture, num_classes=1)).__name__, body, {key: table[key].shape for key in head})


def fitting(state: Mapping[str, np.ndarray]) -> list[str]:
    """Architectures that have all these tensors and no others, in their shapes, with any number of classes or no head."""
    stages = _stages(state)
    likely = [name for name, maker in ARCHITECTURES.items() if _sizes(maker) == stages]
    return [name for name in likely if _fits(state, name)]


def _fits(state: Mapping[str, np.ndarray], architecture: str) -> bool:
    table, head = _table(architecture), _head(architecture)
    names = convertible_names(state, type(build(architecture, num_classes=1)).__name__)
    body = {key: row.shape for key, row in table.items() if key not in head}
    if {key: np.shape(names[key]) for key in names if key not in head} != body:
        return False
    return not names.keys() & set(head) or all(key in names and np.shape(names[key])[1:] == table[key].shape[1:] for key in head)


def _stages(state: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Blocks of each stage, by the names; () where the names tell of none."""
    found: dict[int, set[int]] = {}
    for key in state:
        for pattern in BLOCKS:
            if match := re.fullmatch(pattern, key):
                found.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(found[stage]) for stage in sorted(found))


def _sizes(maker) -> tuple[int, ...]:
    settings = getattr(maker, "keywords", {})
    return tuple(settings.get("stage_sizes") or settings.get("block_sizes") or ())


@lru_cache(maxsize=32)
def _table(architecture: str) -> dict[str, Tensor]:
    return tensor_table(build(architecture, num_classes=1))


def _head(architecture: str) -> tuple[str, str]:
    """Names of the head's weight and bias."""
    where = "/".join(("params", *build(architecture, num_classes=1).head))
    variables = {row.variable: key for key, row in _table(architecture).items()}
    return variables[f"{where}/kernel"], variables[f"{where}/bias"]
