"""What do all tests share? Float64 for exact comparisons, strict promotion is left to the code under test."""

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
