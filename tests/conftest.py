"""What do all tests share? Float64 for exact comparisons, and no deadlines."""

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)

# The first example of a test may compile for seconds, and machines differ: time is no reason to fail.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
