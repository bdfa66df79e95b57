"""`ns.forecast`: what it says, that it is right where the theory is, and what it refuses."""

import dataclasses
import json
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError, TaskError, UndefinedScoreError

RECIPE = ns.Recipe(epochs=6, batch_size=8, augment="none")


def forecast(expert, task, recipe=RECIPE, **options):
    """Of the usual shapes, so that the simulation is compiled once."""
    return ns.forecast(expert, task, recipe, **({"learning_rates": (0.1, 0.01), "per_class": 8, "explain": False} | options))


def scenes(classes=4, each=10, tests=10, noise=70.0, seed=0):
    """Small grey images of one pattern a class with noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(60, 190, size=(classes, 4, 4))

    def drawn(count):
        labels = np.repeat(np.arange(classes), count)
        return np.clip(patterns[labels] + noise * rng.normal(size=(len(labels), 4, 4)), 0, 255).astype(np.uint8), labels

    (images, labels), (test_images, test_labels) = drawn(each), drawn(tests)
    return ns.Task("scenes", images, labels, tuple("abcdefgh"[:classes]), test_images, test_labels)


@pytest.fixture(scope="module")
def task():
    return scenes()


@pytest.fixture(scope="module")
def found(networks, task):
    return forecast(networks.normed_expert(), task, explain=True)


def test_it_says_what_to_expect_of_each_rate_and_takes_the_best(found):
    assert list(found.by_rate) == [0.1, 0.01]
    assert found.best is min(found.by_rate.values(), key=lambda one: one.loss)
    assert (found.accuracy, found.low, found.high, found.loss) == (found.best.accuracy, found.best.low, found.best.high, found.best.loss)
    assert found.learning_rate == found.best.learning_rate
    assert found.balanced_accuracy == found.best.balanced_accuracy
    assert found.low < found.accuracy < found.high
    assert len(found.curve.accuracies) == 6
    assert (found.expert, found.task, found.images, found.classes, found.training_images) == ("normed", "scenes", 32, 4, 32)
    assert found.distance == found.best.distance


def test_it_is_the_score_of_the_same_name(found, networks, task):
    """And of a ranking with the same recipe."""
    ranking = ns.rank([networks.normed_expert()], task, ("forecast",), per_class=8, recipe=RECIPE, learning_rates=(0.1, 0.01), resamples=0)
    (row,) = ranking.experts
    score = row.scores["forecast"]
    assert score.value == found.order_value
    assert score.details["accuracy"] == found.accuracy
    assert (score.details["accuracy_low"], score.details["accuracy_high"]) == (found.low, found.high)
    assert score.details["learning_rate"] == found.learning_rate
    assert score.details["loss"] == min(one.loss for one in found.by_rate.values())
    assert score.value == pytest.approx(np.log(4) - score.details["loss"] + score.details["evidence"])


def test_why_is_said_in_shares_that_add_up_and_a_distance_from_linearity(found):
    assert sum(found.shares.values()) == pytest.approx(1)
    assert set(found.shares) == {"body", "fresh head"}
    assert min(found.shares.values()) > 0
    assert 0 < found.nonlinearity < 1


def test_printed_it_is_for_people(found):
    text, html = repr(found), found._repr_html_()
    assert text.startswith(f"normed on scenes: {100 * found.accuracy:.1f} % expected after fine-tuning on 32 training images of 4 classes (95 %: ")
    assert "learning rate  accuracy" in text
    assert f"0.01  {100 * found.by_rate[0.01].accuracy:>6.1f} %" in text
    assert "The weights are expected to move by" in text
    assert "Largest shares of the kernel: " in text
    assert html.count("<tr>") == 3
    assert "<script" not in html


def test_names_are_escaped_in_html(found):
    html = dataclasses.replace(found, expert="<script>")._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html


def test_as_json_everything_is_there(found):
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["accuracy"] == found.accuracy
    assert [one["learning_rate"] for one in record["by_rate"]] == [0.1, 0.01]
    assert len(record["by_rate"][0]["accuracies"]) == record["recipe"]["epochs"] == 6
    assert record["shares"] == found.shares


def test_the_figure_has_a_curve_for_each_rate(found, tmp_path):
    pytest.importorskip("matplotlib")
    left, _ = found.plot().axes
    assert len(left.get_legend().get_texts()) == 2
    path = found.report(tmp_path / "forecast.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"'forecast.txt' ends in '.txt'"):
        found.report(tmp_path / "forecast.txt")
    assert not (tmp_path / "forecast.txt").exists()


def test_a_copy_of_an_expert_has_the_same_forecast(found, networks, task):
    again = forecast(networks.normed_expert("copy"), task)
    assert again.accuracy == found.accuracy
    assert again.loss == found.loss
    assert again.shares is again.nonlinearity is None


def test_what_if_there_were_fewer_images_is_one_argument(networks, task):
    one, six = (forecast(networks.normed_expert(), task, shots=shots) for shots in (1, 6))
    assert (one.training_images, six.training_images) == (4, 24)
    assert one.images == six.images == 32
    assert one.accuracy < six.accuracy


def test_more_epochs_learn_more(networks, task, found):
    few = forecast(networks.normed_expert(), task, dataclasses.replace(RECIPE, epochs=1)).by_rate[0.1]
    many = found.by_rate[0.1]
    assert many.curve.training_losses[-1] < few.curve.training_losses[-1]


def test_shuffled_labels_are_at_chance(networks, task, rng):
    intervals = []
    for _ in range(6):
        shuffled = ns.Task("shuffled", task.images, rng.permutation(task.labels), task.class_names)
        found = forecast(networks.normed_expert(), shuffled)
        intervals.append((found.low, found.high))
    assert sum(low <= 0.25 <= high for low, high in intervals) >= 4


@lru_cache
def wide(width=400):
    """A wide, smooth network: two layers of tanh, in float64."""
    rng = np.random.default_rng(1)
    params = {"a": rng.normal(size=(16, width)) / 2, "b": rng.normal(size=(width, width)) / width**0.5, "head": {"kernel": np.zeros((width, 4))}}

    def features_fn(variables, x):
        p = variables["params"]
        return jnp.tanh(jnp.tanh((x.reshape(len(x), -1) - 0.5) @ p["a"]) @ p["b"])

    def preprocess(images):
        return np.stack([np.asarray(image, np.float64) / 255 for image in images])

    return ns.Expert(
        "wide", lambda v, x: features_fn(v, x) @ v["params"]["head"]["kernel"], params, features_fn=features_fn, head="head", preprocess=preprocess
    )


def test_of_a_wide_smooth_network_it_is_what_fine_tuning_reaches():
    """Trained on all images of the probe sample but those of a fold; tested on 800 others. Intervals are of 160 images."""
    task = scenes(each=40, tests=200, noise=110.0)
    recipe = ns.Recipe(epochs=10, augment="none", batch_norm="frozen", head="zero")
    found = ns.forecast(wide(), task, recipe, learning_rates=0.01, per_class=40, directions=64)
    real = ns.finetune(wide(), task, learning_rates=0.01, recipe=recipe)
    assert found.low <= real.accuracy <= found.high
    assert found.nonlinearity < 0.5
    assert found.curve.training_losses[-1] == pytest.approx(real.losses[-1], rel=0.1)
    # The same theory, trained on all images and judged by the same test images, is within two points.
    x = wide().preprocess([*task.images, *task.test_images])
    network = ns.with_new_head(wide(), 4, head="zero")
    kernel = ns.ntk(network.apply_fn, network.variables, x, outputs="trace", layers="^params/")
    assert abs(theory(kernel, task, recipe) - real.accuracy) < 0.02


def theory(kernel, task, recipe):
    """Test accuracy of the simulated training on all training images."""
    from ntk_select.forecasting.simulate import draw_batches, simulate

    labels, n = np.concatenate([task.labels, task.test_labels]), len(task.labels)
    simulated = simulate(np.asarray(kernel), labels, draw_batches([np.arange(n)], recipe, n, 0), (0.01,), recipe)
    return simulated.correct[0, 0, -1, n:].mean()


def test_what_diverges_in_the_simulation_diverges_in_training(networks, task):
    """A rate so large that numbers overflow, in both; the error says what to try."""
    expert, recipe = networks.linear_expert(), ns.Recipe(epochs=6, batch_size=8, augment="none", weight_decay=0.1)
    with pytest.raises(
        ModelError, match=r"simulated training of expert 'linear' diverges at every learning rate \(20000, 10000\).*learning_rates=1000$"
    ):
        forecast(expert, task, recipe, learning_rates=(20000, 10000))
    with pytest.raises(ModelError, match="Every learning rate diverged"):
        ns.finetune(expert, task, recipe=recipe, learning_rates=10000)


BAD = {
    "no expert": (lambda e, t: ((3, t), {}), ConfigError, "Expected an expert or a name of one; given: int"),
    "no name of an expert": (lambda e, t: (("expert", t), {}), ModelError, "There is no expert, zoo or folder 'expert'"),
    "no task": (lambda e, t: ((e, 3), {}), ConfigError, "task= must be a Task, or its name or path; given: int"),
    "no name of a task": (lambda e, t: ((e, "digitz"), {}), TaskError, "Did you mean 'digits'"),
    "no recipe": (lambda e, t: ((e, t, {"epochs": 3}), {}), ConfigError, "must be a Recipe"),
    "rates": (lambda e, t: ((e, t), {"learning_rates": (0.1, -1)}), ConfigError, "must be numbers above 0"),
    "shots": (lambda e, t: ((e, t), {"shots": 0}), ConfigError, "shots=0 must be a whole number from 1"),
    "per class": (lambda e, t: ((e, t), {"per_class": 0}), TaskError, "per_class=0"),
    "one image per class": (lambda e, t: ((e, t), {"per_class": 1}), UndefinedScoreError, "only one image"),
    "folds": (lambda e, t: ((e, t), {"folds": 1}), ConfigError, "folds=1 must be a whole number from 2"),
    "repeats": (lambda e, t: ((e, t), {"repeats": 0}), ConfigError, "repeats=0"),
    "progress": (lambda e, t: ((e, t), {"progress": 3}), ConfigError, "progress="),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused(name, networks, task):
    make, error, sentence = BAD[name]
    arguments, options = make(networks.normed_expert(), task)
    with pytest.raises(error, match=sentence):
        ns.forecast(*arguments, **options)


@pytest.mark.nightly  # quick: names that do not exist, among what is refused
def test_experts_and_tasks_may_be_named():
    pytest.importorskip("sklearn")
    name = "fashion_mnist-resnet_small"
    options = {"learning_rates": 0.01, "per_class": 2, "directions": 2, "explain": False, "folds": 2, "repeats": 1}
    named = ns.forecast(name, "digits", ns.Recipe(epochs=2), **options)
    given = ns.forecast(ns.open_zoo("builtin")[name](), ns.load_task("digits"), ns.Recipe(epochs=2), **options)
    assert named.to_dict() == given.to_dict()
    assert (named.expert, named.task) == (name, "digits")


@pytest.mark.parametrize(("rates", "edge"), [((0.1, 1e-4), "largest"), ((10.0, 0.1), "smallest"), ((10.0, 0.1, 1e-5), None)])
def test_a_best_rate_at_the_end_of_those_that_were_simulated_is_told(networks, task, rates, edge):
    found = forecast(networks.linear_expert(), task, learning_rates=rates)
    assert found.edge == found.to_dict()["edge"] == edge
    assert (f"learning rate {found.learning_rate:g} (the {edge} of" in repr(found)) is (edge is not None)


def test_an_expert_without_preprocessing_is_refused(networks, task):
    with pytest.raises(ModelError, match="'normed' has no preprocess"):
        ns.forecast(networks.normed_expert(preprocess=None), task)


def test_refusals_come_before_any_pass(networks, task):
    def fails(*_):
        raise AssertionError("the network was asked")

    expert = networks.normed_expert(features_fn=fails, train_fn=fails)
    for options in ({"folds": 1}, {"repeats": 0}, {"per_class": 1}, {"learning_rates": -1}):
        with pytest.raises((ConfigError, UndefinedScoreError)):
            ns.forecast(expert, task, **options)


def test_a_linear_head_alone_explains_itself(networks):
    """No backbone: the kernel is the head's, and the network is linear."""
    found = forecast(networks.linear_expert(), scenes(noise=15.0), learning_rates=(0.3, 0.1), explain=True)
    assert found.shares == {"fresh head": 1.0}
    assert found.nonlinearity == pytest.approx(0, abs=1e-9)
    assert found.accuracy == 1.0
    assert found.high == 1.0
    pytest.importorskip("matplotlib")
    assert found.plot().axes  # an interval that ends where the point is


def test_whole_numbers_and_halves_among_the_parameters_are_explained_too(networks, task):
    rng = np.random.default_rng(0)
    params = {"size": np.array(3), "a": jnp.asarray(rng.normal(size=(16, 8)), jnp.bfloat16), "b": rng.normal(size=(8, 5))}

    def features_fn(variables, x):
        p = variables["params"]
        return jnp.tanh((x.reshape(len(x), -1) @ p["a"].astype(x.dtype)) @ p["b"]) * p["size"]

    expert = ns.Expert("mixed", lambda v, x: x, params, features_fn=features_fn, preprocess=networks.pixels)
    found = forecast(expert, task, explain=True)
    assert set(found.shares) == {"a", "b", "fresh head"}
    assert np.isfinite(found.nonlinearity)


def test_an_expert_that_has_been_given_a_head_before_is_forecast_too(networks, task):
    plain = ns.Expert(
        "plain", lambda v, x: x, {"head": {"kernel": np.zeros((16, 3))}}, features_fn=networks.flat, head="head", preprocess=networks.pixels
    )
    again = ns.with_new_head(plain, 3)
    assert forecast(again, task).accuracy == forecast(plain, task).accuracy


def test_old_names_are_deprecated(found):
    from ntk_select import forecasting

    with pytest.warns(DeprecationWarning, match=r"Try: Forecast\.initial_norm"):
        assert found.weights == found.initial_norm == found.to_dict()["weights"]
    with pytest.warns(DeprecationWarning, match=r"Outlook is deprecated\. Try: ntk_select\.forecasting\.RateForecast"):
        assert forecasting.Outlook is forecasting.RateForecast
    assert not hasattr(forecasting, "nothing")
    with pytest.warns(DeprecationWarning, match=r"Try: RateForecast\.correct"):
        assert found.best.right is found.best.correct


def test_test_images_that_differ_from_the_training_images_are_remarked_on(networks):
    """With `explain`; the numbers are the same."""
    task = scenes(each=20, tests=20)
    shifted = dataclasses.replace(task, test_images=(task.test_images // 2 + 120).astype(np.uint8))
    expert, options = networks.normed_expert(), {"explain": True, "per_class": 20}
    found, alike = forecast(expert, shifted, **options), forecast(expert, task, **options)
    (remark,) = found.warnings
    assert remark.startswith("The test images differ from the training images (of the 3 nearest images of the same class ")
    assert remark in repr(found)
    assert found.to_dict()["warnings"] == [remark]
    assert alike.warnings == ()
    assert {**found.to_dict(), "warnings": []} == alike.to_dict()
    assert forecast(expert, shifted, per_class=20).warnings == ()
    assert forecast(expert, dataclasses.replace(shifted, test_images=None, test_labels=None), **options).warnings == ()
