"""Checks of the arguments of `linen_expert` and `nnx_expert`, and errors of Flax modules with their remedies."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import errors as flax_errors
from flax import nnx

from ntk_select.errors import ModelError, explained

MODES = {
    **dict.fromkeys(("train", "training", "is_training", "is_train", "train_mode"), False),
    **dict.fromkeys(("deterministic", "use_running_average", "eval", "is_eval", "eval_mode", "evaluate", "inference", "test"), True),
}
"""Usual names of the argument that selects training or evaluation mode, and its value for evaluation."""

MODULE_ERRORS = (
    flax_errors.FlaxError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
"""Errors that a module may raise when it is called."""


def check_linen(name: str, module: Any, variables: Any) -> None:
    """Raises ModelError unless `module` is a linen module and `variables` has its params."""
    if not isinstance(module, nn.Module):
        if isinstance(module, type):
            fix = f"Try: {module.__name__}(...), an instance of it"
        elif isinstance(module, nnx.Module):
            fix = "Try: nnx_expert(name, module, x, head=...)"
        elif isinstance(getattr(module, "module", None), nn.Module):
            fix = "Try: its .module, a linen module, with {'params': its .params} as variables"
        else:
            fix = "Allowed is an instance of flax.linen.Module"
        raise ModelError(f"The module of expert {name!r} must be a linen module, not {kind_of(module)}. {fix}")
    if not isinstance(variables, Mapping):
        fix = (
            "{'params': variables.params}, with 'batch_stats' etc. as further entries"
            if hasattr(variables, "params")
            else "the result of module.init"
        )
        raise ModelError(
            f"The variables of expert {name!r} are {kind_of(variables)}, not a dictionary {{'params': ..., 'batch_stats': ...}}. Try: {fix}"
        )
    if "params" not in variables:
        raise ModelError(
            f"The variables of expert {name!r} have no 'params' but {_some(variables)}, which looks like the params alone. "
            "Try: {'params': variables}, with 'batch_stats' if the module has any, as module.init returns them"
        )


def check_nnx(name: str, module: Any) -> None:
    """Raises ModelError unless `module` is an nnx module."""
    if not isinstance(module, nnx.Module):
        fix = "Allowed is an instance of flax.nnx.Module"
        if isinstance(module, type):
            fix = f"Try: {module.__name__}(...), an instance of it"
        elif isinstance(module, nn.Module):
            fix = "Try: linen_expert(name, module, variables, x, head=...)"
        raise ModelError(f"The module of expert {name!r} must be an nnx module, not {kind_of(module)}. {fix}")


def check_arrays(name: str, variables: Mapping, x: Any) -> None:
    """Raises ModelError unless all variables and x are arrays, and x is not empty."""
    if isinstance(x, type) or not hasattr(x, "dtype") or np.ndim(x) < 1:
        raise ModelError(
            f"x of expert {name!r} is {kind_of(x)}, not an array. Try: one input of the network with a leading axis of length 1, as in np.zeros((1, ...))"
        )
    if not np.size(x):
        raise ModelError(f"x of expert {name!r} has the shape {np.shape(x)} and no values. Try: one input of the network, as in np.zeros((1, ...))")
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if isinstance(leaf, jax.ShapeDtypeStruct) or not (hasattr(leaf, "dtype") or isinstance(leaf, int | float)):
            raise ModelError(f"The variables of expert {name!r} contain {kind_of(leaf)} at {jax.tree_util.keystr(path)}, not an array.")


def call_error(name: str, module: Any, x: Any, error: Exception, given: Mapping[str, Any], argument: str) -> ModelError:
    """The ModelError for an error raised by the call of a module.

    Args:
      name: name of the expert.
      module: a linen module; None for nnx.
      x: its input.
      error: the error that was raised.
      given: further arguments of the call.
      argument: name under which the caller passes them, "evaluate" or "train"; empty if they cannot be passed.
    """
    return ModelError(f"The module of expert {name!r} {_sentence(module, x, error, _what(error), dict(given), argument)}")


def not_trainable(name: str, error: Exception) -> ModelError:
    """The ModelError for an error raised by the call of an nnx module in training mode."""
    fix = "Try: rngs for all layers that draw random numbers, as in nnx.Dropout(0.5, rngs=nnx.Rngs(0))"
    return ModelError(f"The module of expert {name!r} cannot be called in training mode, which fine-tuning needs ({_what(error)}). {fix}")


def _what(error: Exception) -> str:
    """The message of an error in one line, without its link to the Flax documentation."""
    return re.sub(r"\s*\(https://flax\.readthedocs\S*\)", "", explained(error)).rstrip(".")


def _sentence(module, x, error: Exception, what: str, given: dict, argument: str) -> str:
    shape, evaluating = tuple(np.shape(x)), argument != "train"
    if isinstance(error, flax_errors.ModifyScopeVariableError) and evaluating:
        return f"changes its variables in evaluation mode ({what}). {_how_to_evaluate(module, given)}"
    if isinstance(error, flax_errors.InvalidRngError) and evaluating:
        return f"draws random numbers in evaluation mode ({what}). {_how_to_evaluate(module, given)}"
    if isinstance(error, flax_errors.ApplyScopeInvalidVariablesStructureError):
        return "has variables of the form {'params': {'params': ...}}. Try: variables, not {'params': variables}"
    if isinstance(error, flax_errors.ScopeCollectionNotFound):
        return f"needs further variable collections ({what}). Try: all collections that module.init returns, {{'params': ..., 'batch_stats': ...}}"
    if isinstance(error, flax_errors.ScopeParamNotFoundError | flax_errors.ScopeVariableNotFoundError):
        return (
            f"does not find its variables ({what}): they belong to another module, or are nested one level too deep. Try: the result of module.init"
        )
    if isinstance(error, flax_errors.ScopeParamShapeError):
        return (
            f"has variables whose shapes do not match x of shape {shape} and its settings ({what}). "
            "Try: x as the network takes it, with a leading axis of length 1, and the variables of this module"
        )
    if isinstance(error, TypeError) and "__call__() missing" in str(error):
        return f"needs further arguments ({what}). {_how_to_call(module, given, argument)}"
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error) and argument:
        return f"does not take {argument}={given} ({what}). It takes: {', '.join(_parameters(module)) or 'only x'}."
    with_it = f" and {argument}={given}" if given else ""
    return (
        f"cannot be called with x of shape {shape}{with_it} ({what}). Try: x of another shape{', or another ' + argument + '=' if argument else ''}"
    )


def _how_to_evaluate(module, given: Mapping) -> str:
    flags = {key: MODES[key] for key in _parameters(module) if key in MODES and given.get(key) is not MODES[key]}
    if flags:
        return f"Try: evaluate={flags}"
    fields = {key: MODES[key] for key in getattr(module, "__dataclass_fields__", ()) if key in MODES and getattr(module, key, None) is not MODES[key]}
    if fields:
        return f"Try: module.clone({', '.join(f'{key}={value}' for key, value in fields.items())}) as the module"
    return "Try: the arguments of its __call__ for evaluation mode, as in evaluate={'train': False}, with no layer in training mode"


def _how_to_call(module, given: Mapping, argument: str) -> str:
    if not argument:
        return "It is called with x only. Try: a wrapper module whose __call__ takes nothing else"
    evaluating = argument == "evaluate"
    wanted = {key: MODES[key] is evaluating if key in MODES else "..." for key in _parameters(module, required=True)}
    shown = ", ".join(f"{key!r}: {value}" for key, value in {**wanted, **given}.items())
    return f"Try: {argument}={{{shown}}}"


def _parameters(module, required: bool = False) -> list[str]:
    """Names of the parameters of `__call__` after x; with `required`, only those without a default."""
    if module is None:
        return []
    _, *parameters = inspect.signature(module.__call__).parameters.values() or [None]
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return [one.name for one in named if not required or one.default is one.empty]


def kind_of(value: Any) -> str:
    """A value in an error message: "a dict", or "the class ResNet"."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _some(mapping: Mapping) -> str:
    keys = list(map(str, mapping))
    return ", ".join(keys[:4]) + (" ..." if len(keys) > 4 else "") if keys else "nothing"
