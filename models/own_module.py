"""A network that somebody else wrote as an expert: it is watched while one input passes through it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.errors import ModelError, did_you_mean
from ntk_select.experts.expert import Expert, LastConv, Taps

from .own_errors import OF_MODULES, check_arrays, refused

Path = tuple[str, ...]


class Seen(NamedTuple):
    """What was seen in one forward pass: the logits; what entered the head and entered and left the last convolution, call by call."""

    logits: jax.Array
    head_inputs: tuple = ()
    conv_inputs: tuple = ()
    conv_outputs: tuple = ()


class Watch:
    """Sees a head and a last convolution while a forward pass lasts, and adds a perturbation to what the convolution gives."""

    def __init__(self, head: Path, conv: Path | None, perturbation=None):
        self.head, self.conv, self.perturbation = head, conv, perturbation
        self.head_inputs, self.conv_inputs, self.conv_outputs, self.layer = [], [], [], None

    def call(self, path: Path, layer, fn: Callable, args: tuple, kwargs: dict):
        """fn(*args, **kwargs), the call of the layer at `path`."""
        entering = args[0] if args else next(iter(kwargs.values()), None)
        if path == self.head:
            self.head_inputs.append(entering)
        leaving = fn(*args, **kwargs)
        if path == self.conv:
            leaving = leaving if self.perturbation is None else leaving + self.perturbation
            self.layer = layer
            self.conv_inputs.append(entering)
            self.conv_outputs.append(leaving)
        return leaving

    def seen(self, logits) -> Seen:
        """What was seen, once the forward pass is over."""
        return Seen(logits, tuple(self.head_inputs), tuple(self.conv_inputs), tuple(self.conv_outputs))


def as_taps(seen: Seen) -> Taps:
    """What `Expert.taps_fn` gives."""
    return Taps(seen.logits, seen.head_inputs[0], seen.conv_inputs[0] if seen.conv_inputs else None)


@dataclass(frozen=True)
class _Features:
    network: Any

    def __call__(self, variables, x):
        return self.network.watch(variables, x)[0].head_inputs[0]


@dataclass(frozen=True)
class _Taps:
    network: Any

    def __call__(self, variables, x, perturbation=None):
        return as_taps(self.network.watch(variables, x, perturbation)[0])


def as_expert(name: str, network, variables: Mapping[str, Any], x, *, pooled: bool, **known) -> Expert:
    """The expert of a network, once its layers are `checked`.

    Args:
      network: hashable; network(variables, x) -> logits, and network.watch(variables, x, perturbation=None) -> what was seen,
        anything, and the last convolution's layer; `head` and `conv` are the paths of its layers; `module` is called with `arguments`, which
        the caller gave as `called_with`; all three are for messages.
      variables, x, pooled: as for `checked`.
      known: what else an `Expert` takes.
    """
    check_arrays(name, variables, x)
    found = checked(name, _watching(name, network, lambda *given: network.watch(*given)[::2]), variables, x, network.head, network.conv, pooled)
    return Expert(
        name,
        network,
        variables["params"],
        {key: value for key, value in variables.items() if key != "params"},
        features_fn=_Features(network),
        taps_fn=_Taps(network),
        head=network.head,
        last_conv=found,
        **known,
    )


def try_training(name: str, network, variables: Mapping[str, Any], x) -> None:
    """Traces one forward pass in training mode. Raises ModelError when the network cannot be called so."""
    jax.eval_shape(_watching(name, network, network), variables, x)


def _watching(name: str, network, call: Callable) -> Callable:
    """`call`, which calls the network's module, with the module's errors as ModelError."""

    def watch(variables, x, *perturbation):
        try:
            return call(variables, x, *perturbation)
        except (ModelError, jax.errors.UnexpectedTracerError):
            raise
        except OF_MODULES as error:
            raise refused(name, network.module, x, error, dict(network.arguments), network.called_with) from error

    return watch


def checked(
    name: str, watch: Callable[..., tuple[Seen, Any]], variables: Mapping[str, Any], x, head: Path, conv: Path | None, pooled: bool
) -> LastConv | None:
    """The last convolution of a network, once it is known that the layers are what they are said to be.

    Args:
      name: of the expert, for messages.
      watch: watch(variables, x, perturbation=None) -> what was seen, and the last convolution's layer.
      variables: {"params": ..., **state}.
      x: one network input (1, ...).
      pooled: whether the last convolution's channels are said to be only pooled.

    Raises:
      ModelError: a layer is not called once, the head is not the linear layer that comes last, or the convolution is not only pooled.

    Cost: one compilation of the forward pass; where `pooled` is said, one more, and one of the way back.
    """
    try:
        return _checked(name, watch, variables, x, head, conv, pooled)
    except jax.errors.UnexpectedTracerError as error:
        raise ModelError(
            f"The head or last_conv of expert {name!r} lies inside a transformed part of the network (remat, jit, scan), where it cannot be watched. "
            "Leave the transformation out, or type: Expert(..., features_fn=...) with functions of your own."
        ) from error


def _checked(name: str, watch, variables, x, head: Path, conv: Path | None, pooled: bool) -> LastConv | None:
    layers = []

    def shapes(variables, x):
        seen, layer = watch(variables, x)
        if not hasattr(seen.logits, "shape"):
            raise ModelError(
                f"The network of expert {name!r} returns a {type(seen.logits).__name__}, not an array of logits (n, c). Wrap it in a module that does."
            )
        layers.append(layer)
        return seen

    seen = jax.eval_shape(shapes, variables, x)
    for what, path, inputs in (("head", head, seen.head_inputs), ("last_conv", conv, seen.conv_inputs)):
        if path is not None and len(inputs) != 1:
            hint = "" if inputs else did_you_mean("/".join(path), _groups(variables["params"]))
            raise ModelError(
                f"{what}={'/'.join(path)!r} of expert {name!r} is called {len(inputs)} times in a forward pass; it must be a layer that is called "
                f"once.{hint}"
            )
    _check_head(name, watch, variables, x, head, seen)
    if conv is None:
        return None
    path, geometry = (*conv, "kernel"), _geometry(layers[0], seen.conv_inputs[0].shape)
    found = LastConv(path) if geometry is None else LastConv(path, *geometry)
    if not pooled:
        return found
    if geometry is None or seen.conv_outputs[0].shape[0] != len(x):
        raise ModelError(f"last_conv={'/'.join(conv)!r} of expert {name!r} is no ordinary convolution of images. Leave out: pooled=True")
    return LastConv(path, *geometry, pooled=_pooled(name, watch, variables, x, head, found, seen.conv_outputs[0].dtype))


def _check_head(name: str, watch, variables, x, head: Path, seen: Seen) -> None:
    """Logits must be what the head makes of the pre-logits, for they are differentiated and replaced as such."""
    entering, layer = seen.head_inputs[0], _at(variables["params"], head)
    if entering.ndim == 2 and np.shape(layer.get("kernel")) == (entering.shape[1], seen.logits.shape[-1]) and seen.logits.ndim == 2:
        found = jax.jit(lambda variables, x: watch(variables, x)[0])(variables, x)
        expected = found.head_inputs[0] @ layer["kernel"] + layer.get("bias", 0)
        if _close(found.logits, expected, found.logits.dtype):
            return
    raise ModelError(
        f"head={'/'.join(head)!r} of expert {name!r} takes {entering.shape} and the network gives {seen.logits.shape}; the head must be the linear "
        "layer that comes last, from (n, d) to (n, classes), with nothing after it (no softmax)."
    )


def _close(found, expected, dtype) -> bool:
    """Equal up to the rounding of what was computed in `dtype`."""
    rounding = max(1e-3, 8 * float(jnp.finfo(dtype).eps))
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return bool(np.abs(found - expected).max() <= rounding * max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def _groups(params: Mapping, path: Path = ()) -> list[str]:
    """The paths of the layers that have weights."""
    inner = [place for key, part in params.items() if isinstance(part, Mapping) for place in _groups(part, (*path, str(key)))]
    return inner or ["/".join(path)]


def _at(params: Mapping, path: Path) -> Mapping:
    for key in path:
        params = params[key]
    return params


def _with(params: Mapping, path: Path, leaf) -> dict:
    return {**params, path[0]: leaf if len(path) == 1 else _with(params[path[0]], path[1:], leaf)}


def _geometry(layer, shape: tuple[int, ...]):
    """Strides and padding of an ordinary convolution of images, None for any other layer."""
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


def _pooled(name: str, watch, variables, x, head: Path, conv: LastConv, dtype) -> tuple[int, int]:
    """The slice of the pre-logits that the channels become.

    For some inputs the gradient of the logits with respect to the convolution's weights is laid beside what LGC makes of the
    pre-logits alone. They are equal where channel o reaches pre-logit start + o, and no other. Parameters that are all zero, as the
    scale of a batch norm that begins so, would hide the way of the channels; here they are random.
    """
    rng = np.random.default_rng(0)
    variables = {**variables, "params": jax.tree.map(lambda leaf: _opened(leaf, rng), variables["params"])}
    weights, channels = _at(variables["params"], head)["kernel"], np.shape(_at(variables["params"], conv.path))[-1]
    points = [
        jnp.asarray(draw, jnp.asarray(x).dtype) for draw in (x, rng.uniform(size=x.shape), rng.normal(size=x.shape), 5 * rng.normal(size=x.shape))
    ]
    cotangent = jnp.asarray(rng.normal(size=weights.shape[1]), jnp.float32)
    gradients = jax.jit(lambda x, start: _both_gradients(watch, variables, x, cotangent, weights, conv, start, channels), static_argnums=1)
    seen = False
    for start in dict.fromkeys((0, weights.shape[0] - channels)):
        pairs = [gradients(point, start) for point in points] if start >= 0 else []
        moved = any(np.abs(np.asarray(true)).max() > 0 for _, true in pairs)
        if moved and all(_close(*pair, dtype) for pair in pairs):
            return start, start + channels
        seen |= moved or not pairs
    where = f"last_conv={'/'.join(conv.path[:-1])!r} of expert {name!r}"
    if not seen:
        raise ModelError(
            f"The logits do not change with the weights of {where}, at x nor at three random inputs, so that pooled=True cannot be checked: "
            "what comes after it is shut (ReLUs that are never active, a gradient that is stopped). Leave out: pooled=True"
        )
    raise ModelError(
        f"The channels of {where} are not only pooled on their way to the head: a pre-logit sees "
        "several of them, or the weights are changed before they are used. Leave out: pooled=True"
    )


def _opened(leaf, rng: np.random.Generator):
    """The parameters, or random ones where all are zero."""
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jnp.asarray(rng.uniform(0.5, 1.5, np.shape(leaf)), jnp.result_type(leaf)) if floating and not np.any(np.asarray(leaf)) else leaf


def _both_gradients(watch, variables, x, cotangent, weights, conv: LastConv, start: int, channels: int):
    """Of the logits, with respect to the convolution's weights: by way of the pre-logits, and as it is."""
    params, kernel = variables["params"], _at(variables["params"], conv.path)
    true = jax.grad(lambda kernel: (watch({**variables, "params": _with(params, conv.path, kernel)}, x)[0].logits * cotangent).sum())(kernel)
    seen = watch(variables, x)[0]
    back = jax.grad(lambda change: watch(variables, x, change)[0].head_inputs[0][:, start : start + channels].sum())(
        jnp.zeros_like(seen.conv_outputs[0])
    )
    inputs = seen.conv_inputs[0].astype(kernel.dtype)

    def convolved(kernel):
        return jax.lax.conv_general_dilated(inputs, kernel, conv.strides, conv.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    scale = (weights[start : start + channels] @ cotangent).astype(kernel.dtype)
    return jax.vjp(convolved, kernel)[1](back.astype(kernel.dtype) * scale)[0], true
