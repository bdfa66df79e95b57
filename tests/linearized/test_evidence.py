"""The evidence of labels is that of a Gaussian with unknown mean, at its maximum, and shuffled labels have next to none."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from scipy.stats import multivariate_normal

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.linearized import label_evidence
from ntk_select.linearized.evidence import NOISES


def example(rng, each=6, classes=3, width=30, signal=1.0):
    labels = np.repeat(np.arange(classes), each)
    x = rng.normal(size=(len(labels), width)) + signal * rng.normal(size=(classes, width))[labels]
    return x @ x.T, labels


def by_density(kernel, labels):
    """The largest log density of the contrasts of the labels, which do not depend on the mean, minus that for noise alone if it is larger."""
    n, classes = len(labels), np.unique(labels)
    contrasts = scipy.linalg.null_space(np.ones((1, n))).T
    kernel = contrasts @ kernel @ contrasts.T
    kernel = kernel / (np.trace(kernel) / (n - 1))
    targets = [contrasts @ (labels == label) for label in classes]

    def negative(logs, kernel=kernel):
        scale, noise = np.exp(logs[0]), np.exp(np.clip(logs[1], *np.log(NOISES[[0, -1]])))
        return -sum(multivariate_normal(np.zeros(n - 1), scale * (kernel + noise * np.eye(n - 1))).logpdf(target) for target in targets)

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    best = min(scipy.optimize.minimize(negative, (-noise, noise), method="Nelder-Mead", options=options).fun for noise in (-6.0, -2.0, 0.0, 3.0))
    alone = scipy.optimize.minimize_scalar(lambda log: negative((log, 0.0), 0 * kernel), bounds=(-12, 3), method="bounded", options={"xatol": 1e-10})
    return max(alone.fun - best, 0) / (n * len(classes))


@pytest.mark.parametrize(("each", "classes", "width", "signal"), [(6, 3, 30, 1.0), (4, 5, 8, 0.6), (10, 2, 40, 0.2)])
def test_it_is_the_largest_density_relative_to_noise(rng, each, classes, width, signal):
    kernel, labels = example(rng, each, classes, width, signal)
    assert label_evidence(kernel, labels).gain == pytest.approx(by_density(kernel, labels), abs=1e-7)


def test_scale_constants_order_and_names_do_not_count(rng):
    kernel, labels = example(rng)
    order = rng.permutation(len(labels))
    expected = label_evidence(kernel, labels)
    for other, names in ((1e6 * kernel, labels), (kernel + 3.5, labels), (kernel[np.ix_(order, order)], np.array([40, -3, 17])[labels][order])):
        found = label_evidence(other, names)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_shuffled_labels_have_next_to_none(rng):
    kernel, labels = example(rng, each=10)
    shuffled = [label_evidence(kernel, rng.permutation(labels)).gain for _ in range(20)]
    assert label_evidence(kernel, labels).gain > 10 * np.mean(shuffled)
    assert 0 <= min(shuffled) <= np.mean(shuffled) < 0.02


def test_labels_across_the_kernel_are_noise(rng):
    """A kernel without the directions of the labels: the evidence is largest for noise alone."""
    labels = np.repeat(np.arange(3), 6)
    targets = np.eye(3)[labels]
    outside = np.eye(18) - targets @ targets.T / 6
    assert label_evidence(outside, labels) == (0.0, float("inf"))
    assert label_evidence(np.eye(18), labels) == (0.0, float("inf"))


def test_labels_in_the_kernel_are_bounded_by_the_least_noise(rng):
    labels = np.repeat(np.arange(3), 6)
    found = label_evidence(np.eye(3)[labels] @ np.eye(3)[labels].T, labels)
    assert found.noise == pytest.approx(NOISES[0], rel=1e-3)
    assert 0 < found.gain < -0.5 * np.log(NOISES[0]) + 3


@pytest.mark.parametrize(
    ("kernel", "labels", "error", "words"),
    [
        (np.eye(3), np.array([0, 0, 0]), UndefinedScoreError, "one class"),
        (np.eye(3), np.array([0, 1, 2]), UndefinedScoreError, "one image only"),
        (np.ones((3, 3)), np.array([0, 0, 1]), UndefinedScoreError, "constant over all pairs"),
        (-np.eye(3), np.array([0, 0, 1]), UndefinedScoreError, "no positive trace"),
        (np.eye(4), np.array([0, 0, 1]), TaskError, r"shape \(4, 4\) for 3 labels"),
        (np.full((3, 3), np.nan), np.array([0, 0, 1]), TaskError, "NaN"),
        (np.eye(3), np.array([0.0, 0.0, 1.0]), TaskError, "row of integers"),
    ],
)
def test_what_cannot_be_is_said(kernel, labels, error, words):
    with pytest.raises(error, match=words):
        label_evidence(kernel, labels)
