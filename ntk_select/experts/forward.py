"""The forward pass over the probe sample that all scores share, and batched evaluation under a lack of memory."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select._runtime.host import threads
from ntk_select._runtime.memory import is_out_of_memory, reason_of
from ntk_select._runtime.progress import timed
from ntk_select.errors import ConfigError, MemoryShrunkWarning, ModelError
from ntk_select.experts.expert import Expert, Variables, leaf_at, node_at
from ntk_select.experts.headless import without_head
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.experts.preprocess import SMALL


class ProbePass(NamedTuple):
    """Results of the forward passes of one expert over n examples.

    Attributes:
      logits: (n, c).
      features: pre-logits (n, d); None if the expert has neither `taps_fn` nor `features_fn`.
      conv_inputs: (n, h, w, cin), inputs of the last convolution; None unless requested.
      conv_cotangents: (n, p, q, cout), gradient of the sum of the pooled pre-logits with respect to the output of
        the last convolution. Channel o is the gradient of the pre-logit that channel o becomes. None unless requested.
    """

    logits: Float[Array, "n c"]
    features: Float[Array, "n d"] | None = None
    conv_inputs: Float[Array, "n h w cin"] | None = None
    conv_cotangents: Float[Array, "n p q cout"] | None = None


def has_pooled_last_conv(expert: Expert) -> bool:
    """Whether the expert supports `forward(..., last_conv=True)`: it exposes a last convolution that is only pooled."""
    return expert.taps_fn is not None and expert.last_conv is not None and expert.last_conv.pooled is not None


def forward(
    expert: Expert,
    x: Float[np.ndarray, "n ..."] | NetworkInputs,
    *,
    last_conv: bool = False,
    batch_size: int = 32,
    seconds: dict[str, float] | None = None,
) -> ProbePass:
    """One forward pass of the expert over preprocessed inputs, with full-precision products on every device.

    Args:
      expert: Expert in evaluation mode.
      x: n network inputs; `NetworkInputs` are normalised per batch.
      last_conv: also return inputs and cotangents of the last convolution, for LGC. Only for experts with `has_pooled_last_conv`.
      batch_size: examples per batch; the last batch is padded, so there is one compilation.
      seconds: the times "forward", and "backward" of the cotangents of the last convolution, are added to it.

    Raises:
      ModelError: a function does not return an array, or the output for an image depends on the rest of the batch. This is checked by
        padding the last batch with the first images; if it is full, one further batch is evaluated.
    """
    network = without_head(expert)
    variables = jax.device_put(network.variables)
    full, outputs = _batch_functions(network, variables, last_conv, seconds)
    passes, again, _ = _batched(full, batch_size, (x,), again=outputs)
    if again is not None:
        check_independent_of_batch(network, x, passes[:2], again)
    passes = ProbePass(*passes)
    return passes if network is expert else passes._replace(logits=_logits(node_at(expert.params, expert.head, "head"), passes.features))


@jax.jit
def _logits(head, features):
    logits = jnp.matmul(features, head["kernel"], precision="highest")
    return logits + head["bias"] if "bias" in head else logits


def _batch_functions(expert: Expert, variables, last_conv: bool, seconds: dict[str, float] | None):
    """The function of a batch, and its part that computes logits and features."""
    if expert.taps_fn is None:
        functions = {name: fn for name in ("apply_fn", "features_fn") if (fn := getattr(expert, name)) is not None}

        def each(x):
            return [_array(call(fn, variables, x), name, expert) for name, fn in functions.items()]

        return (_timed(each, "forward", seconds),) * 2
    if not last_conv:
        return (_timed(partial(_logits_and_features, expert.taps_fn, variables), "forward", seconds),) * 2
    forward_pass = _timed(partial(_to_pooled_tail, expert.taps_fn, expert.last_conv, variables), "forward", seconds)
    backward_pass = _timed(_cotangents, "backward", seconds)

    def both(x):
        taps, *tail = forward_pass(x)
        return (*taps, backward_pass(*tail))

    return both, lambda x: forward_pass(x)[0][:2]


def _array(found, name: str, expert: Expert):
    rows = "(n, c)" if name == "apply_fn" else "(n, d)"
    if not hasattr(found, "shape"):
        size = f" of {len(found)}" if hasattr(found, "__len__") else ""
        raise ModelError(f"{name} of expert {expert.name!r} must return an array {rows}; it returned a {type(found).__name__}{size}.")
    if not found.shape:
        raise ModelError(f"{name} of expert {expert.name!r} must return an array {rows}, one row per image; it returned a single number.")
    return found


BATCH_TOLERANCE, BATCH_TOLERANCE_HALF = 1e-3, 2e-2
"""Allowed relative difference (norm) of outputs in another batch, far above rounding errors; the latter for half precision."""


def check_independent_of_batch(expert: Expert, x, first, again) -> None:
    """Checks that outputs do not depend on the rest of the batch.

    Args:
      x: network inputs.
      first, again: logits and features (n, ...), and those of the first m images in another batch.

    Raises:
      ModelError: they differ.
    """
    allowed = BATCH_TOLERANCE_HALF if any(_in_half(leaf) for leaf in jax.tree.leaves((expert.variables, x[:1]))) else BATCH_TOLERANCE
    for before, after in zip(first, again, strict=True):
        if after is None:
            continue
        rounding = float(jnp.finfo(after.dtype).eps) if jnp.issubdtype(after.dtype, jnp.inexact) else 0.0
        before, after = np.asarray(before)[: len(after)].astype(np.complex128), after.astype(np.complex128)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.linalg.norm(after - before) > max(allowed, 4 * rounding) * np.linalg.norm(before)
        if apart:
            raise ModelError(
                f"Expert {expert.name!r}: its outputs for an image depend on the rest of the batch: batch norm (or dropout) is in training "
                "mode. Try: use_running_average=True (linen), model.eval() (nnx)"
            )


def _in_half(leaf) -> bool:
    kind = jnp.result_type(leaf)
    return jnp.issubdtype(kind, jnp.floating) and jnp.finfo(kind).bits < 32


def _timed(fn, step: str, seconds: dict[str, float] | None):
    """fn with its time added to `seconds[step]`, waiting for its result."""
    if seconds is None:
        return fn

    def measured(*arguments):
        with timed(seconds, step):
            return jax.block_until_ready(fn(*arguments))

    return measured


def in_batches(fn, batch_size: int, *arrays):
    """Concatenated results of fn over batches of the leading axis. The last batch is padded with repeated examples.

    Products have full precision; GPUs and TPUs would otherwise round the inputs of float32 products.

    Raises:
      ConfigError: memory runs out with a single example.
      ModelError: fn does not return one row per example.

    Warns:
      MemoryShrunkWarning: memory ran out, and the rest is computed in smaller batches.
    """
    return InBatches(batch_size)(fn, *arrays)


class InBatches:
    """Repeated `in_batches` that remembers the largest batch size that fits into memory.

    Args:
      size: Size of the batches.
      inner: raise the out-of-memory error itself if a single example does not fit, so that the caller can use smaller portions.
      precision: Precision of products; None for the current setting.
    """

    def __init__(self, size: int, *, inner: bool = False, precision: str | None = "highest"):
        self.size, self._inner, self._precision = size, inner, precision

    def __call__(self, fn, *arrays):
        """As `in_batches`, with batches of `size`."""
        found, _, least = _batched(fn, self.size, arrays, inner=self._inner, precision=self._precision)
        self.size = self.size if least == len(arrays[0]) else least
        return found


def _batched(fn, batch_size: int, arrays, *, again=None, inner: bool = False, precision: str | None = "highest"):
    """The results; with `again` the first two of them recomputed for the first examples in another batch (None at size 1); and the final size.

    `again` is the part of fn that returns those two, used for a batch that is evaluated only for them. The padding of the last batch is the
    first example, repeated, in its first half, and the first examples in its second half, so that content and positions differ from the
    first batch.
    """
    n, first = len(arrays[0]), 0
    size = min(batch_size, n)
    results, repeated = [], None
    while first < n or (again and repeated is None and size > 1):
        batch = [array[first : first + size] for array in arrays]
        short = size - len(batch[0])
        if short:
            batch = [
                np.concatenate([part, np.repeat(array[:1], short // 2, axis=0), array[: (short + 1) // 2]])
                for part, array in zip(batch, arrays, strict=True)
            ]
        try:
            with nullcontext() if precision is None else jax.default_matmul_precision(precision):
                result = jax.block_until_ready((fn if first < n else again)(*batch))
        except Exception as error:
            if not is_out_of_memory(error) or (inner and size == 1):
                raise
            reason = reason_of(error)
        else:
            for leaf in jax.tree.leaves(result):
                if len(leaf) != size:
                    raise ModelError(f"The network returns {len(leaf)} rows for {size} examples; expected one per example, in the same order.")
            valid = size - short
            if valid:
                results.append(jax.tree.map(lambda leaf, valid=valid: leaf[:valid], result))
            if short and again:
                repeated = jax.tree.map(lambda leaf, start=valid + short // 2: np.asarray(leaf)[start:], result[:2])
            first += size
            continue
        if size == 1:
            raise ConfigError(f"Memory ran out with a single example in the network ({reason}). Try: ending other programs, or a smaller network")
        warnings.warn(f"Memory ran out with {size} examples at a time ({reason}). Continuing with {size // 2}.", MemoryShrunkWarning, stacklevel=4)
        size //= 2
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results), repeated, size


@partial(jax.jit, static_argnums=0)
def call(fn, variables, x):
    """fn(variables, x), compiled once per function and shapes."""
    return fn(variables, x)


@partial(jax.jit, static_argnums=0)
def _logits_and_features(taps_fn, variables, x):
    taps = taps_fn(variables, x, None)
    return taps.logits, taps.features


@partial(jax.jit, static_argnums=(0, 1))
def _to_pooled_tail(taps_fn, last_conv, variables, x):
    """The forward pass, and the vector-Jacobian product from the sum of the pooled pre-logits to the output of the last convolution."""
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
    """A zero perturbation in the shape of the output of the last convolution, to be differentiated."""
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


def batched_outputs(
    fn: Callable[[Variables, Any], Any], variables: Variables, images: Sequence[np.ndarray], preprocess: Callable, batch_size: int | None = None
) -> Iterator[Float[np.ndarray, "b d"]]:
    """Yields fn(variables, inputs) of all images in the evaluation view, one batch at a time.

    The last batch is padded, so a single program is compiled. Lazily decoded images are decoded in threads, one batch ahead.

    Args:
      batch_size: images per pass; by default 256 up to `SMALL` pixels, otherwise 32.
    """
    if batch_size is None:
        batch_size = 256 if getattr(preprocess, "size", SMALL) <= SMALL else 32
    n, size = len(images), min(batch_size, len(images))
    variables = jax.device_put(dict(variables))
    with ThreadPoolExecutor(threads()) as pool:

        def fetch(first: int):
            places = range(first, min(first + size, n))
            return [images[place] for place in places] if isinstance(images, np.ndarray) else [pool.submit(images.__getitem__, p) for p in places]

        waiting = fetch(0)
        for first in range(0, n, size):
            batch, waiting = waiting, fetch(first + size) if first + size < n else []
            inputs = preprocess([each.result() if isinstance(each, Future) else each for each in batch])
            short = size - len(inputs)
            inputs = np.concatenate([inputs, np.repeat(inputs[:1], short, axis=0)]) if short else inputs
            yield np.asarray(call(fn, variables, inputs))[: size - short]
