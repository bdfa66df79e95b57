"""Training resumes only from equal settings, and failures end it at once without losing results."""

import json
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.training.finetuning.search import grid

RECIPE = ns.Recipe(epochs=4, batch_size=8)


def flat(images):
    """A preprocessing that is no `Preprocess`."""
    return np.stack([np.asarray(image, np.float64).ravel() / 255 for image in images])


def rows(variables, x):
    return x @ variables["params"]["w"]


def bent_rows(variables, x):
    """As many pre-logits from the same parameters, by another network."""
    return jnp.tanh(x @ variables["params"]["w"])


def too_large(variables, x):
    return jnp.exp(1e4 * jnp.abs(x @ variables["params"]["w"]).max(1, keepdims=True)) * jnp.ones((1, 4))


def expert(fn=rows, **options):
    given = {"features_fn": fn, "preprocess": flat} | options
    return ns.Expert("linear", fn, {"w": np.random.default_rng(0).normal(size=(9, 4))}, **given)


@pytest.fixture
def task(rng):
    labels = np.arange(30) % 3
    images = rng.integers(0, 256, (30, 3, 3), np.uint8)
    return ns.Task("squares", images, labels, ("a", "b", "c"), images[:9], labels[:9])


def tuned(result):
    return jax.tree.leaves(result.tuned.params)


def same(one, other):
    return all((a == b).all() for a, b in zip(tuned(one), tuned(other), strict=True))


def folders(place):
    return {folder.name for folder in place.iterdir()}


# among the three rates, which are trained in parallel, and in the training on all images
@pytest.mark.parametrize("after", [2, pytest.param(11, marks=pytest.mark.nightly), 14])
def test_a_search_of_several_threads_that_was_cut_goes_on_to_the_same_weights(task, tmp_path, every_epoch, cut, after):
    options = {"recipe": RECIPE, "workers": 3}
    expected = ns.finetune(expert(), task, **options)
    with pytest.raises(KeyboardInterrupt):
        ns.finetune(expert(), task, **options, checkpoints=tmp_path, progress=cut(after))
    assert folders(tmp_path)
    seen = []
    found = ns.finetune(expert(), task, **options, checkpoints=tmp_path, progress=lambda done, *_: seen.append(done))
    assert same(found, expected)
    assert (found.losses, found.trials, found.learning_rate) == (expected.losses, expected.trials, expected.learning_rate)
    assert found.images == expected.images == (3 * 24 + 30) * 4
    assert seen[-1] == 16
    again = ns.finetune(expert(), task, **options, checkpoints=tmp_path)
    assert same(again, expected)
    assert again.images_per_second is None
    assert json.loads(json.dumps(again.to_dict()))["images"] == expected.images
    assert "images/s" not in repr(again)
    again.delete_checkpoints()
    assert not folders(tmp_path)


def other_image(task, place):
    images = task.images.copy()
    images[place] = 255 - images[place]
    return replace(task, images=images)


OTHERS = {
    "another network of the same weights": lambda task: ((expert(bent_rows), task), {}),
    "other weights": lambda task: ((replace(expert(), params={"w": expert().params["w"] + 1}), task), {}),
    "one image changed": lambda task: ((expert(), other_image(task, 17)), {}),
    "the labels changed": lambda task: ((expert(), replace(task, labels=np.roll(task.labels, 1))), {}),
    "another recipe": lambda task: ((expert(), task), {"recipe": replace(RECIPE, momentum=0.5)}),
    "another seed": lambda task: ((expert(), task), {"seed": 1}),
    "other shots": lambda task: ((expert(), task), {"shots": 9}),
    "another rate": lambda task: ((expert(), task), {"learning_rates": 0.02}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_finished_training_is_not_taken_for_another(task, tmp_path, name):
    usual = {"recipe": RECIPE, "learning_rates": 0.01, "checkpoints": tmp_path}
    ns.finetune(expert(), task, **usual)
    before = folders(tmp_path)
    given, options = OTHERS[name](task)
    found = ns.finetune(*given, **(usual | options))
    assert len(folders(tmp_path) - before) == 1
    assert same(found, ns.finetune(*given, **(usual | options | {"checkpoints": None})))
    assert found.images_per_second > 0


def test_the_same_function_made_anew_is_the_same_network(task, tmp_path):
    def made():
        return expert(lambda variables, x: jax.nn.relu(x @ variables["params"]["w"]))

    usual = {"recipe": RECIPE, "learning_rates": 0.01, "checkpoints": tmp_path}
    first = ns.finetune(made(), task, **usual)
    again = ns.finetune(made(), task, **usual)
    assert again.images_per_second is None
    assert same(first, again)


def test_a_failure_of_one_thread_ends_the_others_instead_of_waiting_for_their_last_epoch():
    began, stopped = threading.Barrier(3), threading.Event()

    def train(rate, place):
        began.wait(20)
        if place == 1:
            raise KeyboardInterrupt
        assert stopped.wait(20), "it was never told to stop"

    with pytest.raises(KeyboardInterrupt):
        grid(train, None, [3.0, 2.0, 1.0], 3, stopped.set)


def test_a_cut_in_one_thread_is_met_by_the_others_at_their_next_epoch(task, cut):
    long = ns.Recipe(epochs=100_000, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        ns.finetune(expert(), task, recipe=long, workers=3, progress=cut(20))


def test_finite_weights_whose_outputs_are_not_finite_have_diverged(task):
    """The first test image is brighter than any that was trained on."""
    dark = replace(task, images=np.zeros_like(task.images), test_images=np.full_like(task.test_images, 255))
    with pytest.raises(ModelError, match="Outputs of the fine-tuned expert 'linear' contain NaN or infinity.*learning rate is too large"):
        ns.finetune(expert(too_large), dark, learning_rates=1e-3, recipe=RECIPE)
    with pytest.raises(ModelError, match=r"Every learning rate diverged \(0.002: Outputs of the fine-tuned.*learning_rates=0.0001"):
        ns.finetune(expert(too_large), dark, learning_rates=[1e-3, 2e-3], choose="paper", recipe=RECIPE)


def test_a_loss_far_above_that_of_guessing_has_diverged_though_float64_holds_it(task):
    found = ns.finetune(expert(), task, learning_rates=[1e9, 0.01], extend=False, recipe=RECIPE)
    told = {trial.learning_rate: trial.diverged for trial in found.trials}
    assert found.learning_rate == 0.01
    assert told[0.01] is None
    assert "diverged in epoch" in told[1e9]
    assert [trial.accuracy for trial in found.trials if trial.diverged] == [None]
    with pytest.raises(ModelError, match=r"Every learning rate diverged \(1e\+09: .*; 1e\+08: .*learning_rates=1e\+07"):
        ns.finetune(expert(), task, learning_rates=[1e9, 1e8], recipe=RECIPE)


def test_one_training_of_the_reference_itself_costs_one(task):
    found = ns.finetune(expert(), task, learning_rates=0.01, recipe=RECIPE, reference=expert())
    assert found.cost == 1.0
    assert found.flops == 3 * (2 * 9 * 4 + 2 * 4 * 3) * found.images
    assert found.images == 4 * 30
    assert ns.finetune(expert(), task, recipe=RECIPE, reference=expert()).cost == pytest.approx((3 * 24 + 30) / 30)


def test_seeds_of_numpy_are_written_as_json(task, tmp_path):
    found = ns.finetune(expert(), task, shots=np.int64(5), seed=np.int64(3), learning_rates=np.float32(0.01), recipe=RECIPE)
    (file, *_) = found.save(tmp_path)
    record = json.loads(file.read_text())
    assert (record["seed"], record["sample_seed"], record["shots"]) == (3, 3, 5)
