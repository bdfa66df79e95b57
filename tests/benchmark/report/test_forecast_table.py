"""Agreement of forecasts and accuracies, recomputed by loops over raw rows and SciPy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from ntk_select.benchmark.report.forecast import MEAN, predictions


def lines(results, task, shots):
    """One line per seed: bias, error, Spearman, intervals that hold, slope."""
    found = []
    for seed in (0, 1):
        here = {
            row["expert"]: row
            for row in results.scores
            if (row["score"], row["task"], row["images_per_class"], row["seed"]) == ("forecast", task, shots, seed)
        }
        truth = {
            row["expert"]: row["accuracy"]
            for row in results.finetunings
            if (row["role"], row["task"], row["images_per_class"], row["seed"]) == ("truth", task, shots, seed)
        }
        names = [name for name in truth if name in here]
        terms = [json.loads(here[name]["terms"]) for name in names]
        predicted, real = np.array([each["accuracy"] for each in terms]), np.array([truth[name] for name in names])
        inside = [each["accuracy_low"] <= value <= each["accuracy_high"] for each, value in zip(terms, real, strict=True)]
        error = 100 * (predicted - real)
        found.append((error.mean(), np.abs(error).mean(), spearmanr(predicted, real)[0], 100 * np.mean(inside), linregress(predicted, real).slope))
    return found


NUMBERS = ("bias_points", "error_points", "spearman", "holds", "slope")


@pytest.mark.parametrize("shots", [5, 20])
def test_numbers_of_a_target_are_means_over_seeds_and_those_of_all_are_means_over_targets(forecasted, made, shots):
    rows = [row for row in made.rows_of(forecasted, "forecast") if row["shots"] == shots]
    expected = {task: np.mean(lines(forecasted, task, shots), axis=0) for task in forecasted.tasks}
    assert [row["target"] for row in rows] == [*expected, MEAN]
    for row in rows[:-1]:
        assert [row[name] for name in NUMBERS] == pytest.approx(expected[row["target"]])
        assert row["experts"] == len(made.raw(forecasted, shots)[row["target"]][0])
        assert row["seeds"] == 2
    assert [rows[-1][name] for name in NUMBERS] == pytest.approx(np.mean(list(expected.values()), axis=0))
    assert -5 < rows[-1]["bias_points"] < -1  # forecasts were made 3 points too low


def test_the_slope_is_that_of_differences_between_two_experts(forecasted, made):
    pairs = predictions(forecasted)
    pairs = pairs[(pairs["task"] == "birds") & (pairs["images_per_class"] == 5)]
    slopes = []
    for _, each in pairs.groupby("seed"):
        first, second = np.triu_indices(len(each), 1)
        predicted, real = (each[name].to_numpy()[first] - each[name].to_numpy()[second] for name in ("predicted", "measured"))
        slopes.append(predicted @ real / (predicted @ predicted))
    assert made.one(made.rows_of(forecasted, "forecast"), target="birds", shots=5)["slope"] == pytest.approx(np.mean(slopes))


def test_only_experts_that_are_compared_and_only_images_that_both_used(forecasted, made):
    more = made.with_config(forecasted, forecasted.config_text.replace('uri = "cars"', 'uri = "cars"\nsource = ["textures"]'))
    own = {name for name, facts in made.EXPERTS.items() if "textures" in facts.seen}
    left = predictions(more)
    assert set(left["expert"][left["task"] == "cars"]) == set(made.EXPERTS) - own
    rows = [row for row in forecasted.scores if row["score"] != "forecast" or row["seed"] == 1]
    assert set(predictions(replace(forecasted, scores=rows))["seed"]) == {1}
    none = [
        {**row, "value": None, "terms": None} if row["score"] == "forecast" and row["expert"] == "letters-net_b" else row for row in forecasted.scores
    ]
    assert "letters-net_b" not in set(predictions(replace(forecasted, scores=none))["expert"])


def test_a_task_judged_by_balanced_accuracy_is_compared_with_it(forecasted, made):
    text = forecasted.config_text.replace('uri = "cars"', 'uri = "cars"\njudged_by = "balanced_accuracy"')
    rows = [{**row, "balanced_accuracy": row["accuracy"] / 2} for row in forecasted.finetunings]
    pairs = predictions(made.with_config(replace(forecasted, finetunings=rows), text)).set_index(["task", "images_per_class", "seed", "expert"])
    usual = predictions(forecasted).set_index(["task", "images_per_class", "seed", "expert"])
    halved = pairs["measured"] / usual["measured"]
    assert halved["cars"].to_numpy() == pytest.approx(0.5)
    assert halved["birds"].to_numpy() == pytest.approx(1)


def test_equal_forecasts_have_no_slope_and_no_order(forecasted, made):
    terms = json.dumps({"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6})
    rows = [{**row, "terms": terms} if row["score"] == "forecast" else row for row in forecasted.scores]
    row = made.one(made.rows_of(replace(forecasted, scores=rows), "forecast"), target="birds", shots=5)
    assert np.isnan([row["slope"], row["spearman"]]).all()
    assert row["error_points"] > 0


def test_without_a_forecast_the_table_says_so(whole, made):
    table = made.table(whole, "forecast")
    assert not table.rows
    assert "no forecast" in table.missing[0]
