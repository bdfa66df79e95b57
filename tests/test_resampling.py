"""Are half-samples what they claim to be, and do their intervals hold the truth as often as they say?"""

import numpy as np
import pytest

from ntk_select.resampling import Z95, half_samples, standard_error, told_apart
from ntk_select.scores.lfc import lfc

LABELS = np.array([5, 5, 5, 5, 2, 2, 2, 9, 2, 2, 7, 7])


def counts(labels, half):
    return {int(label): int((labels[half] == label).sum()) for label in np.unique(labels)}


def test_every_half_sample_holds_half_of_each_class_without_duplicates():
    for half in half_samples(LABELS, draws=50, seed=0):
        assert len(np.unique(half)) == len(half)
        taken = counts(LABELS, half)
        assert taken.pop(2) in (2, 3)
        assert taken == {5: 2, 9: 1, 7: 1}


def test_the_spare_image_of_an_odd_class_is_kept_about_every_other_time():
    kept = [counts(LABELS, half)[2] == 3 for half in half_samples(LABELS, draws=2000, seed=0)]
    assert abs(np.mean(kept) - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_every_image_is_taken_equally_often_and_singletons_always():
    taken = np.bincount(np.concatenate(half_samples(LABELS, draws=2000, seed=1)), minlength=len(LABELS)) / 2000
    assert taken[LABELS == 9] == 1
    assert np.abs(taken[LABELS != 9] - 0.5).max() < 4 * 0.5 / np.sqrt(2000)


def test_the_seed_decides_the_draws():
    first, again, other = ([half.tolist() for half in half_samples(LABELS, draws=20, seed=seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 20


@pytest.mark.parametrize("per_class", [4, 7, 24, 25])
def test_standard_error_of_a_mean_is_its_true_standard_deviation(per_class):
    """Over many samples, for a mean over classes of means within them; the truth is known: sqrt(sum of variances) / classes."""
    rng, classes, samples = np.random.default_rng(0), 5, 300
    labels = np.repeat(np.arange(classes), per_class)
    spread = np.array([0.5, 1, 1, 2, 3])
    draws = [np.eye(classes)[labels[half]].T / np.bincount(labels[half])[:, None] for half in half_samples(labels, draws=200, seed=0)]
    halves = half_samples(labels, draws=200, seed=0)
    values = rng.normal(size=(samples, len(labels))) * spread[labels] + 10 * labels
    on_halves = np.stack([(values[:, half] @ weights.T).mean(axis=1) for half, weights in zip(halves, draws, strict=True)])
    errors = np.array([standard_error(column) for column in on_halves.T])
    truth = np.sqrt((spread**2).sum() / per_class) / classes
    assert np.sqrt((errors**2).mean()) == pytest.approx(truth, rel=0.1)


def coverage_of_lfc(per_class, *, samples, draws):
    """How often value +- 1.96 standard errors holds the mean of LFC over samples of this size; Gaussian features of five classes."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), per_class)
    means = rng.normal(size=(5, 8)) * 0.5
    halves = half_samples(labels, draws=draws, seed=0)
    values, errors = [], []
    for _ in range(samples):
        features = means[labels] + rng.normal(size=(len(labels), 8))
        values.append(lfc(features, labels))
        errors.append(standard_error(np.array([lfc(features[half], labels[half]) for half in halves])))
    return np.mean(np.abs(values - np.mean(values)) < Z95 * np.array(errors))


def test_intervals_of_lfc_hold_the_truth_about_95_times_in_100():
    """Measured with 400 samples and 100 draws: 0.950."""
    assert 0.85 <= coverage_of_lfc(25, samples=120, draws=50) <= 1


def test_differences_are_judged_as_pairs(rng):
    common, noise = rng.normal(size=400), 0.01 * rng.normal(size=400)
    assert told_apart(common, common + noise, 0.05)
    assert not told_apart(common, rng.normal(size=400), 0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_told_apart_means_more_than_196_standard_errors(sign):
    other = np.zeros(100)
    best = np.tile([-1.0, 1.0], 50)
    error = np.sqrt(100 / 99)
    assert told_apart(best, other, sign * 1.97 * error)
    assert not told_apart(best, other, sign * 1.95 * error)


def test_equal_experts_are_never_told_apart():
    values = np.arange(20.0)
    assert not told_apart(values, values, 0.0)
