"""Correlations without each source, architecture and size, and within sizes, recomputed from raw rows with pandas and SciPy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from ntk_select.benchmark.report.ablations import ABLATED, groups
from ntk_select.benchmark.report.results import STATIC
from ntk_select.benchmark.report.summary import CEILING, measured


def static(raw, task):
    """Mean over the other targets of the accuracy minus the mean accuracy there."""
    others = [pd.Series(values, names) for other, (names, values) in raw.items() if other != task]
    return pd.concat([other - other.mean() for other in others], axis=1).mean(axis=1)


def restricted(made, results, shots, left):
    """task -> names, accuracies, without the experts that are left out."""
    found = {}
    for task, (names, accuracies) in made.raw(results, shots).items():
        here = [place for place, name in enumerate(names) if name not in left]
        found[task] = [names[place] for place in here], accuracies[here]
    return found


def thirds(results):
    """Experts by size, as the order of their numbers of parameters has them: 5, 4 and 4 of 13."""
    order = sorted(results.experts, key=lambda name: results.experts[name].parameters)
    return order[:5], order[5:9], order[9:]


LEFT_OUT = {
    "nothing": lambda results: [],
    "source letters": lambda results: [name for name, facts in results.experts.items() if facts.source == "letters"],
    "architecture net_b": lambda results: [name for name, facts in results.experts.items() if facts.architecture == "net_b"],
    "size 1,009 to 1,012 parameters": lambda results: thirds(results)[2],
}


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize("shots", [5, 20])
def test_correlations_without_some_experts_are_those_of_the_raw_rows(whole, made, shots, left_out):
    row = made.one(made.rows_of(whole, "ablations"), left_out=left_out, shots=shots)
    raw = restricted(made, whole, shots, LEFT_OUT[left_out](whole))
    assert row["experts"] == pytest.approx(np.mean([len(names) for names, _ in raw.values()]))
    assert row["targets"] == 4
    for score in ("lfc", "logme"):
        of_targets = [
            np.mean([spearmanr(values, accuracies)[0] for values in made.draws(whole, score, task, shots, names)])
            for task, (names, accuracies) in raw.items()
        ]
        assert row[score].value == pytest.approx(np.mean(of_targets)), score
    by_list = [spearmanr(static(raw, task)[names], accuracies)[0] for task, (names, accuracies) in raw.items()]
    assert row[STATIC].value == pytest.approx(np.mean(by_list))
    assert row["lfc"].low <= row["lfc"].value <= row["lfc"].high


def test_every_source_architecture_and_size_is_left_out_once(whole, made):
    names = [row["left_out"] for row in made.rows_of(whole, "ablations") if row["shots"] == 5]
    sizes = [f"size {low:,} to {high:,} parameters" for low, high in ((1000, 1004), (1005, 1008), (1009, 1012))]
    sources = [f"source {name}" for name in ("photos", "textures", "letters")]
    assert names == ["nothing", *sources, "architecture net_a", "architecture net_b", *sizes]
    columns = [column.name for column in made.table(whole, "ablations").columns]
    assert columns[4:] == [name for name in ABLATED if name != "forecast"]
    assert CEILING in columns


def test_the_row_of_nothing_is_that_of_the_table_of_scores(forecasted, made):
    row = made.one(made.rows_of(forecasted, "ablations"), left_out="nothing", shots=20)
    scores = made.rows_of(forecasted, "scores")
    for name in ABLATED:
        assert row[name] == made.one(scores, score=name, shots=20)["spearman"]


def test_a_score_that_hinges_on_one_source_loses_its_order_without_it(whole, made):
    """Only experts of letters are told from others, and those are better everywhere."""
    rng = np.random.default_rng(2)
    good = {name for name, facts in made.EXPERTS.items() if facts.source == "letters"}
    truths = [{**row, "accuracy": 0.4 + 0.4 * (row["expert"] in good) + 0.1 * rng.random()} for row in whole.finetunings if row["task"] != "greek"]
    scores = [{**row, "value": float(row["expert"] in good) + 0.1 * rng.normal()} for row in whole.scores if row["task"] != "greek"]
    rows = made.rows_of(replace(whole, finetunings=truths, scores=scores), "ablations")
    with_all, without, other = (made.one(rows, left_out=name, shots=5)["lfc"].value for name in ("nothing", "source letters", "source textures"))
    assert with_all > 0.6
    assert other > 0.6
    assert abs(without) < 0.3


def test_sizes_are_thirds_and_experts_of_one_size_are_never_separated(whole):
    by_size = pd.Series(whole.sizes)
    assert [sorted(by_size.index[by_size == size]) for size in dict.fromkeys(whole.sizes[name] for third in thirds(whole) for name in third)] == [
        sorted(third) for third in thirds(whole)
    ]
    two = {name: replace(facts, parameters=100 if facts.architecture == "net_a" else 200) for name, facts in whole.experts.items()}
    sizes = replace(whole, experts=two).sizes
    assert {(facts.architecture, sizes[name]) for name, facts in two.items()} == {
        ("net_a", "100 to 100 parameters"),
        ("net_b", "200 to 200 parameters"),
    }


def test_without_sizes_nothing_is_within_them(whole, made):
    for parameters in (None, 100):
        other = replace(whole, experts={name: replace(facts, parameters=parameters) for name, facts in whole.experts.items()})
        assert other.sizes == {}
        assert not any(kind == "size" for kind, _ in groups(other))
        assert made.one(made.rows_of(other, "scores"), score="lfc", shots=5)["within_sizes"] is None


@pytest.mark.parametrize("score", ["lfc", "leep"])
def test_correlations_within_sizes_are_weighted_by_their_experts(whole, made, score):
    of_targets = []
    for task, (names, accuracies) in made.raw(whole, 20).items():
        of_draws = []
        for values in made.draws(whole, score, task, 20, names):
            found = []
            for third in thirds(whole):
                here = [place for place, name in enumerate(names) if name in third]
                if len(here) >= 3:
                    found.append((len(here), spearmanr(values[here], accuracies[here])[0]))
            of_draws.append(np.average([rho for _, rho in found], weights=[count for count, _ in found]))
        of_targets.append(np.mean(of_draws))
    assert made.one(made.rows_of(whole, "scores"), score=score, shots=20)["within_sizes"].value == pytest.approx(np.mean(of_targets))


def test_a_score_that_is_the_size_alone_orders_nothing_within_sizes(whole):
    """All experts of a size have the same score, so within a size there is no order."""
    sizes = sorted(set(whole.sizes.values()))
    rows = [{**row, "value": float(sizes.index(whole.sizes[row["expert"]]))} for row in whole.scores]
    results = replace(whole, scores=rows)
    assert np.isfinite(measured(results, "spearman", 5, scores=["lfc"])["lfc"].value)
    assert np.isnan(measured(results, "within_sizes", 5, scores=["lfc"])["lfc"].value)
