"""Distances between images equal those of SciPy, and equal distances tie."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.preprocessing import StandardScaler

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.dissimilarity import correlation_distances, cosine_distances, of_same_images, pairs, standardised
from ntk_select.scores.features import Features


@pytest.mark.parametrize("shape", [(9, 30), (30, 9)])
def test_distances_are_those_of_scipy(rng, shape):
    rows = rng.normal(size=shape) + 2
    np.testing.assert_allclose(correlation_distances(rows), squareform(pdist(rows, "correlation")), atol=1e-12)
    np.testing.assert_allclose(correlation_distances(rows), 1 - np.corrcoef(rows), atol=1e-12)
    np.testing.assert_allclose(cosine_distances(rows), squareform(pdist(rows, "cosine")), atol=1e-12)


def test_a_distance_forgets_the_scale_of_an_image_and_a_correlation_its_shift_too(rng):
    rows, scales = rng.normal(size=(8, 5)), rng.uniform(0.01, 100, size=(8, 1))
    np.testing.assert_allclose(cosine_distances(scales * rows), cosine_distances(rows), atol=1e-12)
    np.testing.assert_allclose(correlation_distances(scales * (rows + 3)), correlation_distances(rows), atol=1e-12)
    assert np.abs(cosine_distances(rows + 3) - cosine_distances(rows)).max() > 0.1


def test_opposite_images_are_two_apart_and_equal_ones_zero():
    rows = np.array([[1.0, 2, 4], [-1, -2, -4], [2, 4, 8]])
    np.testing.assert_allclose(correlation_distances(rows), [[0, 2, 0], [2, 0, 2], [0, 2, 0]], atol=1e-12)


def test_rounding_breaks_no_ties(rng):
    """Over two features every correlation is 1 or -1, so that there are two distances only."""
    found = np.unique(pairs(correlation_distances(rng.normal(size=(40, 2)) * 7.3)))
    assert len(found) == 2
    np.testing.assert_allclose(found, [0, 2], atol=1e-9)


@pytest.mark.parametrize("n", [5, 6, 7, 11])
def test_images_equally_far_from_each_other_have_one_distance(n):
    assert len(np.unique(pairs(correlation_distances(np.eye(n) * 0.3 + 0.1)))) == 1


def test_standardised_is_the_scaler_of_sklearn_without_the_features_that_never_change(rng):
    features = rng.normal(size=(20, 6)) * [1, 100, 1e-6, 3, 0, 0] + [0, 5, 1, -2, 0.1, 0]
    np.testing.assert_allclose(standardised(Features(features)), StandardScaler().fit_transform(features[:, :4]), atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_features_that_never_change_cannot_be_standardised(value):
    with pytest.raises(UndefinedScoreError, match="constant over all images"):
        standardised(Features(np.full((7, 3), value)))


def test_pairs_are_the_entries_above_the_diagonal(rng):
    matrix = rng.normal(size=(6, 6))
    np.testing.assert_array_equal(pairs(matrix), [matrix[i, j] for i in range(6) for j in range(i + 1, 6)])


@pytest.mark.parametrize("distances", [correlation_distances, cosine_distances])
def test_an_image_without_direction_is_named(distances):
    rows = np.array([[1.0, 2, 3], [0, 0, 0], [3, 2, 1]])
    with pytest.raises(UndefinedScoreError, match="Image 1 has the same value"):
        distances(rows)


@pytest.mark.parametrize("value", [0.1, -3.3e7, 1e-9])
def test_an_image_of_equal_features_is_known_in_spite_of_rounding(rng, value):
    rows = rng.normal(size=(4, 7))
    rows[2] = value
    with pytest.raises(UndefinedScoreError, match="Image 2 has the same value"):
        correlation_distances(rows)


def test_two_networks_must_have_seen_the_same_images_and_enough(rng):
    with pytest.raises(TaskError, match="5 rows of features for 4 rows of reference_features"):
        of_same_images(np.eye(5), np.eye(4), 3)
    with pytest.raises(UndefinedScoreError, match="2 images are too few to compare two networks; 3 are needed"):
        of_same_images(np.eye(2), np.eye(2), 3)
    with pytest.raises(TaskError, match="NaN or infinity"):
        of_same_images(np.eye(5), np.full((5, 2), np.nan), 3)
