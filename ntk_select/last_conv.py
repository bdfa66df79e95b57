"""The gradient kernel of the last convolution, from what the network exposes of it.

No per-example weight gradient is asked of the network: the inputs of the convolution and the cotangents of its output
are all that its gradient is made of.
"""

from functools import partial

import jax
import numpy as np
from jaxtyping import Float

from ntk_select.errors import ConfigError, ModelError
from ntk_select.expert import Expert, leaf_at
from ntk_select.gram import conv_gram
from ntk_select.probe import ProbePass, in_batches, zero_perturbation


def pooled_kernel(expert: Expert, passes: ProbePass, outputs) -> Float[np.ndarray, "n n"]:
    """Gradient kernel of a pooled last convolution from one forward pass, at a cost that does not grow with the classes.

    Pre-logit o depends on channel o of the convolution alone, through the cotangent m_o. With patches P and head
    weights W the gradient of output c with respect to channel o is W_oc P' m_o, so that
    sum_c <grad f_c(i), grad f_c(j)> = sum_o ||W_o||^2 <P_i' m_io, P_j' m_jo>.

    Args:
      expert: with a pooled last convolution.
      passes: from `forward(expert, x, last_conv=True)`.
      outputs: as in `gradient_kernel`.
    """
    scale = _channel_scale(expert, passes, outputs)
    spec = expert.last_conv
    window = leaf_at(expert.params, spec.path, "last_conv").shape[:2]
    cotangents = passes.conv_cotangents * scale[..., None, None, :].astype(passes.conv_cotangents.dtype)
    return conv_gram(passes.conv_inputs, cotangents[:, None], window=tuple(window), strides=spec.strides, padding=spec.padding)


def _channel_scale(expert: Expert, passes: ProbePass, outputs) -> np.ndarray:
    """What each channel's cotangent is multiplied by: (cout,), or (n, cout) for cotangents that differ by example."""
    start, stop = expert.last_conv.pooled
    if isinstance(outputs, str) and outputs == "features":
        return np.full(stop - start, passes.features.shape[1] ** -0.5)
    if expert.head is None:
        raise ModelError(f"Expert {expert.name!r} has no head, so that its outputs have no gradient here. Type: outputs='features'")
    weights = np.asarray(expert.head_kernel)[start:stop]
    if isinstance(outputs, str):
        return weights.sum(axis=1) if outputs == "sum" else np.linalg.norm(weights, axis=1) * weights.shape[1] ** -0.5
    n, c = passes.logits.shape
    return checked_cotangents(outputs, n, c) @ weights.T


def cotangents_of(outputs, n: int, c: int, dtype=np.float32) -> np.ndarray:
    """The cotangents (m, n, c) of the gradients that `outputs` asks for; their kernels are averaged over m."""
    if not isinstance(outputs, str):
        return np.broadcast_to(checked_cotangents(outputs, n, c), (n, c))[None]
    rows = np.ones((1, c), dtype) if outputs == "sum" else np.eye(c, dtype=dtype)
    return np.broadcast_to(rows[:, None], (len(rows), n, c))


def checked_cotangents(outputs, n: int, c: int) -> np.ndarray:
    """A combination of outputs as an array (c,) or (n, c). Raises ConfigError for another shape."""
    array = np.asarray(outputs)
    if array.shape not in ((c,), (n, c)) or not np.issubdtype(array.dtype, np.number):
        raise ConfigError(
            f"outputs has type {array.dtype} and shape {array.shape}; for {n} examples and {c} outputs allowed are ({c},) and ({n}, {c})."
        )
    return array


def tail_kernel(expert: Expert, x, outputs, *, batch_size: int = 32, chunk_bytes: int = 2**29) -> Float[np.ndarray, "n n"]:
    """Gradient kernel of a last convolution that is followed by anything (AlexNet).

    One backward pass through the tail per output, over as many outputs at a time as fit into `chunk_bytes`, and a
    forward pass for each such chunk. Arguments and result as in `gradient_kernel`.

    Cost: O(n^2 m k cout) products for m outputs and a kernel of k x cout weights; see `tail_cost`.
    """
    spec, of_features = expert.last_conv, isinstance(outputs, str) and outputs == "features"
    shapes = jax.eval_shape(expert.taps_fn, expert.variables, x[:1], None)
    width = (shapes.features if of_features else shapes.logits).shape[1]
    n, dtype = len(x), shapes.logits.dtype
    cotangents = cotangents_of(outputs, n, width, dtype).swapaxes(0, 1).astype(dtype, copy=False)
    example = jax.eval_shape(partial(zero_perturbation, expert.taps_fn, spec), expert.variables, x[:1])
    chunk = max(1, chunk_bytes // (n * example.size * example.dtype.itemsize))
    window = tuple(leaf_at(expert.params, spec.path, "last_conv").shape[:2])
    variables, kernel = jax.device_put(expert.variables), np.zeros((n, n))
    for first in range(0, cotangents.shape[1], chunk):
        run = partial(_with_tail, expert.taps_fn, spec, of_features, variables)
        inputs, gradients = in_batches(run, batch_size, x, cotangents[:, first : first + chunk])
        kernel += conv_gram(inputs, gradients, window=window, strides=spec.strides, padding=spec.padding)
    return kernel / cotangents.shape[1]


def tail_cost(expert: Expert, x, outputs) -> float:
    """Products that `tail_kernel` needs for the Gram matrix alone; 0 where that is not what would run."""
    if expert.taps_fn is None or expert.last_conv is None or not isinstance(outputs, str):
        return 0.0
    shapes = jax.eval_shape(expert.taps_fn, expert.variables, x[:1], None)
    width = {"trace": shapes.logits.shape[1], "features": shapes.features.shape[1], "sum": 1}[outputs]
    return float(len(x)) ** 2 * width * np.size(leaf_at(expert.params, expert.last_conv.path, "last_conv"))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _with_tail(taps_fn, last_conv, of_features, variables, x, cotangents):
    def tail(perturbation):
        taps = taps_fn(variables, x, perturbation)
        return (taps.features if of_features else taps.logits), taps.conv_inputs

    _, pull, inputs = jax.vjp(tail, zero_perturbation(taps_fn, last_conv, variables, x), has_aux=True)
    return inputs, jax.vmap(lambda cotangent: pull(cotangent)[0], in_axes=1, out_axes=1)(cotangents)
