"""The sentences on what was found compare the forecast with a list of the experts, and name the better one only where the targets tell."""

from dataclasses import replace

import numpy as np
import pytest

from ntk_select.benchmark.report.columns import Column
from ntk_select.benchmark.report.results import STATIC
from ntk_select.benchmark.report.summary import CEILING, RANDOM, measured
from ntk_select.benchmark.report.words import what_it_does_not_show, what_was_found
from ntk_select.evaluate import paired

LIST = "a list of the experts by their accuracies on the other targets"
OPEN = f"these targets do not tell whether {{}} or {LIST} orders the experts better ("
PAIR = Column("", "", 2, interval=True)


@pytest.fixture(scope="module")
def many(made):
    """Eight targets, of which p can be 2 / 2^8; of four it cannot be below 0.05."""
    more = "".join(f'[tasks.more{place}]\nuri = "more{place}"\n' for place in range(4))
    return made.with_forecasts(made.world(made.CONFIG + more))


def about(results, *parts):
    return [sentence for sentence in what_was_found(results) if all(part in sentence for part in parts)]


def with_a_list_that_wins(made, results, noise):
    """Nearly the same experts are best on every target, and the forecast knows which ones are on average, with this much noise."""
    rng = np.random.default_rng(4)
    quality = {name: 0.2 + 0.04 * place for place, name in enumerate(made.EXPERTS)}
    here = {(expert, task): 0.06 * rng.random() for expert in quality for task in results.tasks}
    truths = [
        {**row, "accuracy": quality[row["expert"]] + here[row["expert"], row["task"]] + 0.01 * rng.random()}
        for row in results.finetunings
        if row["role"] == "truth"
    ]
    scores = [{**row, "value": quality[row["expert"]] + noise * rng.normal()} if row["score"] == "forecast" else row for row in results.scores]
    return replace(results, finetunings=truths, scores=scores)


def test_the_forecast_comes_first_with_the_numbers_of_the_tables(forecasted, made):
    sentences = [sentence for sentence in what_was_found(forecasted) if "With 20" in sentence]
    assert [sum(name in sentence for name in ("the forecast gains", "LFC gains", "LGC gains")) for sentence in sentences] == [1, 0, 0, 1, 1]
    row = made.one(made.rows_of(forecasted, "scores"), score="forecast", shots=20)
    for name, decimals in (("top_3_gain_points", 1), ("trials_to_best", 1), ("spearman", 2)):
        assert Column(name, "", decimals, interval=True).shown(row[name]) in sentences[0]
    limit = made.one(made.rows_of(forecasted, "scores"), score=CEILING, shots=20)["spearman"]
    assert (
        sentences[2]
        == f"With 20 images per class, the noise of fine-tuning allows a Spearman correlation of {PAIR.shown(limit)} (4 targets with two seeds)."
    )


def test_without_a_forecast_lfc_is_compared(many):
    results = replace(many, scores=[row for row in many.scores if row["score"] != "forecast"])
    assert len(about(results, f"LFC orders the experts better than {LIST} (")) == 2
    assert not any("forecast" in sentence for sentence in what_was_found(results))


@pytest.mark.parametrize(("noise", "verdict"), [(0.01, OPEN.format("the forecast")), (1.0, f"{LIST} orders them better than the forecast (")])
def test_a_list_that_orders_as_well_or_better_is_named(many, made, noise, verdict):
    results = with_a_list_that_wins(made, many, noise)
    for shots in (5, 20):
        (sentence,) = about(results, f"With {shots} ", verdict)
        compared = paired("spearman", results.targets("forecast", shots), results.targets(STATIC, shots))
        assert f"the forecast minus the list {PAIR.shown(compared.difference)}, p = {compared.p_value:.2g})" in sentence
        assert f"Spearman of the list {PAIR.shown(measured(results, 'spearman', shots, scores=[STATIC])[STATIC])};" in sentence
    assert len(about(results, LIST)) == 2


def test_a_forecast_that_is_better_than_a_list_is_said_to_be(many):
    assert len(about(many, f"the forecast orders the experts better than {LIST} (")) == len(about(many, LIST)) == 2


def test_of_few_targets_no_order_is_said_to_be_better_whatever_the_interval(forecasted):
    compared = paired("spearman", forecasted.targets("forecast", 20), forecasted.targets(STATIC, 20))
    assert compared.difference.low > 0
    assert compared.p_value == 2 / 2**4
    assert len(about(forecasted, OPEN.format("the forecast"))) == len(about(forecasted, LIST)) == 2


def test_nothing_is_said_of_a_list_with_one_target_and_of_noise_with_one_seed(forecasted, made):
    one = made.without(forecasted, lambda row: row["task"] == "birds")
    assert not about(one, "a list of the experts")
    assert about(one, "the noise of fine-tuning allows", "(1 target with two seeds)")
    assert not about(made.without(forecasted, lambda row: row["seed"] == 0), "the noise of fine-tuning")


def test_targets_of_one_data_set_are_counted_as_one(whole, made):
    text = whole.config_text.replace('uri = "cars"', 'uri = "cars"\ncluster = "birds"')
    found = what_it_does_not_show(made.with_config(whole, text))[0]
    assert found == "4 targets of 3 data sets say little about another task: intervals over so few are too narrow."


def test_all_pairs_are_compared_with_the_list_the_consensus_and_a_random_order_by_every_measure(forecasted, made):
    rows = made.rows_of(forecasted, "paired")
    for measure in ("Spearman", "gain of the best of 3 (points)", "trials to the best"):
        for score in ("forecast", "lfc", "lgc"):
            others = [row["other"] for row in rows if (row["score"], row["measure"], row["shots"]) == (score, measure, 5)]
            assert {STATIC, "consensus", RANDOM, "leep"} <= set(others)
            assert len(others) == len(forecasted.score_names)
    scores = made.rows_of(forecasted, "scores")
    row = made.one(rows, score="forecast", other=STATIC, shots=20, measure="trials to the best")
    trials = [made.one(scores, score=name, shots=20)["trials_to_best"].value for name in ("forecast", STATIC)]
    assert row["difference"].value == pytest.approx(trials[0] - trials[1])
    assert row["difference"].value < 0


def test_the_budget_has_the_forecast_and_the_consensus(forecasted, made):
    names = {row["score"] for row in made.rows_of(forecasted, "budget")}
    assert {"forecast", "consensus", STATIC, RANDOM} <= names
