"""PyTorch's tensors and Flax's variables, one to one.

The names are those of torchvision, which timm shares for the networks of this folder. The mapping is one to one:
every tensor of a state dict is used or matches `IGNORED`, and every Flax variable is filled.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ntk_select.errors import ModelError

from .weights import flatten, unflatten

IGNORED = ("*.num_batches_tracked", "*total_ops", "*total_params")
"""Tensors that inference does not need: batch norm's counter of training steps, what a profiler has counted."""

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Flax's word for an array of a layer, and PyTorch's."""

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
}
"""For each class of network: a layer's name in Flax (a pattern), and in PyTorch. Names that match none are the same in both."""

OLD_NAMES = {"DenseNet": (r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2")}
"""Names that older releases of torchvision wrote: "denselayer1.norm.1.weight" for "denselayer1.norm1.weight"."""

TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
"""PyTorch's axes in Flax's order: vectors as they are, (out, in) to (in, out), OIHW to HWIO."""

FLOATS = tuple(np.dtype(kind) for kind in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))


class Tensor(NamedTuple):
    """A tensor of a state dict: its shape in PyTorch, and the Flax variable it becomes, as `flatten` names it."""

    shape: tuple[int, ...]
    variable: str


def tensor_table(module: nn.Module) -> dict[str, Tensor]:
    """All tensors of the network's state dict by name, without the `IGNORED` ones.

    Raises:
      ModelError: the network is none of this folder's.
    """
    network = type(module).__name__
    if network not in LAYERS:
        raise ModelError(
            f"There is no table of PyTorch names for {network}. There is one for {', '.join(LAYERS)}; add a row to LAYERS in models/mapping.py."
        )
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.float32))
    shapes = {collection: shapes[collection] for collection in ("params", "batch_stats") if collection in shapes}
    table = {}
    for variable, leaf in flatten(shapes).items():
        _, *layers, last = variable.split("/")
        key = ".".join([*(_layer_name(network, layer) for layer in layers), LEAVES[last]])
        from_flax = np.argsort(TO_FLAX[len(leaf.shape)])
        table[key] = Tensor(tuple(leaf.shape[axis] for axis in from_flax), variable)
    return table


def convert_state_dict(state: Mapping[str, np.ndarray], module: nn.Module, *, dtype=np.float32) -> dict[str, Any]:
    """Variables {"params": ..., "batch_stats": ...} of `module` from a PyTorch state dict.

    Args:
      state: arrays by PyTorch name, in float16, bfloat16, float32 or float64.
      module: the network, with as many classes as the state dict's head.
      dtype: of the variables. Half precision is widened to float32 without loss, float64 is rounded to it.

    Raises:
      ModelError: tensors are missing, unknown, given twice, of the wrong shape, not floating point, or hold values
        that are not finite in `dtype`, or negative variances. One message names all of them.
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
            array = array.astype(dtype)
        if not np.isfinite(array).all():
            faults["with NaN or infinity"].append(key)
        elif key.endswith(LEAVES["var"]) and (array < 0).any():
            faults["with negative variances"].append(key)
        flat[variable] = np.ascontiguousarray(array.transpose(TO_FLAX[array.ndim]))
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
    """The state dict under today's names, without the `IGNORED` tensors. `network`: the name of the module's class."""
    renamed, _ = _current_names(state, network)
    return {key: value for key, value in renamed.items() if not any(fnmatchcase(key, pattern) for pattern in IGNORED)}


def _fits(flat: Mapping[str, np.ndarray], row: Tensor) -> bool:
    return row.variable in flat and flat[row.variable].shape == tuple(row.shape[axis] for axis in TO_FLAX[len(row.shape)])


def _layer_name(network: str, layer: str) -> str:
    for pattern, replacement in LAYERS[network].items():
        if match := re.fullmatch(pattern, layer):
            return match.expand(replacement)
    return layer


def current_name(key: str, network: str) -> str:
    """Today's name of a tensor that an older release may have written; what stands before it is kept. `network`: the name of the module's class."""
    pattern, replacement = OLD_NAMES.get(network, ("(?!)", ""))
    match = re.fullmatch(pattern, key)
    return match.expand(replacement) if match else key


def _current_names(state: Mapping[str, np.ndarray], network: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state dict under today's names, and the names that came twice."""
    renamed, twice = {}, []
    for key, value in state.items():
        new = current_name(key, network)
        if new in renamed:
            twice.append(new)
        renamed[new] = value
    return renamed, twice


def _raise_for(faults: Mapping[str, list[str]], sentence: str, most: int = 10) -> None:
    found, shown = [], max(1, most // max(1, sum(map(bool, faults.values()))))
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - shown} more" if len(names) > shown else ""
            found.append(f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {fault}: {', '.join(names[:shown])}{more}")
    if found:
        raise ModelError(f"{sentence}. " + "; ".join(found) + ".")
