"""The images that the plan of a benchmark counts for each kind of cell."""

from types import SimpleNamespace

import pytest

from ntk_select.benchmark.cells import FORECAST, Cell, TaskFacts
from ntk_select.benchmark.plan import Plan, _images, total
from ntk_select.errors import ConfigError

TASK = TaskFacts("birds", "digest", "digest", 400, 90, 10)


def passed(role, width, gradients=False):
    return _images(SimpleNamespace(), Cell("score", "a", "birds", 5, 0, role, {}), TASK, gradients, width)


@pytest.mark.parametrize(("width", "directions"), [(1, 16), (256, 16), (512, 8), (2048, 2), (10**6, 2)])
def test_a_forecast_takes_two_passes_for_each_direction_and_one_more(width, directions):
    """Wide networks need fewer directions."""
    assert passed(FORECAST, width) == (0, 50 * (1 + 2 * directions))


def test_other_scores_take_one_pass_and_with_gradients_a_step():
    assert passed("", 64) == (0, 50)
    assert passed("", 64, gradients=True) == (50, 50)


def test_a_plan_without_cells_has_no_sum():
    with pytest.raises(ConfigError, match='The config requests no cell: every expert overlaps .*Try: source_overlap = "mark"'):
        total(Plan((), 4, 2, 2, {}))
