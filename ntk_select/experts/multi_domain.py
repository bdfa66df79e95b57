"""Multi-domain networks: variables shared by all domains, and variables of each domain.

Shared and domain-specific variables together are those of an ordinary network, so each domain is an ordinary expert. A parallel
adapter, a 1x1 convolution parallel to a 3x3 one of the same stride, is added to the centre of the 3x3 kernel: the same function without
another layer.

Reference: Deshpande et al. 2021, section 4.1; Rebuffi et al. 2018 (parallel adapters with their own batch norm).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ntk_select.errors import ConfigError, ModelError, did_you_mean

SHARINGS = {
    "shared": "everything but the heads",
    "multi_bn": "everything but heads and batch norm (statistics, scale, bias)",
    "adapters": "everything but heads, batch norm and 1x1 convolutions parallel to those of 3x3",
}
"""Variables shared by all domains."""

ADAPTER = "adapter"


def check_sharing(sharing: str) -> None:
    """Raises ConfigError unless `sharing` is a key of `SHARINGS`."""
    if sharing not in SHARINGS:
        raise ConfigError(f"sharing={sharing!r} is unknown.{did_you_mean(str(sharing), SHARINGS)}")


def split(variables: Mapping[str, Any], sharing: str, head: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits {"params": ..., "batch_stats": ...} into (common, own) parts. Adapters are initialised to zero, so `compose` is the inverse.

    Raises:
      ConfigError: `sharing` is unknown.
    """
    check_sharing(sharing)
    own_norm = sharing != "shared"
    common, own = {}, {}
    for name, group in variables.items():
        common[name], own[name] = _split(group, head if name == "params" else None, own_norm, own_norm and name != "params", sharing == "adapters")
    return common, own


def _split(node, head, own_norm: bool, all_own: bool, adapters: bool, path=()):
    if path == head or all_own or (own_norm and "scale" in node):
        return {}, dict(node)
    common, own = {}, {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            common[key], own[key] = _split(value, head, own_norm, all_own, adapters, (*path, key))
        else:
            common[key] = value
            if adapters and key == "kernel" and value.ndim == 4 and value.shape[:2] == (3, 3):
                own[ADAPTER] = jnp.zeros((1, 1, *value.shape[2:]), value.dtype)
    return {key: value for key, value in common.items() if not _empty(value)}, {key: value for key, value in own.items() if not _empty(value)}


def _empty(value) -> bool:
    return isinstance(value, Mapping) and not value


def compose(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the ordinary network of one domain. Raises ModelError if an adapter does not fit its kernel."""
    whole = dict(common)
    for key, value in own.items():
        if key == ADAPTER:
            continue
        whole[key] = compose(whole.get(key, {}), value) if isinstance(value, Mapping) else value
    if ADAPTER in own:
        kernel, adapter = whole["kernel"], own[ADAPTER]
        if adapter.shape != (1, 1, *kernel.shape[2:]):
            raise ModelError(f"An adapter of shape {adapter.shape} does not fit a kernel of shape {kernel.shape}.")
        whole["kernel"] = kernel + jnp.pad(adapter, ((1, 1), (1, 1), (0, 0), (0, 0)))
    return whole
