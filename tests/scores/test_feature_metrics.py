"""The two measures of sparsity equal their formulas, and the weight for a task is fitted on other tasks only."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_select.errors import ConfigError, TaskError, UndefinedScoreError
from ntk_select.scores import SCORES, Unavailable, sparsity_weights
from ntk_select.scores.feature_metrics import feature_metrics_terms


def relu(rng, n=30, d=12, shift=0.0):
    return np.maximum(rng.normal(size=(n, d)) - shift, 0) + np.eye(n, d) * 0.5 + np.eye(1, d)


def definition(features):
    zeros, hoyers = [], []
    for row in features:
        d, l1, l2 = len(row), sum(abs(a) for a in row), math.sqrt(sum(a * a for a in row))
        zeros += [a < 0.01 * max(row) for a in row]
        hoyers.append((math.sqrt(d) - l1 / l2) / (math.sqrt(d) - 1))
    return {"zeros": sum(zeros) / len(zeros), "hoyer": sum(hoyers) / len(hoyers), "weight": 0.5}


@pytest.mark.parametrize("shape", [(30, 12), (5, 40)])
def test_the_terms_are_their_formulas(rng, shape):
    features = relu(rng, *shape)
    assert feature_metrics_terms(features) == pytest.approx(definition(features), abs=1e-12)
    assert feature_metrics_terms(features.astype(np.float32)) == pytest.approx(definition(features), abs=1e-6)


def test_equal_features_are_dense_and_a_single_one_is_sparse():
    assert feature_metrics_terms(np.full((6, 9), 0.3)) == pytest.approx({"zeros": 0, "hoyer": 0, "weight": 0.5}, abs=1e-12)
    assert feature_metrics_terms(np.eye(9) * 40) == pytest.approx({"zeros": 8 / 9, "hoyer": 1, "weight": 0.5}, abs=1e-12)
    # Four of nine equal: (3 - 2) / (3 - 1).
    assert feature_metrics_terms([[1, 1, 1, 1, 0, 0, 0, 0, 0]]) == pytest.approx({"zeros": 5 / 9, "hoyer": 0.5, "weight": 0.5}, abs=1e-12)


def test_a_feature_below_a_hundredth_of_the_largest_counts_as_zero():
    assert feature_metrics_terms(np.array([[100.0, 0.9, 1.1, 50]]))["zeros"] == 0.25


def test_scales_of_images_and_the_order_play_no_part(rng):
    features = relu(rng)
    terms = feature_metrics_terms(features)
    assert feature_metrics_terms(features * np.logspace(-150, 150, 30)[:, None]) == pytest.approx(terms, abs=1e-12)
    assert feature_metrics_terms(rng.permutation(features)[:, rng.permutation(12)]) == pytest.approx(terms, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(2, 40), st.floats(-3, 3))
def test_terms_lie_between_zero_and_one_and_are_the_formulas(seed, n, d, shift):
    features = relu(np.random.default_rng(seed), n, d, shift)
    terms = feature_metrics_terms(features)
    assert terms == pytest.approx(definition(features), abs=1e-9)
    assert all(-1e-9 <= term <= 1 + 1e-9 for term in terms.values())


def test_values_weigh_both_terms_with_mean_zero_and_variance_one_over_the_zoo(rng):
    features = [relu(rng, shift=shift) for shift in (0, 1, -1, 0.4)]
    columns = {name: np.array([definition(one)[name] for one in features]) for name in ("zeros", "hoyer")}
    zeros, hoyer = ((values - values.mean()) / values.std() for values in columns.values())
    for weight in (0, 0.3, 0.5, 1):
        found = SCORES["feature_metrics"].over([{"features": one, "sparsity_weight": weight} for one in features])
        np.testing.assert_allclose([one.value for one in found], weight * zeros + (1 - weight) * hoyer, atol=1e-10)
        assert sum(one.value for one in found) == pytest.approx(0, abs=1e-10)
    halves = SCORES["feature_metrics"].over([{"features": one} for one in features])
    np.testing.assert_allclose([one.value for one in halves], (zeros + hoyer) / 2, atol=1e-10)
    # The sparsest is first.
    assert np.argmax([one.value for one in halves]) == 1


def test_an_expert_alone_has_no_score_equal_ones_neither_and_one_without_a_relu_takes_none_away(rng):
    inputs = [{"features": relu(rng, shift=shift)} for shift in (0, 1, -1)]
    alone = SCORES["feature_metrics"](**inputs[0])
    assert isinstance(alone, Unavailable)
    assert "at least two" in alone.reason
    assert all("do not differ" in one.reason for one in SCORES["feature_metrics"].over([inputs[0]] * 3))
    found = SCORES["feature_metrics"].over([inputs[0], {"features": -inputs[1]["features"]}, {}, *inputs[1:]])
    assert "negative" in found[1].reason
    assert "features" in found[2].reason
    assert [found[0], *found[3:]] == SCORES["feature_metrics"].over(inputs)


def tasks(rng, planted, experts=60):
    """Accuracies that follow the planted weight exactly."""
    measured = {}
    for name in ("birds", "cars", "food"):
        zeros, hoyer = rng.normal(size=(2, experts))
        scaled = [(values - values.mean()) / values.std() for values in (zeros, hoyer)]
        terms = [{"zeros": z, "hoyer": h, "weight": 0.5} for z, h in zip(zeros, hoyer, strict=True)]
        measured[name] = terms, np.tanh(planted * scaled[0] + (1 - planted) * scaled[1])
    return measured


@pytest.mark.parametrize("planted", [0.0, 0.3, 0.8, 1.0])
def test_a_planted_weight_is_found(rng, planted):
    assert sparsity_weights(tasks(rng, planted)) == pytest.approx(dict.fromkeys(("birds", "cars", "food"), planted), abs=0.02)


def test_the_weight_of_a_task_depends_on_the_other_tasks_only(rng):
    measured = tasks(rng, 0.3)
    before = sparsity_weights(measured)
    changed = sparsity_weights({**measured, "cars": (measured["cars"][0], rng.normal(size=60))})
    flipped = sparsity_weights({**measured, "cars": (measured["cars"][0], tasks(rng, 1.0)["cars"][1] - 5 * measured["cars"][1])})
    assert changed["cars"] == flipped["cars"] == before["cars"]
    assert flipped["birds"] != before["birds"]


def test_a_task_that_says_nothing_plays_no_part_and_ties_give_the_middle(rng):
    measured = tasks(rng, 0.3)
    equal = {**measured, "flat": ([measured["cars"][0][0]] * 5, np.arange(5.0)), "same": (measured["cars"][0], np.ones(60))}
    assert {name: sparsity_weights(equal)[name] for name in measured} == sparsity_weights(measured)
    alone = sparsity_weights({"cars": measured["cars"], "flat": equal["flat"]})
    assert alone["cars"] == 0.5
    assert alone["flat"] == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("features", "options", "error", "message"),
    [
        (np.array([[1.0, -0.1]]), {}, UndefinedScoreError, "negative values"),
        (np.ones((3, 1)), {}, UndefinedScoreError, "One feature alone"),
        (np.array([[1.0, 2], [0, 0]]), {}, UndefinedScoreError, "Image 1 has features that are all zero"),
        (np.eye(3), {"sparsity_weight": 1.5}, ConfigError, "sparsity_weight=1.5 must be from 0 to 1"),
        (np.eye(3), {"sparsity_weight": math.nan}, ConfigError, "sparsity_weight=nan"),
        (np.eye(3) / np.nan, {}, TaskError, "NaN or infinity"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(features, options, error, message):
    with pytest.raises(error, match=message):
        feature_metrics_terms(features, **options)


def test_one_task_has_no_others(rng):
    with pytest.raises(ConfigError, match="1 task was given, two are needed"):
        sparsity_weights({"cars": tasks(rng, 0.5)["cars"]})
