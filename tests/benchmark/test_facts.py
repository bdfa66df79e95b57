"""Digests and facts of tasks and experts, and the data sets that an expert was trained on."""

from dataclasses import replace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.benchmark.config import TaskConfig, parsed
from ntk_select.benchmark.facts import check_names, expert_facts, load, task_facts
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, DataError, TaskError
from ntk_select.models import open_zoo
from ntk_select.tasks.classes import of_classes


@pytest.fixture
def task(rng):
    """Twelve images of three classes, six of them as a test set."""
    images, labels = rng.integers(0, 255, (12, 4, 4), np.uint8), np.arange(12) % 3
    return ns.Task("letters", images, labels, ("Greek_a", "Latin_a", "Greek_b"), images[:6], labels[:6])


def test_digests_depend_on_labels_and_classes(task):
    found = task_facts(task)
    assert (found.train, found.test, found.num_classes) == (12, 6, 3)
    assert task_facts(replace(task, uri="elsewhere", licence="free")).digest == found.digest
    for changed in (replace(task, labels=task.labels[::-1].copy()), replace(task, class_names=("x", "Latin_a", "Greek_b"))):
        assert task_facts(changed).train_digest != found.train_digest
        assert task_facts(changed).digest != found.digest
    tested = task_facts(replace(task, test_labels=task.test_labels[::-1].copy()))
    assert tested.train_digest == found.train_digest
    assert tested.digest != found.digest


def test_a_digest_depends_on_every_image_of_both_splits(task):
    found = task_facts(task)
    for place in range(12):
        changed = task.images.copy()
        changed[place, 1, 2] ^= 1
        other = task_facts(replace(task, images=changed))
        assert found.train_digest != other.train_digest, place
        assert found.digest != other.digest, place
        if place < 6:
            other = task_facts(replace(task, test_images=changed[:6]))
            assert found.train_digest == other.train_digest, place
            assert found.digest != other.digest, place


def test_images_that_change_places_or_shapes_are_another_task(task):
    swapped = task.images.copy()
    swapped[[0, 3]] = swapped[[3, 0]]  # of one class
    assert task_facts(replace(task, images=swapped)).digest != task_facts(task).digest
    wide = [image.reshape(2, 8) for image in task.images]
    assert task_facts(replace(task, images=wide)).digest != task_facts(task).digest


def test_a_part_of_the_classes_is_digested_by_its_own_images(task):
    changed = task.images.copy()
    changed[1] = 0  # of the class that is left out
    parts = [of_classes(replace(task, images=images), ("Greek_*",)) for images in (task.images, changed)]
    assert task_facts(parts[0]).train_digest == task_facts(parts[1]).train_digest


def test_a_digest_does_not_depend_on_where_the_images_are(task):
    listed = replace(task, images=[np.array(image) for image in task.images])
    assert task_facts(listed) == task_facts(task)
    assert task_facts(replace(task, labels=task.labels.astype(np.int64))) == task_facts(task)


def test_a_task_is_loaded_under_the_name_that_the_config_gives_it(data):
    found = load("mine", TaskConfig("npz:{data}/things.npz"), data)
    assert (found.name, found.class_names) == ("mine", ("dark", "bright"))
    assert task_facts(found).digest == task_facts(replace(load_task(f"npz:{data}/things.npz"), name="other")).digest


def test_a_task_without_a_test_set_is_split_as_fine_tuning_splits_it(data, tmp_path):
    images = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
    np.savez(tmp_path / "untested.npz", images=images, labels=np.repeat([0, 1], 6))
    found, expected = load("mine", TaskConfig("npz:{data}/untested.npz"), tmp_path), load_task(tmp_path / "untested.npz").with_test_split()
    np.testing.assert_array_equal(np.stack(list(found.test_images)), np.stack(list(expected.test_images)))
    assert task_facts(found).test_split.startswith("There was no test set: 2 of 12 images")
    assert task_facts(load("mine", TaskConfig("npz:{data}/things.npz"), data)).test_split is None


def test_a_task_that_cannot_be_loaded_is_refused(data, tmp_path):
    with pytest.raises(
        ConfigError, match=r"'mine' is at npz:\{data\}/things.npz, and the folder for \{data\} is missing. Try: data=FOLDER .--data FOLDER"
    ):
        load("mine", TaskConfig("npz:{data}/things.npz"), None)
    with pytest.raises(DataError):
        load("mine", TaskConfig("npz:{data}/nothing.npz"), data)
    np.savez(tmp_path / "untested.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1])
    with pytest.raises(TaskError, match="no class has two images, so none can be held out for testing"):
        load("mine", TaskConfig("npz:{data}/untested.npz"), tmp_path)
    with pytest.raises(ConfigError, match="matches no class of"):
        load("mine", TaskConfig("npz:{data}/things.npz", classes=("x",)), data)


def test_experts_of_a_folder_are_known_by_their_cards(zoo):
    found = expert_facts(open_zoo([str(zoo)]))
    assert [(facts.name, facts.source, facts.seen) for facts in found.values()] == [
        ("ash", "trees", ("trees",)),
        ("elm", "trees", ("trees",)),
        ("oak", "shapes", ("shapes", "trees")),
    ]
    assert len({facts.digest for facts in found.values()}) == 3
    assert found["oak"].initialised_from == "elm"
    assert found["ash"].architecture == "resnet18"


def test_an_expert_without_a_card_is_known_by_its_weights(zoo):
    whole = open_zoo([str(zoo)])
    bare = {name: (lambda load=load: replace(load(), card=None)) for name, load in whole.items()}
    found = expert_facts(bare)
    assert len({facts.digest for facts in found.values()}) == 3
    assert found == expert_facts(bare)
    assert (found["ash"].architecture, found["ash"].seen, found["ash"].parameters) == ("", (), whole["ash"]().num_params)


def test_names_that_would_fail_after_hours_are_refused_at_once():
    tasks = {"birds": {"uri": "digits"}}
    known = parsed({"tasks": tasks, "untrained": ["resnet18"], "reference": "ash", "scores": ["lfc"]}, "bench.toml")
    check_names(known)
    for change, sentence in (
        ({"untrained": ("resnet_smal",)}, "untrained contains 'resnet_smal', which is not an architecture. Did you mean 'resnet_small'"),
        ({"reference_network": "huge"}, "The reference network 'huge' is unknown"),
        ({"scores": ("lcf",)}, "Score 'lcf' is unknown"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check_names(replace(known, **change))
