"""PACTran: the PAC-Bayes bound of a linear head on the features."""

import math

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import ConfigError
from ntk_select.scores.discriminant import unit_rows
from ntk_select.scores.features import Features, labelled
from ntk_select.scores.score import ScoreResult

MAX_STEPS = 200


def pactran(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"], *, strength: float = 1.0, prior: float = 1.0) -> ScoreResult:
    """Minus the PAC-Bayes bound of a softmax head with Gaussian prior and the best isotropic Gaussian posterior around its optimum.

    With features of mean 0 and mean square norm d, weights w (c d of them, the biases are free), a prior of variance v = prior / d and
    lambda = strength n / v, the bound is min_w [L(w) + |w|^2 / (2 strength n)] + c d / (2 lambda) log(1 + lambda v tr H / (c d)): mean
    cross-entropy and the weights' distance from the prior, then the cost of the posterior's width, with tr H the curvature of L at the
    optimum. The log is the exact optimum over the posterior's variance.

    Args:
      features: pre-logits.
      labels: class ids, any integers.
      strength: times the number of images; the paper tries 0.1, 1 and 10.
      prior: variance of the weights in units of 1 / d; the paper tries 0.1 to 1000.

    Returns:
      0 or below, higher is better; unchanged by scales, rotations and shifts. Details: `fit` (the first part) and `flatness` (the second).

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.
      ConfigError: `strength` or `prior` is not positive.

    Reference: Ding et al. 2022, PACTran, section 4.3.  Cost: at most 200 steps of L-BFGS, O(n k c) each, k the rank.
    """
    from scipy.optimize import minimize

    for name, given in (("strength", strength), ("prior", prior)):
        if not 0 < given < math.inf:
            raise ConfigError(f"pactran: {name}={given!r} must be a positive number.")
    features, ids, counts = labelled(features, labels)
    n, d, c = len(ids), features.width, len(counts)
    rows = unit_rows(features) * math.sqrt(d)
    k = rows.shape[1]

    def log_probabilities(weights):
        logits = rows @ weights[:k] + weights[k]
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def objective(flat):
        weights = flat.reshape(k + 1, c)
        logs = log_probabilities(weights)
        error = np.exp(logs)
        error[np.arange(n), ids] -= 1
        gradient = np.vstack([rows.T @ error / n + weights[:k] / (strength * n), error.mean(axis=0)])
        return -logs[np.arange(n), ids].mean() + 0.5 * (weights[:k] ** 2).sum() / (strength * n), gradient.ravel()

    start = np.vstack([np.zeros((k, c)), np.log(counts / n)])
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS, "gtol": 1e-6})
    probabilities = np.exp(log_probabilities(found.x.reshape(k + 1, c)))
    curvature = ((rows**2).sum(axis=1) * (probabilities * (1 - probabilities)).sum(axis=1)).mean()
    flatness = prior * c / (2 * strength * n) * math.log1p(strength * n * curvature / (c * d))
    return ScoreResult(-float(found.fun) - flatness, details={"fit": float(found.fun), "flatness": flatness})
