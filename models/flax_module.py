"""Flax modules as experts: the checks of `recorded_layers`, with errors of the modules as sentences."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ntk_select.errors import ModelError
from ntk_select.experts.expert import Expert
from ntk_select.models.flax_errors import MODULE_ERRORS, call_error, check_arrays
from ntk_select.models.recorded_layers import expert_of


def expert_of_flax(name: str, network, variables: Mapping[str, Any], x, *, pooled: bool, **known) -> Expert:
    """The expert of a Flax module.

    Args:
      network: as in `recorded_layers`; `module` is called with `arguments`, given by the caller as `called_with`; these three are for error
        messages.
      variables, x, pooled, known: as for `expert_of`.
    """
    check_arrays(name, variables, x)
    return expert_of(
        name, network, variables, x, geometry=_geometry, pooled=pooled, record=_with_model_errors(name, network, network.record), **known
    )


def check_training(name: str, network, variables: Mapping[str, Any], x) -> None:
    """Traces one forward pass in training mode. Raises ModelError if the network does not support it."""
    jax.eval_shape(_with_model_errors(name, network, network), variables, x)


def _with_model_errors(name: str, network, call: Callable) -> Callable:
    """`call`, which calls the module of the network, with errors of the module converted to ModelError."""

    def wrapped(variables, x, *perturbation):
        try:
            return call(variables, x, *perturbation)
        except (ModelError, jax.errors.UnexpectedTracerError):
            raise
        except MODULE_ERRORS as error:
            raise call_error(name, network.module, x, error, dict(network.arguments), network.called_with) from error

    return wrapped


def _geometry(layer, shape: tuple[int, ...]):
    """Strides and padding of an ordinary 2-D convolution, None for any other layer."""
    if len(shape) != 4 or len(getattr(layer, "kernel_size", ())) != 2 or getattr(layer, "feature_group_count", 0) != 1:
        return None
    if layer.mask is not None or _pair(layer.kernel_dilation) != (1, 1) or _pair(layer.input_dilation) != (1, 1):
        return None
    strides, padding = _pair(layer.strides), layer.padding
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return None
        return strides, tuple(jax.lax.padtype_to_pads(shape[1:3], layer.kernel_size, strides, padding))
    return strides, tuple(map(_pair, _pair(padding)))


def _pair(value) -> tuple:
    return (1, 1) if value is None else (value, value) if isinstance(value, int) else tuple(value)
