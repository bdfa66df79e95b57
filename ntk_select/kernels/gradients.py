"""Gradient kernels of experts and functions with respect to some layers, as used by LGC.

Two exact routes:
  * a pooled last convolution (ResNet, DenseNet): one backward pass through the tail serves any number of classes;
  * any layers of any function: the engine behind `ntk`, with one backward pass per output.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.expert import Expert, leaf_at
from ntk_select.experts.forward import ProbePass, forward, has_pooled_last_conv
from ntk_select.kernels.engine.arguments import leaf_names, refuse_tracers
from ntk_select.kernels.engine.ntk import ntk
from ntk_select.kernels.last_conv import pooled_kernel, pooled_sketch
from ntk_select.kernels.sketches.projection import FORWARD, Sketch, as_sketch, decided
from ntk_select.kernels.sketches.sketch import sketch as random_rows
from ntk_select.kernels.sketches.sketched_kernel import SketchedKernel

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
      params: the parameters, if a function is given.
      layers: "last_conv" (the expert's last convolution; the weights of its last block where it has none), "all", or a regular expression
        searched in the "/"-joined paths of the parameters.
      outputs: "trace": mean of the kernels of the outputs. "sum": kernel of the summed outputs. "features": as "trace", of
        the pre-logits instead of the logits; needs no head. An array (c,) or (n, c): this combination of the outputs.
      batch_size: examples per forward pass.

    Returns:
      Symmetric and positive semi-definite, float64 (summed in float64 over blocks computed in the type of x).

    Raises:
      ConfigError: `layers` matches nothing, `outputs` is unknown or has the wrong shape, or tracers (see `ntk_fn`).
      ModelError: the expert has no last convolution, features or head, if required.

    Reference: Deshpande et al. 2021, section 3.2.  Cost: for a pooled last convolution the forward passes plus
    O(n^2 p) with p its number of weights; otherwise c times as much; for other layers see `ntk`.
    """
    refuse_traced("ns.gradient_kernel", "ns.ntk_fn(fn, params, x)(params, x)", expert_or_fn, x, params, outputs)
    inputs = kernel_inputs(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size)
    if isinstance(inputs, PooledInputs):
        return pooled_kernel(inputs.expert, inputs.passes, inputs.outputs)
    return ntk(*inputs[:2], x, outputs=inputs.outputs, layers=inputs.layers, batch_size=batch_size, accumulate="float64")


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
    """The gradient kernel, estimated from random projections of the gradients.

    Args:
      sketch: kind, dimension, seed, blocks; or only the dimension. Default: two blocks, for an unbiased norm of the kernel.
      expert_or_fn, x, params, layers, outputs: See `gradient_kernel`.
      batch_size: examples per forward pass; None: automatic.

    Returns:
      A `SketchedKernel` whose `kernel` estimates `gradient_kernel` of the same arguments without bias.

    Raises:
      ConfigError, ModelError: as `gradient_kernel` and `ntk_select.sketch`.

    Cost: for a pooled last convolution the forward passes and one read of n gradients for each block (countsketch); otherwise
    see `ntk_select.sketch`.
    """
    refuse_traced("ns.gradient_sketch", "ns.sketch_fn(fn, params, x)(params, x)", expert_or_fn, x, params, outputs)
    sketch = decided(as_sketch(sketch), 2)
    return sketch_of(
        kernel_inputs(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size or 32), x, sketch, batch_size
    )


def refuse_traced(name: str, instead: str, expert_or_fn, *trees) -> None:
    """Raises ConfigError for tracers, including those in an expert."""
    held = expert_or_fn.variables if isinstance(expert_or_fn, Expert) else None
    refuse_tracers(name, f"{instead}, which can", held, *trees)


class KernelInputs(NamedTuple):
    """Arguments of `ntk` and `sketch`: fn, params, outputs, layers."""

    fn: Callable
    params: Any
    outputs: Any
    layers: Any


class PooledInputs(NamedTuple):
    """Forward passes of a pooled last convolution; reusable for any number of sketches."""

    expert: Expert
    passes: ProbePass
    outputs: Any


def kernel_inputs(expert_or_fn, x, *, params, layers: str, outputs, batch_size: int) -> KernelInputs | PooledInputs:
    """Resolves the arguments of `gradient_kernel`, with the forward passes of a pooled last convolution. Raises as `gradient_kernel`."""
    if isinstance(outputs, str) and outputs not in OUTPUTS:
        raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(outputs, OUTPUTS)} Or give an array (c,) or (n, c).")
    if isinstance(expert_or_fn, Expert):
        expert = expert_or_fn
        if layers == "last_conv" and has_pooled_last_conv(expert):
            return PooledInputs(expert, forward(expert, x, last_conv=True, batch_size=batch_size), outputs)
        return KernelInputs(*narrow_inputs(expert, layers, outputs))
    if params is None:
        raise ConfigError("A function needs its parameters. Try: gradient_kernel(fn, x, params=params, layers='all')")
    if layers == "last_conv":
        raise ConfigError("The last convolution of a function is unknown. Try: layers='all', or a regular expression over parameter paths.")
    if isinstance(outputs, str) and outputs == "features":
        raise ConfigError("A function has no separate features. Try: the function of the features, with outputs='trace'")
    return KernelInputs(expert_or_fn, params, outputs, layers)


def averaged_outputs(inputs: KernelInputs | PooledInputs, x) -> int:
    """Number of outputs that are averaged; 1 if their gradients are combined first."""
    if not isinstance(inputs.outputs, str) or inputs.outputs == "sum":
        return 1
    if isinstance(inputs, PooledInputs):
        return (inputs.passes.features if inputs.outputs == "features" else inputs.passes.logits).shape[1]
    return jax.eval_shape(inputs.fn, inputs.params, x[:1]).shape[-1]


def sketch_of(inputs: KernelInputs | PooledInputs, x, sketch: Sketch, batch_size: int | None = None) -> SketchedKernel:
    """The sketched kernel of these inputs; `sketch` has a numeric dim and blocks."""
    if isinstance(inputs, PooledInputs):
        if sketch.kind != FORWARD:
            return SketchedKernel(pooled_sketch(*inputs, sketch), sketch.kind, sketch.blocks)
        inputs = KernelInputs(*narrow_inputs(inputs.expert, "last_conv", inputs.outputs))
    z = random_rows(
        *inputs[:2],
        x,
        dim=sketch.dim,
        kind=sketch.kind,
        seed=sketch.seed,
        blocks=sketch.blocks,
        outputs=inputs.outputs,
        layers=inputs.layers,
        batch_size=batch_size,
    )
    return SketchedKernel(z, sketch.kind, sketch.blocks, directions=not (isinstance(inputs.outputs, str) and inputs.outputs == "trace"))


def expert_inputs(expert: Expert, layers: str | Callable[[str], bool], outputs) -> tuple[Callable, Any, Any, Callable[[str], bool]]:
    """Arguments of `ntk` for an expert: (fn, params, outputs, layers). `params` are all its variables and `layers` selects
    only parameters, so experts of one architecture share one compilation.

    Raises:
      ConfigError: `layers` matches nothing.
      ModelError: outputs="features" for an expert without `features_fn`, or "last_conv" for one without `last_conv` and `last_block`.
    """
    if layers == "last_conv" and expert.last_conv is None and expert.last_block is None:
        raise ModelError(f"Expert {expert.name!r} has no last_conv. Try: layers='all' (--layers all), or a regular expression.")
    fn = expert.apply_fn
    if isinstance(outputs, str) and outputs == "features":
        if expert.features_fn is None:
            raise ModelError(f"Expert {expert.name!r} has no features_fn, which outputs='features' needs. Try: outputs='trace'")
        fn, outputs = expert.features_fn, "trace"
    if layers != "last_conv":
        chosen = of_params(layers, None)
    elif expert.last_conv is not None:
        chosen = of_params(layers, expert.last_conv.path)
    else:
        chosen = of_params(f"^{re.escape('/'.join(expert.last_block))}(/|$)", None)
    if not any(map(chosen, leaf_names(expert.variables))):
        raise ConfigError(f"layers={layers!r} matches no parameter.{did_you_mean(str(layers), leaf_names(expert.params))}")
    return fn, expert.variables, outputs, chosen


def narrow_inputs(expert: Expert, layers: str, outputs) -> tuple[Callable, Any, Any, Callable[[str], bool]]:
    """As `expert_inputs`, for kernels alone: where fewer combinations of the pre-logits have the same trace kernel as the logits, fn returns these.

    An expert with 192 pre-logits and 1000 classes then needs 192 backward passes per image instead of 1000.
    """
    fn, variables, outputs, chosen = expert_inputs(expert, layers, outputs)
    if fn is expert.apply_fn and isinstance(outputs, str) and outputs == "trace" and _narrower_than_head(expert, chosen):
        fn = _ThroughHead(expert.features_fn, expert.head)
    return fn, variables, outputs, chosen


def _narrower_than_head(expert: Expert, chosen: Callable[[str], bool]) -> bool:
    """Whether the pre-logits are fewer than the logits, and the head is linear and fixed."""
    if expert.features_fn is None or expert.head is None:
        return False
    path = "/".join(("params", *expert.head))
    return expert.head_kernel.shape[0] < expert.head_kernel.shape[1] and not any(
        chosen(name) for name in leaf_names(expert.variables) if name.startswith(f"{path}/")
    )


@dataclass(frozen=True)
class _ThroughHead:
    """d combinations of the pre-logits that have the same mean kernel as the c > d logits: with W' = Q R, sum_c <W'J, W'J'> = sum_d <R J, R J'>."""

    features_fn: Callable
    head: tuple[str, ...]

    def __call__(self, variables, x):
        kernel = leaf_at(variables["params"], (*self.head, "kernel"), "head")
        width, outputs = kernel.shape
        triangle = jnp.linalg.qr(jnp.asarray(kernel).T, mode="r")
        return self.features_fn(variables, x) @ (triangle.T * (width / outputs) ** 0.5)


def of_params(layers: str | Callable[[str], bool], path: tuple[str, ...] | None) -> Callable[[str], bool]:
    """Predicate on the paths of an expert's variables: selected ones below "params", never batch statistics."""
    if path is not None:
        return "/".join(("params", *path)).__eq__
    if not callable(layers) and not isinstance(layers, str):
        raise ConfigError(f"layers={layers!r} must be 'all', 'last_conv', a regular expression, a function of the path, or None for all.")
    try:
        matches = layers if callable(layers) else re.compile("" if layers == "all" else layers).search
    except re.error as error:
        raise ConfigError(f"layers={layers!r} is not a regular expression: {error}.") from error
    return lambda name: name.startswith("params/") and bool(matches(name.removeprefix("params/")))
