"""Training images are those of the probe sample, and validation images are a stratified split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.training.finetuning.recipe import VALIDATION_SHARE, hold_out, training_images


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
        with pytest.raises(ConfigError, match="No class has two training images, so that none can be held out.*Try: a single learning rate"):
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
