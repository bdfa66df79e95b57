"""What does one forward pass over the probe sample give to all scores?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select.expert import Expert, leaf_at
from ntk_select.timing import timed


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


def forward(
    expert: Expert, x: Float[np.ndarray, "n ..."], *, last_conv: bool = False, batch_size: int = 32, seconds: dict[str, float] | None = None
) -> ProbePass:
    """Passes `x`, already preprocessed, through the expert once, with full-precision products on every device.

    Args:
      expert: in evaluation mode.
      x: n network inputs.
      last_conv: also return what LGC needs of the last convolution. Only for experts with `has_pooled_last_conv`.
      batch_size: examples per pass; the last batch is padded, so that there is one compilation.
      seconds: gains the time spent "forward", and "backward" on the cotangents of the last convolution.
    """
    variables = jax.device_put(expert.variables)
    if expert.taps_fn is None:
        ways = [partial(call, fn, variables) for fn in (expert.apply_fn, expert.features_fn) if fn is not None]
        return ProbePass(*in_batches(_timed(lambda x: [way(x) for way in ways], "forward", seconds), batch_size, x))
    if not last_conv:
        return ProbePass(*in_batches(_timed(partial(_logits_and_features, expert.taps_fn, variables), "forward", seconds), batch_size, x))
    there = _timed(partial(_to_pooled_tail, expert.taps_fn, expert.last_conv, variables), "forward", seconds)
    back = _timed(_cotangents, "backward", seconds)

    def there_and_back(x):
        taps, *tail = there(x)
        return (*taps, back(*tail))

    return ProbePass(*in_batches(there_and_back, batch_size, x))


def _timed(fn, step: str, seconds: dict[str, float] | None):
    """fn, whose time is added to `seconds[step]`; it then waits for its result."""
    if seconds is None:
        return fn

    def measured(*arguments):
        with timed(seconds, step):
            return jax.block_until_ready(fn(*arguments))

    return measured


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
def call(fn, variables, x):
    """fn(variables, x), compiled once for each function and shapes."""
    return fn(variables, x)


@partial(jax.jit, static_argnums=0)
def _logits_and_features(taps_fn, variables, x):
    taps = taps_fn(variables, x, None)
    return taps.logits, taps.features


@partial(jax.jit, static_argnums=(0, 1))
def _to_pooled_tail(taps_fn, last_conv, variables, x):
    """The forward pass, and what leads back from the sum of the pooled pre-logits to the last convolution's output."""
    start, stop = last_conv.pooled

    def pooled_sum(perturbation):
        taps = taps_fn(variables, x, perturbation)
        return taps.features[:, start:stop].sum(), taps

    total, pull, taps = jax.vjp(pooled_sum, zero_perturbation(taps_fn, last_conv, variables, x), has_aux=True)
    return taps, pull, jnp.ones_like(total)


@jax.jit
def _cotangents(pull, one):
    return pull(one)[0]


def zero_perturbation(taps_fn, last_conv, variables, x):
    """Zeros in the shape of the last convolution's output: what `taps_fn` adds to it, to be differentiated."""
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
