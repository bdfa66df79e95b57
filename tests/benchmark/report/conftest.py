"""What do the tests of the report share? One made-up benchmark, of which every number is computed once."""

import pytest


@pytest.fixture(scope="session")
def made(loaded):
    """The module that makes benchmarks up."""
    return loaded("benchmark/report/test_figures_world.py")


@pytest.fixture(scope="session")
def numbers(loaded):
    """The module that gives them costs, and reads tables."""
    return loaded("benchmark/report/test_tables_numbers.py")


@pytest.fixture(scope="session")
def whole(made):
    """Everything that the config asks for."""
    return made.world()


@pytest.fixture(scope="session")
def paid(whole, numbers):
    """The same with costs."""
    return numbers.with_costs(whole)
