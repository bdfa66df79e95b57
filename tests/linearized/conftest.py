"""Shared by the tests of the linearised theory: small networks with explicit Jacobians."""

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def independent(loaded) -> ModuleType:
    """Linearised training by definition."""
    return loaded("linearized/independent.py")


@pytest.fixture(scope="session")
def binary(independent):
    """One output, (n,), and targets -1 and +1."""
    return independent.world(1)


@pytest.fixture(scope="session")
def several(independent):
    """Three outputs and one-hot targets."""
    return independent.world(3)


@pytest.fixture(params=["binary", "several"])
def world(request):
    """A network with one output, then one with several."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", autouse=True)
def always_quickly(quickly):
    """All of these networks are small."""
