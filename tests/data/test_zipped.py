"""An archive is the same task as the folder it was packed from; a harmful or damaged one is refused."""

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
from ntk_select.data import load_task, zipped
from ntk_select.data.lazy import PerProcess

from ntk_select.errors import DataError, NtkSelectError

PATHS = ["train/cat/a10.png", "train/cat/a9.png", "train/dog/a.png", "test/dog/z.png", "test/ant/z.png", "README.md", "train/.DS_Store"]


@pytest.mark.parametrize("prefix", ["", "wrapped/"])
def test_an_archive_is_the_folder_it_was_packed_from(folder_of, zip_of, prefix):
    folder = folder_of([prefix + path for path in PATHS])
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
        load_task(zip_of(folder_of([*PATHS[:4], "train/ant/"])))


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
    with pytest.raises(DataError, match=r"entry 'cat/1.png': is there twice"):
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
    monkeypatch.setattr(zipped, "MAX_ENTRY_BYTES", 1000)
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
    where = str(zip_of(folder_of(PATHS)))
    source = zipped.EntrySource(where, PerProcess(partial(zipfile.ZipFile, where)))
    with source.open(PATHS[0]) as file:
        assert file.read(4) == b"\x89PNG"
    with pytest.raises(DataError, match=r"photos.zip, entry cat/gone.png: cannot be read from the archive .*Pack the archive again"):
        source.open("cat/gone.png")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"bad.zip is a Git LFS pointer, .*: git lfs pull\.$"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\n", r"bad.zip is a Git LFS pointer, .*: git lfs pull\.$"),
        (b"<!doctype html><title>Sign in</title>", r"bad.zip is a web page, .*Fetch the file itself\.$"),
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
        with pytest.raises(DataError, match=r"bad.zip: not a zip archive that can be read"):
            load_task(tmp_path / "bad.zip")


@hypothesis.given(place=st.integers(0, 10_000), value=st.integers(0, 255))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
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
