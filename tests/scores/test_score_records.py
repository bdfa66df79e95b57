"""Does calling a score by arrays by name give the function's value, or a reason why there is none?"""

import numpy as np
import pytest
from scipy.stats import kstest

from ntk_select.errors import ConfigError, TaskError
from ntk_select.kernels import kernel_label_correlation
from ntk_select.scores import SCORES, ScoreResult, Unavailable
from ntk_select.scores.lfc import lfc
from ntk_select.scores.record import INPUTS
from ntk_select.scores.table import random_score

LABELS = np.array([0, 0, 1, 1, 2, 2, 2])


@pytest.fixture
def inputs(rng):
    features = rng.normal(size=(7, 4))
    return {"features": features, "labels": LABELS, "gradient_kernel": features @ np.diag([1, 2, 3, 4]) @ features.T, "name": "a", "seed": 0}


def test_float_of_a_result_is_the_value_of_the_function(inputs):
    expected = {
        "lfc": lfc(inputs["features"], LABELS),
        "lgc": kernel_label_correlation(inputs["gradient_kernel"], LABELS),
        "random": random_score("a", 0),
    }
    assert set(expected) == set(SCORES)
    for name, value in expected.items():
        result = SCORES[name](**inputs)
        assert isinstance(result, ScoreResult)
        assert float(result) == result.value == value
        assert (result.low, result.high) == (None, None)


@pytest.mark.parametrize("name", SCORES)
def test_only_what_a_score_needs_is_used(inputs, name):
    used = (*SCORES[name].needs, *SCORES[name].optional)
    broken = {key: value if key in used else "nonsense" for key, value in inputs.items()}
    assert SCORES[name](**broken) == SCORES[name](**inputs)


@pytest.mark.parametrize("name", SCORES)
def test_every_entry_says_what_it_needs_and_where_it_is_defined(name):
    score = SCORES[name]
    assert set((*score.needs, *score.optional)) <= set(INPUTS)
    assert "Deshpande" in score.reference
    assert score.range


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("lfc", {"features": None}, r"needs features \(pre-logits \(n, d\) of the probe sample\)"),
        ("lfc", {"features": None, "labels": None}, r"needs features .* and labels \(class ids \(n,\)\)"),
        ("lgc", {"gradient_kernel": None}, "needs gradient_kernel"),
        ("lfc", {"labels": np.zeros(7, int)}, "one class"),
        ("lgc", {"labels": np.zeros(7, int)}, "one class"),
        ("lfc", {"features": np.ones((7, 4))}, "constant"),
        ("lgc", {"gradient_kernel": np.zeros((7, 7))}, "constant"),
    ],
)
def test_a_score_without_value_gives_the_reason(inputs, name, changes, reason):
    import re

    outcome = SCORES[name](**{**inputs, **changes})
    assert isinstance(outcome, Unavailable)
    assert re.search(reason, outcome.reason)


def test_an_input_that_was_not_given_is_like_none(inputs):
    assert SCORES["lfc"](labels=LABELS) == SCORES["lfc"](features=None, labels=LABELS)


def test_an_unknown_input_is_refused_with_near_ones(inputs):
    with pytest.raises(ConfigError, match="'feature' is not an input of a score. Did you mean 'features'.*Allowed: features, gradient_kernel"):
        SCORES["lfc"](feature=inputs["features"], labels=LABELS)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lfc", {"features": np.ones((6, 4))}, "6 rows of features for 7 labels"),
        ("lfc", {"features": np.full((7, 4), np.nan)}, "NaN"),
        ("lgc", {"gradient_kernel": np.eye(6)}, r"\(6, 6\) for 7 labels"),
        ("lgc", {"labels": np.zeros(7)}, "row of integers"),
    ],
)
def test_malformed_inputs_are_errors_not_reasons(inputs, name, changes, message):
    with pytest.raises(TaskError, match=message):
        SCORES[name](**{**inputs, **changes})


def test_the_random_score_depends_on_name_and_seed_alone(inputs):
    score = SCORES["random"]
    assert score(**inputs) == score(name="a", seed=0) == score(**{**inputs, "labels": LABELS[::-1], "features": None})
    assert len({float(score(name=name, seed=seed)) for name in "abc" for seed in range(3)}) == 9
    assert not score.resampled


def test_the_random_score_is_uniform_over_names_and_over_seeds():
    over_names = [random_score(f"expert-{i}", 0) for i in range(2000)]
    over_seeds = [random_score("expert", seed) for seed in range(2000)]
    assert min(kstest(over_names, "uniform").pvalue, kstest(over_seeds, "uniform").pvalue) > 0.01
    assert abs(np.corrcoef(over_names, [random_score(f"expert-{i}", 1) for i in range(2000)])[0, 1]) < 4 / np.sqrt(2000)
