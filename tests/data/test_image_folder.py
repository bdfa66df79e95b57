"""Folders of images and zip archives of them become tasks with the pixels of their files; unsafe and damaged archives are refused."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from ntk_select.data import LazyImages, image_folder, load_task
from ntk_select.data.decode import PerProcess
from ntk_select.errors import DataError, NtkSelectError, TaskError

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
    with pytest.raises(DataError, match=r"cat/b.png: a broken link, or not a regular file"):
        load_task(root)
    (root / "cat/b.png").unlink()
    os.mkfifo(root / "cat/b.png")
    with pytest.raises(DataError, match=r"cat/b.png: a broken link, or not a regular file"):
        load_task(root)
    (root / "cat/b.png").unlink()
    os.symlink(root, root / "cat/again")
    with pytest.raises(DataError, match=r"more than 8 folders deep. Is one a link"):
        load_task(root)


def test_a_folder_that_cannot_be_read_is_named(folder_of, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    root = folder_of(PATHS)
    monkeypatch.setattr(image_folder.os, "scandir", refuse)
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
        assert task.details["warnings"][0] == "Ignored in class folders, because they are not images: 1 file .txt (train/cat/notes.txt)."


def test_a_folder_of_the_system_that_may_not_be_read_stops_nothing(folder_of, monkeypatch):
    root, scandir = folder_of([*PATHS, "lost+found/"]), os.scandir

    def refuse(path):
        if "lost+found" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(image_folder.os, "scandir", refuse)
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
    monkeypatch.setattr(image_folder, "open", lambda *_: Broken(), raising=False)
    with pytest.raises(DataError, match=r"a.png: cannot be read \(Input/output error\)"):
        task.images[0]


ENTRIES = ["train/cat/a10.png", "train/cat/a9.png", "train/dog/a.png", "test/dog/z.png", "test/ant/z.png", "README.md", "train/.DS_Store"]


@pytest.mark.parametrize("prefix", ["", "wrapped/"])
def test_an_archive_is_the_folder_it_was_packed_from(folder_of, zip_of, prefix):
    folder = folder_of([prefix + path for path in ENTRIES])
    here, packed = load_task(folder), load_task(zip_of(folder))
    assert (packed.name, packed.class_names, packed.details) == (here.name, here.class_names, here.details)
    for one, other in ((here.images, packed.images), (here.test_images, packed.test_images)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(here.labels, packed.labels)
    np.testing.assert_array_equal(here.test_labels, packed.test_labels)


def test_an_empty_class_folder_is_named_as_in_a_folder(folder_of, zip_of):
    with pytest.raises(DataError, match=r"photos.zip: class folder 'train/ant' is empty"):
        load_task(zip_of(folder_of([*ENTRIES[:4], "train/ant/"])))


def test_threads_and_unpickled_copies_read_the_right_images(folder_of, zip_of):
    images = load_task(zip_of(folder_of([f"c{i % 3}/{i}.png" for i in range(30)]))).images
    expected = [image.tobytes() for image in images]
    with ThreadPoolExecutor(8) as threads:
        assert [image.tobytes() for image in threads.map(images.__getitem__, list(range(30)) * 5)] == expected * 5
    assert [image.tobytes() for image in pickle.loads(pickle.dumps(images))] == expected


FORKS = """
import multiprocessing, sys
from ntk_select.data import load_task

images = load_task(sys.argv[1]).images
expected = [image.tobytes() for image in images]

def read(_):
    return [image.tobytes() for image in images]

with multiprocessing.get_context("fork").Pool(3) as pool:
    print(all(got == expected for got in pool.map(read, range(30))))
"""


def test_forked_processes_do_not_disturb_each_other(folder_of, zip_of):  # in a fresh process, which has no threads
    path = zip_of(folder_of([f"c{i % 3}/{i}.png" for i in range(30)]))
    done = subprocess.run([sys.executable, "-c", FORKS, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize(
    "name", ["/etc/cat/1.png", "../cat/1.png", "cat/../../1.png", "cat\\1.png", "C:/cat/1.png", "c:1.png", "cat//1.png", "./cat/1.png"]
)
def test_a_name_that_is_not_a_plain_relative_path_is_refused(zip_with, name):
    with pytest.raises(DataError, match=r"made.zip, entry '.*1.png': not a plain relative path"):
        load_task(zip_with({"cat/0.png": b"", name: b""}))


def test_a_symbolic_link_is_refused(zip_with):
    link = zipfile.ZipInfo("cat/1.png")
    link.external_attr = 0o120777 << 16
    with pytest.raises(DataError, match=r"entry 'cat/1.png': is a symbolic link"):
        load_task(zip_with({link: "/etc/passwd"}))


def test_an_entry_twice_is_refused(zip_with):
    with pytest.warns(UserWarning, match=r"Duplicate name"):
        path = zip_with({"cat/1.png": b"a", zipfile.ZipInfo("cat/1.png"): b"b"})
    with pytest.raises(DataError, match=r"entry 'cat/1.png': occurs twice"):
        load_task(path)


def test_an_encrypted_entry_is_refused(zip_with):
    path = zip_with({"cat/1.png": b"a"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"entry 'cat/1.png': is encrypted"):
        load_task(path)


def test_an_image_that_unpacks_to_too_much_is_refused_and_another_file_beside_is_not(zip_with, encoded, pixels, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_ENTRY_BYTES", 1000)
    image = encoded(pixels(0))
    assert len(load_task(zip_with({"cat/1.png": image, "dog/1.png": image, "boxes.json": bytes(1001)})).labels) == 2
    with pytest.raises(DataError, match=r"entry 'cat/1.png': has 1,001 bytes unpacked; allowed are 1,000"):
        load_task(zip_with({"cat/1.png": bytes(1001)}))


def test_an_entry_that_declares_less_than_it_holds_is_refused(folder_of, zip_of):
    path = zip_of(folder_of({"cat/1.png": bytes(10**6), "dog/1.png": None}))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(b"cat/1.png", data.index(signature)) - {22: 30, 24: 46}[offset] + offset, 5)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"entry cat/1.png: cannot be read from the archive"):
        load_task(path).images[0]


def test_a_wrong_checksum_names_the_entry(zip_with, encoded, pixels):
    image = encoded(pixels(0))
    path = zip_with({"cat/1.png": image, "dog/1.png": image})
    data = path.read_bytes()
    path.write_bytes(data.replace(image, image[:-1] + b"!", 1))
    task = load_task(path)
    with pytest.raises(DataError, match=r"made.zip, entry cat/1.png: cannot be read from the archive.*CRC"):
        task.images[0]
    np.testing.assert_array_equal(task.images[1], pixels(0))


def test_an_image_pillow_cannot_read_is_named(zip_with):
    with pytest.raises(DataError, match=r"made.zip, entry cat/1.png: cannot be read as an image"):
        load_task(zip_with({"cat/1.png": b"x", "dog/1.png": b"x"})).images[0]


def test_an_entry_that_cannot_be_opened_is_named(folder_of, zip_of):
    where = str(zip_of(folder_of(ENTRIES)))
    source = image_folder.EntrySource(where, PerProcess(partial(zipfile.ZipFile, where)))
    with source.open(ENTRIES[0]) as file:
        assert file.read(4) == b"\x89PNG"
    with pytest.raises(DataError, match=r"photos.zip, entry cat/gone.png: cannot be read from the archive .*Pack the archive again"):
        source.open("cat/gone.png")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"bad.zip is a Git LFS pointer, .*: git lfs pull\.$"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\n", r"bad.zip is a Git LFS pointer, .*: git lfs pull\.$"),
        (b"<!doctype html><title>Sign in</title>", r"bad.zip is a web page, .*Try: download the file itself\.$"),
    ],
)
def test_what_lies_in_the_place_of_the_archive_is_named(tmp_path, content, sentence):
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        load_task(tmp_path / "bad.zip")


def test_what_is_not_a_whole_zip_is_refused(zip_with, tmp_path):
    whole = zip_with({"cat/1.png": b"x" * 1000}).read_bytes()
    for data in (b"", b"hello", whole[:500]):
        (tmp_path / "bad.zip").write_bytes(data)
        with pytest.raises(DataError, match=r"bad.zip: cannot be read as a zip archive"):
            load_task(tmp_path / "bad.zip")


@hypothesis.given(place=st.integers(0, 10_000), value=st.integers(0, 255))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=40)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_byte_gives_the_images_or_an_error_of_ours(zip_with, encoded, pixels, place, value):
    path = zip_with({"cat/1.png": encoded(pixels(0)), "dog/1.png": encoded(pixels(1))})
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        images = list(load_task(path).images)
    except NtkSelectError:
        return
    for seed, image in enumerate(images):
        np.testing.assert_array_equal(image, pixels(seed))
