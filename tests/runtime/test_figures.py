"""Ticks of the axes of figures are readable."""

import pytest

from ntk_select._runtime.figures import logarithmic, new_figure, whole_steps

pytest.importorskip("matplotlib")


def panel(values, make=logarithmic):
    figure = new_figure(3, 3, "A figure")
    axis = figure.subplots()
    axis.plot(range(1, len(values) + 1), values)
    make(axis)
    figure.draw_without_rendering()
    return axis


def labels(axis) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]


@pytest.mark.parametrize("values", [[0.1, 0.2], [1.9, 2.1], [0.95, 0.94], [3.0, 3.0], [0.5, 0.06], [1, 40], [0.002, 0.9], [1e-9, 3e-9]])
def test_a_short_logarithmic_axis_has_plain_numbers_and_enough_of_them(values):
    found = labels(panel(values).yaxis)
    assert 3 <= len(found) <= 10
    assert all(f"{float(text):g}" == text for text in found)


def test_a_tick_stands_where_its_number_is():
    axis = panel([0.1, 0.45])
    for tick in axis.yaxis.get_major_ticks():
        assert float(tick.label1.get_text()) == pytest.approx(tick.get_loc())
    assert axis.get_yscale() == "log"


def test_a_long_logarithmic_axis_has_powers_of_ten():
    assert {text[: len("$\\mathdefault{10^")] for text in labels(panel([1e-6, 1e3]).yaxis)} == {"$\\mathdefault{10^"}


def test_steps_are_whole_numbers():
    found = labels(panel([1, 2, 3, 5], whole_steps).xaxis)
    assert all(text.isdigit() for text in found)
    assert {"1", "4"} <= set(found)
