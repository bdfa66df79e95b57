"""Is every figure drawn of what was measured, does it say what is missing, and why it is not there?"""

import sys
from dataclasses import replace

import numpy as np
import pytest

from ntk_select.benchmark import run
from ntk_select.benchmark.report.figures import FIGURES, caption, data, figure_bytes, why_not
from ntk_select.benchmark.report.figures.figure_6 import SPEARMAN
from ntk_select.benchmark.report.figures.selection import in_order
from ntk_select.benchmark.report.results import read_results
from ntk_select.errors import ConfigError, MissingDependencyError

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    (folder / "try.toml").write_text('reference = "expert000"\nfinetune_seeds = [0, 1]\n[synthetic]\nexperts = 8\ntasks = 6\nscores = 3\n')
    run(folder / "try.toml", folder / "out")
    return read_results(folder / "out")


def test_there_are_the_eight_figures_of_the_paper():
    assert list(FIGURES) == [f"figure_{number}" for number in range(1, 9)]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_whole_results_is_drawn_and_its_caption_says_of_what(whole, name):
    assert figure_bytes(whole, name, "png").startswith(b"\x89PNG")
    assert why_not(whole, name) is None
    assert "made_up: 13 experts, 4 targets, 2 seeds of fine-tuning." in caption(whole, name)
    assert "ncomplete" not in caption(whole, name)


@pytest.mark.parametrize("name", FIGURES)
def test_rows_of_a_figure_have_the_same_columns_and_plain_values(whole, name):
    rows = data(whole, name)
    assert len({tuple(row) for row in rows}) == 1
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, type(None)}


@pytest.mark.parametrize("name", ["figure_5", "figure_8"])
def test_equal_results_give_equal_bytes(made, whole, name):
    assert figure_bytes(made.world(), name, "svg") == figure_bytes(whole, name, "svg")


@pytest.mark.parametrize("name", FIGURES)
def test_without_a_record_there_is_a_reason_and_no_figure(made, whole, name):
    nothing = made.without(whole, lambda row: False)
    assert figure_bytes(nothing, name, "png") is None
    assert why_not(nothing, name).endswith(".")
    assert "Incomplete:" in caption(nothing, name)


def test_what_is_missing_is_counted_in_the_caption(made, whole):
    some = made.without(whole, lambda row: row["role"] != "truth" or (row["task"], row["expert"]) != ("cars", "letters-net_a"))
    asked = sum(cell.role == "truth" for cell in whole.cells)
    assert f"Incomplete: 4 of {asked} fine-tunings are missing." in caption(some, "figure_2")
    assert "Unfinished: cars, 5 images per class (1 of 13 experts missing); cars, 20 images" in caption(some, "figure_2")
    failed = replace(some, failures={"some key": {}})
    assert "are missing; 1 cell failed." in caption(failed, "figure_2")


@pytest.mark.parametrize("seed", range(3))
def test_any_part_of_the_records_is_enough_for_a_figure_or_a_reason(made, whole, seed):
    rng = np.random.default_rng(seed)
    some = made.without(whole, lambda row: rng.random() < (0.03, 0.2, 0.6)[seed])
    for name in FIGURES:
        assert bool(data(some, name)) == (why_not(some, name) is None)
        drawn = FIGURES[name].draw(some) if data(some, name) else None
        assert (drawn is None) == bool(why_not(some, name))


def test_one_target_alone_is_enough(made, whole):
    some = made.without(whole, lambda row: row["task"] == "cars" and row["seed"] == 0)
    for name in ("figure_1", "figure_2", "figure_3", "figure_4", "figure_5", "figure_6", "figure_7"):
        assert FIGURES[name].draw(some)
    assert all(row["sd_points"] is None for row in data(some, "figure_2"))
    assert all(row["low"] is None and row["target"] == "cars" for row in data(some, "figure_4"))
    assert "Fewer than 3 targets: each by itself (cars)." in caption(some, "figure_4")


def test_scores_with_values_on_fewer_targets_are_pointed_out_and_come_last(whole):
    better, worse = in_order(data(whole, "figure_6"), SPEARMAN)[-2:]
    some = replace(whole, scores=[row for row in whole.scores if row["score"] != better or row["task"] == "cars"])
    rows = data(some, "figure_6")
    assert {row["targets"] for row in rows if row["score"] == better} == {1}
    assert in_order(rows, SPEARMAN)[-2:] == [worse, better]
    assert "values on so many targets only" in caption(some, "figure_6")
    assert "values on so many targets only" not in caption(whole, "figure_6")
    assert FIGURES["figure_6"].draw(some)


def test_without_a_reference_there_are_no_gains(made):
    text = "\n".join(line for line in made.CONFIG.splitlines() if not line.startswith(("reference", "untrained", "search")))
    world = made.world(text)
    for name in ("figure_2", "figure_3", "figure_4", "figure_5"):
        assert "names no reference" in why_not(world, name)
    for name in ("figure_1", "figure_6", "figure_7", "figure_8"):
        assert why_not(world, name) is None


def test_a_zoo_of_single_domains_has_no_figures_of_domains(made):
    world = made.world(experts={name: facts for name, facts in made.EXPERTS.items() if "@" not in name})
    assert why_not(world, "figure_3") == why_not(world, "figure_5") == "No multi-domain expert takes part."


def test_names_with_a_dollar_or_an_unknown_letter_are_drawn_as_they_are(made):
    renamed = {name.replace("letters", "$a_b$ \U00012000"): facts for name, facts in made.EXPERTS.items()}
    world = made.world(
        experts={name: replace(facts, name=name) for name, facts in renamed.items()}, text=made.CONFIG.replace("letters-", "textures-")
    )
    assert b"$a_b$" in figure_bytes(replace(world, name="$a_b$"), "figure_8", "svg")
    assert figure_bytes(world, "figure_3", "png")


def test_made_up_cells_have_the_figures_that_need_no_zoo(synthetic):
    assert [name for name in FIGURES if why_not(synthetic, name)] == ["figure_3", "figure_5", "figure_7", "figure_8"]
    assert why_not(synthetic, "figure_7") == "Made-up scores saw no images."
    assert "try (made-up numbers): 8 experts, 6 targets, 2 seeds" in caption(synthetic, "figure_6")
    for name in ("figure_1", "figure_2", "figure_4", "figure_6"):
        assert FIGURES[name].draw(synthetic)


def test_an_unknown_figure_is_refused_with_what_was_meant(whole):
    for ask in (data, why_not, caption, lambda *given: figure_bytes(*given, "png")):
        with pytest.raises(ConfigError, match=r"There is no figure 'figure_44'.*figure_4"):
            ask(whole, "figure_44")


def test_without_matplotlib_the_error_says_what_to_install(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        figure_bytes(whole, "figure_8", "png")
