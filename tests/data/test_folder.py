"""A folder of images becomes a task whose pixels are those of its files."""

import io
import os
import pickle

import numpy as np
import pytest
from ntk_select.data import LazyImages, folder, load_task
from PIL import Image

from ntk_select.errors import DataError, TaskError

PATHS = ["train/cat/a.png", "train/cat/b.png", "train/dog/a.png", "test/dog/z.png"]


def test_pixels_labels_and_names_are_those_of_the_files(folder_of):
    root = folder_of(PATHS)
    task = load_task(root)
    assert (task.name, task.class_names, task.labels.tolist(), task.test_labels.tolist()) == ("photos", ("cat", "dog"), [0, 0, 1], [1])
    for image, path in zip([*task.images, *task.test_images], PATHS, strict=True):
        np.testing.assert_array_equal(image, np.array(Image.open(root / path)))


def test_grey_and_colour_of_several_sizes_may_be_mixed(folder_of, encoded, pixels):
    files = {"cat/1.png": encoded(pixels(0, 4, 9, channels=0)), "dog/1.bmp": encoded(pixels(1, 7, 2), "BMP")}
    assert [image.shape for image in load_task(folder_of(files)).images] == [(4, 9), (7, 2, 3)]


def test_nothing_is_decoded_before_it_is_asked_for(folder_of):
    task = load_task(folder_of({"cat/1.png": b"damaged", "dog/1.png": None}))
    assert task.images[1].shape == (6, 5, 3)
    with pytest.raises(DataError, match=r"cat/1.png: cannot be read as an image"):
        task.images[0]


def test_a_file_that_went_away_is_named(folder_of):
    root = folder_of(PATHS)
    task = load_task(root)
    (root / PATHS[0]).unlink()
    with pytest.raises(DataError, match=r"a.png: cannot be opened"):
        task.images[0]


def test_links_to_images_and_class_folders_are_followed(folder_of, tmp_path):
    root = folder_of(["cat/a.png", "dog/a.png"])
    os.symlink(root / "cat/a.png", root / "cat/b.png")
    (tmp_path / "linked").mkdir()
    os.symlink(root / "cat", tmp_path / "linked/cat")
    os.symlink(root / "dog", tmp_path / "linked/dog")
    task = load_task(tmp_path / "linked")
    assert task.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(task.images[0], task.images[1])


def test_broken_links_endless_links_and_special_files_are_refused(folder_of):
    root = folder_of(["cat/a.png", "dog/a.png"])
    os.symlink(root / "gone", root / "cat/b.png")
    with pytest.raises(DataError, match=r"cat/b.png: a broken link, or not a plain file"):
        load_task(root)
    (root / "cat/b.png").unlink()
    os.mkfifo(root / "cat/b.png")
    with pytest.raises(DataError, match=r"cat/b.png: a broken link, or not a plain file"):
        load_task(root)
    (root / "cat/b.png").unlink()
    os.symlink(root, root / "cat/again")
    with pytest.raises(DataError, match=r"more than 8 folders deep. Is one a link"):
        load_task(root)


def test_a_folder_that_cannot_be_read_is_named(folder_of, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    root = folder_of(PATHS)
    monkeypatch.setattr(folder.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"photos/: the folder cannot be read \(Permission denied\)"):
        load_task(root)


def test_one_class_is_no_task(folder_of):
    with pytest.raises(TaskError, match=r"training images of one class only"):
        load_task(folder_of(["cat/1.png", "cat/2.png"]))


def test_an_empty_class_folder_is_named(folder_of):
    with pytest.raises(DataError, match=r"photos: class folder 'train/ant' is empty"):
        load_task(folder_of([*PATHS, "train/ant/"]))


def test_a_pickled_task_reads_the_same_images(folder_of):
    task = load_task(folder_of(PATHS))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(task)).images[2], task.images[2])


def test_lazy_images_count_slice_and_index_as_lists_do():
    images = LazyImages(range(5), lambda key: np.full((1, 1), key, np.uint8))
    assert len(images) == 5
    assert isinstance(images[1:4], LazyImages)
    assert [int(image[0, 0]) for image in images[1:4]] == [1, 2, 3]
    assert images[-1] == images[np.int64(4)] == 4
    assert repr(images) == "LazyImages(5)"
    with pytest.raises(IndexError):
        images[5]
    with pytest.raises(TypeError):
        images["1"]


def test_folders_of_systems_and_notes_are_passed_over_on_disk_and_in_archives(folder_of, zip_of):
    root = folder_of(
        dict.fromkeys(PATHS) | {"train/@eaDir/a.png": None, "train/cat/@eaDir/x.jpg": b"", "lost+found/": None, "train/cat/notes.txt": b"x"}
    )
    for task in (load_task(root), load_task(zip_of(root))):
        assert (task.class_names, task.labels.tolist()) == (("cat", "dog"), [0, 0, 1])
        assert task.details["warnings"][0] == "Left out of class folders, because they are no images: 1 file .txt (train/cat/notes.txt)."


def test_a_folder_of_the_system_that_may_not_be_read_stops_nothing(folder_of, monkeypatch):
    root, scandir = folder_of([*PATHS, "lost+found/"]), os.scandir

    def refuse(path):
        if "lost+found" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(folder.os, "scandir", refuse)
    assert len(load_task(root).labels) == 3


def test_encoded_bytes_and_the_files_that_hold_them_are_known(folder_of, zip_of):
    root = folder_of(PATHS)
    on_disk, packed = load_task(root), load_task(zip_of(root))
    for place, path in enumerate(PATHS[:3]):
        assert on_disk.images.content(place) == packed.images[0:3].content(place) == (root / path).read_bytes()
        assert on_disk.images.origin(place) == ((str(root / path),), "")
        assert packed.images.origin(place) == ((f"{root}.zip",), path)
    plain = LazyImages(range(2), lambda key: np.zeros((1, 1), np.uint8))
    assert plain.content(0) is plain.origin(0) is None


def test_a_file_that_cannot_be_read_to_its_end_is_named(folder_of, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    task = load_task(folder_of(PATHS))
    monkeypatch.setattr(folder, "open", lambda *_: Broken(), raising=False)
    with pytest.raises(DataError, match=r"a.png: cannot be read \(Input/output error\)"):
        task.images[0]
