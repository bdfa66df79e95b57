"""Inner products of the examples' gradients with respect to some layers: what LGC correlates with the labels.

Two exact routes:
  * a pooled last convolution (ResNet, DenseNet): one backward pass through the tail serves any number of classes;
  * any layers of any function: the engine behind `ntk`, with one backward pass per output.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.experts.probe import ProbePass, forward, has_pooled_last_conv
from ntk_select.kernels.engine.arguments import leaf_names, refuse_tracers
from ntk_select.kernels.engine.ntk import ntk
from ntk_select.kernels.last_conv import pooled_kernel, pooled_sketch
from ntk_select.kernels.sketches.estimate import SketchedKernel
from ntk_select.kernels.sketches.projection import FORWARD, Sketch, as_sketch, decided
from ntk_select.kernels.sketches.sketch import sketch as random_rows

OUTPUTS = ("trace", "sum", "features")


def gradient_kernel(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Float[np.ndarray, "n ..."],
    *,
    params: Any = None,
    layers: str = "last_conv",
    outputs: str | Float[Array, "..."] = "trace",
    batch_size: int = 32,
) -> Float[np.ndarray, "n n"]:
    """Theta_ij, the inner product of the gradients of the outputs at examples i and j, exact.

    Args:
      expert_or_fn: an `Expert`, or fn(params, x) -> (n, c) in which no example influences another.
      x: n network inputs, already preprocessed.
      params: the parameters, when a function was given.
      layers: "last_conv" (the expert's last convolution), "all", or a regular expression that is searched in
        the "/"-joined paths of the parameters.
      outputs: which gradients. "trace": mean over the outputs of the kernels of the single outputs.
        "sum": gradient of the sum of the outputs. "features": as "trace", over the pre-logits instead of the
        logits, which needs no head. An array (c,) or (n, c): gradient of this combination of the outputs.
      batch_size: examples per forward pass.

    Returns:
      Symmetric and positive semi-definite, float64 (summed in float64 over blocks computed in the type of x).

    Raises:
      ConfigError: `layers` matches nothing, `outputs` is unknown or has the wrong shape, or tracers (see `ntk_fn`).
      ModelError: the expert lacks what is asked for.

    Reference: Deshpande et al. 2021, section 3.2.  Cost: for a pooled last convolution the forward passes plus
    O(n^2 p) with p its number of weights; otherwise c times as much; for other layers see `ntk`.
    """
    refuse_traced("ns.gradient_kernel", "ns.ntk_fn(fn, params, x)(params, x)", expert_or_fn, x, params, outputs)
    question = asked(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size)
    if isinstance(question, PooledQuestion):
        return pooled_kernel(question.expert, question.passes, question.outputs)
    return ntk(*question[:2], x, outputs=question.outputs, layers=question.layers, batch_size=batch_size, accumulate="float64")


def gradient_sketch(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Float[np.ndarray, "n ..."],
    sketch: Sketch | int,
    *,
    params: Any = None,
    layers: str = "last_conv",
    outputs: str | Float[Array, "..."] = "trace",
    batch_size: int | None = None,
) -> SketchedKernel:
    """The gradient kernel, estimated from gradients projected at random.

    Args:
      sketch: kind, dimension, seed, blocks; or only the dimension. Two blocks where none are asked for, so that the kernel's
        norm is known without bias.
      expert_or_fn, x, params, layers, outputs: as for `gradient_kernel`.
      batch_size: examples per forward pass; chosen if None.

    Returns:
      A `SketchedKernel` whose `kernel` estimates `gradient_kernel` of the same arguments without bias.

    Raises:
      ConfigError, ModelError: as `gradient_kernel` and `ntk_select.sketch`.

    Cost: for a pooled last convolution the forward passes and one read of n gradients for each block (countsketch); otherwise
    see `ntk_select.sketch`.
    """
    refuse_traced("ns.gradient_sketch", "ns.sketch_fn(fn, params, x)(params, x)", expert_or_fn, x, params, outputs)
    sketch = decided(as_sketch(sketch), 2)
    return sketch_of(asked(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size or 32), x, sketch, batch_size)


def refuse_traced(name: str, instead: str, expert_or_fn, *trees) -> None:
    """Raises ConfigError for abstract values of JAX, those in an expert included."""
    held = expert_or_fn.variables if isinstance(expert_or_fn, Expert) else None
    refuse_tracers(name, f"{instead}, which can", held, *trees)


class Question(NamedTuple):
    """What `ntk` and `sketch` are asked: fn, params, outputs, layers."""

    fn: Callable
    params: Any
    outputs: Any
    layers: Any


class PooledQuestion(NamedTuple):
    """A pooled last convolution after its forward passes; they serve any number of sketches."""

    expert: Expert
    passes: ProbePass
    outputs: Any


def asked(expert_or_fn, x, *, params, layers: str, outputs, batch_size: int) -> Question | PooledQuestion:
    """The question, with its forward passes where one step back from them is enough. Raises as `gradient_kernel`."""
    if isinstance(outputs, str) and outputs not in OUTPUTS:
        raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(outputs, OUTPUTS)} Or give an array (c,) or (n, c).")
    if isinstance(expert_or_fn, Expert):
        expert = expert_or_fn
        if layers == "last_conv" and has_pooled_last_conv(expert):
            return PooledQuestion(expert, forward(expert, x, last_conv=True, batch_size=batch_size), outputs)
        return Question(*expert_question(expert, layers, outputs))
    if params is None:
        raise ConfigError("A function needs its parameters. Try: gradient_kernel(fn, x, params=params, layers='all')")
    if layers == "last_conv":
        raise ConfigError("A function does not say which its last convolution is. Try: layers='all', or a regular expression over parameter paths.")
    if isinstance(outputs, str) and outputs == "features":
        raise ConfigError("A function has no features of its own. Give the function of the features, with outputs='trace'.")
    return Question(expert_or_fn, params, outputs, None if layers == "all" else layers)


def averaged_outputs(question: Question | PooledQuestion, x) -> int:
    """How many outputs are averaged; 1 where their gradients are combined first."""
    if not isinstance(question.outputs, str) or question.outputs == "sum":
        return 1
    if isinstance(question, PooledQuestion):
        return (question.passes.features if question.outputs == "features" else question.passes.logits).shape[1]
    return jax.eval_shape(question.fn, question.params, x[:1]).shape[-1]


def sketch_of(question: Question | PooledQuestion, x, sketch: Sketch, batch_size: int | None = None) -> SketchedKernel:
    """The sketch that answers a question; dimension and blocks are numbers."""
    if isinstance(question, PooledQuestion):
        if sketch.kind != FORWARD:
            return SketchedKernel(pooled_sketch(*question, sketch), sketch.kind, sketch.blocks)
        question = Question(*expert_question(question.expert, "last_conv", question.outputs))
    z = random_rows(
        *question[:2],
        x,
        dim=sketch.dim,
        kind=sketch.kind,
        seed=sketch.seed,
        blocks=sketch.blocks,
        outputs=question.outputs,
        layers=question.layers,
        batch_size=batch_size,
    )
    return SketchedKernel(z, sketch.kind, sketch.blocks, directions=not (isinstance(question.outputs, str) and question.outputs == "trace"))


def expert_question(expert: Expert, layers: str, outputs) -> tuple[Callable, Any, Any, Callable[[str], bool]]:
    """What `ntk` is asked for an expert: (fn, params, outputs, layers). `params` are all its variables, of which `layers`
    chooses none but parameters, so that experts of one architecture share one compilation.

    Raises:
      ConfigError: `layers` matches nothing.
      ModelError: outputs="features" for an expert without `features_fn`, or "last_conv" for one that does not know its own.
    """
    if layers == "last_conv" and expert.last_conv is None:
        raise ModelError(
            f"Expert {expert.name!r} does not say which its last convolution is. Try: layers='all' (--layers all), or a regular expression."
        )
    fn = expert.apply_fn
    if isinstance(outputs, str) and outputs == "features":
        if expert.features_fn is None:
            raise ModelError(f"Expert {expert.name!r} has no features_fn, which outputs='features' needs. Try: outputs='trace'")
        fn, outputs = expert.features_fn, "trace"
    chosen = of_params(layers, expert.last_conv.path if layers == "last_conv" else None)
    if not any(map(chosen, leaf_names(expert.variables))):
        raise ConfigError(f"layers={layers!r} matches no parameter.{did_you_mean(layers, leaf_names(expert.params))}")
    return fn, expert.variables, outputs, chosen


def of_params(layers: str | Callable[[str], bool], path: tuple[str, ...] | None) -> Callable[[str], bool]:
    """Which paths of an expert's variables are meant: below "params", never batch statistics."""
    if path is not None:
        return "/".join(("params", *path)).__eq__
    if not callable(layers) and not isinstance(layers, str):
        raise ConfigError(f"layers={layers!r} must be 'all', 'last_conv', a regular expression, a function of the path, or None for all.")
    try:
        matches = layers if callable(layers) else re.compile("" if layers == "all" else layers).search
    except re.error as error:
        raise ConfigError(f"layers={layers!r} is not a regular expression: {error}.") from error
    return lambda name: name.startswith("params/") and bool(matches(name.removeprefix("params/")))
