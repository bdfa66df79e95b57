"""PyTorch modules as networks of JAX arrays: their variables, evaluation, recording of layers, and training mode."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.models.expert_folder import flatten, unflatten
from ntk_select.models.layers import key_of_batch
from ntk_select.models.recorded_layers import Path, Records, as_taps
from ntk_select.models.torch_errors import more_than_buffers, no_tensor, plain_tensors
from ntk_select.models.torch_isolation import copied, isolated
from ntk_select.models.torchax_environment import LOCK, environment, import_torch, run

BUFFERS = "buffers"
"""The entry of an expert's state with the buffers, and tensors that are attributes of modules."""


@dataclass(frozen=True)
class TorchNetwork:
    """A PyTorch module in evaluation mode, of images (n, h, w, c).

    Parameters are nested dictionaries by module, as in {"layer1": {"0": {"conv1": {"weight": ...}}}}, in PyTorch's layouts except two: the weight of
    the head is "kernel" (d, c), and that of the last convolution "kernel" (kh, kw, cin, cout).

    Args:
      module: `without_weights(model)`.
      head, conv: paths of the head and of the last convolution, or None.
      identity: networks with equal `identity`, `head` and `conv` share compilations; hashable.
      name: name of the expert, for error messages.
    """

    module: Any = field(compare=False, repr=False)
    head: Path | None
    conv: Path | None
    identity: Any
    name: str = field(default="", compare=False)

    def __call__(self, variables, x):
        """Logits (n, c)."""
        return self._run(variables, x)[0]

    def variables(self, model) -> dict[str, Any]:
        """The weights of a model of this structure: {"params": ..., "buffers": ...}, copied; shapes for a model `without_weights`."""
        kernels = {".".join((*path, "weight")): path for path in (self.head, self.conv) if path is not None}
        params = {}
        for name, tensor in model.named_parameters():
            value, path = _array(tensor), tuple(name.split("."))
            if name in kernels:
                path = (*kernels[name], "kernel")
                value = _to_flax(value.reshape(value.shape[:2]) if kernels[name] == self.head else value)
            params["/".join(path)] = value
        buffers = {name.replace(".", "/"): _array(tensor) for name, tensor in (*model.named_buffers(), *plain_tensors(model).items())}
        return {"params": unflatten(params), BUFFERS: unflatten(buffers)}

    def tensors(self, variables: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The variables as parameters and buffers by name, in PyTorch's layouts."""
        kernels = {"/".join((*path, "kernel")) for path in (self.head, self.conv) if path is not None}
        found = {}
        for path, value in flatten(variables["params"]).items():
            name = path.replace("/", ".")
            if path in kernels:
                layer, value = name.removesuffix(".kernel"), _to_torch(value)
                name, axes = f"{layer}.weight", self.module.get_submodule(layer).weight.ndim
                value = value.reshape(*value.shape, *(1,) * (axes - value.ndim))
            found[name] = jnp.asarray(value)
        return found | {path.replace("/", "."): jnp.asarray(value) for path, value in flatten(variables.get(BUFFERS, {})).items()}

    def _run(self, variables, x, training: bool = False):
        """Logits, and the tensors after the call."""
        tensors, key = self.tensors(variables), key_of_batch(x) if training else None
        images = _in_type_of(tensors, jnp.transpose(x, (0, 3, 1, 2)) if x.ndim == 4 else x)
        with isolated(self.name, x.shape, training=training):
            module = copied(self.name, self.module, {id(tensor): tensor for tensor in tensors_of(self.module)}).train(training)
            before = _attributes(module) if training else None
            logits, after = run(module, tensors, images, key=key)
            if training:
                _check_changes(self.name, module, before, {name: after[name] is not tensors[name] for name, _ in self.module.named_parameters()})
        if not isinstance(logits, jax.Array):
            raise no_tensor(self.name, logits, training)
        return logits, after

    def record(self, variables, x, perturbation=None, *, training: bool = False):
        """The `Records`, the tensors after the call by name, and the layer of the last convolution."""
        to_jax, to_torch = environment().t2j_iso, environment().j2t_iso
        head_inputs, conv_inputs, conv_outputs = [], [], []

        def at_head(_, inputs):
            x = to_jax(inputs[0])
            head_inputs.append(x.mean((2, 3)) if x.ndim == 4 else x)

        def at_conv(_, inputs, output):
            if perturbation is not None:
                output = output + to_torch(jnp.transpose(perturbation, (0, 3, 1, 2)))
            conv_inputs.append(_channels_last(to_jax(inputs[0])))
            conv_outputs.append(_channels_last(to_jax(output)))
            return output

        layer = None if self.conv is None else self.module.get_submodule(".".join(self.conv))
        with LOCK, ExitStack() as hooks:
            if self.head is not None:
                hooks.callback(self.module.get_submodule(".".join(self.head)).register_forward_pre_hook(at_head).remove)
            if layer is not None:
                hooks.callback(layer.register_forward_hook(at_conv).remove)
            logits, after = self._run(variables, x, training)
        return Records(logits, tuple(head_inputs), tuple(conv_inputs), tuple(conv_outputs)), after, layer


class TorchTraining(TorchNetwork):
    """The same module in training mode: (`Taps`, new buffers). Random numbers are a function of the batch."""

    def __call__(self, variables, x):
        """`Taps` and the new buffers, as `Expert.train_fn` returns them."""
        records, after, _ = self.record(variables, x, training=True)
        buffers = {path: after[path.replace("/", ".")] for path in flatten(variables.get(BUFFERS, {}))}
        taps = as_taps(records) if self.head is not None else as_taps(records._replace(head_inputs=(records.logits,)))
        return taps, {BUFFERS: unflatten(buffers)} if buffers else {}


class Layer(NamedTuple):
    """A layer with a weight matrix, in the order of calls. `final` tells whether its output is that of the network."""

    path: str
    kind: str
    final: bool


def called_layers(network: TorchNetwork, variables: Mapping[str, Any], x) -> list[Layer]:
    """The layers with a weight of at least two axes, in the order in which they are called for the input x."""
    torch = import_torch()
    calls: list[tuple[str, str, Any]] = []

    def hook(path: str, kind: str) -> Callable:
        return lambda _, __, output: calls.append((path, kind, output))

    found: list[Layer] = []

    def traced(variables, x):
        calls.clear()
        logits = network(variables, x)
        found[:] = [
            Layer(path, kind, environment().t2j_iso(output) is logits if isinstance(output, torch.Tensor) else False) for path, kind, output in calls
        ]
        return logits

    with LOCK, ExitStack() as hooks:
        for path, module in network.module.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None and weight.ndim >= 2:
                hooks.callback(module.register_forward_hook(hook(path, _layer_kind(torch, module))).remove)
        jax.eval_shape(traced, variables, x)
    return found


def of_pytorch(name: str, model, x) -> np.ndarray:
    """What PyTorch computes from images (n, h, w, c) in evaluation mode. The module is as before afterwards.

    Raises:
      ModelError: the module cannot be called, or does not return one tensor.

    Cost: a copy of the weights.
    """
    torch = import_torch()
    with isolated(name, np.shape(x)), torch.no_grad():
        model = copied(name, model, {id(tensor): _with_data(torch, tensor, tensor.detach().clone()) for tensor in tensors_of(model)})
        images = torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy()).to(next(model.parameters(), torch.zeros(())))
        found = model(images)
        if not isinstance(found, torch.Tensor):
            raise no_tensor(name, found, training=False)
        return found.detach().to("cpu", torch.promote_types(found.dtype, torch.float32)).numpy()


def _layer_kind(torch, module) -> str:
    """ "linear", "conv" (an ungrouped 2-D convolution), or the name of the class."""
    if isinstance(module, torch.nn.Linear):
        return "linear"
    return "conv" if isinstance(module, torch.nn.Conv2d) and module.groups == 1 else type(module).__name__


def geometry(layer, shape: tuple[int, ...]):
    """Strides and padding of an ordinary 2-D convolution for an input (n, h, w, c); None for any other layer."""
    if not isinstance(layer, import_torch().nn.Conv2d) or len(shape) != 4 or layer.groups != 1 or tuple(layer.dilation) != (1, 1):
        return None
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    return tuple(layer.stride), tuple((side, side) for side in layer.padding)


def without_weights(name: str, model):
    """A copy of a module, in evaluation mode, whose tensors have shapes but no memory. `name` is that of the expert, for error messages."""
    torch = import_torch()
    return copied(name, model, {id(tensor): _with_data(torch, tensor, torch.empty_like(tensor, device="meta")) for tensor in tensors_of(model)})


def tensors_of(model) -> list[Any]:
    """Its parameters, buffers, and tensors that are attributes."""
    return [*model.parameters(), *model.buffers(), *plain_tensors(model).values()]


def _with_data(torch, tensor, data):
    """The data, as a parameter if the tensor is one."""
    return torch.nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else data


def _array(tensor) -> np.ndarray | jax.ShapeDtypeStruct:
    if tensor.is_meta:
        return jax.ShapeDtypeStruct(tuple(tensor.shape), jax.dtypes.canonicalize_dtype(tensor.new_empty(0, device="cpu").numpy().dtype))
    return np.array(tensor.detach().cpu().resolve_conj().resolve_neg().numpy())


def _in_type_of(tensors: Mapping[str, jax.Array], images):
    """The images in the floating-point type of the weights: PyTorch does not mix types."""
    types = [tensor.dtype for tensor in tensors.values() if jnp.issubdtype(tensor.dtype, jnp.floating)]
    return images.astype(types[0]) if types else images


def _to_flax(weight):
    return weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)


def _to_torch(kernel):
    return jnp.transpose(kernel) if kernel.ndim == 2 else jnp.transpose(kernel, (3, 2, 0, 1))


def _channels_last(x):
    return jnp.transpose(x, (0, 2, 3, 1)) if x.ndim == 4 else x


def _attributes(module) -> dict[str, Any]:
    """Values of plain attributes of all modules, by name."""
    simple = (bool, int, float, str, type(None))
    return {
        f"{path}.{key}": value
        for path, inner in module.named_modules()
        for key, value in vars(inner).items()
        if isinstance(value, simple) and key != "training"
    }


def _check_changes(name: str, module, before: Mapping[str, Any], parameters: Mapping[str, bool]) -> None:
    """Raises ModelError if a call in training mode has changed more than buffers."""
    after = _attributes(module)
    changed = [key.lstrip(".") for key in after if key not in before or after[key] != before[key]] + [
        key for key, is_new in parameters.items() if is_new
    ]
    if changed:
        raise more_than_buffers(name, changed)
