"""Are a source's images those of its task, resized once and kept, its classes joined as the config says?"""

from dataclasses import replace

import numpy as np
import pytest

from ntk_select import Task
from ntk_select.errors import ConfigError
from ntk_select.training.zoo import read_config, sources
from ntk_select.training.zoo.sources import load_source, renamed


@pytest.fixture
def task(rng):
    images = rng.integers(0, 256, (6, 4, 4), np.uint8)
    return Task("t", images, np.array([0, 1, 2, 3, 3, 0]), ("a", "b", "c", "d"), images, np.array([3, 2, 1, 0, 0, 0]))


def test_joined_classes_lose_their_name_and_keep_their_images(task):
    found = renamed(task, {"b": "d", "a": "c"})
    assert found.class_names == ("c", "d")
    assert found.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert found.test_labels.tolist() == [1, 0, 1, 0, 0, 0]
    assert renamed(replace(task, test_images=None, test_labels=None), {"a": "b"}).test_labels is None
    assert renamed(task, {}).labels.tolist() == task.labels.tolist()


@pytest.mark.parametrize("names", [{"e": "a"}, {"a": "e"}])
def test_a_class_that_is_not_there_cannot_be_joined(task, names):
    with pytest.raises(ConfigError, match="rename: the task 't' has no class 'e'"):
        renamed(task, names)


@pytest.mark.parametrize("names", [{"a": "b", "b": "c"}, {"a": "b", "b": "b"}])
def test_a_class_cannot_be_joined_to_one_that_goes(task, names):
    with pytest.raises(ConfigError, match="rename: the class 'b' is to be joined to another, so that none can be joined to it"):
        renamed(task, names)


def test_images_are_resized_once_and_kept_while_the_archive_stays_as_it_is(config, data, tmp_path, monkeypatch):
    found = replace(read_config(config), size=5)
    first = load_source(found, "dots", data, tmp_path / "work")
    with np.load(data / "stripes.npz") as stored:
        arrays = dict(stored)
    np.testing.assert_array_equal(first.images, found.preprocess.resized(arrays["images"]))
    np.testing.assert_array_equal(first.test_images, found.preprocess.resized(arrays["test_images"]))
    np.testing.assert_array_equal(first.labels, np.where(arrays["labels"] == 2, 0, arrays["labels"]))
    with monkeypatch.context() as patch:
        patch.setattr(sources, "load_task", None)  # nothing is read
        again = load_source(found, "dots", data, tmp_path / "work")
    for name in ("images", "labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (again.name, again.class_names) == ("dots", ("a", "b"))
    np.savez(data / "stripes.npz", **{**arrays, "images": 255 - arrays["images"]})
    changed = load_source(found, "dots", data, tmp_path / "work")
    np.testing.assert_array_equal(changed.images, found.preprocess.resized(255 - arrays["images"]))


def test_other_sizes_and_names_are_not_taken_from_what_was_kept(config, data, tmp_path):
    found = read_config(config)
    load_source(found, "dots", data, tmp_path / "work")
    assert load_source(replace(found, size=5), "dots", data, tmp_path / "work").images.shape[1:] == (5, 5, 3)
    plain = replace(found, sources={"dots": replace(found.sources["dots"], rename={})})
    assert load_source(plain, "dots", data, tmp_path / "work").num_classes == 3


def test_of_large_images_nothing_is_kept(config, data, tmp_path):
    found = load_source(replace(read_config(config), size=65), "stripes", data, tmp_path / "work")
    assert found.images.shape[1:3] == (8, 8)
    assert not (tmp_path / "work").exists()


def test_without_a_folder_of_data_it_says_what_to_type(config, tmp_path):
    with pytest.raises(ConfigError, match=r"The source 'dots' lies at 'npz:\{data\}/stripes.npz'. Say where the data is: --data FOLDER"):
        load_source(read_config(config), "dots", None, tmp_path)


def test_a_source_without_a_test_set_is_refused(config, tmp_path):
    np.savez(tmp_path / "stripes.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 3)
    with pytest.raises(ConfigError, match=r"The source 'stripes' \(npz:.*stripes.npz\) has no test set, by which its expert is judged"):
        load_source(read_config(config), "stripes", tmp_path, tmp_path / "work")


def test_resized_images_that_are_damaged_are_made_again(config, data, tmp_path):
    found = read_config(config)
    first = load_source(found, "stripes", data, tmp_path / "work")
    (kept,) = (tmp_path / "work" / "data").glob("*/*.npz")
    for content in (b"", kept.read_bytes()[:-200], b"no archive"):
        kept.write_bytes(content)
        np.testing.assert_array_equal(load_source(found, "stripes", data, tmp_path / "work").images, first.images)
