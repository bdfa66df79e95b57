"""What is shown of each target, the ceilings, fidelity and clusters: recomputed from raw rows with SciPy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from ntk_select.benchmark.report.results import CONSENSUS, STATIC
from ntk_select.benchmark.report.summary import CEILING, OTHER_SEED, RANDOM, by_target, ceilings, compared, measured, usable_targets
from ntk_select.evaluate import ceiling


def seeds(results, task, shots):
    """(seeds, experts) of accuracies, in the order of `raw`."""
    rows = [
        row for row in results.finetunings if (row["role"], row["task"], row["images_per_class"], row["own_source"]) == ("truth", task, shots, False)
    ]
    names = list(dict.fromkeys(row["expert"] for row in rows))
    by_pair = {(row["seed"], row["expert"]): row["accuracy"] for row in rows}
    return np.array([[by_pair[seed, name] for name in names] for seed in (0, 1)])


@pytest.mark.parametrize("shots", [5, 20])
def test_a_row_of_a_target_is_that_of_the_raw_rows(forecasted, made, shots):
    rows = made.rows_of(forecasted, "targets")
    scores = {row["score"] for row in forecasted.scores} - {"random"}
    for task, (names, accuracies) in made.raw(forecasted, shots).items():
        row = made.one(rows, target=task, shots=shots)
        assert (row["experts"], row["seeds"], row["cluster"]) == (len(names), 2, task)
        assert [row[name] for name in ("best", "median", "worst")] == pytest.approx([100 * f(accuracies) for f in (np.max, np.median, np.min)])
        rho = {}
        for score in scores:
            drawn = made.draws(forecasted, score, task, shots, names)
            rho[score] = np.mean([spearmanr(values, accuracies)[0] for values in drawn])
        assert row["forecast"] == pytest.approx(rho["forecast"])
        other = max(scores - {"forecast"}, key=rho.get)
        assert (row["other"], row["other_spearman"]) == (other, pytest.approx(rho[other]))
        trials = [1 + np.argsort(-values).tolist().index(accuracies.argmax()) for values in made.draws(forecasted, "forecast", task, shots, names)]
        assert row["trials_forecast"] == pytest.approx(np.mean(trials))
        assert row["trials_random"] == pytest.approx((len(names) + 1) / 2)
        r = spearmanr(*seeds(forecasted, task, shots))[0]
        assert row["ceiling"] == pytest.approx(np.sqrt(2 * r / (1 + r)))


def test_values_of_targets_average_to_those_of_the_table_of_scores(forecasted, made):
    rows = [row for row in made.rows_of(forecasted, "targets") if row["shots"] == 5]
    scores = made.rows_of(forecasted, "scores")
    for column, score in (("ceiling", CEILING), ("forecast", "forecast"), (STATIC, STATIC), (CONSENSUS, CONSENSUS)):
        assert np.mean([row[column] for row in rows]) == pytest.approx(made.one(scores, score=score, shots=5)["spearman"].value)
    for measure, options in (("top_k_gain", {"k": 3}), ("within_sizes", {}), ("trials_to_best", {})):
        values = by_target(forecasted, "lfc", measure, 5, **options)
        assert np.nanmean(list(values.values())) == pytest.approx(measured(forecasted, measure, 5, scores=["lfc"], **options)["lfc"].value)
    assert by_target(forecasted, RANDOM, "within_sizes", 5) == {}


def test_another_fine_tuning_is_the_other_seed_as_a_score(whole, made):
    row = made.one(made.rows_of(whole, "scores"), score=OTHER_SEED, shots=20)
    rho, trials, gains = [], [], []
    for task, (names, _) in made.raw(whole, 20).items():
        one, other = seeds(whole, task, 20)
        place = names.index("photos-net_a")
        rho.append(spearmanr(one, other)[0])
        trials.append(np.mean([1 + np.argsort(-a, kind="stable").tolist().index(b.argmax()) for a, b in ((one, other), (other, one))]))
        gains.append(np.mean([100 * (b[np.argsort(-a)[:3]].max() - b[place]) for a, b in ((one, other), (other, one))]))
    assert row["spearman"].value == pytest.approx(np.mean(rho))
    assert row["trials_to_best"].value == pytest.approx(np.mean(trials))
    assert row["top_3_gain_points"].value == pytest.approx(np.mean(gains))
    assert (row["targets"], row["with_value"]) == (4, None)


def test_the_ceiling_is_that_of_the_room_of_measures_and_of_spearman_alone(whole, made):
    row = made.one(made.rows_of(whole, "scores"), score=CEILING, shots=5)
    assert row["spearman"] == ceiling(usable_targets(whole, None, "spearman", 5))
    assert [name for name, cell in row.items() if cell is not None] == ["score", "shots", "targets", "spearman"]


def test_targets_with_one_seed_have_no_ceiling(whole, made):
    some = made.without(whole, lambda row: row["seed"] == 0 or row["task"] == "birds")
    found = ceilings(some, "spearman", 5)
    assert {row["target"] for row in made.rows_of(some, "targets") if row["ceiling"] is not None} == {"birds"}
    assert found[CEILING].value == pytest.approx(made.one(made.rows_of(some, "targets"), target="birds", shots=5)["ceiling"])
    assert np.isnan(made.one(made.rows_of(some, "scores"), score=CEILING, shots=5)["spearman"].low)
    none = made.without(whole, lambda row: row["seed"] == 0)
    assert ceilings(none, "spearman", 5) == {}
    assert not [row for row in made.rows_of(none, "scores") if row["score"] in (CEILING, OTHER_SEED)]
    assert any("ceiling that its noise sets is unknown" in sentence for sentence in made.table(none, "scores").missing)


def test_noise_lowers_the_ceiling(whole):
    rng = np.random.default_rng(3)
    noisy = replace(whole, finetunings=[{**row, "accuracy": float(np.clip(row["accuracy"] + 0.1 * rng.normal(), 0, 1))} for row in whole.finetunings])
    assert ceilings(noisy, "spearman", 5)[CEILING].value < ceilings(whole, "spearman", 5)[CEILING].value - 0.1


def test_fidelity_is_the_share_of_accuracy_that_is_proportional_to_the_score(whole, made):
    rows = made.rows_of(whole, "scores")
    of_targets = []
    for task, (names, accuracies) in made.raw(whole, 20).items():
        r = [pearsonr(values, accuracies)[0] for values in made.draws(whole, "lfc", task, 20, names)]
        of_targets.append(np.mean([each * abs(each) for each in r]))
    assert made.one(rows, score="lfc", shots=20)["fidelity"].value == pytest.approx(np.mean(of_targets))
    assert made.one(rows, score=RANDOM, shots=20)["fidelity"] is None


@pytest.fixture(scope="module")
def clustered(whole, made):
    return made.with_config(whole, whole.config_text.replace('uri = "cars"', 'uri = "cars"\ncluster = "birds"'))


def test_targets_of_one_cluster_are_resampled_together(whole, clustered):
    assert {target.name: target.cluster for target in clustered.targets("lfc", 5)} == {name: name for name in whole.tasks} | {"cars": "birds"}
    one, other = (measured(each, "spearman", 5, scores=["lfc"])["lfc"] for each in (whole, clustered))
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) != (other.low, other.high)


def test_a_comparison_within_one_cluster_has_no_interval(whole, made):
    text = whole.config_text
    for task in whole.tasks:
        text = text.replace(f'uri = "{task}"', f'uri = "{task}"\ncluster = "one"')
    one = made.with_config(whole, text)
    for other in ("lgc", RANDOM):
        (before, count), (after, same) = (compared(results, "lfc", other, "spearman", 5) for results in (whole, one))
        assert count == same == 4
        assert after.difference.value == pytest.approx(before.difference.value)
        assert np.isnan([after.difference.low, after.difference.high]).all()
        assert np.isfinite(before.difference.low)
