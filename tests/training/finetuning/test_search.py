"""The search tries the intended learning rates and chooses the best."""

import math
import sys
import threading

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import MissingDependencyError
from ntk_select.training.finetuning.result import Trial
from ntk_select.training.finetuning.search import STEPS_BEYOND, WIDER, best_first, edge_of, extend_grid, grid, optuna_search
from ntk_select.training.finetuning.trainer import Run

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


def tried_beyond(judge, rates):
    """The rates that are tried past the end of a grid, and their places."""
    places = []

    def train(_rate, place):
        places.append(place)
        return RUN

    found = extend_grid(train, judge, [judge(rate, RUN) for rate in rates])
    assert places == list(range(len(rates), len(rates) + len(found)))
    return [trial.learning_rate for trial in found]


@pytest.mark.parametrize(
    ("rates", "peak", "further"),
    [
        ((0.01, 0.005, 0.001), 0.006, []),
        ((0.01, 0.005, 0.001), 0.011, [0.03]),
        ((0.01, 0.005, 0.001), 0.1001, [0.03, 0.1, 0.3]),
        ((0.01, 0.005, 0.001), 0.0001001, [0.0003, 0.0001, 3e-5]),
        ((0.02, 0.005), 0.5, [0.06, 0.2, 0.6, 2.0]),
        ((0.01, 0.001), 1e9, [0.03, 0.1, 0.3, 1.0]),
        ((0.01,), 1.0, []),
    ],
)
def test_the_grid_goes_on_past_the_end_where_its_best_is_until_it_does_not_improve(rates, peak, further):
    assert tried_beyond(judged_by(peak), rates) == further
    assert len(further) <= STEPS_BEYOND


def test_nothing_is_tried_past_a_rate_that_diverged():
    def judge(rate, run):
        return Trial(rate, None, None, (), "diverged") if rate > 0.05 else judged_by(1.0)(rate, run)

    assert tried_beyond(judge, (0.1, 0.01, 0.001)) == []
    assert tried_beyond(judge, (0.01, 0.001)) == [0.03, 0.1]
    assert tried_beyond(lambda rate, run: Trial(rate, None, None, (), "diverged"), (0.1, 0.01)) == []


def test_where_all_is_right_nothing_is_tried_and_at_equal_accuracy_the_loss_decides():
    assert tried_beyond(lambda rate, run: Trial(rate, 1.0, 1 / rate, ()), (0.1, 0.01)) == []
    assert tried_beyond(lambda rate, run: Trial(rate, 0.9, abs(rate - 0.3), ()), (0.1, 0.01)) == [0.3, 1.0]
    assert tried_beyond(lambda rate, run: Trial(rate, 0.9, rate, ()), (0.1, 0.09)) == [0.03, 0.009, 0.003, 0.0009]


def test_an_end_is_that_of_several_rates():
    assert edge_of(0.1, [0.01, 0.1]) == "largest"
    assert edge_of(0.01, [0.01, 0.1]) == "smallest"
    assert edge_of(0.05, [0.01, 0.05, 0.1]) is None
    assert edge_of(0.1, [0.1]) is None


def test_a_fine_tuning_goes_on_past_its_grid_and_says_so(made):
    """The further rates are those of fine-tunings with them alone, and the best is trained on all images."""
    task, recipe, seen = made.spots((10, 10, 10), noise=150), ns.Recipe(epochs=3, batch_size=6), []
    options = {"recipe": recipe, "seed": 2, "progress": lambda *now: seen.append(now)}
    found = ns.finetune(made.linear_expert(), task, learning_rates=(0.001, 0.0001), workers=1, **options)
    wide = ns.finetune(made.linear_expert(), task, learning_rates=(0.001, 0.0001, *found.extended), extend=False, **options)
    assert found.extended[:2] == (0.003, 0.01)
    assert found.trials == wide.trials
    assert (found.learning_rate, found.accuracy, found.images) == (wide.learning_rate, wide.accuracy, wide.images)
    np.testing.assert_array_equal(found.tuned.params["head"]["kernel"], wide.tuned.params["head"]["kernel"])
    further = ", ".join(f"{rate:g}" for rate in found.extended)
    assert found.notes[0] == f"The best of the given learning rates was the largest, 0.001; also tried: {further}."
    assert found.notes[0] in repr(found)
    assert found.to_dict()["extended"] == list(found.extended)
    total = recipe.epochs * (2 + len(found.extended) + 1)
    own = seen[: seen.index((total, total, f"linear, also learning rate {found.extended[-1]:g}")) + 1]
    assert [done for done, _, _ in own] == sorted(done for done, _, _ in own)
    assert {name for _, _, name in own} == {"linear", *(f"linear, also learning rate {rate:g}" for rate in found.extended)}


@pytest.mark.parametrize(("options", "rates"), [({"extend": False}, 2), ({"choose": "paper"}, 2), ({"learning_rates": 0.001}, 1)])
def test_the_grid_is_kept_as_it_is_where_it_is_told_to(made, options, rates):
    usual = {"learning_rates": (0.001, 0.0001), "recipe": ns.Recipe(epochs=3, batch_size=6), "seed": 2}
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10), noise=150), **(usual | options))
    assert (len(found.trials), found.extended) == (rates, ())
    if rates == 2:
        assert found.notes == ("The best learning rate, 0.001, is the largest that was tried; a larger one may be better.",)
    else:
        assert found.notes == ()


def test_training_that_was_interrupted_past_the_grid_resumes(made, tmp_path):
    task = made.spots((10, 10, 10), noise=150)
    options = {"learning_rates": (0.001, 0.0001), "recipe": ns.Recipe(epochs=3, batch_size=6), "seed": 2, "workers": 1}
    expected = ns.finetune(made.linear_expert(), task, **options)

    def stop(done, _total, name):
        if name.endswith("0.01") and done == 3 * 3 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ns.finetune(made.linear_expert(), task, checkpoints=tmp_path, progress=stop, **options)
    found = ns.finetune(made.linear_expert(), task, checkpoints=tmp_path, **options)
    assert found.trials == expected.trials
    assert (found.learning_rate, found.extended, found.images) == (expected.learning_rate, expected.extended, expected.images)
    # three rates were finished
    assert found.images_per_second * found.seconds["train"] < expected.images - 3 * 3 * 24 + 1


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
    with pytest.raises(MissingDependencyError, match="search='optuna' needs the package optuna, which is not installed"):
        ns.finetune(made.linear_expert(), made.spots(), recipe=ns.Recipe(epochs=1, batch_size=6), search="optuna")
