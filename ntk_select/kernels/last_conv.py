"""Gradient kernel of a pooled last convolution, from the forward pass that the other scores use.

It needs no per-example weight gradients, only the inputs of the convolution and the cotangents of its output.
"""

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.expert import Expert, leaf_at
from ntk_select.experts.forward import ProbePass
from ntk_select.kernels.engine.execute import kernel_of_op
from ntk_select.kernels.engine.layer_ops import Conv, conv_op
from ntk_select.kernels.sketches.execute import sketch_of_op
from ntk_select.kernels.sketches.projection import Sketch


def pooled_kernel(expert: Expert, passes: ProbePass, outputs) -> Float[np.ndarray, "n n"]:
    """Gradient kernel of a pooled last convolution from one forward pass, at a cost that does not grow with the classes.

    Pre-logit o depends on channel o of the convolution alone, through the cotangent m_o. With patches P and head
    weights W the gradient of output c with respect to channel o is W_oc P' m_o, so that
    sum_c <grad f_c(i), grad f_c(j)> = sum_o ||W_o||^2 <P_i' m_io, P_j' m_jo>.

    Args:
      expert: Expert with a pooled last convolution.
      passes: Result of `forward(expert, x, last_conv=True)`.
      outputs: See `gradient_kernel`.
    """
    op, inputs, cotangents = _of_pooled(expert, passes, outputs)
    return kernel_of_op(op, inputs, cotangents[:, None])


def pooled_sketch(expert: Expert, passes: ProbePass, outputs, sketch: Sketch) -> Float[np.ndarray, "n k"]:
    """Z with E[Z Z'] = `pooled_kernel` of the same arguments; `sketch` has its dimension and blocks as numbers."""
    return sketch_of_op(*_of_pooled(expert, passes, outputs), sketch, "/".join(("params", *expert.last_conv.path)))


def _of_pooled(expert: Expert, passes: ProbePass, outputs) -> tuple[Conv, np.ndarray, np.ndarray]:
    """The last convolution, its inputs, and one cotangent for all outputs."""
    scale = _channel_scale(expert, passes, outputs)
    spec = expert.last_conv
    weight = leaf_at(expert.params, spec.path, "last_conv")
    op = conv_op(passes.conv_inputs.shape[1:], weight.shape, strides=spec.strides, padding=spec.padding)
    return op, passes.conv_inputs, passes.conv_cotangents * scale[..., None, None, :].astype(passes.conv_cotangents.dtype)


def _channel_scale(expert: Expert, passes: ProbePass, outputs) -> np.ndarray:
    """Factor of each channel's cotangent: (cout,), or (n, cout) if cotangents differ by example."""
    start, stop = expert.last_conv.pooled
    if isinstance(outputs, str) and outputs == "features":
        return np.full(stop - start, passes.features.shape[1] ** -0.5)
    if expert.head is None:
        raise ModelError(f"Expert {expert.name!r} has no head, so the gradients of its outputs are unknown. Try: outputs='features'")
    weights = np.asarray(expert.head_kernel)[start:stop]
    if isinstance(outputs, str):
        return weights.sum(axis=1) if outputs == "sum" else np.linalg.norm(weights, axis=1) * weights.shape[1] ** -0.5
    n, c = passes.logits.shape
    return checked_cotangents(outputs, n, c) @ weights.T


def checked_cotangents(outputs, n: int, c: int) -> np.ndarray:
    """A combination of outputs as an array (c,) or (n, c). Raises ConfigError for another shape."""
    array = np.asarray(outputs)
    if array.shape not in ((c,), (n, c)) or not np.issubdtype(array.dtype, np.number):
        raise ConfigError(
            f"outputs has type {array.dtype} and shape {array.shape}; for {n} examples and {c} outputs allowed are ({c},) and ({n}, {c})."
        )
    return array
