"""Which seeds, experts and draws are compared when some are missing? Found again by trying all of them."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from ntk_select.benchmark.report.figures.look import unfinished
from ntk_select.benchmark.report.tables.in_words import what_is_missing
from ntk_select.benchmark.report.truths import most_seeds
from ntk_select.benchmark.report.values import of_experts


def tried(experts_of, reference):
    """Every choice of seeds, the best first."""
    least = Fraction(9, 10) * max(map(len, experts_of.values()))
    choices = [some for count in range(1, 1 + len(experts_of)) for some in combinations(sorted(experts_of), count)]
    common = {some: set.intersection(*(experts_of[seed] for seed in some)) for some in choices}
    allowed = [some for some in choices if len(common[some]) >= least]
    return max(allowed, key=lambda some: (reference in common[some], len(some), len(common[some]), [-seed for seed in some]))


@pytest.mark.parametrize("seed", range(60))
def test_the_seeds_are_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    names = [f"expert{place}" for place in range(rng.integers(1, 25))]
    experts_of = {
        int(s): {name for name in names if rng.random() > rng.choice([0, 0.05, 0.1, 0.5])} for s in rng.permutation(6)[: rng.integers(1, 7)]
    }
    experts_of[9] = set(names[: len(names) // 2 + 1])
    assert most_seeds(experts_of, names[0]) == tried(experts_of, names[0])
    assert most_seeds(experts_of) == tried(experts_of, None)


def lost(made, whole, *cells):
    """Without fine-tunings, each a task, images per class, expert and seed."""
    return made.without(whole, lambda row: (row["task"], row["images_per_class"], row["expert"], row["seed"]) not in cells)


def test_one_failed_cell_costs_one_expert_and_no_seed(made, whole):
    truth = lost(made, whole, ("birds", 5, "letters-net_b", 1)).truth("birds", 5)
    assert (truth.seeds, truth.dropped, truth.missing) == ((0, 1), (), ("letters-net_b",))
    assert truth.experts == tuple(name for name in made.EXPERTS if name != "letters-net_b")
    for place, name in enumerate(truth.experts):
        rows = [r for r in whole.truths if (r["task"], r["images_per_class"], r["expert"], r["role"]) == ("birds", 5, name, "truth")]
        assert truth.accuracies[:, place].tolist() == [row["accuracy"] for row in sorted(rows, key=lambda row: row["seed"])]


def test_a_seed_that_has_only_begun_costs_no_expert(made, whole):
    cells = [("birds", 5, name, 1) for name in list(made.EXPERTS)[3:]]
    some = lost(made, whole, *cells, ("birds", 5, "letters-net_b", 0))
    truth = some.truth("birds", 5)
    assert (truth.seeds, truth.dropped, truth.missing) == ((0,), (1,), ("letters-net_b",))
    (sentence,) = [each for each in what_is_missing(some) if each.startswith("birds with 5 images per class")]
    assert "of 12 of 13 experts (not of letters-net_b), with seed 0; seed 1 left out" in sentence
    assert "birds, 5 images per class (1 of 13 experts missing, seed 1 left out)" in unfinished(some)


def test_a_seed_is_given_up_rather_than_the_reference(made, whole):
    some = lost(made, whole, ("birds", 5, "photos-net_a", 1))
    truth = some.truth("birds", 5)
    assert (truth.seeds, truth.dropped, truth.missing) == ((0,), (1,), ())
    assert some.targets("lfc", 5)[0].reference == truth.experts.index("photos-net_a")


def test_nothing_is_missing_of_whole_results(whole):
    for shots in whole.shots:
        for task in whole.task_names:
            truth = whole.truth(task, shots)
            assert (truth.missing, truth.dropped) == ((), ())


def test_draws_with_nine_tenths_of_the_experts_count_and_others_do_not():
    experts = [f"expert{place}" for place in range(20)]
    full = {name: float(place) for place, name in enumerate(experts)}
    by_draw = {0: full, 1: dict(list(full.items())[2:]), 2: dict(list(full.items())[3:]), 3: {**full, "nobody": 1.0}, 4: {}}
    values = of_experts(by_draw, experts)
    assert len(values) == 3
    for row, draw in zip(values, (0, 1, 3), strict=True):
        assert [None if np.isnan(value) else value for value in row] == [by_draw[draw].get(name) for name in experts]
    assert of_experts({0: {"nobody": 1.0}}, experts) is None
    assert of_experts({0: dict.fromkeys(experts, float("nan"))}, experts) is None
