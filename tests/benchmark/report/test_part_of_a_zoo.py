"""Does a report of some experts of a zoo speak of those alone?"""

from dataclasses import replace

import pytest

from ntk_select.benchmark.report.figures import caption, why_not
from ntk_select.benchmark.report.tables.in_words import what_it_does_not_show, what_it_is

CHOSEN = ["photos-net_a", "textures-net_a", "letters-net_a"]


@pytest.fixture(scope="module")
def few(made):
    return made.world(f"experts = {CHOSEN}\n" + made.CONFIG)


def test_experts_sources_and_architectures_are_those_of_the_run(few, made):
    assert len(few.experts) == len(made.EXPERTS) > len(CHOSEN)
    assert what_it_is(few)[0].startswith("3 experts, 4 target tasks")
    assert "3 experts come from 3 sources and 1 architecture;" in " ".join(what_it_does_not_show(few))
    assert "made_up: 3 experts," in caption(few, "figure_2")
    assert why_not(few, "figure_3") == "No multi-domain expert takes part."


def test_tables_have_the_experts_of_the_run_and_those_that_were_left_out(few, numbers):
    assert [row["expert"] for row in numbers.rows_of(few, "experts")] == CHOSEN
    assert [(row["architecture"], row["start"]) for row in numbers.rows_of(few, "table_1")] == [("net_a", "scratch")]
    assert numbers.rows_of(few, "table_2") == []
    left_out = replace(few, skipped=[{"expert": "letters-net_b", "task": "greek", "reason": "own source (letters)"}])
    assert [row["expert"] for row in numbers.rows_of(left_out, "experts")] == [*CHOSEN, "letters-net_b"]
    assert what_it_is(left_out)[0].startswith("3 experts,")


def test_experts_of_figures_alone_are_not_counted(made):
    world = made.world('experts = ["photos-net_a", "textures-net_a"]\n' + made.CONFIG)  # letters-net_a has a kernel
    assert what_it_is(world)[0].startswith("2 experts,")
