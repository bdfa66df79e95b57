"""Are figures drawn, and honest, of experts without cards, measures without values, shots that were never asked for, and balanced accuracies?"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ntk_select.benchmark.report.figures import FIGURES, caption, data, figure_6, why_not
from ntk_select.benchmark.report.page import page
from ntk_select.benchmark.report.tables import TABLES

pytest.importorskip("matplotlib")
JUDGED = "Accuracy is balanced, the mean over classes, on {}."


def texts_of(figure) -> str:
    from matplotlib.text import Text

    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def without_card(made, *names):
    """The zoo with experts of which nothing is known but the name."""
    return {
        name: replace(facts, architecture="", source="", seen=(), initialised_from=None) if name in names else facts
        for name, facts in made.EXPERTS.items()
    }


def test_a_reference_without_a_card_is_drawn_and_nobody_is_of_its_source(made, whole):
    results = replace(whole, experts=without_card(made, "photos-net_a", "photos-net_b"))
    rows = data(results, "figure_1")
    assert not any(row["what"] == "reference's source" for row in rows)
    assert any(row["what"] == "reference" for row in rows)
    assert any(row["what"] == "reference's source" for row in data(whole, "figure_1"))
    assert FIGURES["figure_1"].draw(results)
    assert "trained on an unknown source" in texts_of(FIGURES["figure_2"].draw(results))


def test_a_zoo_without_any_card_is_drawn(made, whole):
    results = replace(whole, experts=without_card(made, *made.EXPERTS))
    for name in FIGURES:
        assert why_not(results, name) or FIGURES[name].draw(results), name


@pytest.mark.parametrize("equal", [(5,), (5, 20)])
def test_a_panel_of_a_measure_without_a_value_is_empty_and_says_so(whole, equal):
    same = [{**row, "accuracy": 0.5} if row["images_per_class"] in equal else row for row in whole.truths]
    results = replace(whole, truths=same)
    rows = [row for row in data(results, "figure_6") if row["measure"] == "spearman" and row["shots"] == 5]
    assert not any(row["score"] == "lfc" for row in rows)
    for name in ("figure_4", "figure_5", "figure_6", "figure_7"):
        assert why_not(results, name) or FIGURES[name].draw(results), name
    assert all(row["value"] == row["value"] for name in ("figure_4", "figure_5", "figure_6", "figure_7") for row in data(results, name))


def test_the_draw_of_a_panel_without_rows_says_that_no_target_has_a_value(whole):
    rows = [row for row in data(whole, "figure_6") if row["measure"] != "spearman" or row["shots"] != 5]
    figure = figure_6.draw_selection(whole, rows, figure_6.DRAWN, figure_6.in_order(rows, figure_6.SPEARMAN), "without")
    assert "no target has a value" in texts_of(figure)
    assert "no target has a value" not in texts_of(figure_6.draw(whole))


def test_shots_that_a_task_was_never_asked_for_are_not_said_to_come(made):
    results = made.world(made.CONFIG.replace('uri = "cars"', 'uri = "cars"\nshots = [5]'))
    text = texts_of(FIGURES["figure_2"].draw(results))
    assert "not asked" in text
    assert "not yet" not in text
    some = made.without(results, lambda row: (row["task"], row["images_per_class"]) != ("birds", 20))
    assert "not yet" in texts_of(FIGURES["figure_2"].draw(some))


@pytest.fixture(scope="module")
def judged(made):
    text = made.CONFIG.replace('uri = "birds"', 'uri = "birds"\njudged_by = "balanced_accuracy"')
    return made.world(text.replace('uri = "cars"', 'uri = "cars"\njudged_by = "balanced_accuracy"'))


@pytest.mark.parametrize("name", FIGURES)
def test_captions_and_figures_name_the_tasks_that_are_judged_by_balanced_accuracy(judged, whole, name):
    sentence = JUDGED.format("birds, cars" if name != "figure_8" else "birds")
    assert sentence in caption(judged, name)
    assert sentence in texts_of(FIGURES[name].draw(judged))
    assert "balanced" not in caption(whole, name)


def test_captions_say_what_flatters_lfc_and_which_images_the_kernels_are_of(made, whole):
    assert "the best is picked on test accuracies too, which is optimistic" in caption(whole, "figure_1")
    assert "are among those trained on: after epoch 0 LFC is that of training images" in caption(whole, "figure_8")
    few = made.world(made.CONFIG.replace("per_class = 3", "per_class = 30"))
    assert "20 of the 30 of each class" in caption(few, "figure_8")


def test_figure_7_blames_what_is_missing(made, whole):
    assert why_not(replace(whole, truths=[]), "figure_7") == "No fine-tuning was measured yet."
    assert why_not(replace(whole, scores=[]), "figure_7") == "No expert has a value of lfc, lgc, leep, rsa yet."
    few = made.without(whole, lambda row: row["role"] != "truth" or row["expert"] in list(whole.experts)[:2])
    assert "three single-domain experts" in why_not(few, "figure_7")


def test_what_a_benchmark_has_no_option_for_is_not_advised(whole, numbers):
    reason = "No accuracy on another task was given. Type: rank(..., measured={expert: {task: accuracy}}), or --measured FILE.json"
    rows = [{**row, "value": None, "unavailable": reason} if row["score"] == "random" else row for row in whole.scores]
    example = numbers.one(numbers.rows_of(replace(whole, scores=rows), "unavailable"), score="random", images=5)["example"]
    assert example.endswith(": No accuracy on another task was given.")


def test_the_page_names_the_versions_of_the_records_beside_those_of_the_run(whole):
    rows = [{**row, "jax_version": ("0.9", "0.10")[row["seed"]], "device": "cpu"} for row in whole.truths]
    text = page(replace(whole, truths=rows, versions={"jax": "0.10"}), [], {"experts": TABLES["experts"].content(whole)}, datetime.now(UTC))
    assert "Packages of the last run: jax 0.10." in text
    assert "The records name: device cpu, jax 0.10 and 0.9." in text
    assert "measured on cpu." in text
