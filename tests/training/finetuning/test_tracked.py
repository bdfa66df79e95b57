"""A tracker is told what `FinetuneResult` says, one rate apart from the other; and no tracker can harm a training."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError
from ntk_select.training.finetuning.tracked import by_rate

QUICK = ns.Recipe(epochs=3, batch_size=6)


@pytest.fixture
def tools(loaded):
    return loaded("training/recording.py")


@pytest.fixture
def recording(tools):
    return tools.Recording(pause=0.002)


def same(one, other):
    left, right = (jax.tree.leaves(result.tuned.variables) for result in (one, other))
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(left, right, strict=True))


def expected_totals(result, judged):
    names = ["accuracy", "balanced_accuracy", "test_loss", "learning_rate", "train_images", "test_images", "images", "images_per_second", "flops"]
    found = {name: getattr(result, name) for name in names}
    found |= dict(zip(("accuracy_low", "accuracy_high"), result.accuracy_interval, strict=True))
    found |= {f"{step}_seconds": round(value, 3) for step, value in result.seconds.items()}
    for trial in result.trials if judged else ():
        found |= {f"{judged}_accuracy_by_rate/{trial.learning_rate:g}": trial.accuracy, f"{judged}_loss_by_rate/{trial.learning_rate:g}": trial.loss}
    return found | ({"cost": result.cost} if result.cost is not None else {})


def test_a_search_in_threads_is_logged_by_epoch_and_rate_and_with_its_result(made, recording, tools):
    rates = (3.0, 0.1, 1e-4)
    options = {"learning_rates": rates, "recipe": QUICK, "seed": 2, "workers": 3, "reference": made.linear_expert()}
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10), noise=150), track=recording, **options)
    (run,) = recording.runs
    assert (run["name"], run["ends"]) == ("linear on spots, seed 2", [None])
    for trial in found.trials:
        assert tools.curve(run, f"training_loss_by_rate/{trial.learning_rate:g}") == trial.losses
    assert tools.curve(run, f"training_loss_on_all_images_by_rate/{found.learning_rate:g}") == found.losses
    assert tools.curve(run, "loss") == found.losses
    assert len({trial.losses for trial in found.trials}) == len(found.trials) >= 3
    assert tools.totals(run) == expected_totals(found, "validation")
    assert {name for name, step, _ in run["points"] if step is not None} == {
        "loss",
        f"training_loss_on_all_images_by_rate/{found.learning_rate:g}",
        *(f"training_loss_by_rate/{trial.learning_rate:g}" for trial in found.trials),
    }


def test_rates_past_the_end_are_logged_too(made, recording, tools):
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10)), learning_rates=(1e-4, 1e-5), recipe=QUICK, track=recording)
    assert found.extended
    for rate, trial in ((trial.learning_rate, trial) for trial in found.trials):
        assert tools.curve(recording.runs[0], f"training_loss_by_rate/{rate:g}") == trial.losses


def test_optunas_rates_are_logged_under_names_of_their_own(made, recording, tools):
    pytest.importorskip("optuna")
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10)), learning_rates=0.1, search="optuna", trials=4, recipe=QUICK, track=recording)
    for trial in found.trials:
        assert tools.curve(recording.runs[0], by_rate("training_loss", trial.learning_rate)) == trial.losses
    assert len({trial.losses for trial in found.trials}) == 4
    assert (recording.runs[0]["params"]["search"], recording.runs[0]["params"]["trials"]) == ("optuna", 4)


@pytest.mark.parametrize(("rates", "judged", "choose"), [(0.1, None, "given"), ((0.3, 0.1), "test", "paper")])
def test_without_validation_nothing_is_called_validation(made, recording, tools, rates, judged, choose):
    found = ns.finetune(made.linear_expert(), made.spots(), learning_rates=rates, choose="paper", recipe=QUICK, track=recording)
    (run,) = recording.runs
    assert tools.totals(run) == expected_totals(found, judged)
    assert run["params"]["choose"] == found.choose == choose
    for trial in found.trials:
        assert tools.curve(run, f"training_loss_by_rate/{trial.learning_rate:g}") == trial.losses
    assert tools.curve(run, "loss") == found.losses
    assert not [name for name, _, _ in run["points"] if "all_images" in name or "validation" in name]


def test_parameters_are_the_options_and_the_recipe_as_it_is_trained(made, recording):
    recipe = ns.Recipe(epochs=6, batch_size=3, momentum=0.5)
    found = ns.finetune(made.linear_expert(), made.spots(), shots=2, learning_rates=0.3, recipe=recipe, seed=1, sample_seed=5, track=recording)
    params = recording.runs[0]["params"]
    fields = dataclasses.asdict(found.recipe) | {"milestones": [3, 5]}
    others = {"expert": "linear", "task": "spots", "shots": 2, "learning_rates": [0.3], "choose": "given", "search": "grid", "extend": True}
    assert params == {**fields, **others, "seed": 1, "sample_seed": 5}
    assert params["augment"] == found.recipe.augment != "auto"
    assert json.loads(json.dumps(params)) == params
    ns.finetune(made.linear_expert(), made.spots(), learning_rates=0.3, recipe=QUICK, track=recording)
    assert recording.runs[1]["params"]["shots"] == "full"


def test_a_rate_that_diverges_is_marked_and_the_run_succeeds(made, recording, tools):
    recipe = ns.Recipe(epochs=30, batch_size=6)
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10)), learning_rates=(1e9, 0.1), recipe=recipe, track=recording)
    (run,) = recording.runs
    totals = tools.totals(run)
    assert run["ends"] == [None]
    assert {name: value for name, value in totals.items() if "diverged" in name} == {"diverged_by_rate/1e09": 1.0}
    assert not [name for name in totals if name.endswith("/1e09") and "diverged" not in name]
    assert tools.curve(run, "training_loss_by_rate/1e09") == found.trials[0].losses
    assert totals["validation_accuracy_by_rate/0.1"] == found.trials[1].accuracy


def test_when_every_rate_diverges_the_run_fails_with_the_reason(made, recording):
    with pytest.raises(ModelError) as raised:
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=1e9, recipe=ns.Recipe(epochs=30, batch_size=6), track=recording)
    assert recording.runs[0]["ends"] == [str(raised.value)]
    assert "Every learning rate diverged" in str(raised.value)


def test_interrupted_training_fails_and_resumed_training_is_logged_from_its_first_epoch(made, recording, tools, tmp_path):
    def interrupt(done, _total, _name):
        if done == 2:
            raise KeyboardInterrupt

    options = {"learning_rates": 0.1, "recipe": QUICK, "checkpoints": tmp_path, "track": recording}
    with pytest.raises(KeyboardInterrupt):
        ns.finetune(made.linear_expert(), made.spots(), progress=interrupt, **options)
    assert recording.runs[0]["ends"] == ["KeyboardInterrupt"]
    first = ns.finetune(made.linear_expert(), made.spots(), **options)
    again = ns.finetune(made.linear_expert(), made.spots(), **options)
    assert again.images_per_second is None  # all of it came from the checkpoint
    assert "images_per_second" not in tools.totals(recording.runs[2])
    for run in recording.runs[1:]:
        assert tools.curve(run, "training_loss_by_rate/0.1") == first.losses
        assert run["ends"] == [None]


class Failing:
    """A tracker that raises at one of its methods, from the given call on."""

    def __init__(self, method, call=1):
        self.method, self.call, self.calls = method, call, []

    def _called(self, method):
        self.calls.append(method)
        if method == self.method and self.calls.count(method) == self.call:
            raise OSError(28, "No space left on device")

    def start(self, name, params):
        self._called("start")

    def log(self, run, metrics, step):
        self._called("log")

    def end(self, run, error):
        self._called("end")


@pytest.mark.parametrize(("method", "call"), [("start", 1), ("log", 1), ("log", 5), ("end", 1)])
def test_a_tracker_that_fails_costs_nothing_but_the_tracking_and_warns_once(made, method, call):
    options = {"learning_rates": (0.3, 0.1), "extend": False, "recipe": QUICK, "workers": 2}
    untracked, failing = ns.finetune(made.linear_expert(), made.spots(), **options), Failing(method, call)
    words = r"Tracking ended \(OSError: \[Errno 28\] No space left on device\)\. The computation continues without it\."
    with pytest.warns(UserWarning, match=words) as warned:
        found = ns.finetune(made.linear_expert(), made.spots(), track=failing, **options)
    assert len(warned) == 1
    assert (failing.calls[-1], failing.calls.count(method)) == (method, call)  # it is not called again
    assert found.trials == untracked.trials
    assert found.accuracy == untracked.accuracy
    assert same(found, untracked)


def test_an_error_of_a_failing_tracker_does_not_hide_that_of_training(made):
    with pytest.warns(UserWarning, match="Tracking ended"), pytest.raises(ModelError, match="Every learning rate diverged"):
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=1e9, recipe=ns.Recipe(epochs=30, batch_size=6), track=Failing("end"))


def test_options_that_are_refused_begin_no_run(made, recording):
    for options in ({"shots": 0}, {"choose": "papers"}, {"progress": "bar"}):
        with pytest.raises(ConfigError):
            ns.finetune(made.linear_expert(), made.spots(), track=recording, **options)
    assert recording.runs == []


@pytest.mark.parametrize("track", ["mlfow", 3])
def test_what_is_no_tracker_is_refused_before_anything_is_loaded(track):
    with pytest.raises(ConfigError, match="track="):
        ns.finetune("no such expert", "no such task", track=track)


RATES = st.floats(1e-12, 1e12, allow_nan=False)


@given(RATES, RATES)
@example(1e5, 1e-5)
@example(0.1, 0.1 + 2**-50)
@example(1e22, 1e-7)
def test_names_of_rates_are_distinct_and_allowed_by_mlflow(one, other):
    names = [by_rate("training_loss", rate) for rate in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert all(re.fullmatch(r"[\w. /-]+", name) for name in names)
    assert [float(name.partition("/")[2]) for name in names] == [one, other]
