"""Fixture of the sketch tests: the projections by definition."""

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def explicit(loaded) -> ModuleType:
    """The projections by definition."""
    return loaded("kernels/sketches/explicit.py")
