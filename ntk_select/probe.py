"""What does one forward pass over the probe sample give to all scores?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select.errors import ConfigError, ModelError
from ntk_select.expert import Expert, leaf_at
from ntk_select.gram import conv_gram


class ProbePass(NamedTuple):
    """Results of the forward passes of one expert over n examples.

    Attributes:
      logits: (n, c).
      features: pre-logits (n, d); None when the expert has neither `taps_fn` nor `features_fn`.
      conv_inputs: (n, h, w, cin), what entered the last convolution; None unless asked for.
      conv_cotangents: (n, p, q, cout), gradient of the sum of the pooled pre-logits with respect to the output of
        the last convolution. Channel o of it belongs to the pre-logit that channel o becomes; None unless asked for.
    """

    logits: Float[Array, "n c"]
    features: Float[Array, "n d"] | None = None
    conv_inputs: Float[Array, "n h w cin"] | None = None
    conv_cotangents: Float[Array, "n p q cout"] | None = None


def has_pooled_last_conv(expert: Expert) -> bool:
    """Whether `forward(..., last_conv=True)` works: the expert exposes a last convolution that is only pooled."""
    return expert.taps_fn is not None and expert.last_conv is not None and expert.last_conv.pooled is not None


def forward(expert: Expert, x: Float[np.ndarray, "n ..."], *, last_conv: bool = False, batch_size: int = 32) -> ProbePass:
    """Passes `x`, already preprocessed, through the expert once, with full-precision products on every device.

    Args:
      expert: in evaluation mode.
      x: n network inputs.
      last_conv: also return what LGC needs of the last convolution. Only for experts with `has_pooled_last_conv`.
      batch_size: examples per pass; the last batch is padded, so that there is one compilation.
    """
    variables = jax.device_put(expert.variables)
    if expert.taps_fn is None:
        logits = in_batches(partial(_call, expert.apply_fn, variables), batch_size, x)
        return ProbePass(logits, None if expert.features_fn is None else in_batches(partial(_call, expert.features_fn, variables), batch_size, x))
    if not last_conv:
        return ProbePass(*in_batches(partial(_logits_and_features, expert.taps_fn, variables), batch_size, x))
    return ProbePass(*in_batches(partial(_with_pooled_tail, expert.taps_fn, expert.last_conv, variables), batch_size, x))


def in_batches(fn, batch_size: int, *arrays):
    """fn over batches of the leading axis, results concatenated. The last batch repeats an example to fill up.

    Products are taken in full precision: GPUs and TPUs would round the inputs of float32 products otherwise.
    """
    n = len(arrays[0])
    size = min(batch_size, n)
    results = []
    for first in range(0, n, size):
        batch = [array[first : first + size] for array in arrays]
        short = size - len(batch[0])
        if short:
            batch = [np.concatenate([part, np.repeat(part[:1], short, axis=0)]) for part in batch]
        with jax.default_matmul_precision("highest"):
            result = fn(*batch)
        results.append(jax.tree.map(lambda leaf, keep=size - short: leaf[:keep], result))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


@partial(jax.jit, static_argnums=0)
def _call(fn, variables, x):
    return fn(variables, x)


@partial(jax.jit, static_argnums=0)
def _logits_and_features(taps_fn, variables, x):
    taps = taps_fn(variables, x, None)
    return taps.logits, taps.features


@partial(jax.jit, static_argnums=(0, 1))
def _with_pooled_tail(taps_fn, last_conv, variables, x):
    start, stop = last_conv.pooled

    def pooled_sum(perturbation):
        taps = taps_fn(variables, x, perturbation)
        return taps.features[:, start:stop].sum(), taps

    cotangents, taps = jax.grad(pooled_sum, has_aux=True)(_zero_perturbation(taps_fn, last_conv, variables, x))
    return (*taps, cotangents)


def _zero_perturbation(taps_fn, last_conv, variables, x):
    inputs = jax.eval_shape(lambda v, y: taps_fn(v, y, None).conv_inputs, variables, x)
    kernel = leaf_at(variables["params"], last_conv.path, "last_conv")
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=last_conv.strides,
        padding=last_conv.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    out = jax.eval_shape(convolve, inputs, kernel)
    return jnp.zeros(out.shape, out.dtype)


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
    if not isinstance(outputs, str):
        cotangents = np.broadcast_to(checked_cotangents(outputs, n, width), (n, width))[:, None].astype(dtype)
    elif outputs == "sum":
        cotangents = np.ones((n, 1, width), dtype)
    else:
        cotangents = np.broadcast_to(np.eye(width, dtype=dtype), (n, width, width))
    example = jax.eval_shape(partial(_zero_perturbation, expert.taps_fn, spec), expert.variables, x[:1])
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

    _, pull, inputs = jax.vjp(tail, _zero_perturbation(taps_fn, last_conv, variables, x), has_aux=True)
    return inputs, jax.vmap(lambda cotangent: pull(cotangent)[0], in_axes=1, out_axes=1)(cotangents)
