"""The value that orders experts: the expected loss and the evidence in one number, on all images or on some."""

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import UndefinedScoreError
from ntk_select.forecasting.cross_validation import best, cross_validate, least_loss
from ntk_select.forecasting.order_value import order_value
from ntk_select.linearized import label_evidence

RECIPE = ns.Recipe(epochs=8, batch_size=8)
RATES = (0.03, 0.01, 0.003, 0.001)


def test_it_is_the_sum_of_both(blobs):
    kernel, labels = blobs()
    forecasts = cross_validate(kernel, labels, RECIPE, RATES)
    found = order_value(forecasts, kernel, labels)
    loss = min(one.loss for one in forecasts)
    assert found.value == pytest.approx(np.log(3) - loss + label_evidence(kernel, labels).gain, rel=1e-12)
    assert (found.loss, found.classes) == (loss, 3)


def test_on_some_images_it_is_that_of_their_answers_and_their_kernel(blobs):
    kernel, labels = blobs()
    forecasts = cross_validate(kernel, labels, RECIPE, RATES)
    found, rows = order_value(forecasts, kernel, labels), np.array([0, 2, 5, 9, 11, 14, 17, 20, 21])
    expected = np.log(3) + least_loss(forecasts).log_likelihoods[rows].mean() + label_evidence(kernel[np.ix_(rows, rows)], labels[rows]).gain
    assert found.on_subset(rows) == pytest.approx(expected, rel=1e-12)
    assert found.on_subset(np.arange(len(labels))) == pytest.approx(found.value, rel=1e-9)


def test_without_a_signal_it_is_about_zero(blobs, rng):
    """A constant kernel guesses; shuffled labels are worth less than the true ones, and about nothing."""
    kernel, labels = blobs()
    constant = np.ones_like(kernel)
    assert order_value(cross_validate(constant, labels, RECIPE, (0.001,)), constant, labels).value == pytest.approx(0, abs=0.01)
    true = order_value(cross_validate(kernel, labels, RECIPE, RATES), kernel, labels).value
    shuffled = []
    for _ in range(5):
        order = rng.permutation(labels)
        shuffled.append(order_value(cross_validate(kernel, order, RECIPE, RATES), kernel, order).value)
    assert true > 0.3 > 0.15 > np.mean(shuffled)


def test_accuracy_and_loss_may_choose_different_rates(blobs):
    """Accuracies are reported for the rate that a search by accuracy would choose."""
    kernel, labels = blobs(signal=0.6, seed=3)
    forecasts = cross_validate(kernel, labels, RECIPE, RATES)
    chosen = best(forecasts)
    assert chosen.accuracy == max(one.accuracy for one in forecasts)
    assert chosen.loss == min(one.loss for one in forecasts if one.accuracy == chosen.accuracy)
    assert least_loss(forecasts).loss == min(one.loss for one in forecasts)
    assert chosen is not least_loss(forecasts)


def test_images_of_one_class_have_none(blobs):
    kernel, labels = blobs()
    found = order_value(cross_validate(kernel, labels, RECIPE, RATES), kernel, labels)
    with pytest.raises(UndefinedScoreError, match="one class"):
        found.on_subset(np.flatnonzero(labels == 1))
    unknown = found._replace(log_likelihoods=np.full(len(labels), np.nan))
    assert np.isnan(unknown.on_subset(np.arange(len(labels))))
