"""The images that the plan of a benchmark counts for each kind of cell."""

from types import SimpleNamespace

import pytest

from ntk_select.benchmark.cells import FORECAST, Cell, TaskFacts
from ntk_select.benchmark.plan import _images
from ntk_select.forecasting.kernel import directions_for

TASK = TaskFacts("birds", "digest", "digest", 400, 90, 10)


def passed(role, width, gradients=False):
    return _images(SimpleNamespace(), Cell("score", "a", "birds", 5, 0, role, {}), TASK, gradients, width)


@pytest.mark.parametrize("width", [64, 512, 2048])
def test_a_forecast_takes_two_passes_for_each_direction_and_one_more(width):
    """Sixteen directions up to 256 pre-logits, two for 2,048."""
    assert passed(FORECAST, width) == (0, 50 * (1 + 2 * directions_for(width)))
    assert directions_for(64) == 16
    assert directions_for(2048) == 2


def test_other_scores_take_one_pass_and_with_gradients_a_step():
    assert passed("", 64) == (0, 50)
    assert passed("", 64, gradients=True) == (50, 50)
