"""Terms of zoo-relative scores are scaled over the experts, and refused where the experts do not differ."""

import numpy as np
import pytest

from ntk_select.errors import UndefinedScoreError
from ntk_select.scores.zoo_relative import column, min_max, standardised_terms

TERMS = [{"a": 1.0, "b": -4.0, "c": 0.1}, {"a": 3.0, "b": -2.0, "c": 0.1}, {"a": 2.0, "b": 6.0, "c": 0.1}]


def test_a_column_is_one_term_of_all_experts():
    np.testing.assert_array_equal(column(TERMS, "b"), [-4, -2, 6])


def test_min_max_stretches_every_term_and_leaves_what_is_equal_at_zero():
    assert min_max(TERMS) == [{"a": 0, "b": 0, "c": 0}, {"a": 1, "b": pytest.approx(0.2), "c": 0}, {"a": 0.5, "b": 1, "c": 0}]


def test_standardised_terms_have_mean_zero_and_variance_one():
    found = standardised_terms(TERMS)
    assert list(column(found, "a")) == pytest.approx([-np.sqrt(1.5), np.sqrt(1.5), 0])
    assert list(column(found, "b")) == pytest.approx((np.array([-4, -2, 6]) / np.std([-4, -2, 6])).tolist())
    assert list(column(found, "c")) == [0, 0, 0]


@pytest.mark.parametrize("scale", [min_max, standardised_terms])
def test_experts_that_differ_by_rounding_only_are_equal(scale):
    with pytest.raises(UndefinedScoreError, match="do not differ in any term"):
        scale([{"a": 0.3, "b": 0.0}, {"a": 0.1 + 0.2, "b": 0.0}])


@pytest.mark.parametrize("scale", [min_max, standardised_terms])
def test_the_given_terms_stay_as_they_are(scale):
    given = [dict(term) for term in TERMS]
    assert len(scale(given)) == 3
    assert given == TERMS
