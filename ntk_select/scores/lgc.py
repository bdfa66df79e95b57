"""LGC, the label-gradient correlation: do examples with similar gradients share a label?"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from ntk_select.expert import Expert
from ntk_select.gradients import gradient_kernel
from ntk_select.kernels import kernel_label_correlation


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
) -> float:
    """Correlation of the gradient kernel with the label kernel, exact.

    Args:
      expert_or_fn: an `Expert`, or fn(params, x) -> (n, c).
      x: network inputs of the probe sample, already preprocessed (`expert.preprocess(images)`).
      labels: class ids, any integers.
      params: the parameters, when a function was given.
      layers: "last_conv" (the paper), "all", or a regular expression over parameter paths.
      outputs: "trace" (all logits alike), "sum", "features", or an array; see `gradient_kernel`. The paper does not
        say which output it differentiates.
      diagonal, center, normalize: see `kernel_label_correlation`.
      batch_size: examples per forward pass.

    Returns:
      A number in [-1, 1], higher is better; unchanged when all logits are scaled alike.

    Raises:
      UndefinedScoreError, TaskError, ConfigError, ModelError: see `kernel_label_correlation` and `gradient_kernel`.

    Reference: Deshpande et al. 2021, eq. 8 and section 3.2.  Cost: that of `gradient_kernel`.
    """
    kernel = gradient_kernel(expert_or_fn, x, params=params, layers=layers, outputs=outputs, batch_size=batch_size)
    return kernel_label_correlation(kernel, labels, diagonal=diagonal, center=center, normalize=normalize)
