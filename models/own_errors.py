"""Errors of a module that somebody else wrote, as sentences that name the fix."""

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
"""Usual names of the argument that tells training from evaluation, and its value in evaluation."""

OF_MODULES = (
    flax_errors.FlaxError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
"""What a module may raise while it is called."""


def check_linen(name: str, module: Any, variables: Any) -> None:
    """Raises ModelError unless these are a linen module and all of its variables."""
    if not isinstance(module, nn.Module):
        if isinstance(module, type):
            fix = f"Try: {module.__name__}(...), an instance of it"
        elif isinstance(module, nnx.Module):
            fix = "Try: nnx_expert(name, module, x, head=...)"
        elif isinstance(getattr(module, "module", None), nn.Module):
            fix = "Try: its .module, a linen module, with {'params': its .params} as variables"
        else:
            fix = "Allowed is an instance of flax.linen.Module"
        raise ModelError(f"The module of expert {name!r} is no linen module but {_kind(module)}. {fix}")
    if not isinstance(variables, Mapping):
        fix = "{'params': variables.params}, with 'batch_stats' and the like beside it" if hasattr(variables, "params") else "what module.init gives"
        raise ModelError(
            f"The variables of expert {name!r} are {_kind(variables)}, not a dictionary {{'params': ..., 'batch_stats': ...}}. Try: {fix}"
        )
    if "params" not in variables:
        raise ModelError(
            f"The variables of expert {name!r} have no 'params' but {_some(variables)}: that looks like the params alone. "
            "Try: {'params': variables}, with 'batch_stats' beside it if the module has any, as module.init gives them"
        )


def check_nnx(name: str, module: Any) -> None:
    """Raises ModelError unless this is an nnx module."""
    if not isinstance(module, nnx.Module):
        fix = "Allowed is an instance of flax.nnx.Module"
        if isinstance(module, type):
            fix = f"Try: {module.__name__}(...), an instance of it"
        elif isinstance(module, nn.Module):
            fix = "Try: linen_expert(name, module, variables, x, head=...)"
        raise ModelError(f"The module of expert {name!r} is no nnx module but {_kind(module)}. {fix}")


def check_arrays(name: str, variables: Mapping, x: Any) -> None:
    """Raises ModelError unless all variables and x are arrays, and x has values."""
    if isinstance(x, type) or not hasattr(x, "dtype") or np.ndim(x) < 1:
        raise ModelError(
            f"x of expert {name!r} is {_kind(x)}, not an array. Give one input of the network, with an axis of length 1 in front: np.zeros((1, ...))"
        )
    if not np.size(x):
        raise ModelError(f"x of expert {name!r} has the shape {np.shape(x)} and no values. Give one input of the network: np.zeros((1, ...))")
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if isinstance(leaf, jax.ShapeDtypeStruct) or not (hasattr(leaf, "dtype") or isinstance(leaf, int | float)):
            raise ModelError(f"The variables of expert {name!r} hold {_kind(leaf)} at {jax.tree_util.keystr(path)}, not an array.")


def refused(name: str, module: Any, x: Any, error: Exception, given: Mapping[str, Any], argument: str) -> ModelError:
    """The error for a module that raised one when it was called.

    Args:
      name: of the expert.
      module: a linen module; None for nnx.
      x: its input.
      error: what it raised.
      given: its further arguments.
      argument: what the caller gave them as, "evaluate" or "train"; empty where there is no such way.
    """
    return ModelError(f"The module of expert {name!r} {_sentence(module, x, error, _what(error), dict(given), argument)}")


def not_trainable(name: str, error: Exception) -> ModelError:
    """The error for an nnx module that raised one when it was called in training mode."""
    fix = "Give all layers that draw random numbers something to draw from, as in nnx.Dropout(0.5, rngs=nnx.Rngs(0))"
    return ModelError(f"The module of expert {name!r} cannot be called in training mode, as fine-tuning needs it ({_what(error)}). {fix}")


def _what(error: Exception) -> str:
    """What a module's error says, in one line, without its address in the documentation."""
    return re.sub(r"\s*\(https://flax\.readthedocs\S*\)", "", explained(error)).rstrip(".")


def _sentence(module, x, error: Exception, what: str, given: dict, argument: str) -> str:
    shape, evaluating = tuple(np.shape(x)), argument != "train"
    if isinstance(error, flax_errors.ModifyScopeVariableError) and evaluating:
        return f"changes its variables, as in training, where it should evaluate ({what}). {_how_to_evaluate(module, given)}"
    if isinstance(error, flax_errors.InvalidRngError) and evaluating:
        return f"asks for random numbers, as in training, where it should evaluate ({what}). {_how_to_evaluate(module, given)}"
    if isinstance(error, flax_errors.ApplyScopeInvalidVariablesStructureError):
        return "has variables of the form {'params': {'params': ...}}. Try: variables, not {'params': variables}"
    if isinstance(error, flax_errors.ScopeCollectionNotFound):
        return f"needs more than the variables that were given ({what}). Try: all that module.init gives, {{'params': ..., 'batch_stats': ...}}"
    if isinstance(error, flax_errors.ScopeParamNotFoundError | flax_errors.ScopeVariableNotFoundError):
        return f"does not find its variables ({what}): they are of another module, or lie one level too deep. Try: those that module.init gives"
    if isinstance(error, flax_errors.ScopeParamShapeError):
        return (
            f"has variables of other shapes than x of shape {shape} and its settings ask for ({what}). "
            "Give x as the network takes it, with an axis of length 1 in front, and the variables of this very module"
        )
    if isinstance(error, TypeError) and "__call__() missing" in str(error):
        return f"needs further arguments ({what}). {_how_to_call(module, given, argument)}"
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error) and argument:
        return f"does not take {argument}={given} ({what}). It takes: {', '.join(_parameters(module)) or 'x alone'}."
    with_it = f" and {argument}={given}" if given else ""
    return f"cannot be called with x of shape {shape}{with_it} ({what}). Check the shape of x{' and ' + argument + '=' if argument else ''}."


def _how_to_evaluate(module, given: Mapping) -> str:
    flags = {key: MODES[key] for key in _parameters(module) if key in MODES and given.get(key) is not MODES[key]}
    if flags:
        return f"Try: evaluate={flags}"
    fields = {key: MODES[key] for key in getattr(module, "__dataclass_fields__", ()) if key in MODES and getattr(module, key, None) is not MODES[key]}
    if fields:
        return f"Try: module.clone({', '.join(f'{key}={value}' for key, value in fields.items())}) as the module"
    return "Give the arguments of its __call__ that make it evaluate, as in evaluate={'train': False}, and let no layer be in training mode"


def _how_to_call(module, given: Mapping, argument: str) -> str:
    if not argument:
        return "It is called with x alone. Wrap it in a module whose __call__ takes nothing else"
    evaluating = argument == "evaluate"
    wanted = {key: MODES[key] is evaluating if key in MODES else "..." for key in _parameters(module, required=True)}
    shown = ", ".join(f"{key!r}: {value}" for key, value in {**wanted, **given}.items())
    return f"Try: {argument}={{{shown}}}"


def _parameters(module, required: bool = False) -> list[str]:
    """Names of what `__call__` takes after x; where `required`, only those without a default."""
    if module is None:
        return []
    _, *parameters = inspect.signature(module.__call__).parameters.values() or [None]
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return [one.name for one in named if not required or one.default is one.empty]


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _some(mapping: Mapping) -> str:
    keys = list(map(str, mapping))
    return ", ".join(keys[:4]) + (" ..." if len(keys) > 4 else "") if keys else "nothing"
