"""Validation of arguments: examples, outputs, layers, options, memory. Invalid input is refused before any compilation."""

import math
import numbers
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select._runtime.checks import is_whole
from ntk_select._runtime.memory import free_memory
from ntk_select.errors import ConfigError, did_you_mean

PRECISIONS = ("highest", "high", "default")
OUTPUTS = ("trace", "full", "diagonal", "sum")
MAX_MEMORY = 2**60  # upper bound of a budget in bytes


def check_precision(precision) -> None:
    """Raises ConfigError unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown.{did_you_mean(str(precision), PRECISIONS)}")


def check_batch_size(batch_size) -> None:
    """Raises ConfigError unless `batch_size` is None or a positive whole number."""
    if batch_size is not None and (not is_whole(batch_size) or batch_size < 1):
        raise ConfigError(f"batch_size={batch_size!r} must be a positive number of examples, or None for an automatic choice.")


def check_space(space) -> None:
    """Raises ConfigError unless `space` is None or one of the two spaces."""
    if space not in (None, "parameter", "sample"):
        raise ConfigError(f"space={space!r} is unknown. Allowed: None (the cheaper one), 'parameter', 'sample'.")


def check_folder(out) -> None:
    """Raises ConfigError unless `out` is None or a path."""
    if out is not None and (not isinstance(out, str | Path) or out == ""):
        raise ConfigError(f"out= takes the path of a folder; given: {type(out).__name__ if out != '' else 'an empty text'}.")


def refuse_tracers(name: str, instead: str, *trees: Any) -> None:
    """Raises ConfigError where a leaf is an abstract value of `jax.jit`, `jax.grad` or `jax.vmap`."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise ConfigError(f"{name} works on the host and cannot be traced by jax.jit, jax.grad or jax.vmap. Try: {instead}")


def read_examples(x: Any, name: str, *, shapes: bool = False) -> Any:
    """Examples: one array, or a pytree of arrays with the same leading axis.

    Args:
      x: an array, anything that `numpy.asarray` accepts, or a dict, dataclass or tuple of arrays.
      name: Name in error messages.
      shapes: allow `jax.ShapeDtypeStruct`s.

    Returns:
      The same tree; JAX arrays are unchanged, others become NumPy arrays.

    Raises:
      ConfigError: not numeric, no examples, or leading axes that differ.
    """
    allowed = (jax.Array, np.ndarray, jax.ShapeDtypeStruct) if shapes else (jax.Array, np.ndarray)
    leaves = jax.tree.leaves(x)
    is_tree = not isinstance(x, list) and not jax.tree_util.all_leaves([x]) and leaves and all(isinstance(leaf, allowed) for leaf in leaves)
    if not is_tree:
        return _one_array(x, name, allowed)
    x = jax.tree.map(lambda leaf: _one_array(leaf, name, allowed), x)
    lengths = sorted({leaf.shape[0] for leaf in jax.tree.leaves(x)})
    if len(lengths) > 1:
        raise ConfigError(f"The arrays of {name} have leading axes of {lengths} examples; they must be equal.")
    return x


def _one_array(x, name: str, allowed):
    array = x
    if not isinstance(x, allowed):
        try:
            array = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} must be one array of examples (n, ...); given: {type(x).__name__}.") from error
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ConfigError(f"{name} holds keys of jax.random. Try: jax.random.key_data(keys), and jax.random.wrap_key_data in fn")
    if array.dtype.kind not in "fiub" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ConfigError(f"{name} must be one array of numbers (n, ...); given: {type(x).__name__} of type {array.dtype}.")
    if len(array.shape) == 0 or array.shape[0] == 0:
        raise ConfigError(f"{name} has shape {array.shape}; it must be (n, ...) with at least one example.")
    return array


def read_two_sides(x1: Any, x2: Any, *, shapes: bool = False) -> tuple[Any, Any]:
    """Examples of both sides; x2 may be None. Raises ConfigError unless tree structure, shapes and dtypes agree."""
    x1 = read_examples(x1, "x1", shapes=shapes)
    if x2 is None:
        return x1, None
    x2 = read_examples(x2, "x2", shapes=shapes)
    if jax.tree.structure(x1) != jax.tree.structure(x2):
        raise ConfigError(f"x1 and x2 hold different arrays: {jax.tree.structure(x1)} and {jax.tree.structure(x2)}.")
    for one, other in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise ConfigError(
                f"x1 holds {one.dtype} examples of shape {one.shape[1:]}, x2 {other.dtype} of {other.shape[1:]}; they must be the same."
            )
    return x1, x2


def count_examples(x: Any) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(x)[0].shape[0]


def some_examples(x: Any, part) -> Any:
    """The examples at a slice or an array of indices."""
    return jax.tree.map(lambda leaf: leaf[part], x)


def leaf_names(params) -> list[str]:
    """The "/"-joined path of every leaf, in the order of `jax.tree.leaves`; duplicates get the suffixes #2, #3, ..."""
    names, seen = [], Counter()
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(_key(key) for key in path)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _key(key) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def batch_statistics(params) -> list[str]:
    """Paths of the batch statistics in params: the collection "batch_stats" of linen, variables of type `nnx.BatchStat`."""
    paths = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_batch_stat)
    return ["/".join(map(_key, path)) for path, leaf in paths if _is_batch_stat(leaf) or "batch_stats" in map(_key, path)]


def _is_batch_stat(node) -> bool:
    return type(node).__name__ == "BatchStat"


def select(params, layers: str | Callable[[str], bool] | None) -> tuple[int, ...]:
    """Indices of the floating-point leaves that match `layers`.

    Args:
      params: any pytree.
      layers: a regular expression searched in the paths, a predicate path -> bool, or None or "all" for all.

    Raises:
      ConfigError: nothing matches, a leaf that matches is complex, or `layers` is none of these.
    """
    leaves, names = jax.tree.leaves(params), leaf_names(params)
    for leaf, name in zip(leaves, names, strict=True):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            raise ConfigError(f"Parameter {name!r} is a {type(leaf).__name__}, not an array. Let fn close over it instead.")
    matches = _matcher(layers)
    chosen = []
    for index, (leaf, name) in enumerate(zip(leaves, names, strict=True)):
        if not matches(name):
            continue
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise ConfigError(f"Parameter {name!r} is complex; the kernel is defined here for real parameters. Try: layers= a pattern without it.")
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and getattr(leaf, "size", 1):
            chosen.append(index)
    if not chosen and (layers is None or layers == "all"):
        raise ConfigError(
            "params hold no floating-point array to differentiate. Try: ns.ntk(fn, params, x), with the parameters as an argument of fn"
        )
    if not chosen:
        raise ConfigError(f"layers={layers!r} matches no floating-point parameter.{did_you_mean(str(layers), names)}")
    return tuple(chosen)


def _matcher(layers) -> Callable[[str], bool]:
    if layers is None or layers == "all":
        return lambda _: True
    if callable(layers):
        return layers
    if not isinstance(layers, str):
        raise ConfigError(f"layers={layers!r} must be a regular expression, a function of the path, or None for all.")
    try:
        pattern = re.compile(layers)
    except re.error as error:
        raise ConfigError(f"layers={layers!r} is not a regular expression: {error}.") from error
    return lambda name: pattern.search(name) is not None


@dataclass(frozen=True, eq=False)
class Outputs:
    """Cotangents to pull back, and how their gradients are paired.

    Attributes:
      pairing: "trace" (mean over the m pairs of equal index), "diagonal" (these pairs separately), "full" (all m x m pairs).
      left, right: cotangents (n, m, c), per example, or (1, m, c), shared by all examples.
    """

    pairing: str
    left: np.ndarray
    right: np.ndarray

    @property
    def count(self) -> int:
        """m, the number of cotangents per example."""
        return self.left.shape[1]

    def kernel_shape(self, n1: int, n2: int) -> tuple[int, ...]:
        """Shape of the kernel of n1 by n2 examples."""
        return (n1, n2, *{"trace": (), "diagonal": (self.count,), "full": (self.count, self.count)}[self.pairing])


def read_outputs(outputs: Any, n1: int, n2: int | None, c: int, dtype) -> Outputs:
    """The cotangents of `outputs=` for n1 by n2 examples (n2 None: the same on both sides) with c outputs.

    Raises:
      ConfigError: an unknown word, or cotangents whose shape does not fit.
    """
    if isinstance(outputs, str):
        if outputs not in OUTPUTS:
            raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(outputs, OUTPUTS)} Or give cotangents (c,) or (n, c).")
        cotangents = np.ones((1, 1, c), dtype) if outputs == "sum" else np.eye(c, dtype=dtype)[None]
        return Outputs("trace" if outputs == "sum" else outputs, cotangents, cotangents)
    if isinstance(outputs, tuple):
        if n2 is None or len(outputs) != 2:
            raise ConfigError("A pair of cotangents (for x1, for x2) needs x2. Try: ns.ntk(fn, params, x1, x2, outputs=(v1, v2))")
        return Outputs("trace", _cotangents(outputs[0], n1, c, dtype, "x1"), _cotangents(outputs[1], n2, c, dtype, "x2"))
    left = _cotangents(outputs, n1, c, dtype, "x1")
    if n2 is not None and len(left) != 1:
        raise ConfigError("Cotangents (n, c) belong to x1; with x2 give both sides. Try: ns.ntk(fn, params, x1, x2, outputs=(v1, v2))")
    return Outputs("trace", left, left)


def _cotangents(values, n: int, c: int, dtype, side: str) -> np.ndarray:
    if np.iscomplexobj(values):
        raise ConfigError(f"outputs= takes real cotangents; those of {side} are complex.")
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"outputs= takes one of {', '.join(OUTPUTS)}, or numbers (c,) or (n, c); given: {type(values).__name__}.") from error
    if array.shape not in ((c,), (n, c)):
        raise ConfigError(f"The cotangents of {side} have shape {array.shape}; with {n} examples and {c} outputs give ({c},) or ({n}, {c}).")
    if not np.isfinite(array).all():
        raise ConfigError(f"The cotangents of {side} hold NaN or infinity.")
    return array[None, None] if array.ndim == 1 else array[:, None]


def available_memory(memory_gb: float | None) -> int:
    """Memory budget in bytes: `memory_gb`, or 80% of the free device memory, or half of the free host memory (within cgroup limits).

    Raises:
      ConfigError: `memory_gb` is not a positive number.
    """
    if memory_gb is not None:
        if not isinstance(memory_gb, numbers.Real) or isinstance(memory_gb, bool) or not 0 < memory_gb < math.inf:
            raise ConfigError(f"memory_gb={memory_gb!r} must be a positive number of gigabytes, for example memory_gb=4.")
        return int(min(memory_gb * 1e9, MAX_MEMORY))
    device = default_device()
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return int(0.8 * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    return int(0.5 * free_memory())


def default_device() -> jax.Device:
    """The device of `jax.default_device`, or the first one."""
    device = jax.config.jax_default_device
    return device if isinstance(device, jax.Device) else jax.devices(device)[0]
