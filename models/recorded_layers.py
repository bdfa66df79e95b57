"""Networks as experts: recording of the head and the last convolution in a forward pass, and checks of both layers.

A network is a hashable callable, network(variables, x) -> logits, with paths of layers, `head` and `conv` (or None), and
`record(variables, x, perturbation=None)`, which returns the `Records` first and the layer of the last convolution last. Arrays are in Flax's
layout: images (n, h, w, c), the head's kernel (d, c), the kernel of the last convolution (kh, kw, cin, cout).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.errors import ModelError, did_you_mean
from ntk_select.experts.expert import Expert, LastConv, Taps

Path = tuple[str, ...]


class Records(NamedTuple):
    """Records of one forward pass: logits; inputs of the head, and inputs and outputs of the last convolution, one per call."""

    logits: jax.Array
    head_inputs: tuple = ()
    conv_inputs: tuple = ()
    conv_outputs: tuple = ()


class Recorder:
    """Records the head and the last convolution during a forward pass, and adds a perturbation to the output of the convolution."""

    def __init__(self, head: Path, conv: Path | None, perturbation=None):
        self.head, self.conv, self.perturbation = head, conv, perturbation
        self.head_inputs, self.conv_inputs, self.conv_outputs, self.layer = [], [], [], None

    def call(self, path: Path, layer, fn: Callable, args: tuple, kwargs: dict):
        """Records and returns fn(*args, **kwargs), the call of the layer at `path`."""
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        if path == self.head:
            self.head_inputs.append(inputs)
        outputs = fn(*args, **kwargs)
        if path == self.conv:
            outputs = outputs if self.perturbation is None else outputs + self.perturbation
            self.layer = layer
            self.conv_inputs.append(inputs)
            self.conv_outputs.append(outputs)
        return outputs

    def result(self, logits) -> Records:
        """The records, after the forward pass."""
        return Records(logits, tuple(self.head_inputs), tuple(self.conv_inputs), tuple(self.conv_outputs))


def as_taps(records: Records) -> Taps:
    """The records as `Expert.taps_fn` returns them."""
    return Taps(records.logits, records.head_inputs[0], records.conv_inputs[0] if records.conv_inputs else None)


@dataclass(frozen=True)
class _Features:
    network: Any

    def __call__(self, variables, x):
        return self.network.record(variables, x)[0].head_inputs[0]


@dataclass(frozen=True)
class _Taps:
    network: Any

    def __call__(self, variables, x, perturbation=None):
        return as_taps(self.network.record(variables, x, perturbation)[0])


class _NotPooledError(ModelError):
    """The channels of the last convolution are not only pooled, or this cannot be checked."""


def expert_of(
    name: str,
    network,
    variables: Mapping[str, Any],
    x,
    *,
    geometry: Callable,
    pooled: bool | None,
    record: Callable | None = None,
    check: Callable | None = None,
    **known,
) -> Expert:
    """The expert of a network, after `check_layers`.

    Args:
      network: as in the docstring of this module.
      variables, x, geometry, pooled: as for `check_layers`.
      check: raises ModelError if the logits at x are wrong.
      record: `network.record` with errors of the module converted to ModelError; `network.record` itself by default.
      known: other arguments of `Expert`.
    """
    found = check_layers(name, record or network.record, variables, x, network.head, network.conv, geometry, pooled, check)
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


def check_layers(
    name: str,
    record: Callable[..., tuple],
    variables: Mapping[str, Any],
    x,
    head: Path,
    conv: Path | None,
    geometry: Callable[[Any, tuple[int, ...]], tuple | None],
    pooled: bool | None,
    check: Callable[[Any], None] | None = None,
) -> LastConv | None:
    """Checks head and last convolution of a network, and returns the `LastConv`.

    Args:
      name: name of the expert, for messages.
      record: as in the docstring of this module.
      variables: {"params": ..., **state}.
      x: one network input (1, ...).
      geometry: (layer, shape of its input) -> strides and padding of an ordinary 2-D convolution, or None for any other layer.
      pooled: whether the caller declares that the channels of the last convolution are only pooled; None to find it out.
      check: raises ModelError if the logits at x are wrong.

    Raises:
      ModelError: a layer is not called exactly once, the head is not the final linear layer, or the channels are not only pooled.

    Cost: one compilation of the forward pass; with `pooled` one more, and one of the backward pass.
    """
    try:
        return _check_layers(name, record, variables, x, head, conv, geometry, pooled, check)
    except jax.errors.UnexpectedTracerError as error:
        raise ModelError(
            f"The head or last_conv of expert {name!r} is inside a transformed part of the network (remat, jit, scan), where it cannot be recorded. "
            "Try: the network without the transformation, or Expert(..., features_fn=...) with your own functions"
        ) from error


def _check_layers(name: str, record, variables, x, head: Path, conv: Path | None, geometry, pooled: bool | None, check) -> LastConv | None:
    layers = []

    def shapes(variables, x):
        records, *_, layer = record(variables, x)
        if not hasattr(records.logits, "shape"):
            raise ModelError(
                f"The network of expert {name!r} returns a {type(records.logits).__name__}, not an array of logits (n, c). Wrap it in a module that does."
            )
        layers.append(layer)
        return records

    records = jax.eval_shape(shapes, variables, x)
    for what, path, inputs in (("head", head, records.head_inputs), ("last_conv", conv, records.conv_inputs)):
        if path is not None and len(inputs) != 1:
            hint = "" if inputs else did_you_mean("/".join(path), _groups(variables["params"]))
            raise ModelError(
                f"{what}={'/'.join(path)!r} of expert {name!r} is called {len(inputs)} times in a forward pass; it must be a layer that is called "
                f"exactly once.{hint}"
            )
    _check_head(name, record, variables, x, head, records, check)
    if conv is None:
        return None
    path, ordinary = (*conv, "kernel"), geometry(layers[0], records.conv_inputs[0].shape)
    found = LastConv(path) if ordinary is None else LastConv(path, *ordinary)
    if pooled is False or (pooled is None and ordinary is None):
        return found
    if ordinary is None or records.conv_outputs[0].shape[0] != len(x):
        raise ModelError(f"last_conv={'/'.join(conv)!r} of expert {name!r} is not an ordinary 2-D convolution. Try: without pooled=True")
    try:
        return LastConv(path, *ordinary, pooled=_pooled_slice(name, record, variables, x, head, found, records.conv_outputs[0].dtype))
    except _NotPooledError:
        if pooled is None:
            return found
        raise


def _check_head(name: str, record, variables, x, head: Path, records: Records, check) -> None:
    """Raises ModelError unless the logits are the linear head applied to the pre-logits."""
    inputs, layer = records.head_inputs[0], _at(variables["params"], head)
    if inputs.ndim == 2 and np.shape(layer.get("kernel")) == (inputs.shape[1], records.logits.shape[-1]) and records.logits.ndim == 2:
        found = jax.jit(lambda variables, x: record(variables, x)[0])(variables, x)
        if check is not None:
            check(found.logits)
        expected = found.head_inputs[0] @ layer["kernel"] + layer.get("bias", 0)
        if _close(found.logits, expected, found.logits.dtype):
            return
    raise ModelError(
        f"head={'/'.join(head)!r} of expert {name!r} takes {inputs.shape} and the network returns {records.logits.shape}; the head must be the final "
        "linear layer, from (n, d) to (n, classes), with nothing after it (no softmax), and a call must not change its weights. "
        "Try: another head, or the network without what follows it"
    )


def _close(found, expected, dtype) -> bool:
    """Whether two arrays are equal up to rounding in `dtype`."""
    rounding = max(1e-3, 8 * float(jnp.finfo(dtype).eps))
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return bool(np.abs(found - expected).max() <= rounding * max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def _groups(params: Mapping, path: Path = ()) -> list[str]:
    """Paths of the layers with weights."""
    inner = [place for key, part in params.items() if isinstance(part, Mapping) for place in _groups(part, (*path, str(key)))]
    return inner or ["/".join(path)]


def _at(params: Mapping, path: Path) -> Mapping:
    for key in path:
        params = params[key]
    return params


def _with(params: Mapping, path: Path, leaf) -> dict:
    return {**params, path[0]: leaf if len(path) == 1 else _with(params[path[0]], path[1:], leaf)}


def _pooled_slice(name: str, record, variables, x, head: Path, conv: LastConv, dtype) -> tuple[int, int]:
    """The slice of the pre-logits that the pooled channels become.

    At four inputs the gradient of the logits with respect to the weights of the convolution is compared with the one that LGC derives from
    the pre-logits. Both are equal if channel o affects only pre-logit start + o. Parameters that are all zero, such as a zero-initialised
    scale of batch norm, would hide the dependence on the channels and are replaced by random ones.
    """
    rng = np.random.default_rng(0)
    variables = {**variables, "params": jax.tree.map(lambda leaf: _nonzero(leaf, rng), variables["params"])}
    weights, channels = _at(variables["params"], head)["kernel"], np.shape(_at(variables["params"], conv.path))[-1]
    points = [
        jnp.asarray(point, jnp.asarray(x).dtype) for point in (x, rng.uniform(size=x.shape), rng.normal(size=x.shape), 5 * rng.normal(size=x.shape))
    ]
    cotangent = jnp.asarray(rng.normal(size=weights.shape[1]), jnp.float32)
    gradients = jax.jit(lambda x, start: _both_gradients(record, variables, x, cotangent, weights, conv, start, channels), static_argnums=1)
    depends = False
    for start in dict.fromkeys((0, weights.shape[0] - channels)):
        pairs = [gradients(point, start) for point in points] if 0 <= start <= weights.shape[0] - channels else []
        moved = any(np.abs(np.asarray(true)).max() > 0 for _, true in pairs)
        if moved and all(_close(*pair, dtype) for pair in pairs):
            return start, start + channels
        depends |= moved or not pairs
    where = f"last_conv={'/'.join(conv.path[:-1])!r} of expert {name!r}"
    if not depends:
        raise _NotPooledError(
            f"The logits do not depend on the weights of {where}, neither at x nor at three random inputs; pooled=True cannot be checked "
            "(ReLUs that are never active, or a stopped gradient). Try: without pooled=True"
        )
    raise _NotPooledError(
        f"The channels of {where} are not only pooled before the head: a pre-logit depends on "
        "several of them, or the weights are transformed before their use. Try: without pooled=True"
    )


def _nonzero(leaf, rng: np.random.Generator):
    """The array, or a random one if all its values are zero."""
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jnp.asarray(rng.uniform(0.5, 1.5, np.shape(leaf)), jnp.result_type(leaf)) if floating and not np.any(np.asarray(leaf)) else leaf


def _both_gradients(record, variables, x, cotangent, weights, conv: LastConv, start: int, channels: int):
    """Gradients of the logits with respect to the weights of the convolution: from the pre-logits as in LGC, and by automatic differentiation."""
    params, kernel = variables["params"], _at(variables["params"], conv.path)
    true = jax.grad(lambda kernel: (record({**variables, "params": _with(params, conv.path, kernel)}, x)[0].logits * cotangent).sum())(kernel)
    records = record(variables, x)[0]
    back = jax.grad(lambda change: record(variables, x, change)[0].head_inputs[0][:, start : start + channels].sum())(
        jnp.zeros_like(records.conv_outputs[0])
    )
    inputs = records.conv_inputs[0].astype(kernel.dtype)

    def convolved(kernel):
        return jax.lax.conv_general_dilated(inputs, kernel, conv.strides, conv.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    scale = (weights[start : start + channels] @ cotangent).astype(kernel.dtype)
    return jax.vjp(convolved, kernel)[1](back.astype(kernel.dtype) * scale)[0], true
