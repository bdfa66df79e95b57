"""Miniature archives with the published layouts become tasks with the original pixels and classes."""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ntk_select.data import KNOWN, load_task
from ntk_select.data.published import prepare, readers
from ntk_select.data.published.readers import split_by_share
from ntk_select.errors import DataError, TaskError

pytest.importorskip("tensorflow_datasets")
TILES = ("Blowhole", "Break", "Crack", "Fray", "Free", "Uneven")
EXTRA = b"no image"


def photo(name, form="JPEG"):
    """The bytes of an image that depends on its name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (8 + seed % 3, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def decoded(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded))).tobytes()


def zip_file(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tar_file(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shown(images, labels, names):
    """Sorted (pixels, class name)."""
    return sorted((image.tobytes(), names[label]) for image, label in zip(images, labels, strict=True))


def both(task):
    return shown(task.images, task.labels, task.class_names), shown(task.test_images, task.test_labels, task.class_names)


def written(images):
    """As `shown`, from {name: (encoded, class name)}."""
    return sorted((decoded(encoded), label) for encoded, label in images.items())


def load(tmp_path, name, archive, **options):
    done = prepare.prepare(name, archive, data_dir=tmp_path / "sets", **{"any_size": True, **options})
    task = load_task(f"{name}:{tmp_path / 'sets'}")
    assert (done.train, done.test, done.classes) == (len(task.labels), len(task.test_labels), task.num_classes)
    return task


@pytest.fixture
def tiles(tmp_path):
    """A zip as GitHub packs it: six classes of 8 images, with masks next to them."""
    root = "Magnetic-tile-defect-datasets.-master/"
    names = [f"{root}MT_{label}/Imgs/exp{i}.jpg" for label in TILES for i in range(8)]
    entries = {root + "README.md": b"words"} | {name: photo(name) for name in names}
    return zip_file(tmp_path / "tiles.zip", entries | {name[:-3] + "png": photo("mask", "PNG") for name in names})


def test_magnetic_tile_has_three_quarters_of_every_class_for_training_and_no_masks(tmp_path, tiles):
    task = load(tmp_path, "magnetic_tile", tiles)
    assert (task.name, task.class_names, task.licence) == ("magnetic_tile", TILES, "not stated")
    assert (np.bincount(task.labels) == 6).all()
    assert (np.bincount(task.test_labels) == 2).all()
    train, test = both(task)
    with zipfile.ZipFile(tiles) as archive:
        images = {archive.read(name): name.split("/")[1][3:] for name in archive.namelist() if name.endswith(".jpg")}
    assert sorted(train + test) == written(images)
    assert task.details["warnings"][0] == "The table has 1,008 training images; here are 36."


def test_the_split_does_not_depend_on_the_order_in_the_archive(tmp_path, tiles):
    with zipfile.ZipFile(tiles) as archive:
        entries = {name: archive.read(name) for name in reversed(archive.namelist())}
    first = load(tmp_path, "magnetic_tile", tiles)
    second = load(tmp_path / "again", "magnetic_tile", tar_file(tmp_path / "tiles.tgz", entries))
    assert both(first) == both(second)


def test_tensorflow_is_not_imported(tmp_path, tiles):
    code = (
        "import sys; from ntk_select.cli import main; from ntk_select.data import load_task;"
        "assert main(['tasks', 'prepare', 'magnetic_tile', '--archive', sys.argv[1], '--data-dir', sys.argv[2], '--any-size', '--json']) == 0;"
        "load_task('magnetic_tile:' + sys.argv[2]).images[0];"
        "print([m for m in ('tensorflow', 'torch', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiles), str(tmp_path / "sets")], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert json.loads(done.stdout.removesuffix("[]\n"))["train"] == 36


def test_logo_2k_takes_the_authors_lists(tmp_path):
    rows = [f"{root}/{logo}/{i}.jpg" for root, logo in (("Food", "Apple"), ("Clothes", "Apple"), ("Food", "Bee")) for i in range(5)]
    lists = {
        "List/train_images_root.txt": "\r\n".join(row for row in rows if row[-5] in "012"),
        "List/test_images_root.txt": "\n".join(rows[3::5] + rows[4::5]),
    }
    archive = zip_file(tmp_path / "logos.zip", {f"Logo-2K+/{row}": photo(row) for row in rows} | lists | {"Logo-2K+/Food/Apple/9.jpg": photo("9")})
    task = load(tmp_path, "logo_2k", archive)
    assert task.class_names == ("Clothes/Apple", "Food/Apple", "Food/Bee")
    assert both(task) == tuple(
        written({photo(row): row.rpartition("/")[0] for row in rows if (row[-5] in "012") == train}) for train in (True, False)
    )


@pytest.mark.parametrize("clean", [True, False])
def test_google_landmarks_takes_the_landmarks_with_most_images(tmp_path, monkeypatch, clean):
    monkeypatch.setattr(readers, "LANDMARKS", 2)
    monkeypatch.setattr(readers, "IMAGES", 16)
    folder = tmp_path / "landmarks"
    folder.mkdir()
    of = {f"{number:x}{i:015x}": landmark for number, (landmark, size) in enumerate({"7": 10, "9": 8, "10": 8, "3": 1}.items()) for i in range(size)}
    if clean:
        lines = ["landmark_id,images", *(f"{one}," + " ".join(i for i in of if of[i] == one) for one in ("9", "10", "7", "3"))]
        (folder / "train_clean.csv").write_text("\n".join(lines))
    else:
        (folder / "train.csv").write_text("\n".join(["id,url,landmark_id", *(f'{i},"http://x/a,b.jpg",{one}' for i, one in of.items())]))
    for part in range(2):
        inside = {f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg": photo(i) for number, i in enumerate(of) if number % 2 == part}
        tar_file(folder / f"images_00{part}.tar", inside, "w")
    task = load(tmp_path, "google_landmarks", folder)
    assert task.class_names == ("7", "9")
    assert (len(task.labels), len(task.test_labels)) == (15, 1)
    assert abs(np.bincount([*task.labels, *task.test_labels]) - np.array([10, 8]) * 16 / 18).max() <= 1
    train, test = both(task)
    assert set(train + test) <= set(written({photo(i): one for i, one in of.items()}))


def test_inaturalist_follows_its_lists_and_tells_equal_names_apart(tmp_path):
    folder = tmp_path / "inat"
    folder.mkdir()
    names = {4: "oak", 9: "elm", 11: "oak"}
    files = {number: [f"train_val2019/Plants/{number}/{i}.jpg" for i in range(4)] for number in names}

    def listed(chosen):
        images = [(number, file) for number in names for file in files[number][chosen]]
        return json.dumps(
            {
                "categories": [{"id": number, "name": name} for number, name in reversed(names.items())],
                "images": [{"id": id, "file_name": file} for id, (_, file) in enumerate(images)],
                "annotations": [{"image_id": id, "category_id": number} for id, (number, _) in enumerate(images)],
            }
        ).encode()

    tar_file(folder / "train_val2019.tar.gz", {"./" + file: photo(file) for of in files.values() for file in reversed(of)})
    tar_file(folder / "train2019.json.tar.gz", {"train2019.json": listed(slice(3))})
    tar_file(folder / "val2019.json.tar.gz", {"val2019.json": listed(slice(3, 4))})
    task = load(tmp_path, "inaturalist2019", folder)
    assert task.class_names == ("oak (4)", "elm", "oak (11)")
    called = dict(zip(names, task.class_names, strict=True))
    assert both(task) == tuple(written({photo(file): called[n] for n in names for file in files[n][part]}) for part in (slice(3), slice(3, 4)))


def test_imaterialist_leaves_out_what_is_not_there_or_no_image(tmp_path):
    folder = tmp_path / "products"
    (folder / "images").mkdir(parents=True)
    images = {f"{label}a{i}": label for label in (0, 5, 12) for i in range(6)}
    lists = {"train.json": [i for i in images if i[-1] != "5"], "val.json": [i for i in images if i[-1] == "5"]}
    for name, ids in lists.items():
        (folder / name).write_text(json.dumps({"images": [{"id": i, "url": "http://x", "class": images[i]} for i in ids]}))
    for i in images:
        if i != "0a1":
            (folder / "images" / (i if i[-1] == "2" else f"{i}.jpg")).write_bytes(b"<html>gone" if i == "5a3" else photo(i))
    done = prepare.prepare("imaterialist", folder, data_dir=tmp_path / "sets")
    assert (done.train, done.test, done.left_out) == (13, 3, 1)
    task = load_task("imaterialist", data_dir=tmp_path / "sets")
    assert task.class_names == ("0", "5", "12")
    there = {i: str(label) for i, label in images.items() if i not in ("0a1", "5a3")}
    assert both(task) == tuple(written({photo(i): label for i, label in there.items() if (i[-1] == "5") == test}) for test in (False, True))


def test_a_list_that_is_a_pointer_is_refused_for_what_it_is(tmp_path):
    entries = {f"{name}.json": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n" for name in ("train", "val")}
    with pytest.raises(DataError, match=r"^\S+p.zip, train.json is a Git LFS pointer, .*git lfs pull\.$"):
        prepare.prepare("imaterialist", zip_file(tmp_path / "p.zip", entries), data_dir=tmp_path / "sets")


def test_a_split_of_which_no_file_is_an_image_is_refused(tmp_path):
    entries = {f"{name}.json": json.dumps({"images": [{"id": name + i, "class": int(i)} for i in "01"]}) for name in ("train", "val")}
    entries |= {f"train{i}.jpg": photo(i) for i in "01"} | {f"val{i}.jpg": EXTRA for i in "01"}
    with pytest.raises(DataError, match=r"^\S+p.zip: no file of the test split is an image. Try: download the archive again$"):
        prepare.prepare("imaterialist", zip_file(tmp_path / "p.zip", entries), data_dir=tmp_path / "sets")
    assert not [path for path in (tmp_path / "sets").rglob("*") if path.is_file()]


def batches(protocol, **changes):
    """CUCUMBER-9's files: 3 classes, 6 images in each of six batches."""
    made = {"batches.meta": {"label_names": ["L", "M", "S"], "num_cases_per_batch": 6}}
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        made[name] = {"data": rng.integers(0, 256, (18, 1024), np.uint8), "labels": [0, 1, 2] * 2, "filenames": ["x.png"] * 6}
    return {f"cucumber-9-python/{name}": pickle.dumps(value, protocol) for name, value in (made | changes).items()}, made


@pytest.mark.parametrize("protocol", [2, 4])
def test_cucumber_has_the_pixels_of_the_pickled_arrays(tmp_path, protocol):
    entries, made = batches(protocol)
    task = load(tmp_path, "cucumber", tar_file(tmp_path / "cucumber-9-python.tar.gz", entries))
    assert task.class_names == ("L", "M", "S")

    def images(*names):
        rows = [row for name in names for row in zip(made[name]["data"].reshape(6, 3, 32, 32), made[name]["labels"], strict=True)]
        return sorted((np.moveaxis(image, 0, 2).tobytes(), "LMS"[label]) for image, label in rows)

    assert both(task) == (images(*(f"data_batch_{i}" for i in range(1, 6))), images("test_batch"))


def test_arrays_pickled_by_an_older_numpy_are_read(tmp_path):
    entries, _ = batches(2)
    entries = {name: content.replace(b"numpy._core.", b"numpy.core.") for name, content in entries.items()}
    assert b"numpy.core." in entries["cucumber-9-python/test_batch"]
    assert len(load(tmp_path, "cucumber", tar_file(tmp_path / "c.tgz", entries)).labels) == 30


class Hostile:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_batch": Hostile()}, r"test_batch: not in the published format .*it refers to \w+.print, which is not part of an array"),
        ({"batches.meta": {}}, r"batches.meta: not in the published format \(KeyError"),
        (
            {"test_batch": {"labels": [0], "data": np.zeros((2, 1024), np.uint8)}},
            r"test_batch: not in the published format.*uint8 \(2, 1024\) for 1 labels",
        ),
        ({"test_batch": {"labels": [0], "data": "text"}}, r"test_batch: not in the published format.*data is a str"),
        (
            {"test_batch": {"labels": [7], "data": np.zeros((3, 1024), np.uint8)}},
            r"test_batch: not in the published format.*labels \[7\] for 3 names",
        ),
    ],
)
def test_pickles_that_are_no_arrays_are_refused(tmp_path, capsys, changes, message):
    archive = tar_file(tmp_path / "c.tgz", batches(2, **changes)[0])
    with pytest.raises(DataError, match=message):
        prepare.prepare("cucumber", archive, data_dir=tmp_path / "sets")
    assert capsys.readouterr().out == ""


@pytest.fixture
def flood(tmp_path):
    folder = tmp_path / "flood"
    folder.mkdir()
    lists = {"irrelevant": range(20), "flooding": range(20, 60), "depth": range(50, 70), "pollution": range(60, 80)}
    zip_file(folder / "repository.zip", {f"eu-flood-dataset-master/relevance/{task}.txt": "\n".join(map(str, ids)) for task, ids in lists.items()})
    with zipfile.ZipFile(folder / "repository.zip", "a") as archive:
        archive.writestr("eu-flood-dataset-master/examples.jpg", photo("example"))
    zip_file(folder / "european-flood-2013_imgs_small.zip", {f"imgs_small/{i}.jpg": photo(str(i)) for i in range(80)})
    return folder


def test_eu_flood_gives_every_listed_image_one_class(tmp_path, flood):
    task = load(tmp_path, "eu_flood", flood)
    assert task.class_names == ("other", "depth")
    assert (np.bincount(task.labels).tolist(), np.bincount(task.test_labels).tolist()) == ([51, 17], [9, 3])
    train, test = both(task)
    assert sorted(train + test) == written({photo(str(i)): "depth" if 50 <= i < 70 else "other" for i in range(80)})


def test_listed_images_that_are_missing_are_counted(tmp_path, flood):
    zip_file(flood / "european-flood-2013_imgs_small.zip", {f"imgs_small/{i}.jpg": photo(str(i)) for i in range(78)})
    with pytest.raises(DataError, match=r"2 of 80 listed images are missing: 78, 79. Expected: a folder with the archive of images"):
        prepare.prepare("eu_flood", flood, data_dir=tmp_path / "sets")


BOX = "1\t2\t30\t40"


@pytest.fixture
def belga(tmp_path):
    """Nine photographs of each of two logos; one with both, one with none that is clearly visible."""
    folder = tmp_path / "belga"
    folder.mkdir()
    rows = [(logo, f"{logo}{i}.jpg", 1) for logo in ("Kia", "Nike") for i in range(9)]
    rows += [("Kia", "Kia0.jpg", 1), ("Nike", "Kia1.jpg", 0), ("Kia", "two.jpg", 1), ("Nike", "two.jpg", 1), ("Puma", "none.jpg", 0)]
    lines = [f"{logo}{n}\t{logo}\t{image}\tok\t{state}\t{BOX}" for n, (logo, image, state) in enumerate(rows)]
    (folder / "qset3_internal_and_local.gt").write_text("\n".join(lines) + "\n")
    names = sorted({image for _, image, _ in rows})
    tar_file(folder / "images.tar.gz", {f"images/{name}": photo(name) for name in names})
    return folder


def test_belga_logos_are_photographs_with_one_clearly_visible_logo(tmp_path, belga):
    task = load(tmp_path, "belga_logos", belga)
    assert task.class_names == ("Kia", "Nike")
    assert (len(task.labels), len(task.test_labels)) == (14, 4)
    train, test = both(task)
    assert sorted(train + test) == written({photo(f"{logo}{i}.jpg"): logo for logo in ("Kia", "Nike") for i in range(9)})
    assert task.details["warnings"][-1] == "The table has 27 classes; here are 2."


@pytest.mark.parametrize("line", ["Kia1\tKia\ta.jpg\tok\t1\t1\t2\t3", f"Kia1\tKia\ta.jpg\tok\tyes\t{BOX}", "Kia1\tKia\ta.jpg\tok\t1\t1\t2\t3\tx"])
def test_a_line_of_the_ground_truth_of_another_form_is_named(tmp_path, belga, line):
    with open(belga / "qset3_internal_and_local.gt", "a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"qset3_internal_and_local.gt, line 24: not in the published format"):
        prepare.prepare("belga_logos", belga, data_dir=tmp_path / "sets")


def test_another_size_than_the_tables_is_refused_unless_it_is_allowed(tmp_path, tiles):
    with pytest.raises(DataError, match=r"36 training and 12 test images of 6 classes; table 4 has 1,008, 336 and 6.*try: any_size=True"):
        prepare.prepare("magnetic_tile", tiles, data_dir=tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_what_is_prepared_is_not_overwritten(tmp_path, tiles):
    load(tmp_path, "magnetic_tile", tiles)
    with pytest.raises(
        DataError, match=r"magnetic_tile is already prepared in .*sets/magnetic_tile/1.0.0 and is not overwritten. Try: delete that folder"
    ):
        load(tmp_path, "magnetic_tile", tiles)


def test_an_entry_that_is_no_image_stops_the_work_and_leaves_nothing(tmp_path, tiles):
    with zipfile.ZipFile(tiles, "a") as archive:
        archive.writestr("x/MT_Free/Imgs/bad.jpg", EXTRA)
    with pytest.raises(DataError, match=r"^\S+tiles.zip, x/MT_Free/Imgs/bad.jpg: cannot be read as an image. Try: download"):
        load(tmp_path, "magnetic_tile", tiles)
    assert not [path for path in (tmp_path / "sets").rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, tiles):
    (tmp_path / "sets").write_text("a file")
    with pytest.raises(DataError, match=r"sets: cannot be written .*Try: data_dir=ANOTHER_FOLDER"):
        load(tmp_path, "magnetic_tile", tiles)


def test_progress_counts_every_image_once(tmp_path, tiles):
    calls = []
    load(tmp_path, "magnetic_tile", tiles, progress=lambda done, total, name: calls.append((done, total)))
    assert calls == [(i, 48) for i in range(1, 49)]


@pytest.mark.parametrize("name", ["", "a\nb", "a\ud800"])
def test_class_names_that_do_not_fit_in_a_line_are_refused(tmp_path, name):
    meta = {"label_names": ["L", name, "S"]}
    with pytest.raises(DataError, match=r"class names that do not fit in one line of text: '"):
        load(tmp_path, "cucumber", tar_file(tmp_path / "c.tgz", batches(2, **{"batches.meta": meta})[0]))


def test_magnetic_tile_of_the_published_size_is_split_as_in_the_table(tmp_path):
    counts = dict(zip(TILES, (115, 85, 57, 32, 952, 103), strict=True))
    names = [f"MT_{label}/Imgs/{i}.jpg" for label, size in counts.items() for i in range(size)]
    task = load(tmp_path, "magnetic_tile", zip_file(tmp_path / "tiles.zip", dict.fromkeys(names, photo("one"))), any_size=False)
    assert (len(task.labels), len(task.test_labels), task.details["warnings"]) == (1008, 336, [])


BY_SEED = [name for name, known in KNOWN.items() if "seed 0" in known.split]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.nightly] * (name == "google_landmarks")) for name in BY_SEED])
def test_the_share_gives_the_sizes_of_the_table(name):
    known = KNOWN[name]
    rows = [(str(i), i % known.classes) for i in range(known.train + known.test)]
    train, test = split_by_share(rows, known.share)
    assert (len(train), len(test)) == (known.train, known.test)
    assert np.ptp(np.bincount([label for _, label in train])) <= 1


def test_images_listed_twice_count_once_but_not_with_two_classes(tmp_path):
    rows = [f"Food/{logo}/{i}.jpg" for logo in "AB" for i in range(3)]
    entries = {row: photo(row) for row in rows} | {"test.txt": "\n".join(rows)}
    task = load(tmp_path, "logo_2k", zip_file(tmp_path / "a.zip", entries | {"train.txt": "\n".join(rows + rows[:2])}))
    assert (len(task.labels), len(task.test_labels)) == (6, 6)
    folder = tmp_path / "products"
    folder.mkdir()
    for name in ("train.json", "val.json"):
        (folder / name).write_text(json.dumps({"images": [{"id": "a", "class": 0}, {"id": "a.jpg", "class": 1}]}))
    (folder / "a.jpg").write_bytes(photo("a"))
    with pytest.raises(DataError, match=r"listed with more than one class: a.jpg, a.jpg. Expected"):
        prepare.prepare("imaterialist", folder, data_dir=tmp_path / "sets")


def test_names_that_cannot_be_prepared_here_are_told_what_to_type(tmp_path):
    with pytest.raises(TaskError, match=r"Unknown set 'magnetic'.*Did you mean 'magnetic_tile'.*tasks prepare magnetic_tile --archive PATH"):
        prepare.prepare("magnetic", "x.zip")
    with pytest.raises(
        DataError, match=r"food101 is prepared by TensorFlow Datasets, not here\..* Then try: ntk-select tasks show food101:/d --download$"
    ):
        prepare.prepare("food101", "x.zip", data_dir="/d")


def test_every_set_that_tensorflow_datasets_lacks_has_a_reader():
    assert list(prepare.READERS) == [name for name, known in KNOWN.items() if known.tfds is None]


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("magnetic_tile", {"README.md": b""}, r"contains 0 training and 0 test images of 0 classes of magnetic_tile; a task needs both"),
        ("logo_2k", {"a/b/c.jpg": b""}, r"there is no train_images_root.txt or train.txt. Expected: ROOT/LOGO/IMAGE"),
        ("logo_2k", {"train.txt": b"a/b.jpg", "test.txt": b""}, r"train.txt: not in the published format .*'a/b.jpg' is not ROOT/LOGO/IMAGE"),
        ("logo_2k", {"train.txt": b"\xff\xfe"}, r"train.txt: not text in UTF-8"),
        ("google_landmarks", {"train.csv": b"a,b,c\n1,2,3"}, r"train.csv: not in the published format .*its first line is 'a,b,c'"),
        ("google_landmarks", {"train.csv": b"id,url,landmark_id\n1,2,x"}, r"train.csv: not in the published format .*invalid literal"),
        ("google_landmarks", {"train.csv": b"id,url,landmark_id\n1,2,3"}, r"none of the listed images exists"),
        ("imaterialist", {"train.json": b"{"}, r"train.json: not JSON"),
        ("imaterialist", {"train.json": b"[]"}, r"train.json: not a JSON object but a list"),
        ("imaterialist", {"train.json": b'{"images": [{"id": "a"}]}'}, r"train.json: not in the published format \(KeyError: 'class'"),
        ("inaturalist2019", {"train2019.json": b'{"categories": []}'}, r"train2019.json: not in the published format \(KeyError: 'images'"),
        (
            "inaturalist2019",
            {
                "train2019.json": b'{"categories": [], "images": [], "annotations": []}',
                "val2019.json": b'{"categories": [{"id": 1, "name": "a"}], "images": [], "annotations": []}',
            },
            r"val2019.json: not in the published format .*its categories are not those of train2019.json",
        ),
    ],
)
def test_archives_of_another_form_say_what_is_needed(tmp_path, name, entries, message):
    archive = zip_file(tmp_path / "other.zip", entries)
    with pytest.raises(DataError, match=message):
        prepare.prepare(name, archive, data_dir=tmp_path / "sets")
