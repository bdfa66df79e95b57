"""Figures are drawn of what was measured, say what is missing, and name everything they draw in their legends."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from ntk_select.benchmark import run
from ntk_select.benchmark.report.drawing import draw_selection
from ntk_select.benchmark.report.figures import FIGURES, SPEARMAN, TRIALS, caption, data, draw, figure_bytes, in_order, why_not
from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.words import TEXTS
from ntk_select.errors import ConfigError, MissingDependencyError

pytest.importorskip("matplotlib")
JUDGED = "Accuracy is balanced, the mean over classes, on {}."


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    (folder / "try.toml").write_text('reference = "expert000"\nfinetune_seeds = [0, 1]\n[synthetic]\nexperts = 8\ntasks = 6\nscores = 3\n')
    run(folder / "try.toml", folder / "out")
    return read_results(folder / "out")


def test_there_are_the_eight_figures_of_the_paper():
    assert list(FIGURES) == [f"figure_{number}" for number in range(1, 9)]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_whole_results_is_drawn_and_its_caption_says_of_what(whole, drawn, name):
    assert drawn(name).get_suptitle() == TEXTS[name]["title"]
    assert "made_up: 13 experts, 4 targets, 2 seeds of fine-tuning." in " ".join(texts_of(drawn(name)).split())
    assert why_not(whole, name) is None
    assert "made_up: 13 experts, 4 targets, 2 seeds of fine-tuning." in caption(whole, name)
    assert "ncomplete" not in caption(whole, name)
    assert not re.search(r"\b[Ee]rrat|\bE\d|[{}]", caption(whole, name))
    rows = data(whole, name)
    assert len({tuple(row) for row in rows}) == 1
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, type(None)}


@pytest.mark.parametrize("name", [name if name == "figure_8" else pytest.param(name, marks=pytest.mark.nightly) for name in FIGURES])
def test_a_figure_becomes_a_picture(whole, name):
    assert figure_bytes(whole, name, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [pytest.param("figure_5", marks=pytest.mark.nightly), "figure_8"])
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
    assert "Unfinished: cars, 5 images per class (1 of 13 experts missing: letters-net_a); cars, 20 images" in caption(some, "figure_2")
    failed = replace(some, failures={"some key": {}})
    assert "are missing; 1 cell failed." in caption(failed, "figure_2")


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.nightly)])
def test_any_part_of_the_records_is_enough_for_a_figure_or_a_reason(made, whole, seed):
    rng = np.random.default_rng(seed)
    some = made.without(whole, lambda row: rng.random() < (0.03, 0.2, 0.6)[seed])
    for name in FIGURES:
        assert bool(data(some, name)) == (why_not(some, name) is None)
        assert why_not(some, name) or draw(some, name)


def test_one_target_alone_is_enough(made, whole):
    some = made.without(whole, lambda row: row["task"] == "cars" and row["seed"] == 0)
    for name in ("figure_1", "figure_2", "figure_3", "figure_4", "figure_5", "figure_6", "figure_7"):
        assert draw(some, name)
    assert all(row["sd_points"] is None for row in data(some, "figure_2"))
    assert all(row["low"] is None and row["target"] == "cars" for row in data(some, "figure_4"))
    assert "Fewer than 3 targets, shown separately (cars)." in caption(some, "figure_4")


def test_scores_with_values_on_fewer_targets_are_pointed_out_and_come_last(whole):
    better, worse = in_order(data(whole, "figure_6"), SPEARMAN)[-2:]
    some = replace(whole, scores=[row for row in whole.scores if row["score"] != better or row["task"] == "cars"])
    rows = data(some, "figure_6")
    assert {row["targets"] for row in rows if row["score"] == better} == {1}
    assert in_order(rows, SPEARMAN)[-2:] == [worse, better]
    assert "number of targets with a value" in caption(some, "figure_6")
    assert "number of targets with a value" not in caption(whole, "figure_6")
    assert draw(some, "figure_6")


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


def test_synthetic_cells_have_the_figures_that_need_no_zoo(synthetic):
    assert [name for name in FIGURES if why_not(synthetic, name)] == ["figure_3", "figure_5", "figure_7", "figure_8"]
    assert why_not(synthetic, "figure_7") == "Synthetic scores use no images."
    assert "try (synthetic numbers): 8 experts, 6 targets, 2 seeds" in caption(synthetic, "figure_6")
    for name in ("figure_1", "figure_2", "figure_4", "figure_6"):
        assert draw(synthetic, name)


def test_an_unknown_figure_is_rejected_with_a_suggestion(whole):
    for ask in (data, why_not, caption, lambda *given: figure_bytes(*given, "png")):
        with pytest.raises(ConfigError, match=r"There is no figure 'figure_44'.*figure_4"):
            ask(whole, "figure_44")


def test_without_matplotlib_the_error_says_what_to_install(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        figure_bytes(whole, "figure_8", "png")


def texts_of(figure) -> str:
    from matplotlib.text import Text

    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def without_card(made, *names):
    """The zoo with experts of which nothing is known but the name."""
    return {
        name: replace(facts, architecture="", source="", seen=(), initialised_from=None) if name in names else facts
        for name, facts in made.EXPERTS.items()
    }


def test_a_reference_without_a_card_is_drawn_and_no_expert_is_of_its_source(made, whole):
    results = replace(whole, experts=without_card(made, "photos-net_a", "photos-net_b"))
    rows = data(results, "figure_1")
    assert not any(row["what"] == "reference's source" for row in rows)
    assert any(row["what"] == "reference" for row in rows)
    assert any(row["what"] == "reference's source" for row in data(whole, "figure_1"))
    assert draw(results, "figure_1")
    assert "trained on an unknown source" in texts_of(draw(results, "figure_2"))


def test_a_zoo_without_any_card_is_drawn(made, whole):
    results = replace(whole, experts=without_card(made, *made.EXPERTS))
    for name in ("figure_1", "figure_2", "figure_3"):
        assert why_not(results, name) or draw(results, name), name


@pytest.mark.parametrize("equal", [(5,), pytest.param((5, 20), marks=pytest.mark.nightly)])
def test_a_panel_of_a_measure_without_a_value_is_empty_and_says_so(whole, equal):
    same = [{**row, "accuracy": 0.5} if row["images_per_class"] in equal else row for row in whole.finetunings]
    results = replace(whole, finetunings=same)
    rows = [row for row in data(results, "figure_6") if row["measure"] == "spearman" and row["shots"] == 5]
    assert not any(row["score"] == "lfc" for row in rows)
    for name in ("figure_4", "figure_5", "figure_6", "figure_7"):
        assert why_not(results, name) or draw(results, name), name
    assert all(row["value"] == row["value"] for name in ("figure_4", "figure_5", "figure_6", "figure_7") for row in data(results, name))


def test_a_panel_without_rows_says_that_no_target_has_a_value(whole, drawn):
    rows = [row for row in data(whole, "figure_6") if row["measure"] != "spearman" or row["shots"] != 5]
    figure = draw_selection(whole, rows, (TRIALS, SPEARMAN), in_order(rows, SPEARMAN), "without")
    assert "no target has a value" in texts_of(figure)
    assert "no target has a value" not in texts_of(drawn("figure_6"))


def test_shots_that_were_not_requested_are_not_called_missing(made):
    results = made.world(made.CONFIG.replace('uri = "cars"', 'uri = "cars"\nshots = [5]'))
    text = texts_of(draw(results, "figure_2"))
    assert "not requested" in text
    assert "not yet" not in text
    some = made.without(results, lambda row: (row["task"], row["images_per_class"]) != ("birds", 20))
    assert "not yet" in texts_of(draw(some, "figure_2"))


@pytest.fixture(scope="module")
def judged(made):
    text = made.CONFIG.replace('uri = "birds"', 'uri = "birds"\njudged_by = "balanced_accuracy"')
    return made.world(text.replace('uri = "cars"', 'uri = "cars"\njudged_by = "balanced_accuracy"'))


@pytest.mark.parametrize("name", FIGURES)
def test_captions_and_figures_name_the_tasks_that_are_judged_by_balanced_accuracy(judged, whole, name):
    sentence = JUDGED.format("birds, cars" if name != "figure_8" else "birds")
    assert sentence in caption(judged, name)
    assert sentence in texts_of(draw(judged, name))
    assert "balanced" not in caption(whole, name)


def test_captions_say_what_is_optimistic_and_which_images_the_kernels_are_of(made, whole):
    assert "the best is selected on test accuracies too, which is optimistic" in caption(whole, "figure_1")
    assert "are among those trained on: after epoch 0 LFC is that of training images" in caption(whole, "figure_8")
    few = made.world(made.CONFIG.replace("per_class = 3", "per_class = 30"))
    assert "20 of the 30 of each class" in caption(few, "figure_8")


def test_figure_7_names_what_is_missing(made, whole):
    assert why_not(replace(whole, finetunings=[]), "figure_7") == "No fine-tuning was measured yet."
    assert why_not(replace(whole, scores=[]), "figure_7") == "No expert has a value of lfc, lgc, leep, rsa yet."
    few = made.without(whole, lambda row: row["role"] != "truth" or row["expert"] in list(whole.experts)[:2])
    assert "three single-domain experts" in why_not(few, "figure_7")


def legend(figure) -> dict[str, tuple]:
    (found,) = figure.legends
    return {
        text.get_text(): (line.get_color(), line.get_marker(), line.get_markerfacecolor(), line.get_linestyle())
        for line, text in zip(found.legend_handles, found.get_texts(), strict=True)
    }


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "figure_8"])  # images, which have none
def test_no_two_entries_look_alike(drawn, name):
    found = legend(drawn(name))
    assert len(set(found.values())) == len(found) > 0


def test_lines_of_a_random_order_and_of_the_reference_are_in_the_legend(drawn):
    styles = {
        name: {text: look[3] for text, look in legend(drawn(name)).items() if look[3] != "None"} for name in ("figure_4", "figure_6", "figure_7")
    }
    assert styles["figure_4"] == {
        "random order, first by the score": ":",
        "random order, best of its first three": "--",
        "the reference": "-",
    }
    assert styles["figure_6"] == {"random order": "--"}
    assert styles["figure_7"] == {"random order": "--", "the reference": "-"}


@pytest.mark.parametrize("name", ["figure_2", "figure_3"])
def test_hollow_points_are_in_the_legend_if_there_are_some(whole, drawn, name):
    hollow = any(whole.experts[row["expert"]].initialised_from is None for row in data(whole, name) if row.get("what") in (None, "domain"))
    assert ("hollow: from scratch" in legend(drawn(name))) == hollow
