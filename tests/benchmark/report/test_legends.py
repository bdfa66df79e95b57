"""Is whatever a figure draws in its legend, and can two entries be told apart?"""

import re

import pytest

from ntk_select.benchmark.report.figures import FIGURES, caption

pytest.importorskip("matplotlib")


def legend(results, name: str) -> dict[str, tuple]:
    (found,) = FIGURES[name].draw(results).legends
    return {
        text.get_text(): (line.get_color(), line.get_marker(), line.get_markerfacecolor(), line.get_linestyle())
        for line, text in zip(found.legend_handles, found.get_texts(), strict=True)
    }


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "figure_8"])  # images, which have none
def test_no_two_entries_look_alike(whole, name):
    found = legend(whole, name)
    assert len(set(found.values())) == len(found) > 0


def test_lines_of_a_random_order_and_of_the_reference_are_told(whole):
    styles = {
        name: {text: look[3] for text, look in legend(whole, name).items() if look[3] != "None"} for name in ("figure_4", "figure_6", "figure_7")
    }
    assert styles["figure_4"] == {
        "random order, first by the score": ":",
        "random order, best of its first three": "--",
        "the reference": "-",
    }
    assert styles["figure_6"] == {"random order": "--"}
    assert styles["figure_7"] == {"random order": "--", "the reference": "-"}


@pytest.mark.parametrize("name", ["figure_2", "figure_3"])
def test_hollow_marks_are_told_where_there_are_some(made, whole, name):
    hollow = any(whole.experts[row["expert"]].initialised_from is None for row in FIGURES[name].data(whole) if row.get("what") in (None, "domain"))
    assert ("hollow: from scratch" in legend(whole, name)) == hollow


@pytest.mark.parametrize("name", FIGURES)
def test_a_caption_sends_nobody_to_a_list_that_is_not_there(whole, name):
    assert not re.search(r"\b[Ee]rrat|\bE\d", caption(whole, name))
