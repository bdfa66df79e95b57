"""The evidence with the kernel of fine-tuning: higher for the kernel of the classes, next to none for shuffled labels."""

import numpy as np

from ntk_select.linearized import label_evidence
from ntk_select.scores import SCORES, Unavailable


def test_it_prefers_the_kernel_of_the_classes_and_not_by_chance(rng):
    labels = np.repeat(np.arange(4), 8)
    noise = rng.normal(size=(32, 50))
    values = []
    for signal in (0.0, 0.5, 1.0):
        x = noise + signal * rng.normal(size=(4, 50))[labels]
        values.append(SCORES["ntk_evidence"](training_kernel=x @ x.T, labels=labels))
    assert values[0].value < values[1].value < values[2].value
    shuffled = [SCORES["ntk_evidence"](training_kernel=x @ x.T, labels=rng.permutation(labels)).value for _ in range(10)]
    assert values[2].value > 10 * np.mean(shuffled)


def test_it_is_that_of_the_theory_with_a_finite_noise(rng):
    labels = np.repeat(np.arange(3), 6)
    x = rng.normal(size=(18, 5)) + 2 * np.eye(3, 5)[labels]
    found, expected = SCORES["ntk_evidence"](training_kernel=x @ x.T, labels=labels), label_evidence(x @ x.T, labels)
    assert (found.value, found.details["noise"]) == expected
    targets = np.eye(3)[labels]
    across = SCORES["ntk_evidence"](training_kernel=np.eye(18) - targets @ targets.T / 6, labels=labels)
    assert (across.value, across.details["noise"]) == (0.0, 100.0)


def test_a_constant_kernel_has_none():
    found = SCORES["ntk_evidence"](training_kernel=np.ones((4, 4)), labels=np.array([0, 0, 1, 1]))
    assert isinstance(found, Unavailable)
    assert "constant over all pairs" in found.reason
