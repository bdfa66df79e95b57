"""RSA and DDS equal their definitions and are larger for networks with similar features."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from sklearn.preprocessing import StandardScaler

from ntk_select.errors import ConfigError, TaskError, UndefinedScoreError
from ntk_select.scores.rsa import DISTANCES, dds, rsa, unbiased_centring
from ntk_select.scores.table import SCORES


def related(rng, n=25, d=12, noise=0.5):
    reference = rng.normal(size=(n, 6))
    return reference @ rng.normal(size=(6, d)) + noise * rng.normal(size=(n, d)), reference


def u_centred(matrix):
    """Szekely & Rizzo 2014, eq. 2.3, entry by entry."""
    n = len(matrix)
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                row, col = sum(matrix[i, k] for k in range(n)), sum(matrix[k, j] for k in range(n))
                result[i, j] = matrix[i, j] - row / (n - 2) - col / (n - 2) + matrix.sum() / ((n - 1) * (n - 2))
    return result


def dds_by_definition(features, reference, distance):
    name = "sqeuclidean" if distance == "euclidean" else distance
    a, b = (u_centred(squareform(pdist(StandardScaler().fit_transform(side), name))) for side in (features, reference))
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


@pytest.mark.parametrize("d", [5, 60])
def test_rsa_is_the_rank_correlation_of_the_two_triangles(rng, d):
    features, reference = related(rng, d=d)
    upper = np.triu_indices(25, 1)
    for standardize in (False, True):
        sides = [StandardScaler().fit_transform(side) if standardize else side for side in (features, reference)]
        expected = scipy.stats.spearmanr(*[(1 - np.corrcoef(side))[upper] for side in sides]).statistic
        assert rsa(features, reference, standardize=standardize) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("d", [5, 60])
@pytest.mark.parametrize("distance", DISTANCES)
def test_dds_is_the_cosine_of_the_two_centred_matrices(rng, d, distance):
    features, reference = related(rng, n=14, d=d)
    assert dds(features, reference, distance=distance) == pytest.approx(dds_by_definition(features, reference, distance), abs=1e-12)


def test_centred_rows_sum_to_zero_whatever_the_diagonal(rng):
    matrix = rng.normal(size=(7, 7))
    matrix += matrix.T
    np.testing.assert_allclose(unbiased_centring(matrix).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(unbiased_centring(matrix + np.diag(np.arange(7.0))), unbiased_centring(matrix), atol=1e-12)


def test_rsa_forgets_scales_and_dds_those_and_shifts_of_every_feature(rng):
    features, reference = related(rng)
    order = rng.permutation(25)
    for score in (rsa, dds):
        value = score(features, reference)
        assert score(reference, features) == pytest.approx(value, abs=1e-12)
        assert score(features[order], reference[order]) == pytest.approx(value, abs=1e-12)
        assert score(1e-4 * features, 300 * reference) == pytest.approx(value, abs=1e-12)
    scaled = features * rng.uniform(0.1, 10, 12) + rng.normal(size=12)
    for distance in DISTANCES:
        assert dds(scaled, reference, distance=distance) == pytest.approx(dds(features, reference, distance=distance), abs=1e-10)
    assert rsa(scaled, reference, standardize=True) == pytest.approx(rsa(features, reference, standardize=True), abs=1e-12)
    assert abs(rsa(scaled, reference) - rsa(features, reference)) > 0.01


def test_a_network_is_like_itself_and_like_itself_in_single_precision(rng):
    features, reference = related(rng)
    for score in (rsa, dds):
        assert score(features, 2 * features) == pytest.approx(1, abs=1e-12)
        assert score(features.astype(np.float32), reference.astype(np.float32)) == pytest.approx(score(features, reference), abs=1e-4)


def test_networks_with_nothing_in_common_score_zero_on_average(rng):
    for score in (rsa, dds):
        values = [score(rng.normal(size=(12, 40)), rng.normal(size=(12, 30))) for _ in range(200)]
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)
        assert np.std(values) < 0.2


def test_shuffled_images_of_the_reference_score_lower(rng):
    features, reference = related(rng)
    for score in (rsa, dds):
        assert score(features, reference) > max(score(features, rng.permutation(reference)) for _ in range(50))


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(4, 25), st.integers(2, 40), st.sampled_from(sorted(DISTANCES)))
def test_values_lie_in_range(seed, n, d, distance):
    rng = np.random.default_rng(seed)
    features, reference = rng.normal(size=(n, d)), np.maximum(rng.normal(size=(n, 9)), -0.5)
    if d >= 3:
        assert -1 <= rsa(features, reference) <= 1
        assert -1 <= dds(features, reference, distance=distance) <= 1


@pytest.mark.parametrize("n", [5, 6, 7, 11])
def test_images_that_are_all_equally_far_apart_are_like_no_others(rng, n):
    for score in (rsa, dds):
        with pytest.raises(UndefinedScoreError, match="equally far apart"):
            score(np.eye(n), rng.normal(size=(n, 4)))


def test_undefined_and_malformed_inputs_are_refused(rng):
    features, reference = related(rng)
    flat = features.copy()
    flat[3] = 0.1
    with pytest.raises(UndefinedScoreError, match="Image 3 has the same value in all its features"):
        rsa(flat, reference)
    mean = np.vstack([features, features.mean(axis=0)])
    with pytest.raises(UndefinedScoreError, match="Image 25 has the same value"):
        dds(mean, np.vstack([reference, reference[:1]]))
    with pytest.raises(UndefinedScoreError, match="constant over all images"):
        dds(np.ones((25, 3)), reference)
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        dds(features, reference, distance="cosin")
    for score, least in ((rsa, 3), (dds, 4)):
        with pytest.raises(UndefinedScoreError, match=f"{least - 1} images are too few to compare two networks; {least} are needed"):
            score(features[: least - 1], reference[: least - 1])
        with pytest.raises(TaskError, match="25 rows of features for 24 rows of reference_features"):
            score(features, reference[1:])
        with pytest.raises(TaskError, match="NaN or infinity"):
            score(features, np.where(reference > 1, np.inf, reference))


def test_without_a_reference_the_scores_say_what_they_need(rng):
    for name in ("rsa", "dds"):
        assert "reference_features" in SCORES[name](features=rng.normal(size=(9, 4)), labels=np.arange(9) % 3).reason
