"""Fixtures of the forecasting tests: small networks from the fine-tuning tests, and kernels of classes with a signal."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def networks(loaded):
    """Makers of experts and tasks."""
    return loaded("training/finetuning/conftest.py")


@pytest.fixture(scope="session")
def blobs():
    """blobs(classes, each, signal): a kernel (n, n) of noisy class means, and its labels."""

    def made(classes=3, each=8, signal=1.5, width=20, seed=0):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(classes), each)
        x = rng.normal(size=(classes * each, width)) + signal * rng.normal(size=(classes, width))[labels]
        return x @ x.T + 1, labels

    return made
