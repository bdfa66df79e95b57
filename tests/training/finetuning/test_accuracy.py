"""Accuracies and the loss agree with scikit-learn."""

import warnings

import numpy as np
import pytest

from ntk_select.training.finetuning.trainer import accuracy

metrics = pytest.importorskip("sklearn.metrics")


def drawn(seed, n=40, classes=5, absent=()):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.setdiff1d(np.arange(classes), absent), n)
    return rng.normal(size=(n, classes)) * 3, labels


@pytest.mark.parametrize("absent", [(), (4,), (0, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_all_four_are_those_of_scikit_learn_also_where_classes_have_no_test_images(seed, absent):
    logits, labels = drawn(seed, absent=absent)
    found, answers, present = accuracy(logits, labels), logits.argmax(1), np.unique(labels)
    assert found.top1 == metrics.accuracy_score(labels, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # answers of classes that have no images
        expected = metrics.balanced_accuracy_score(labels, answers)
    assert found.balanced == pytest.approx(expected, rel=1e-14)
    recall = metrics.recall_score(labels, answers, labels=present, average=None)
    np.testing.assert_allclose(found.per_class[present], recall, rtol=1e-14)
    assert np.isnan(found.per_class[list(absent)]).all()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.loss == pytest.approx(metrics.log_loss(labels, chances, labels=np.arange(5)), rel=1e-12)


def test_equal_logits_are_an_answer_for_the_first_class():
    found = accuracy(np.zeros((4, 2)), np.array([0, 0, 0, 1]))
    assert (found.top1, found.balanced, found.per_class.tolist()) == (0.75, 0.5, [1.0, 0.0])
    assert found.loss == pytest.approx(np.log(2), rel=1e-15)


def test_huge_logits_of_float32_give_a_finite_loss_that_is_not_below_nothing():
    found = accuracy(np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32), np.array([0, 1]))
    assert (found.top1, found.loss) == (1.0, 0.0)
    wrong = accuracy(np.array([[3e38, -3e38]], np.float32), np.array([1]))
    assert wrong.loss == pytest.approx(6e38, rel=1e-6)
