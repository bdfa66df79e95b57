"""One forward pass over the probe sample, whose results serve all scores."""

import warnings
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select._runtime.memory import MemoryShrunkWarning, is_out_of_memory, reason_of
from ntk_select._runtime.progress import timed
from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.expert import Expert, leaf_at
from ntk_select.experts.network_inputs import NetworkInputs


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
    expert: Expert,
    x: Float[np.ndarray, "n ..."] | NetworkInputs,
    *,
    last_conv: bool = False,
    batch_size: int = 32,
    seconds: dict[str, float] | None = None,
) -> ProbePass:
    """Passes `x`, already preprocessed, through the expert once, with full-precision products on every device.

    Args:
      expert: in evaluation mode.
      x: n network inputs; `NetworkInputs` are normalised batch by batch.
      last_conv: also return what LGC needs of the last convolution. Only for experts with `has_pooled_last_conv`.
      batch_size: examples per pass; the last batch is padded, so that there is one compilation.
      seconds: gains the time spent "forward", and "backward" on the cotangents of the last convolution.

    Raises:
      ModelError: a function gives no array, or its answer to an image depends on the other images of the batch. That is seen in the
        places that are left in the last batch, where the first images pass again; where none are left, one batch more passes.
    """
    variables = jax.device_put(expert.variables)
    way, forth = _way(expert, variables, last_conv, seconds)
    passes, again, _ = _batched(way, batch_size, (x,), again=forth)
    if again is not None:
        check_alone(expert, x, passes[:2], again)
    return ProbePass(*passes)


def _way(expert: Expert, variables, last_conv: bool, seconds: dict[str, float] | None):
    """What a batch goes through, and the part of it that gives logits and features."""
    if expert.taps_fn is None:
        functions = {name: fn for name in ("apply_fn", "features_fn") if (fn := getattr(expert, name)) is not None}

        def each(x):
            return [_array(call(fn, variables, x), name, expert) for name, fn in functions.items()]

        return (_timed(each, "forward", seconds),) * 2
    if not last_conv:
        return (_timed(partial(_logits_and_features, expert.taps_fn, variables), "forward", seconds),) * 2
    there = _timed(partial(_to_pooled_tail, expert.taps_fn, expert.last_conv, variables), "forward", seconds)
    back = _timed(_cotangents, "backward", seconds)

    def there_and_back(x):
        taps, *tail = there(x)
        return (*taps, back(*tail))

    return there_and_back, lambda x: there(x)[0][:2]


def _array(found, name: str, expert: Expert):
    rows = "(n, c)" if name == "apply_fn" else "(n, d)"
    if not hasattr(found, "shape"):
        size = f" of {len(found)}" if hasattr(found, "__len__") else ""
        raise ModelError(f"{name} of expert {expert.name!r} must return an array {rows}; it returned a {type(found).__name__}{size}.")
    if not found.shape:
        raise ModelError(f"{name} of expert {expert.name!r} must return an array {rows}, a row for each image; it returned a single number.")
    return found


ALONE, ALONE_IN_HALF = 1e-3, 2e-2
"""How far, relative to its length, an answer may differ in another batch: rounding stays far below. The latter where half precision is at work."""


def check_alone(expert: Expert, x, first, again) -> None:
    """Checks that answers do not depend on the other images of the batch.

    Args:
      x: network inputs.
      first, again: logits and features (n, ...), and the same of the first m images in another batch.

    Raises:
      ModelError: they were not.
    """
    allowed = ALONE_IN_HALF if any(_in_half(leaf) for leaf in jax.tree.leaves((expert.variables, x[:1]))) else ALONE
    for before, after in zip(first, again, strict=True):
        if after is None:
            continue
        rounding = float(jnp.finfo(after.dtype).eps) if jnp.issubdtype(after.dtype, jnp.inexact) else 0.0
        before, after = np.asarray(before)[: len(after)].astype(np.complex128), after.astype(np.complex128)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.linalg.norm(after - before) > max(allowed, 4 * rounding) * np.linalg.norm(before)
        if apart:
            raise ModelError(
                f"Expert {expert.name!r}: its answer to an image depends on the other images of the batch: batch norm (or dropout) is in training "
                "mode. Type: use_running_average=True (linen), model.eval() (nnx)"
            )


def _in_half(leaf) -> bool:
    kind = jnp.result_type(leaf)
    return jnp.issubdtype(kind, jnp.floating) and jnp.finfo(kind).bits < 32


def _timed(fn, step: str, seconds: dict[str, float] | None):
    """fn, whose time is added to `seconds[step]`; it then waits for its result."""
    if seconds is None:
        return fn

    def measured(*arguments):
        with timed(seconds, step):
            return jax.block_until_ready(fn(*arguments))

    return measured


def in_batches(fn, batch_size: int, *arrays):
    """fn over batches of the leading axis, results concatenated. The last batch repeats examples to fill up.

    Products are taken in full precision: GPUs and TPUs would round the inputs of float32 products otherwise.

    Raises:
      ConfigError: memory runs out with a single example.
      ModelError: fn does not give a row for each example.

    Warns:
      MemoryShrunkWarning: memory ran out, and the rest is done in smaller batches.
    """
    return InBatches(batch_size)(fn, *arrays)


class InBatches:
    """`in_batches` time after time: a size that proved too large is not tried again.

    Args:
      size: of the batches.
      inner: where a single example is too much, the lack of memory itself is raised: what is around may take less.
      precision: of products; None leaves it as it is.
    """

    def __init__(self, size: int, *, inner: bool = False, precision: str | None = "highest"):
        self.size, self._inner, self._precision = size, inner, precision

    def __call__(self, fn, *arrays):
        """As `in_batches`, in batches of `size`."""
        found, _, least = _batched(fn, self.size, arrays, inner=self._inner, precision=self._precision)
        self.size = self.size if least == len(arrays[0]) else least
        return found


def _batched(fn, batch_size: int, arrays, *, again=None, inner: bool = False, precision: str | None = "highest"):
    """The results; with `again` the first two of them once more for the first examples, in another batch than their own, None at size 1;
    and the size of the batches at last.

    `again` is the part of fn that gives those two; it is taken where a batch passes for their sake alone. They take the last half of the places that fill up the last batch, and one of them the first half: so that its content and their places
    are others, even where it holds nothing else.
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
            said = reason_of(error)
        else:
            for leaf in jax.tree.leaves(result):
                if len(leaf) != size:
                    raise ModelError(f"The network gives {len(leaf)} rows for {size} examples; it must give one for each, in their order.")
            keep = size - short
            if keep:
                results.append(jax.tree.map(lambda leaf, keep=keep: leaf[:keep], result))
            if short and again:
                repeated = jax.tree.map(lambda leaf, start=keep + short // 2: np.asarray(leaf)[start:], result[:2])
            first += size
            continue
        if size == 1:
            raise ConfigError(f"Memory ran out with a single example in the network ({said}). End other programs, or choose a smaller network.")
        warnings.warn(
            f"Memory ran out with {size} examples at a time ({said}). The work goes on with {size // 2}.", MemoryShrunkWarning, stacklevel=4
        )
        size //= 2
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results), repeated, size


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
