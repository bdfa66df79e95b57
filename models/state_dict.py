"""PyTorch state dicts and Flax variables: the one-to-one mapping of names and axes, and recognition of an architecture by it.

The names are those of torchvision, which timm shares for the architectures here. Every tensor of a state dict is either
mapped or matches `IGNORED`, and every Flax variable is set.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ntk_select.errors import ModelError, few
from ntk_select.models.architectures import ARCHITECTURES, build
from ntk_select.models.expert_folder import flatten, unflatten

IGNORED = ("*.num_batches_tracked", "*total_ops", "*total_params")
"""Tensors that inference does not use: the step counter of batch norm, and counts of a profiler."""

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Names of the arrays of a layer in Flax, and in PyTorch."""

LAYERS = {
    "ResNet": {
        r"layer(\d+)_(\d+)": r"layer\1.\2",
        r"downsample_conv": r"downsample.0",
        r"downsample_bn": r"downsample.1",
    },
    "DenseNet": {
        r"(conv0|norm0|norm5|transition\d+)": r"features.\1",
        r"(denseblock\d+)_(denselayer\d+)": r"features.\1.\2",
    },
    "AlexNet": {
        r"conv1": r"features.0",
        r"conv2": r"features.3",
        r"conv3": r"features.6",
        r"conv4": r"features.8",
        r"conv5": r"features.10",
        r"fc6": r"classifier.1",
        r"fc7": r"classifier.4",
        r"fc8": r"classifier.6",
    },
    "ConvNet": {},
}
"""Per class of network: patterns of layer names in Flax, and their names in PyTorch. Other names are equal in both."""

OLD_NAMES = {"DenseNet": (r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2")}
"""Names of older torchvision releases: "denselayer1.norm.1.weight" for "denselayer1.norm1.weight"."""

TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
"""Permutations of axes from PyTorch to Flax: (out, in) to (in, out), OIHW to HWIO."""

FLOATS = tuple(np.dtype(kind) for kind in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))


class TensorSpec(NamedTuple):
    """A tensor of a state dict: its shape in PyTorch, and the name of its Flax variable as in `flatten`."""

    shape: tuple[int, ...]
    variable: str


def tensor_table(module: nn.Module) -> dict[str, TensorSpec]:
    """All tensors of the state dict of a network by name, without the `IGNORED` ones.

    Raises:
      ModelError: the class of the network is not in `LAYERS`.
    """
    network = type(module).__name__
    if network not in LAYERS:
        raise ModelError(
            f"There is no table of PyTorch names for {network}. There is one for {', '.join(LAYERS)}; add a row to LAYERS in models/state_dict.py."
        )
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.float32))
    shapes = {collection: shapes[collection] for collection in ("params", "batch_stats") if collection in shapes}
    table = {}
    for variable, leaf in flatten(shapes).items():
        _, *layers, last = variable.split("/")
        key = ".".join([*(_layer_name(network, layer) for layer in layers), LEAVES[last]])
        from_flax = np.argsort(TO_FLAX[len(leaf.shape)])
        table[key] = TensorSpec(tuple(leaf.shape[axis] for axis in from_flax), variable)
    return table


def convert_state_dict(state: Mapping[str, np.ndarray], module: nn.Module, *, dtype=np.float32) -> dict[str, Any]:
    """Variables {"params": ..., "batch_stats": ...} of `module` from a PyTorch state dict.

    Args:
      state: arrays by PyTorch name, in float16, bfloat16, float32 or float64.
      module: the network, with as many classes as the state dict's head.
      dtype: type of the variables. Half precision is converted to float32 exactly, float64 is rounded.

    Raises:
      ModelError: tensors are missing, unknown, duplicate, of the wrong shape, not floating point, or contain values
        that are not finite in `dtype`, or negative variances. One message lists all of them.
    """
    table = tensor_table(module)
    state, twice = _current_names(state, type(module).__name__)
    faults = {
        "given under an old and a new name": twice,
        "unknown": [key for key in state if key not in table and not any(fnmatchcase(key, pattern) for pattern in IGNORED)],
        "missing": [key for key in table if key not in state],
        "of the wrong shape": [],
        "not floating point": [],
        "with NaN or infinity": [],
        "with negative variances": [],
    }
    flat = {}
    for key in sorted(table.keys() & state.keys()):
        array, (shape, variable) = np.asarray(state[key]), table[key]
        if array.shape != shape:
            faults["of the wrong shape"].append(f"{key} {array.shape}, expected {shape}")
        if array.dtype not in FLOATS:
            faults["not floating point"].append(f"{key} ({array.dtype})")
        if array.shape != shape or array.dtype not in FLOATS:
            continue
        with np.errstate(over="ignore"):
            array = array.astype(dtype, copy=False)
        if not np.isfinite(array).all():
            faults["with NaN or infinity"].append(key)
        elif key.endswith(LEAVES["var"]) and (array < 0).any():
            faults["with negative variances"].append(key)
        flat[variable] = np.array(array.transpose(TO_FLAX[array.ndim]), order="C")
    _raise_for(faults, f"The checkpoint does not fit {type(module).__name__}")
    return {"params": {}, "batch_stats": {}, **unflatten(flat)}


def to_state_dict(variables: Mapping[str, Any], module: nn.Module) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a network's variables: the inverse of `convert_state_dict`, in the variables' own dtype.

    Raises:
      ModelError: the variables are not those of `module`.
    """
    table, flat = tensor_table(module), flatten(variables)
    state = {key: flat[row.variable].transpose(np.argsort(TO_FLAX[len(row.shape)])) for key, row in table.items() if _fits(flat, row)}
    faults = {
        "unknown": sorted(flat.keys() - {row.variable for row in table.values()}),
        "missing": [row.variable for row in table.values() if row.variable not in flat],
        "of the wrong shape": [row.variable for row in table.values() if row.variable in flat and not _fits(flat, row)],
    }
    _raise_for(faults, f"The variables do not fit {type(module).__name__}")
    return {key: np.ascontiguousarray(array) for key, array in state.items()}


def convertible_names(state: Mapping[str, np.ndarray], network: str) -> dict[str, np.ndarray]:
    """The state dict under current names, without the `IGNORED` tensors. `network` is the class name of the module."""
    renamed, _ = _current_names(state, network)
    return {key: value for key, value in renamed.items() if not any(fnmatchcase(key, pattern) for pattern in IGNORED)}


def _fits(flat: Mapping[str, np.ndarray], row: TensorSpec) -> bool:
    return row.variable in flat and flat[row.variable].shape == tuple(row.shape[axis] for axis in TO_FLAX[len(row.shape)])


def _layer_name(network: str, layer: str) -> str:
    for pattern, replacement in LAYERS[network].items():
        if match := re.fullmatch(pattern, layer):
            return match.expand(replacement)
    return layer


def current_name(key: str, network: str) -> str:
    """The current name of a tensor that an older release may have written, with its prefix. `network` is the class name of the module."""
    pattern, replacement = OLD_NAMES.get(network, ("(?!)", ""))
    match = re.fullmatch(pattern, key)
    return match.expand(replacement) if match else key


def _current_names(state: Mapping[str, np.ndarray], network: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state dict under current names, and the names that occur twice."""
    renamed, twice = {}, []
    for key, value in state.items():
        new = current_name(key, network)
        if new in renamed:
            twice.append(new)
        renamed[new] = value
    return renamed, twice


def _raise_for(faults: Mapping[str, list[str]], sentence: str) -> None:
    found, shown = [], max(1, 10 // max(1, sum(map(bool, faults.values()))))
    for fault, names in faults.items():
        if names:
            found.append(f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {fault}: {few(names, shown)}")
    if found:
        raise ModelError(f"{sentence}. " + "; ".join(found) + ".")


BLOCKS = (r"layer(\d+)\.(\d+)\..*", r"features\.denseblock(\d+)\.denselayer(\d+)\..*")
"""Patterns of names that give the number of blocks of each stage."""


def num_classes(state: Mapping[str, np.ndarray], architecture: str) -> int:
    """Number of rows of the head, 0 without a head; 1 for a malformed head, which the conversion then reports."""
    weight, *others = _head(architecture)
    if not any(key in state for key in (weight, *others)):
        return 0 if state.keys() & _table(architecture).keys() else 1
    head = state.get(weight)
    return len(head) if head is not None and head.ndim == 2 and len(head) else 1


@dataclass(frozen=True)
class StateDictLayout:
    """The tensors of an architecture's state dict.

    Args:
      network: class name of its module.
      body: shapes by name, without the head.
      head: shapes of weight and bias of the head for one class.
    """

    network: str
    body: Mapping[str, tuple[int, ...]]
    head: Mapping[str, tuple[int, ...]]

    @property
    def head_layer(self) -> str:
        """Name of the head, as "fc"."""
        return next(iter(self.head)).rpartition(".")[0]


@lru_cache(maxsize=32)
def state_dict_layout(architecture: str) -> StateDictLayout:
    """The tensors of the state dict of an architecture."""
    table, head = _table(architecture), _head(architecture)
    body = {key: row.shape for key, row in table.items() if key not in head}
    return StateDictLayout(type(build(architecture, num_classes=1)).__name__, body, {key: table[key].shape for key in head})


def fitting(state: Mapping[str, np.ndarray]) -> list[str]:
    """Architectures with exactly these tensors and shapes, for any number of classes or without a head."""
    stages = _stages(state)
    likely = [name for name, maker in ARCHITECTURES.items() if _sizes(maker) == stages]
    return [name for name in likely if _matches(state, name)]


def _matches(state: Mapping[str, np.ndarray], architecture: str) -> bool:
    table, head = _table(architecture), _head(architecture)
    names = convertible_names(state, type(build(architecture, num_classes=1)).__name__)
    body = {key: row.shape for key, row in table.items() if key not in head}
    if {key: np.shape(names[key]) for key in names if key not in head} != body:
        return False
    return not names.keys() & set(head) or all(key in names and np.shape(names[key])[1:] == table[key].shape[1:] for key in head)


def _stages(state: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Number of blocks of each stage according to the names; () if there are none."""
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
def _table(architecture: str) -> dict[str, TensorSpec]:
    return tensor_table(build(architecture, num_classes=1))


def _head(architecture: str) -> tuple[str, str]:
    """Names of weight and bias of the head."""
    where = "/".join(("params", *build(architecture, num_classes=1).head))
    variables = {row.variable: key for key, row in _table(architecture).items()}
    return variables[f"{where}/kernel"], variables[f"{where}/bias"]
