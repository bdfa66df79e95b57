"""Do the correlations equal SciPy's, ties included, and are they NaN where they have no meaning?"""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError

SCIPY = {
    "pearson": scipy.stats.pearsonr,
    "spearman": scipy.stats.spearmanr,
    "kendall": scipy.stats.kendalltau,
    "weighted_tau": scipy.stats.weightedtau,
}
correlations = pytest.mark.parametrize("name", SCIPY)


@correlations
@pytest.mark.parametrize("decimals", [0, 1, 15], ids=["many ties", "some ties", "no ties"])
def test_a_correlation_is_scipys(name, decimals, rng):
    for e in (3, 8, 40):
        scores, accuracies = rng.normal(size=e).round(decimals), rng.random(e).round(decimals + 1)
        scores[0], accuracies[:2] = 9, (0, 1)
        assert getattr(ev, name)(scores, accuracies) == pytest.approx(SCIPY[name](scores, accuracies).statistic, abs=1e-12)


@correlations
def test_experts_without_a_score_are_left_out(name, experts):
    scores, accuracies = experts
    measure, known = getattr(ev, name), np.arange(20) % 3 > 0
    assert measure(np.where(known, scores, np.nan), accuracies) == measure(scores[known], accuracies[known])


@correlations
def test_there_is_no_value_for_two_experts_or_a_constant_side(name):
    measure, nan = getattr(ev, name), np.nan
    assert np.isnan(measure([1, 2, nan, nan], [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(measure([1, 1, 1, nan], [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(measure([1, 2, 3, nan], [0.3, 0.3, 0.3, 0.4]))
    assert np.isnan(measure([nan] * 4, [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(measure([1.0], [0.5]))


@correlations
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_scale_shift_and_the_order_of_the_experts_do_not_matter(name, seed, scale, shift):
    rng = np.random.default_rng(seed)
    scores, accuracies, order = rng.integers(6, size=7).astype(float), rng.integers(5, size=7) / 4, rng.permutation(7)
    measure = getattr(ev, name)
    value = measure(scores, accuracies)
    np.testing.assert_allclose(measure((scores * scale + shift)[order], accuracies[order]), value, atol=1e-9)
    assert np.isnan(value) or -1 <= value <= 1


@correlations
def test_the_right_order_has_one_and_the_reverse_minus_one(name):
    accuracies = np.linspace(0.2, 0.8, 6)
    assert getattr(ev, name)(accuracies, accuracies) == pytest.approx(1)
    assert getattr(ev, name)(-accuracies, accuracies) == pytest.approx(-1)


def test_weighted_tau_punishes_a_mistake_among_the_best_more():
    accuracies = np.linspace(0.2, 0.9, 8)
    best, worst = accuracies.copy(), accuracies.copy()
    best[[-1, -2]], worst[[0, 1]] = best[[-2, -1]], worst[[1, 0]]
    assert ev.weighted_tau(best, accuracies) < ev.weighted_tau(worst, accuracies)
    assert ev.kendall(best, accuracies) == ev.kendall(worst, accuracies)


@pytest.mark.parametrize(
    ("scores", "accuracies", "sentence"),
    [
        ([1, 2, np.inf], [0.1, 0.2, 0.3], r"scores hold infinity. Allowed: finite numbers, and NaN"),
        ([1, 2, 3], [0.1, 0.2, 95], r"accuracies hold 95. Allowed: 0 to 1 \(divide percentages by 100\)"),
        ([1, 2, 3], [0.1, 0.2, np.nan], r"accuracies hold nan"),
        ([1, 2], [0.1, 0.2, 0.3], r"scores are for 2 experts, and accuracies for 3"),
        ([[1, 2, 3]], [0.1, 0.2, 0.3], r"scores have the shape \(1, 3\). Allowed: one number an expert"),
        ([], [], r"accuracies have the shape \(0,\)"),
        (["a", "b", "c"], [0.1, 0.2, 0.3], r"scores are not an array of numbers"),
    ],
)
@pytest.mark.parametrize("measure", [ev.spearman, ev.pearson, ev.regret, ev.trials_to_best])
def test_other_inputs_are_refused(measure, scores, accuracies, sentence):
    with pytest.raises(ConfigError, match=sentence):
        measure(scores, accuracies)
