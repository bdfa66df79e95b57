"""Layers agree with PyTorch's definitions."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from ntk_select.models.layers import adaptive_average_pool, batch_norm


@pytest.mark.parametrize("size", [(2, 2), (6, 6), (7, 5), (13, 12), (1, 9)])
def test_adaptive_pooling_averages_the_windows_of_its_definition(size, rng):
    image, bins = rng.normal(size=(2, *size, 3)), 6
    expected = np.empty((2, bins, bins, 3))
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * size[0] // bins, -(-(i + 1) * size[0] // bins))
            columns = slice(j * size[1] // bins, -(-(j + 1) * size[1] // bins))
            expected[:, i, j] = image[:, rows, columns].mean(axis=(1, 2))
    np.testing.assert_allclose(adaptive_average_pool(image, bins), expected, rtol=1e-12, atol=1e-14)


X = np.random.default_rng(1).normal(2, 3, size=(4, 3, 5, 6))
BEFORE = {"mean": np.linspace(-1, 1, 6), "var": np.linspace(0.5, 2, 6)}
SCALE, BIAS = np.linspace(0.5, 1.5, 6), np.linspace(-1, 1, 6)


def normalised(layer, x, **options):
    return layer.apply({"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": BEFORE}, x, **options)


@pytest.mark.parametrize("x", [X, X[:, 0, 0], X[:1, 0, 0]], ids=["images", "vectors", "one vector"])
def test_batch_norm_in_training_is_pytorchs_written_out(x):
    """It normalises with the variance over n, and keeps a tenth of that over n - 1."""
    out, changed = normalised(batch_norm(True, "bn"), x, mutable=["batch_stats"])
    rows = x.reshape(-1, 6)
    mean, var = rows.mean(0), ((rows - rows.mean(0)) ** 2).mean(0)
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS, rtol=1e-9, atol=1e-9)
    unbiased = var * len(rows) / max(len(rows) - 1, 1)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.9 * BEFORE["mean"] + 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 * BEFORE["var"] + 0.1 * unbiased, rtol=1e-9)


def test_batch_norm_in_evaluation_is_flaxs():
    ours, flaxs = batch_norm(False, "bn"), nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="bn")
    np.testing.assert_array_equal(normalised(ours, X), normalised(flaxs, X))
    np.testing.assert_allclose(normalised(ours, X), (X - BEFORE["mean"]) / np.sqrt(BEFORE["var"] + 1e-5) * SCALE + BIAS, rtol=1e-12)


def test_fresh_batch_norm_begins_at_mean_zero_and_variance_one():
    found = batch_norm(True, "bn").init(jax.random.key(0), X)["batch_stats"]
    assert (found["mean"] == 0).all()
    assert (found["var"] == 1).all()
