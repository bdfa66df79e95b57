"""One synthetic benchmark for all tests of the report, whose intervals are computed once and whose figures are drawn once."""

import pytest


@pytest.fixture(scope="session")
def made(loaded):
    """The module that makes synthetic benchmarks, and reads their raw rows."""
    return loaded("benchmark/report/world.py")


@pytest.fixture(scope="session")
def whole(made):
    """Everything that the config requests, with costs."""
    return made.with_costs(made.world())


@pytest.fixture(scope="session")
def forecasted(made, whole):
    """The same with forecasts."""
    return made.with_forecasts(whole)


@pytest.fixture(scope="session")
def drawn(whole):
    """drawn("figure_1"): that figure of `whole`, drawn once."""
    from functools import cache

    from ntk_select.benchmark.report.figures import draw

    return cache(lambda name: draw(whole, name))
