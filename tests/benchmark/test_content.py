"""Digests of images cover every byte, and are cached only until the files change."""

import os
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from ntk_select._runtime.cache import Cache
from ntk_select.benchmark.facts import digest_of_images, task_facts
from ntk_select.data import load_task
from ntk_select.tasks.task import ChosenImages


@pytest.fixture
def photos(tmp_path):
    """A folder of 100 images, older than a minute."""
    values = np.random.default_rng(0).integers(0, 256, (100, 4, 4), dtype=np.uint8)
    for place, image in enumerate(values):
        file = tmp_path / "photos" / f"c{place % 2}" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, compress_level=0)
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def later(monkeypatch):
    """The files of a test count as old: their digests may be cached."""
    monkeypatch.setattr("ntk_select._runtime.cache.FRESH", -3600.0)


def entries(cache):
    return len(list(cache.folder.glob("*/*.npz"))) if cache.folder.exists() else 0


class Counted:
    """Images that count how often their bytes are read."""

    def __init__(self, images):
        self.images, self.read = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        raise AssertionError("nothing need be decoded")

    def content(self, place):
        self.read += 1
        return self.images.content(place)

    def origin(self, place):
        return self.images.origin(place)


def test_a_digest_is_computed_once_and_the_same_from_the_cache(photos, cache, later):
    images = Counted(load_task(photos).images)
    first, again = digest_of_images(images, cache), digest_of_images(images, cache)
    assert first == again == digest_of_images(images, Cache(None))
    assert images.read == 200
    assert entries(cache) == 1


@pytest.mark.parametrize("place", [1, 50, 97])
def test_one_changed_byte_is_detected_although_size_and_time_stay(photos, cache, later, place):
    task = load_task(photos)
    before = digest_of_images(task.images, cache)
    ((file,), _) = task.images.origin(place)
    state, data = os.stat(file), bytearray(task.images.content(place))
    data[-30] ^= 1
    time.sleep(0.02)
    with open(file, "r+b") as opened:
        opened.write(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert os.stat(file).st_size == state.st_size
    assert digest_of_images(load_task(photos).images, cache) != before


def test_facts_of_a_split_folder_depend_on_its_bytes(photos):
    task = load_task(photos).with_test_split()
    before = task_facts(task)
    ((file,), _) = task.test_images.origin(3)
    with open(file, "ab") as opened:
        opened.write(b" ")
    after = task_facts(task)
    assert (before.train_digest == after.train_digest, before.digest == after.digest) == (True, False)


def test_digests_of_very_recent_files_are_not_cached(photos, cache):
    digest_of_images(load_task(photos).images, cache)
    assert entries(cache) == 0


def test_digests_of_files_that_change_while_they_are_read_are_not_cached(photos, cache, later):
    task = load_task(photos)

    class Changing(Counted):
        def content(self, place):
            if not self.read:
                os.utime(self.images.origin(99)[0][0])
            return super().content(place)

    digest_of_images(Changing(task.images), cache)
    assert entries(cache) == 0


def test_a_damaged_or_foreign_entry_of_the_cache_counts_as_absent(photos, cache, later):
    images = load_task(photos).images
    right = digest_of_images(images, cache)
    (file,) = cache.folder.glob("*/*.npz")
    file.write_bytes(b"damaged")
    assert digest_of_images(images, cache) == right
    key = file.stem
    cache.put(key, {"other": np.zeros(1)})
    assert digest_of_images(images, cache) == right


def test_the_same_files_have_one_digest_in_a_folder_a_copy_and_an_archive(photos, cache, later, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted(photos.rglob("*.png")):
            archive.write(file, file.relative_to(photos))
    found = {digest_of_images(load_task(place).images, cache) for place in (photos, tmp_path / "copy", tmp_path / "packed.zip")}
    assert len(found) == 1
    assert entries(cache) == 3


def test_an_entry_of_an_archive_that_changes_is_seen(tmp_path, cache, later):
    found = []
    for value in (1, 2):
        with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
            for label in "ab":
                Image.fromarray(np.full((2, 2), value if label == "b" else 0, np.uint8)).save(tmp_path / "x.png")
                archive.write(tmp_path / "x.png", f"{label}/x.png")
        found.append(digest_of_images(load_task(tmp_path / "packed.zip").images, cache))
    assert found[0] != found[1]


def test_parts_of_the_same_files_have_digests_of_their_own(photos, cache, later):
    images = load_task(photos).images
    parts = [ChosenImages(images, np.array(places)) for places in ([0, 1, 2], [0, 2, 1], [0, 1])]
    found = [digest_of_images(part, cache) for part in parts]
    assert len(set(found)) == 3
    assert found == [digest_of_images(part, cache) for part in parts]


def test_digests_of_images_without_files_are_not_cached(cache):
    values = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    listed = list(values)
    assert digest_of_images(values, cache) == digest_of_images(listed, cache) == digest_of_images(ChosenImages(listed, np.arange(6)), cache)
    assert digest_of_images(values[::-1], cache) != digest_of_images(values, cache)
    assert entries(cache) == 0


def test_a_digest_is_not_cached_if_a_file_has_disappeared(photos, cache, later):
    images = load_task(photos).images

    class Gone(Counted):
        def origin(self, place):
            return (("/nowhere",), "")

    digest_of_images(Gone(images), cache)
    assert entries(cache) == 0


def test_a_sequence_may_have_no_origins(photos, cache, later):
    class Unknown(Counted):
        def origin(self, place):
            return None

    digest_of_images(Unknown(load_task(photos).images), cache)
    assert entries(cache) == 0
