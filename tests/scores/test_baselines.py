"""Scores that see no image depend only on their arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, spearmanr

from ntk_select.errors import TaskError, UndefinedScoreError
from ntk_select.scores.baselines import best_elsewhere, num_params, random_score, source_accuracy, source_size


def test_the_random_score_is_the_same_on_every_machine_and_in_every_process():
    """Not so Python's own hash of a name. The numbers are those of PCG64 seeded with the seed and the CRC-32 of the name."""
    assert random_score() == pytest.approx(0.6369616873214543, abs=1e-15)
    assert random_score("resnet18-imagenet", seed=3) == pytest.approx(0.4484077245328607, abs=1e-15)
    assert random_score(name="café", seed=0) == random_score("café")


def test_the_random_score_is_uniform_over_names_and_over_seeds():
    over_names = [random_score(f"expert {index}") for index in range(500)]
    over_seeds = [random_score("expert", seed) for seed in range(500)]
    assert len({*over_names, *over_seeds}) == 1000
    assert kstest(over_names, "uniform").pvalue > 0.01
    assert kstest(over_seeds, "uniform").pvalue > 0.01
    assert abs(np.corrcoef([random_score(f"expert {index}", 1) for index in range(500)], over_names)[0, 1]) < 0.1


def test_the_random_orders_of_tasks_and_of_seeds_are_independent():
    """Spearman's correlation of two independent orders of 20 experts has the standard deviation 1 / sqrt(19) and the mean 0."""
    names = [f"expert {index}" for index in range(20)]
    orders = [[random_score(name, seed, task_key=task) for name in names] for task in map(str, range(30)) for seed in (0, 1)]
    found = spearmanr(orders, axis=1).statistic[np.triu_indices(60, 1)]
    assert abs(found.mean()) < 0.02
    assert found.std() == pytest.approx(19**-0.5, rel=0.1)
    assert np.abs(found).max() < 0.9
    assert random_score("a", 3, "birds") == random_score("a", 3, "birds")


@settings(max_examples=40)
@given(st.text(max_size=20), st.integers(0, 2**31))
def test_the_random_score_lies_in_the_unit_interval_for_any_name(name, seed):
    assert 0 <= random_score(name, seed) < 1


@pytest.mark.parametrize(("score", "given"), [(source_size, 1_281_167), (source_accuracy, np.float32(0.75)), (num_params, np.int64(44_549_160))])
def test_facts_of_the_card_are_their_own_scores(score, given):
    assert isinstance(score(given), float)
    assert score(given) == given


def test_the_static_leaderboard_is_the_mean_of_the_other_tasks():
    assert best_elsewhere([0.5, 0.75, 1.0]) == 0.75
    assert best_elsewhere(np.array([1, 0, 0, 0])) == 0.25
    assert best_elsewhere(np.array([0.1, 0.3], np.float32)) == pytest.approx(0.2, abs=1e-7)
    order = np.random.default_rng(0).permutation(9)
    assert best_elsewhere((np.arange(9) / 9)[order]) == pytest.approx(4 / 9, abs=1e-15)


def test_without_another_task_there_is_no_leaderboard():
    with pytest.raises(UndefinedScoreError, match="fine-tuned on no other task"):
        best_elsewhere([])


@pytest.mark.parametrize("accuracies", [0.5, [[0.5]], [0.5, 1.01], [-0.1], [np.nan, 0.5], [95.0, 88.0]])
def test_what_is_no_row_of_accuracies_is_refused(accuracies):
    with pytest.raises(TaskError, match="must be a vector .* of accuracies from 0 to 1"):
        best_elsewhere(accuracies)
