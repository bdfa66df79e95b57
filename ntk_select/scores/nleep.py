"""NLEEP: LEEP without a head; clusters of the features stand for the source classes."""

import warnings

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import ConfigError, UndefinedScoreError, did_you_mean, missing
from ntk_select.scores.features import Features, labelled
from ntk_select.scores.leep import leep
from ntk_select.scores.score import ScoreResult

COVARIANCES = ("diag", "full", "spherical", "tied")
ENERGY = 0.8
CLUSTERS_PER_CLASS = 5
EM_STEPS = 100


def nleep(
    features: Num[np.ndarray, "n d"] | Features,
    labels: Int[np.ndarray, " n"],
    *,
    clusters: int | None = None,
    covariance: str = "diag",
    seed: int = 0,
) -> ScoreResult:
    """LEEP of the responsibilities of a Gaussian mixture that is fitted to the principal components with 80 % of the variance.

    Args:
      features: pre-logits.
      labels: class ids, any integers.
      clusters: number of clusters in the mixture; None for 5 c, as the paper has it.
      covariance: form of each cluster's covariance; "diag" suits principal components and costs O(d) where "full" costs O(d^2).
      seed: seed of the initial mixture. Independent of the order of the images.

    Returns:
      0 or below, higher is better; unchanged by shifts, scales and rotations of the features. Detail `converged`: 1 if the fit did
      within 100 steps.

    Raises:
      UndefinedScoreError: fewer than two images per cluster (5 images per class: the mixture would fit every image),
        one class only, one image in every class, or constant features.
      ConfigError: `covariance` is unknown or `clusters` below 1.
      MissingDependencyError: without scikit-learn.

    Reference: Li et al. 2021, Ranking neural checkpoints.  Cost: O(n d min(n, d)) once, then O(n k c) per step of EM.
    """
    if covariance not in COVARIANCES:
        raise ConfigError(f"nleep: covariance={covariance!r} is unknown.{did_you_mean(str(covariance), COVARIANCES)}")
    if clusters is not None and clusters < 1:
        raise ConfigError(f"nleep: clusters={clusters!r} must be at least 1.")
    features, ids, counts = labelled(features, labels)
    k = CLUSTERS_PER_CLASS * len(counts) if clusters is None else clusters
    if len(ids) < 2 * k:
        raise UndefinedScoreError(f"{len(ids)} images are too few for a mixture of {k} clusters; two per cluster are needed ({2 * k}).")
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise missing("scikit-learn", "NLEEP") from error

    energy = np.cumsum(features.svd.values**2)
    used = int(np.searchsorted(energy, ENERGY * energy[-1])) + 1
    rows = features.svd.coordinates[:, :used] / (features.svd.values[:used].max() / np.sqrt(len(ids)))
    # Sorted by their first components: the start of the mixture must not depend on the order of the images.
    order = np.lexsort(np.round(rows[:, : min(used, 3)], 9).T[::-1])
    mixture = GaussianMixture(k, covariance_type=covariance, max_iter=EM_STEPS, random_state=seed, reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as a detail
        responsibilities = mixture.fit(rows[order]).predict_proba(rows[order])
    result = leep(responsibilities, ids[order])
    return ScoreResult(result.value, details={**result.details, "converged": float(mixture.converged_)})
