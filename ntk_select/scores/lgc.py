"""LGC, the label-gradient correlation: agreement of the gradient kernel with the labels."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from ntk_select.experts.expert import Expert
from ntk_select.kernels.alignment import checked_labels, kernel_label_correlation
from ntk_select.kernels.gradients import averaged_outputs, gradient_kernel, kernel_inputs, refuse_traced, sketch_of
from ntk_select.kernels.sketches import Sketch, SketchedScore
from ntk_select.kernels.sketches.correlation import with_error
from ntk_select.kernels.sketches.projection import as_sketch


def lgc(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Float[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    *,
    params: Any = None,
    layers: str = "last_conv",
    outputs: str | Float[Array, "..."] = "trace",
    diagonal: bool = True,
    center: bool = False,
    normalize: bool = False,
    batch_size: int = 32,
    sketch: Sketch | int | str | None = None,
) -> float | SketchedScore:
    """Correlation of the gradient kernel with the label kernel: exact, or from a sketch with its interval.

    Args:
      expert_or_fn: an `Expert`, or fn(params, x) -> (n, c).
      x: network inputs of the probe sample, already preprocessed (`expert.preprocess(images)`).
      labels: class ids, any integers.
      params: the parameters, if a function is given.
      layers: "last_conv" (the paper), "all", or a regular expression over parameter paths.
      outputs: "trace" (all logits), "sum", "features", or an array; see `gradient_kernel`. The paper does not
        specify the output that is differentiated.
      diagonal, center, normalize: see `kernel_label_correlation`.
      batch_size: examples per forward pass.
      sketch: None for the exact kernel; otherwise how gradients are projected: `ns.Sketch(dim=10_000)`, a dimension alone, or
        `ns.Sketch(dim="auto", error=0.005)`, which takes as many columns as this standard error of the score needs (0.005
        if `error` is None). Where it is cheaper: other layers than a pooled last convolution, many examples, many outputs.

    Returns:
      A number in [-1, 1], higher is better; unchanged when all logits are scaled alike. With `sketch` a `SketchedScore`: value,
      95 % interval for the exact score of these examples, standard errors; `float()` of it is the value.

    Raises:
      UndefinedScoreError, TaskError, ConfigError, ModelError: see `kernel_label_correlation` and `gradient_kernel`.

    Reference: Deshpande et al. 2021, eq. 8 and sections 3.2, 3.3.  Cost: that of `gradient_kernel`.
    """
    instead = "ns.ntk_fn(fn, params, x)(params, x) or ns.sketch_fn(fn, params, x)(params, x)"
    refuse_traced("ns.lgc", instead, expert_or_fn, x, params, outputs, labels)
    if sketch is not None:
        sketch, labels = as_sketch(sketch), checked_labels(labels)
        inputs = kernel_inputs(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size)
        variant = {"diagonal": diagonal, "center": center, "normalize": normalize}
        return with_error(partial(sketch_of, inputs, x), labels, sketch, together=averaged_outputs(inputs, x), **variant)
    kernel = gradient_kernel(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size)
    return kernel_label_correlation(kernel, labels, diagonal=diagonal, center=center, normalize=normalize)
