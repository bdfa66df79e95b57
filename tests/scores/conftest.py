"""Samples shared by the tests of scores, and a single thread for their linear algebra."""

import importlib
from typing import NamedTuple

import numpy as np
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="session", autouse=True)
def single_thread():
    """Linear algebra of small matrices in one thread: a second one only waits."""
    importlib.import_module("scipy.linalg")  # only libraries that are loaded can be limited
    with threadpool_limits(1):
        yield


class Sample(NamedTuple):
    features: np.ndarray
    labels: np.ndarray


@pytest.fixture
def separable() -> Sample:
    """Four classes of 15, 8 features, three standard deviations apart; the order of the images tells nothing."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(4), 15))
    return Sample(rng.normal(size=(60, 8)) + 3 * rng.normal(size=(4, 8))[labels], labels)


@pytest.fixture
def noise(separable) -> Sample:
    """The same labels; features that know nothing of them."""
    return Sample(np.random.default_rng(2).normal(size=(60, 8)), separable.labels)
