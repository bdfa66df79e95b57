"""The defaults are those of the paper; every value that is not allowed is refused; training and validation images are as documented."""

import inspect
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.training.finetuning.recipe import LEARNING_RATES, VALIDATION_SHARE, checked_rates, hold_out, training_images
from ntk_select.training.loop import step_decay


def test_the_defaults_are_those_of_section_4_2_of_the_paper():
    recipe = ns.Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.decays) == (30, 32, (15, 25))
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-4)
    assert (recipe.batch_norm, recipe.head, recipe.augment, recipe.precision) == ("train", "random", "auto", "float32")
    assert LEARNING_RATES == (0.01, 0.005, 0.001)
    options = inspect.signature(ns.finetune).parameters
    assert options["learning_rates"].default == LEARNING_RATES
    assert (options["shots"].default, options["choose"].default, options["search"].default) == (None, "validation", "grid")


def test_the_rate_is_a_tenth_after_15_epochs_and_a_hundredth_after_25():
    rates = step_decay(0.01, 30, 2, ns.Recipe().decays)
    np.testing.assert_allclose(rates[:, 0], [0.01] * 15 + [0.001] * 10 + [0.0001] * 5, rtol=1e-14)


@pytest.mark.parametrize(("epochs", "decays"), [(30, (15, 25)), (60, (30, 50)), (6, (3, 5)), (1, ()), (2, (1,))])
def test_milestones_keep_their_place_in_shorter_and_longer_trainings(epochs, decays):
    assert ns.Recipe(epochs=epochs).decays == decays


def test_milestones_that_are_given_are_taken():
    assert ns.Recipe(milestones=[3, 4]).decays == (3, 4)
    assert ns.Recipe(milestones=()).decays == ()


def test_one_epoch_is_trained_at_the_rate_that_was_given():
    rates = step_decay(0.01, 1, 1, ns.Recipe(epochs=1).decays)
    assert rates == [[0.01]]


def test_numbers_of_numpy_become_numbers_that_json_can_hold():
    recipe = ns.Recipe(epochs=np.int64(4), batch_size=np.int32(8), milestones=np.array([1, 2]), momentum=np.float32(0.5), weight_decay=np.array(0.25))
    assert json.loads(json.dumps(asdict(recipe))) == asdict(ns.Recipe(4, [1, 2], 8, 0.5, True, 0.25)) | {"milestones": [1, 2]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs=0 must be a whole number from 1"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number from 1"),
        ({"batch_size": 1}, "batch_size=1 must be a whole number from 2"),
        ({"batch_size": 0, "batch_norm": "frozen"}, "batch_size=0 must be a whole number from 1"),
        ({"milestones": (3, -1)}, "a milestone=-1 must be a whole number from 0"),
        ({"milestones": 15}, "milestones=15 must be epochs, as in"),
        ({"milestones": "15"}, "milestones='15' must be epochs, as in"),
        ({"momentum": 1.0}, "momentum=1.0 must be a number from 0 to below 1"),
        ({"momentum": "0.9"}, "momentum='0.9' must be a number from 0 to below 1"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001 must be a number of at least 0\\."),
        ({"weight_decay": float("nan")}, "weight_decay=nan must be a number of at least 0\\."),
        ({"nesterov": "yes"}, "nesterov='yes' must be True or False"),
        ({"augment": "rotate"}, "augment='rotate' is unknown. Allowed: auto, crop_flip"),
        ({"batch_norm": "frosen"}, "batch_norm='frosen' is unknown. Did you mean 'frozen'"),
        ({"head": "old"}, "head='old' is unknown"),
        ({"precision": "float16"}, "precision='float16' is unknown"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ns.Recipe(**options)


def test_frozen_batch_norm_allows_batches_of_one():
    assert ns.Recipe(batch_size=1, batch_norm="frozen").batch_size == 1


def test_rates_are_sorted_and_each_is_tried_once():
    assert checked_rates([0.001, 0.1, 0.1]) == (0.1, 0.001)
    assert checked_rates(np.array([0.5, 0.25])) == (0.5, 0.25)
    assert checked_rates(1) == checked_rates(np.float32(1)) == (1.0,)


@pytest.mark.parametrize(
    "rates", [(), 0, -0.1, float("nan"), float("inf"), 10**400, [0.1, 10**400], [0.1, 0], [0.1, "0.01"], "0.01", None, True, [True]]
)
def test_rates_that_cannot_be_are_refused_in_a_sentence(rates):
    with pytest.raises(ConfigError, match=r"must be numbers above 0, as in \(0.01, 0.005, 0.001\)"):
        checked_rates(rates)


def task(counts=(30, 8, 3)):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    return ns.Task("t", images, labels, tuple("abc"[: len(counts)]))


@pytest.mark.parametrize("shots", [None, "full"])
def test_all_images_are_chosen_in_their_order(shots):
    assert training_images(task(), shots, 3).tolist() == list(range(41))


@pytest.mark.parametrize("shots", [20, 5, 1, np.int64(5)])
@pytest.mark.parametrize("seed", [0, 7])
def test_shots_are_the_images_that_the_probe_sample_of_this_seed_shows_to_the_scores(shots, seed):
    given = task()
    found = training_images(given, shots, seed)
    np.testing.assert_array_equal(found, ns.probe_sample(given, per_class=int(shots), seed=seed).indices)
    assert np.bincount(given.labels[found]).tolist() == [min(int(shots), count) for count in (30, 8, 3)]
    assert len(np.unique(found)) == len(found)


def test_another_seed_chooses_other_images():
    assert training_images(task(), 5, 0).tolist() != training_images(task(), 5, 1).tolist()


@pytest.mark.parametrize(
    ("shots", "sentence"), [(0, "shots=0 must be a whole number from 1"), (2.5, "shots=2.5"), (True, "shots=True"), ("5", "shots='5'.*or 'full'")]
)
def test_shots_that_cannot_be_are_refused_in_a_sentence(shots, sentence):
    with pytest.raises(ConfigError, match=sentence):
        training_images(task(), shots, 0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_every_class_with_two_images_gives_one_and_keeps_one_and_no_image_is_on_both_sides(labels, seed):
    labels = np.array(labels)
    counts = np.bincount(labels, minlength=4)
    if counts.max() < 2:
        with pytest.raises(ConfigError, match="No class has two training images, so none can be held out.*Try: a single learning rate"):
            hold_out(labels, seed)
        return
    fitted, held = hold_out(labels, seed)
    assert sorted([*fitted, *held]) == list(range(len(labels)))
    given_up = np.bincount(labels[held], minlength=4)
    assert (given_up[counts >= 2] >= 1).all()
    assert (given_up < np.maximum(counts, 1)).all()
    assert (np.abs(given_up - VALIDATION_SHARE * counts)[counts >= 5] <= 0.5).all()


def test_a_fifth_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [100, 20, 5])
    assert np.bincount(labels[hold_out(labels, 0)[1]]).tolist() == [20, 4, 1]


def test_the_same_seed_holds_out_the_same_images_and_another_seed_others():
    labels = np.repeat([0, 1], 20)
    one, again, other = (hold_out(labels, seed)[1].tolist() for seed in (4, 4, 5))
    assert one == again != other
