"""PACTran equals the bound, minimised over the weights and the posterior's variance."""

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ntk_select.errors import ConfigError
from ntk_select.scores.pactran import pactran


def problem(rng, n=40, d=6, classes=3):
    labels = np.arange(n) % (classes + 1) % classes
    return rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) + 5, labels


def scaled(features):
    """Mean 0, mean square norm d."""
    x = features - features.mean(axis=0)
    return x * math.sqrt(x.shape[1] / np.mean((x**2).sum(axis=1)))


def cross_entropy(x, labels, weights, biases):
    logits = x @ weights + biases
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(x)), labels])


def definition(features, labels, strength=1.0, prior=1.0):
    """The bound in its two parts, from sklearn's optimum, second differences of the loss and a search over the variance."""
    x = scaled(features)
    (n, d), c = x.shape, labels.max() + 1
    v = prior / d
    temper = strength * n / v
    head = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x, labels)
    weights, biases = head.coef_.T, head.intercept_
    fit = cross_entropy(x, labels, weights, biases) + (weights**2).sum() / (2 * strength * n)
    trace, step = 0.0, 1e-3
    for index in np.ndindex(weights.shape):
        moved = np.zeros_like(weights)
        moved[index] = step
        losses = [cross_entropy(x, labels, weights + side * moved, biases) for side in (1, 0, -1)]
        trace += (losses[0] - 2 * losses[1] + losses[2]) / step**2

    def width_costs(log_variance):
        ratio = math.exp(log_variance) / v
        return 0.5 * math.exp(log_variance) * trace + c * d / (2 * temper) * (ratio - 1 - math.log(ratio))

    flatness = scipy.optimize.minimize_scalar(width_costs, bracket=(math.log(v) - 5, math.log(v)), tol=1e-10).fun
    return fit, flatness


@pytest.mark.parametrize("shape", [(40, 6), (14, 25)])
@pytest.mark.parametrize(("strength", "prior"), [(1.0, 1.0), (0.1, 1000.0), (10.0, 0.1)])
def test_pactran_is_minus_the_bound_at_its_least(rng, shape, strength, prior):
    features, labels = problem(rng, *shape)
    fit, flatness = definition(features, labels, strength, prior)
    found = pactran(features, labels, strength=strength, prior=prior)
    assert found.details["fit"] == pytest.approx(fit, abs=1e-6)
    assert found.details["flatness"] == pytest.approx(flatness, rel=1e-3)
    assert found.value == pytest.approx(-fit - flatness, rel=1e-3)


def test_two_classes_have_two_columns_of_weights(rng):
    """Of two classes, weights w and -w: sklearn's single column is 2 w, at twice the strength."""
    features, labels = problem(rng, classes=2)
    x = scaled(features)
    head = LogisticRegression(C=2.0, tol=1e-10).fit(x, labels)
    weights = np.hstack([-head.coef_.T, head.coef_.T]) / 2
    expected = cross_entropy(x, labels, weights, np.hstack([-head.intercept_, head.intercept_]) / 2) + (weights**2).sum() / 80
    assert pactran(features, labels).details["fit"] == pytest.approx(expected, abs=1e-6)


def test_no_other_weights_do_better(rng):
    features, labels = problem(rng)
    x, fit = scaled(features), pactran(features, labels).details["fit"]
    head = LogisticRegression(C=1.0).fit(x, labels)
    for _ in range(30):
        weights, biases = head.coef_.T + 0.05 * rng.normal(size=(6, 3)), head.intercept_ + 0.05 * rng.normal(size=3)
        assert cross_entropy(x, labels, weights, biases) + (weights**2).sum() / 80 > fit


@pytest.mark.parametrize("shape", [(40, 6), (14, 25)])
def test_scale_rotation_shift_names_and_order_play_no_part(rng, shape):
    features, labels = problem(rng, *shape)
    value = pactran(features, labels).value
    rotation, order = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))[0], rng.permutation(shape[0])
    for factor in (1e-6, 1e5):
        assert pactran(factor * features @ rotation, labels).value == pytest.approx(value, abs=1e-4)
    assert pactran(features + 100, labels).value == pytest.approx(value, abs=1e-4)
    assert pactran(features[order], np.array([3, -2, 17])[labels[order]]).value == pytest.approx(value, abs=1e-4)
    assert pactran(features.astype(np.float32), labels).value == pytest.approx(value, abs=1e-3)


def test_separable_classes_fit_and_noise_gives_the_entropy_of_the_labels(rng):
    labels = np.arange(300) % 3
    assert pactran(rng.normal(size=(3, 8))[labels], labels).details["fit"] < 0.1
    assert pactran(rng.normal(size=(300, 1)), labels).details["fit"] == pytest.approx(math.log(3), abs=0.02)
    rare = np.array([0] * 290 + [1] * 10)
    assert pactran(rng.normal(size=(300, 1)), rare).details["fit"] == pytest.approx(-(29 * math.log(29 / 30) + math.log(1 / 30)) / 30, abs=0.02)


def test_shuffled_labels_score_lower(rng):
    features, labels = problem(rng)
    assert pactran(features, labels).value > max(pactran(features, rng.permutation(labels)).value for _ in range(20))


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from(["balanced", "singletons", "300:1"]), st.booleans(), st.floats(0.1, 10))
def test_values_are_at_most_zero(seed, d, layout, collapsed, strength):
    rng = np.random.default_rng(seed)
    labels = np.array({"balanced": [0, 1, 2] * 8, "singletons": [0] * 9 + [1, 2, 3], "300:1": [0] * 300 + [1]}[layout])
    features = rng.normal(size=(4, d))[labels] if collapsed else rng.normal(size=(len(labels), d))
    found = pactran(features, labels, strength=strength)
    assert found.value <= 0
    assert found.value == pytest.approx(-found.details["fit"] - found.details["flatness"])
    assert min(found.details.values()) >= 0
    # Weights of zero are one choice: the entropy of the labels bounds the fit.
    shares = np.bincount(labels) / len(labels)
    assert found.details["fit"] <= -(shares * np.log(shares)).sum() + 1e-9


@pytest.mark.parametrize(
    ("features", "labels", "options", "error", "message"),
    [
        (np.eye(4), np.arange(4) % 2, {"strength": 0.0}, ConfigError, "strength=0.0 must be a positive number"),
        (np.eye(4), np.arange(4) % 2, {"prior": -1.0}, ConfigError, "prior=-1.0 must be a positive number"),
        (np.eye(4), np.arange(4) % 2, {"prior": math.nan}, ConfigError, "prior=nan"),
    ],
)
def test_undefined_and_malformed_inputs_are_refused(features, labels, options, error, message):
    with pytest.raises(error, match=message):
        pactran(features, labels, **options)
