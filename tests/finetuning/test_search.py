"""Does the search try what it was told to, and call the best what is best?"""

import math
import sys
import threading

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import MissingDependencyError
from ntk_select.finetuning.result import Trial
from ntk_select.finetuning.run import Run
from ntk_select.finetuning.search import WIDER, best_first, grid, optuna_search

RUN = Run(None, (), 0, 0)


def judged_by(peak):
    """Accuracy falls with the distance of a rate's logarithm from that of `peak`."""
    return lambda rate, run: Trial(rate, math.exp(-abs(math.log(rate / peak))), 0.0, ())


def test_the_grid_tries_each_rate_once_in_its_order_also_with_workers():
    calls, lock = [], threading.Lock()

    def train(rate, place):
        with lock:
            calls.append((rate, place))
        return RUN

    for workers in (1, 3):
        calls.clear()
        tried = grid(train, judged_by(0.1), (0.3, 0.2, 0.1), workers)
        assert [trial.learning_rate for trial in tried] == [0.3, 0.2, 0.1]
        assert sorted(calls, reverse=True) == [(0.3, 0), (0.2, 1), (0.1, 2)]


def test_three_workers_train_at_the_same_time():
    together = threading.Barrier(3, timeout=30)

    def train(_rate, _place):
        together.wait()
        return RUN

    grid(train, judged_by(0.1), (0.3, 0.2, 0.1), 3)


def test_the_best_has_the_highest_accuracy_then_the_least_loss_then_the_least_rate():
    a, b, c, d = (Trial(rate, accuracy, loss, ()) for rate, accuracy, loss in ((0.3, 0.8, 0.5), (0.2, 0.9, 0.7), (0.1, 0.9, 0.6), (0.05, 0.9, 0.6)))
    gone = Trial(1.0, None, None, (), "diverged")
    assert best_first([gone, a, b, c, d]) == [d, c, b, a]
    assert best_first([gone]) == []


def test_optuna_tries_named_rates_first_stays_in_its_range_and_finds_a_better_one():
    pytest.importorskip("optuna")
    rates, places = (0.1, 0.01), []

    def train(_rate, place):
        places.append(place)
        return RUN

    tried = optuna_search(train, judged_by(0.4), rates, 25, 0)
    assert [trial.learning_rate for trial in tried[:2]] == list(rates)
    assert places == list(range(25))
    assert all(0.01 / WIDER <= trial.learning_rate <= 0.1 * WIDER for trial in tried)
    best = best_first(tried)[0]
    assert abs(math.log(best.learning_rate / 0.4)) < math.log(2)


def test_optuna_repeats_itself_with_a_seed_and_goes_on_after_rates_that_diverge():
    optuna = pytest.importorskip("optuna")
    before = optuna.logging.get_verbosity()

    def judge(rate, run):
        return Trial(rate, None, None, (), "diverged") if rate > 0.05 else judged_by(0.02)(rate, run)

    one, again, other = (optuna_search(lambda rate, place: RUN, judge, (0.1, 0.01), 8, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert one[0].diverged
    assert optuna.logging.get_verbosity() == before


def test_fewer_trials_than_rates_try_the_largest(made):
    pytest.importorskip("optuna")
    options = {"learning_rates": (0.1, 0.3, 0.2), "recipe": ns.Recipe(epochs=2, batch_size=6), "search": "optuna", "trials": 2}
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10)), **options)
    assert [trial.learning_rate for trial in found.trials] == [0.3, 0.2]
    assert (found.choose, found.images) == ("validation", 2 * (24 + 24 + 30))


def test_optuna_from_one_rate_searches_around_it_and_the_best_is_trained_on_all(made):
    pytest.importorskip("optuna")
    recipe, task = ns.Recipe(epochs=2, batch_size=6), made.spots((10, 10, 10))
    found = ns.finetune(made.linear_expert(), task, learning_rates=0.1, recipe=recipe, search="optuna", trials=4)
    assert len({trial.learning_rate for trial in found.trials}) == 4
    assert found.learning_rate == best_first(found.trials)[0].learning_rate
    alone = ns.finetune(made.linear_expert(), task, learning_rates=found.learning_rate, recipe=recipe)
    np.testing.assert_array_equal(found.tuned.params["head"]["kernel"], alone.tuned.params["head"]["kernel"])


def test_without_optuna_the_sentence_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match="search='optuna' needs the package optuna, which is not installed. Type: pip install optuna"):
        ns.finetune(made.linear_expert(), made.spots(), recipe=ns.Recipe(epochs=1, batch_size=6), search="optuna")
