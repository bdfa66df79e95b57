"""The consensus is the mean rank by the cheap scores that are best on other clusters, as brute force with pandas and SciPy has it."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from ntk_select.benchmark.report.consensus import members_for
from ntk_select.benchmark.report.costs import scoring
from ntk_select.benchmark.report.results import CONSENSUS

CHEAP = ("lfc", "leep", "hscore", "logme")


def brute_force(made, results, shots, clusters, keep=lambda name: True):
    """task -> (names, mean correlation elsewhere, correlation here)."""
    raw = {task: [(name, value) for name, value in zip(*each, strict=True) if keep(name)] for task, each in made.raw(results, shots).items()}
    quality = {}
    for task, pairs in raw.items():
        names, accuracies = zip(*pairs, strict=True)
        draws = {score: pd.DataFrame(made.draws(results, score, task, shots, names)).rank(axis=1) for score in CHEAP}
        for chosen in [*combinations(CHEAP, 2), *combinations(CHEAP, 3)]:
            mean = sum(draws[score] for score in chosen)
            quality[task, chosen] = np.mean([spearmanr(mean.loc[draw], accuracies)[0] for draw in mean.index])
    found = {}
    for task in raw:
        elsewhere = [other for other in raw if clusters.get(other, other) != clusters.get(task, task)]
        means = {chosen: np.mean([quality[other, chosen] for other in elsewhere]) for where, chosen in quality if where == task}
        best = max(means, key=means.get)
        found[task] = best, means[best], quality[task, best]
    return found


@pytest.mark.parametrize("clusters", [{}, {"birds": "animals", "cars": "animals"}])
@pytest.mark.parametrize("shots", [5, 20])
def test_its_scores_are_those_that_are_best_on_the_other_clusters(whole, made, shots, clusters):
    text = whole.config_text
    for task, cluster in clusters.items():
        text = text.replace(f'uri = "{task}"', f'uri = "{task}"\ncluster = "{cluster}"')
    results = made.with_config(whole, text)
    assert results.cheap_scores == CHEAP
    expected = brute_force(made, results, shots, clusters)
    chosen = results.consensus_of(shots, shots)
    assert list(chosen) == list(expected)
    for task, (names, elsewhere, _) in expected.items():
        assert chosen[task] == (names, pytest.approx(elsewhere))
    row = made.one(made.rows_of(results, "scores"), score=CONSENSUS, shots=shots)
    assert row["spearman"].value == pytest.approx(np.mean([here for *_, here in expected.values()]))
    rows = [row for row in made.rows_of(results, "consensus") if row["shots"] == shots]
    assert {(task, row["members"]) for row in rows for task in row["on"].split(", ")} == {
        (task, ", ".join(names)) for task, (names, *_) in expected.items()
    }
    assert [row["targets"] for row in rows] == sorted((row["targets"] for row in rows), reverse=True)
    assert sum(row["targets"] for row in rows) == rows[0]["of"] == 4


def test_it_is_chosen_among_the_experts_that_are_left(whole, made):
    def keep(name):
        return "many" not in name

    expected = brute_force(made, whole, 20, {}, keep)
    found = {target.name: target for target in whole.targets(CONSENSUS, 20, among=keep)}
    for task, (names, _, here) in expected.items():
        assert whole.consensus_of(20, 20, keep)[task][0] == names
        target = found[task]
        assert np.mean([spearmanr(draw, target.accuracies.mean(axis=0))[0] for draw in target.scores]) == pytest.approx(here)


def test_accuracies_of_a_target_and_of_its_cluster_do_not_change_its_scores(whole, made):
    text = whole.config_text.replace('uri = "cars"', 'uri = "cars"\ncluster = "birds"')
    rng = np.random.default_rng(1)
    rows = [{**row, "accuracy": rng.random()} if row["task"] in ("birds", "cars") else row for row in whole.finetunings]
    before, after = (made.with_config(each, text).consensus_of(5, 5) for each in (whole, replace(whole, finetunings=rows)))
    assert before["birds"] == after["birds"]
    assert before["cars"] == after["cars"]
    assert before["planes"] != after["planes"]


def test_a_score_without_a_value_somewhere_is_no_candidate(whole, made):
    rows = [{**row, "value": None} if (row["score"], row["task"], row["expert"]) == ("lfc", "cars", "letters-net_b") else row for row in whole.scores]
    chosen = replace(whole, scores=rows).consensus_of(20, 20)
    assert len(chosen) == 4
    assert not any("lfc" in names for names, _ in chosen.values())
    one = replace(whole, scores=[row for row in whole.scores if row["score"] in ("lfc", "lgc", "random")])
    assert one.cheap_scores == ("lfc",)
    assert CONSENSUS not in one.score_names
    assert one.consensus_of(20, 20) == {}
    assert "two cheap scores" in " ".join(made.table(one, "consensus").missing)


def test_it_has_no_value_where_all_targets_are_of_one_cluster(whole, made):
    text = whole.config_text
    for task in whole.tasks:
        text = text.replace(f'uri = "{task}"', f'uri = "{task}"\ncluster = "all"')
    results = made.with_config(whole, text)
    assert results.consensus_of(5, 5) == {}
    assert results.targets(CONSENSUS, 5) == []
    cell = made.one(made.rows_of(results, "scores"), score="lfc", shots=5)["spearman"]
    assert np.isfinite(cell.value)
    assert np.isnan([cell.low, cell.high]).all()


def test_it_costs_one_pass_and_all_of_its_scores(whole, made):
    row = made.one(made.rows_of(whole, "table_3"), score=CONSENSUS, shots=20)
    parts = [scoring(whole, task, 20) for task in whole.tasks]
    members = [names for names, _ in whole.consensus_of(20, 20).values()]
    assert row["forward"] == pytest.approx(np.mean([part.loc["lfc", "forward"] for part in parts]))
    assert row["backward"] == 0
    alone = [sum(part.loc[name, "score_alone"] for name in names) for part, names in zip(parts, members, strict=True)]
    assert row["score_alone"] == pytest.approx(np.mean(alone))
    assert row["scoring"] == pytest.approx(row["reading"] + row["forward"] + row["score_alone"] + row["shared"])


def test_equally_good_choices_are_the_first_and_smallest_one():
    values, accuracies = np.tile([1.0, 2.0, 3.0, 4.0], (3, 1, 1)), np.array([0.1, 0.2, 0.3, 0.4])
    assert members_for([values] * 2, [accuracies] * 2, ["a", "b"]) == [((0, 1), pytest.approx(1.0))] * 2


def test_a_target_without_an_order_counts_as_none_and_chooses_nothing():
    rng = np.random.default_rng(0)
    values, equal = rng.normal(size=(3, 2, 6)), np.full(6, 0.5)
    useful = rng.random(6)
    ((names, value), _) = members_for([values] * 2, [useful, equal], ["a", "b"])
    assert (names, value) == ((0, 1), 0.0)
