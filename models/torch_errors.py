"""Checks of the arguments of `torch_expert`, and errors of PyTorch modules with their remedies."""

import inspect
from typing import Any

import jax
import numpy as np

from ntk_select.errors import ModelError, explained, few, not_finite
from ntk_select.models.flax_errors import kind_of
from ntk_select.models.torchax_environment import import_torch

WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
SAME = 1e-3
"""Largest difference from PyTorch, relative to the largest output, that can be rounding: the errors of deep networks accumulate."""
DIFFERENT = (
    "it draws random numbers in evaluation mode, changes a part of a tensor in place, or an operator is translated wrongly. "
    "Try: a module in plain PyTorch operators, or pip install --upgrade torchax"
)
VALUES = (
    jax.errors.ConcretizationTypeError,  # includes TracerBoolConversionError
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
)
"""Errors of JAX for a computation whose course or sizes depend on the values of its input."""


def check_module(name: str, model: Any) -> None:
    """Raises ModelError unless `model` is a PyTorch module with floating-point weights in memory that takes one input."""
    torch = import_torch()
    if not isinstance(model, torch.nn.Module):
        fix = "Allowed is an instance of torch.nn.Module"
        if isinstance(model, type) and issubclass(model, torch.nn.Module):
            fix = f"Try: {model.__name__}(...), an instance of it"
        elif isinstance(model, dict):
            fix = "Try: the module, after model.load_state_dict(...)"
        elif callable(model):
            fix = "Try: torch_expert(name, model()), if it is a function that makes the module"
        raise ModelError(f"The model of expert {name!r} must be a torch.nn.Module, not {kind_of(model)}. {fix}")
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            f"The model of expert {name!r} is compiled by torch.compile; JAX compiles it itself. Try: torch_expert({name!r}, model._orig_mod)"
        )
    if type(model).__name__ in WRAPPERS:
        raise ModelError(
            f"The model of expert {name!r} is wrapped in {type(model).__name__}; the module itself is needed. Try: torch_expert({name!r}, model.module)"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"The model of expert {name!r} is a TorchScript module, whose operations are hidden. Try: the module before torch.jit.script or trace"
        )
    _check_tensors(name, torch, model)
    required = _required_inputs(model)
    if len(required) > 1:
        raise ModelError(
            f"The model of expert {name!r} takes {len(required)} inputs ({', '.join(required)}); it must take one batch of images. "
            "Try: a wrapper module whose forward(self, x) supplies the others"
        )


def _check_tensors(name: str, torch, model) -> None:
    quantised = [path for path, module in model.named_modules() if "quantized" in type(module).__module__ and not path.endswith("_packed_params")]
    if quantised:
        raise ModelError(f"The model of expert {name!r} is quantised ({few(quantised)}), so it has no gradients. Try: the model before quantisation")
    parameters = dict(model.named_parameters())
    for path, tensor in (parameters | dict(model.named_buffers()) | plain_tensors(model)).items():
        _check_storage(name, torch, path, tensor)
    for path, tensor in parameters.items():
        if path.endswith("kernel") and path.removesuffix("kernel") + "weight" in parameters:
            raise ModelError(f"The model of expert {name!r} has a parameter {path!r} next to a weight, which has this name here. Try: another name")
        if tensor.dtype not in (torch.float32, torch.float64):
            fix = "Try: model.float()" if tensor.is_floating_point() else "Allowed are float32 and float64"
            raise ModelError(f"The model of expert {name!r} has weights of type {str(tensor.dtype).removeprefix('torch.')} ({path}). {fix}")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"The model of expert {name!r} has NaN or infinity in {path}. Try: download or convert it again")


def _check_storage(name: str, torch, path: str, tensor) -> None:
    """Raises ModelError unless a parameter or buffer can be an array, under its own name."""
    where = f"The model of expert {name!r}"
    if "/" in path:
        raise ModelError(f"{where} has a tensor called {path!r}; slashes separate groups of parameters here. Try: a name without a slash")
    if torch.nn.parameter.is_lazy(tensor):
        raise ModelError(f"{where} has parameters without a shape ({path}). Try: model(torch.zeros(1, 3, 224, 224)) once before")
    if tensor.is_meta:
        raise ModelError(f"{where} has no weights: {path} is on the meta device. Try: model.load_state_dict(..., assign=True)")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise ModelError(f"{where} has a tensor that is {kind} ({path}). Allowed are dense arrays. Try: {path}.to_dense() or .dequantize()")
    try:
        tensor.new_empty(0, device="cpu", requires_grad=False).numpy()
    except TypeError as error:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"{where} has a tensor of type {kind} ({path}), which NumPy does not have. Try: model.float(); for an attribute, register_buffer before"
        ) from error


def plain_tensors(model) -> dict[str, Any]:
    """Tensors that are attributes of modules without being registered as parameters or buffers, by name."""
    torch = import_torch()
    return {
        f"{path}.{key}" if path else key: value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }


def check_head(name: str, model, head: str) -> None:
    """Raises ModelError unless `head` is the path of a linear layer or 1 x 1 convolution whose weight no other layer uses."""
    torch = import_torch()
    layers = dict(model.named_modules())
    linear = [path for path, layer in layers.items() if isinstance(layer, torch.nn.Linear)]
    if head not in layers:
        raise ModelError(f"The model of expert {name!r} has no layer {head!r}. Its linear layers: {few(linear[::-1]) or '(none)'}. Try: head='NAME'")
    layer = layers[head]
    if not is_head(layer):
        raise ModelError(
            f"head={head!r} of expert {name!r} is a {type(layer).__name__}; it must be a torch.nn.Linear, or a 1 x 1 torch.nn.Conv2d. "
            f"Its linear layers: {few(linear[::-1]) or '(none)'}"
        )
    if "weight" not in layer._parameters:
        raise ModelError(
            f"The weight of the head {head!r} of expert {name!r} is computed from other parameters (a parametrization, weight norm), so it cannot be "
            f"replaced. Try: torch.nn.utils.parametrize.remove_parametrizations(model.{head}, 'weight')"
        )
    shared = [path for path, tensor in model.named_parameters(remove_duplicate=False) if tensor is layers[head].weight and path != f"{head}.weight"]
    if shared:
        raise ModelError(
            f"The head {head!r} of expert {name!r} shares its weight with {few(shared)}, so it cannot be replaced alone. "
            f"Try: model.{head}.weight = torch.nn.Parameter(model.{head}.weight.clone())"
        )


def is_head(layer: Any) -> bool:
    """Whether a layer is linear, or a 1 x 1 convolution."""
    nn = import_torch().nn
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)


def check_conv(name: str, model, conv: str) -> None:
    """Raises ModelError unless `conv` is the path of a 2-D convolution."""
    torch = import_torch()
    found = [path for path, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d)]
    if conv not in found:
        raise ModelError(
            f"last_conv={conv!r} of expert {name!r} is not a convolution. Its convolutions: {few(found[::-1]) or '(none)'}. Try: last_conv='NAME'"
        )


def check_input(name: str, x: Any) -> None:
    """Raises ModelError unless x is one image (1, h, w, c)."""
    shape = np.shape(x) if hasattr(x, "shape") else None
    if shape is None or len(shape) != 4 or shape[0] != 1 or 0 in shape:
        given = kind_of(x) if shape is None else f"of shape {tuple(shape)}"
        raise ModelError(f"x of expert {name!r} is {given}; it must be one network input (1, h, w, c). Try: np.zeros((1, 224, 224, 3), np.float32)")
    if shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise ModelError(f"x of expert {name!r} has the shape {tuple(shape)}, with channels first; here they are last. Try: x.transpose(0, 2, 3, 1)")


def no_head(name: str, last: str) -> ModelError:
    """The ModelError for a network whose output is not that of a linear layer."""
    return ModelError(
        f"The head of expert {name!r} was not found: {last}. It must be a torch.nn.Linear from (n, d) to the logits (n, classes), with nothing after it. "
        "Try: torch_expert(..., head='NAME'), or a module without the layers after it"
    )


def check_outputs(name: str, expected: np.ndarray, found: Any) -> None:
    """Raises ModelError unless what JAX computes is what PyTorch computes, up to rounding."""
    found = np.asarray(found)
    if not expected.size:
        raise ModelError(f"The module of expert {name!r} returns no numbers, but {expected.shape}. Try: a head with at least one class")
    if not np.isfinite(expected).all():
        raise ModelError(not_finite(f"The outputs of expert {name!r} by PyTorch have") + " Try: x=preprocess(images), one input of the network")
    if found.shape != expected.shape:
        raise ModelError(f"The module of expert {name!r} returns {found.shape} by JAX and {expected.shape} by PyTorch: {DIFFERENT}")
    scale = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
    distance = float(np.abs(found.astype(np.float64) - expected).max()) / scale
    if not distance < SAME:
        raise ModelError(f"The outputs of expert {name!r} by JAX differ from those by PyTorch by {distance:.2g} of the largest: {DIFFERENT}")


def more_than_buffers(name: str, changed: list[str]) -> ModelError:
    """The ModelError for a module that changes attributes or parameters in training mode."""
    return ModelError(
        f"The module of expert {name!r} changes more than its buffers in training mode ({few(changed)}), which a function of arrays cannot. "
        "Try: register_buffer for these values, or Recipe(batch_norm='frozen') (--batch-norm frozen), which trains in evaluation mode"
    )


def sets_device(name: str) -> ModelError:
    """The ModelError for a module that would change the default device of the process."""
    return ModelError(f"The module of expert {name!r} calls torch.set_default_device. Try: device=x.device for the tensors that it makes")


def no_copy(name: str, error: Exception) -> ModelError:
    """The ModelError for a module that cannot be copied."""
    return ModelError(
        f"The model of expert {name!r} cannot be copied ({explained(error).rstrip('.')}). "
        "Try: copy.deepcopy(model), which names the attribute, and a module without it"
    )


def no_tensor(name: str, output: Any, training: bool) -> ModelError:
    """The ModelError for a module that returns something else than one tensor."""
    given = f"a {type(output).__name__}" + (f" of {len(output)}" if isinstance(output, tuple | list | dict) else "")
    mode, fix = "", "a wrapper module that returns the logits"
    if training:
        mode = " in training mode"
        fix = f"model.aux_logits = False, {fix}, or Recipe(batch_norm='frozen') (--batch-norm frozen), which trains in evaluation mode"
    return ModelError(f"The module of expert {name!r} returns {given}{mode}, not one tensor of logits (n, c). Try: {fix}")


def call_error(name: str, error: BaseException, shape: tuple[int, ...], training: bool) -> ModelError:
    """The ModelError for an error raised by the call of a module."""
    return ModelError(f"The module of expert {name!r} {_sentence(error, shape, 'training' if training else 'evaluation')}")


def _sentence(error: BaseException, shape: tuple[int, ...], mode: str) -> str:
    said = explained(error).rstrip(".")
    if isinstance(error, SystemExit):
        return f"ends the program when it is called ({said}). Try: a module without sys.exit"
    if isinstance(error, VALUES):
        return (
            "has control flow or sizes that depend on the values of its input (if x.sum() > 0, x[x > 0], x.item(), x.numpy(), x.cpu()), which cannot "
            "be compiled. Try: torch.where, or a module without that branch"
        )
    if type(error).__name__ == "OperatorNotFound" or "only do math within the torchax environment" in said or isinstance(error, NotImplementedError):
        return (
            f"uses an operator that has no translation to JAX ({_operator(error) or said}), such as a custom CUDA operator. "
            "Try: an implementation of the module in plain PyTorch operators"
        )
    if "mixed math" in said or isinstance(error, jax.errors.UnexpectedTracerError):
        return (
            "combines its input with a tensor that is neither parameter, buffer nor attribute of a module, such as one in a list or a global variable. "
            "Try: register_buffer for it"
        )
    return (
        f"cannot be called in {mode} mode with an input of shape {tuple(shape)} ({said}). "
        "Try: x=np.zeros((1, size, size, 3), np.float32) of another size, or a module in plain PyTorch operators"
    )


def _operator(error: BaseException) -> str | None:
    """Name of the innermost operator of PyTorch in the traceback of an error."""
    trace, found = error.__traceback__, None
    while trace is not None:
        operator = trace.tb_frame.f_locals.get("func")
        found = operator.name() if callable(getattr(operator, "name", None)) else found
        trace = trace.tb_next
    return found


def _required_inputs(model) -> list[str]:
    """Names of the parameters of `forward` without a default."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.default is one.empty]
