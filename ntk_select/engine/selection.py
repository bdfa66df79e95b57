"""Which leaves of the parameters does `layers=` name?"""

import re
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ntk_select.errors import ConfigError, did_you_mean


def leaf_names(params) -> list[str]:
    """The "/"-joined path of every leaf, in the order of `jax.tree.leaves`; like paths are numbered from the second on."""
    names, seen = [], Counter()
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(_key(key) for key in path)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _key(key) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def select(params, layers: str | Callable[[str], bool] | None) -> tuple[int, ...]:
    """Indices of the floating-point leaves that `layers` names.

    Args:
      params: any pytree.
      layers: a regular expression that is searched in the paths, a function path -> bool, or None for all.

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
            raise ConfigError(f"Parameter {name!r} is complex; the kernel is defined here for real parameters. Type: layers= a pattern without it.")
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and getattr(leaf, "size", 1):
            chosen.append(index)
    if not chosen:
        raise ConfigError(f"layers={layers!r} matches no floating-point parameter.{did_you_mean(str(layers), names)}")
    return tuple(chosen)


def _matcher(layers) -> Callable[[str], bool]:
    if layers is None:
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
