"""Fixtures shared by the tests of measures: tie-breaking by brute force, and small cases with ties."""

import importlib
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="session", autouse=True)
def single_thread():
    """Linear algebra of small matrices in one thread: a second one only waits."""
    importlib.import_module("scipy.linalg")  # only libraries that are loaded can be limited
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def tie_breakings():
    """All orders in which the experts may be tried: scores never rise, those without one come last."""

    def orders(scores):
        keys = np.where(np.isnan(scores), -np.inf, scores)
        return [list(order) for order in permutations(range(len(keys))) if all(keys[a] >= keys[b] for a, b in pairwise(order))]

    return orders


@pytest.fixture(scope="session")
def tied():
    """A strategy: 1 to 5 experts, scores and accuracies of few values, some without a score."""
    score = st.sampled_from([-1.0, 0.0, 2.5, float("nan")])
    accuracy = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])
    return st.integers(1, 5).flatmap(
        lambda e: st.tuples(
            st.lists(score, min_size=e, max_size=e).map(np.array),
            st.lists(accuracy, min_size=e, max_size=e).map(np.array),
        )
    )


@pytest.fixture
def experts(rng):
    """Twenty experts with ties on both sides; the scores are of some use."""
    accuracies = (0.5 + 0.1 * rng.normal(size=20)).round(2)
    return (10 * accuracies + rng.normal(size=20)).round(), accuracies
