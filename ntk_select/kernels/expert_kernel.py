"""Kernel of an expert at some inputs, exact, sketched or of the features, with a record of how it was computed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ntk_select.errors import ModelError
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import forward, has_pooled_last_conv
from ntk_select.kernels.alignment import feature_kernel
from ntk_select.kernels.engine.arguments import leaf_names
from ntk_select.kernels.engine.ntk import ntk, ntk_plan
from ntk_select.kernels.engine.plan import Plan
from ntk_select.kernels.gradients import gradient_kernel, gradient_sketch, narrow_inputs
from ntk_select.kernels.sketches import Sketch, SketchedKernel, sketch
from ntk_select.kernels.sketches.hashing import SCHEME
from ntk_select.kernels.sketches.projection import FORWARD


class ExpertKernel(NamedTuple):
    """A computed kernel.

    Attributes:
      kernel: (n, n), (n, n, c) or (n, n, c, c), as `ntk` returns it.
      how: layers, outputs, precision, accumulate, plan and, of a sketch, its configuration; JSON-ready.
      layers: kernels of the layers by path, if requested; they add up to `kernel`.
      sketch: Z (n, k) where `kernel` is the estimate Z Z'; None for exact kernels.
    """

    kernel: np.ndarray
    how: dict[str, Any]
    layers: dict[str, np.ndarray]
    sketch: np.ndarray | None = None


def exact_kernel(
    expert: Expert,
    x: Float[np.ndarray, "n ..."],
    *,
    layers: str = "all",
    outputs: str = "trace",
    precision: str = "highest",
    accumulate: str | None = None,
    memory_gb: float | None = None,
    by_layer: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> ExpertKernel:
    """Computes the NTK of an expert.

    Args:
      expert, x: the network, and n preprocessed inputs.
      layers: "all", "last_conv", or a regular expression over parameter paths; batch statistics are never included.
      outputs, precision, accumulate, memory_gb, by_layer, progress: See `ntk`. With `by_layer`, `kernel` is the sum over the layers.

    Raises:
      ConfigError, ModelError: as `ntk`, or `layers` matches no parameter.

    Cost: for a last convolution that is only pooled, the forward passes and one backward step for all outputs; otherwise see `ntk`.
    """
    fn, variables, _, chosen = narrow_inputs(expert, layers, outputs)
    how = _how(expert, layers, outputs, precision, chosen)
    paths = how["layers"]["paths"]
    if is_pooled(expert, layers, outputs, precision):
        kernel = gradient_kernel(expert, x, outputs=outputs)
        return ExpertKernel(kernel, how | {"accumulate": "float64", "plan": None}, dict.fromkeys(paths, kernel) if by_layer else {})
    options = {"outputs": outputs, "layers": chosen, "memory_gb": memory_gb, "by_layer": by_layer}
    how |= {"accumulate": accumulate, "plan": plan_costs(ntk_plan(fn, variables, x, **options))}
    kernel = ntk(fn, variables, x, precision=precision, accumulate=accumulate, progress=progress, **options)
    if not by_layer:
        return ExpertKernel(kernel, how, {})
    parts = {name.removeprefix("params/"): part for name, part in kernel.items()}
    return ExpertKernel(sum(parts.values()), how, parts)


def sketched_kernel(
    expert: Expert,
    x: Float[np.ndarray, "n ..."],
    which: Sketch,
    *,
    layers: str = "all",
    outputs: str = "trace",
    precision: str = "highest",
    memory_gb: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> ExpertKernel:
    """Estimates the NTK of an expert from gradients projected at random.

    Args:
      which: dimension and blocks as numbers (`projection.decided`).
      outputs: "trace" or "sum".
      expert, x, layers, precision, memory_gb, progress: See `exact_kernel`.

    Raises:
      ConfigError, ModelError: as `ntk_select.sketch`, or `layers` matches no parameter.

    Cost: see `gradient_sketch`.
    """
    fn, variables, _, chosen = narrow_inputs(expert, layers, outputs)
    if is_pooled(expert, layers, outputs, precision) and which.kind != FORWARD:
        found = gradient_sketch(expert, x, which, outputs=outputs)
    else:
        configuration = {"dim": which.dim, "kind": which.kind, "seed": which.seed, "blocks": which.blocks}
        options = {"outputs": outputs, "layers": chosen, "memory_gb": memory_gb, "precision": precision, "progress": progress}
        found = SketchedKernel(sketch(fn, variables, x, **configuration, **options), which.kind, which.blocks, directions=outputs != "trace")
    made = {"kind": which.kind, "dim": which.dim, "blocks": which.blocks, "seed": which.seed, "scheme": SCHEME, "directions": bool(found.directions)}
    how = _how(expert, layers, outputs, precision, chosen) | {"accumulate": "float64", "plan": None, "sketch": made}
    return ExpertKernel(found.kernel, how, {}, found.sketch)


def features_kernel(expert: Expert, x: Float[np.ndarray, "n ..."]) -> ExpertKernel:
    """Computes the inner products of an expert's pre-logits. Raises ModelError for an expert without `features_fn`."""
    features = forward(expert, x).features
    if features is None:
        raise ModelError(f"Expert {expert.name!r} has no features_fn, which the feature kernel needs. Try: the gradient kernel (--kind ntk)")
    how = dict.fromkeys(("layers", "outputs", "plan")) | {"precision": "highest", "accumulate": "float64"}
    return ExpertKernel(feature_kernel(np.asarray(features)), how, {})


def kernel_plan(expert: Expert, x: Float[np.ndarray, "n ..."], *, layers: str, outputs: str, precision: str = "highest", **options) -> Plan | None:
    """The plan that `exact_kernel` would execute; None for a last convolution that is only pooled, which needs no plan."""
    fn, variables, _, chosen = narrow_inputs(expert, layers, outputs)
    if is_pooled(expert, layers, outputs, precision):
        return None
    return ntk_plan(fn, variables, x, outputs=outputs, layers=chosen, **options)


def is_pooled(expert: Expert, layers: str, outputs: str, precision: str) -> bool:
    """Whether one backward step serves all outputs at once: for the last convolution, where it is only pooled before the head."""
    usual = layers == "last_conv" and outputs in ("trace", "sum") and precision == "highest"
    return usual and has_pooled_last_conv(expert) and expert.head is not None


def plan_costs(plan: Plan) -> dict[str, Any]:
    """The predicted costs of a plan as JSON-ready values."""
    spaces = {f"in_{space}_space": sum(leaf.choice.space == space for leaf in plan.leaves) for space in ("parameter", "sample")}
    return {"flops": plan.flops, "peak_bytes": plan.peak_bytes, "memory": plan.memory, "passes": plan.passes, **spaces}


def _how(expert: Expert, layers: str, outputs: str, precision: str, chosen: Callable[[str], bool]) -> dict[str, Any]:
    paths = [name.removeprefix("params/") for name in leaf_names(expert.variables) if chosen(name)]
    return {"layers": {"pattern": layers, "paths": paths}, "outputs": outputs, "precision": precision}
