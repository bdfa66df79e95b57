"""LogME: evidence of the labels under a Bayesian linear model of the features."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.scores.features import Features, labelled, one_hot

NOISE = 1e-12
"""Lower bound of the sum of squared residuals: labels that are exactly linear in the features would have infinite evidence."""


def logme(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> float:
    """Log evidence per image of Bayesian ridge regression of each class (0 or 1), at its maximum, averaged over the classes.

    The evidence is that of y ~ N(0, F F' / a + I / b), maximised over a and b: over b in closed form, over t = a / b by a grid and
    Brent's method. Directions that the features do not span contribute nothing, so it is exact for n < d as well, where
    the released fixed-point code counts them (d/2 log a for k/2 log a).

    Args:
      features: pre-logits; not centred, and there is no bias.
      labels: class ids, any integers; ids without images are ignored.

    Returns:
      Unbounded, higher is better; compare within one task only. Unchanged by scales and rotations of the features.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.

    Reference: You et al. 2021, LogME, eq. 2 to 4.  Cost: O(n d min(n, d) + c k) with about fifty steps per class.
    """
    from scipy.optimize import minimize_scalar

    features, ids, counts = labelled(features, labels)
    n, targets = len(ids), one_hot(ids, len(counts))
    decomposition = features.plain_svd
    sigma = decomposition.values**2 / (decomposition.values**2).mean()
    energy = (decomposition.left.T @ targets) ** 2
    outside = np.maximum(counts - energy.sum(axis=0), 0) + NOISE
    grid = np.linspace(np.log(sigma.min()) - 20, np.log(sigma.max()) + 12, 129)
    shrinkage = 1 / (1 + sigma / np.exp(grid)[:, None])
    on_grid = 0.5 * np.log(shrinkage).sum(axis=1)[:, None] - 0.5 * n * np.log(shrinkage @ energy + outside)

    def best(column: int) -> float:
        def negative(log_t):
            shrunk = 1 / (1 + sigma * np.exp(-log_t))
            return 0.5 * n * np.log(shrunk @ energy[:, column] + outside[column]) - 0.5 * np.log(shrunk).sum()

        peak = int(on_grid[:, column].argmax())
        bounds = grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)]
        found = minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-7})
        no_weights = -0.5 * n * np.log(counts[column] + NOISE)
        return max(-found.fun, on_grid[peak, column], no_weights)

    evidence = np.array([best(column) for column in range(len(counts))]) + 0.5 * n * (np.log(n / (2 * np.pi)) - 1)
    return float(evidence.mean() / n)
