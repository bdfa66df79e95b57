"""Data sets of Hugging Face datasets, written to disk by the package itself, are tasks; and every mistake is a sentence. Without a network."""

import itertools
import json
import os
import pickle
import shutil
import sys

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image

from ntk_select.data import hugging_face, load_task
from ntk_select.errors import DataError, MissingDependencyError, TaskError

CLASSES = ["circle", "square", "star"]
FEATURES = {"image": datasets.Image(), "label": ClassLabel(names=CLASSES), "age": Value("int64")}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """An empty cache, and no network."""
    datasets.disable_progress_bars()
    for name in ("HF_CACHE_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def picture(number):
    """Image number i: grey value i, 4 + i pixels high."""
    return Image.fromarray(np.full((4 + number, 5, 3), number, np.uint8))


def rows(numbers, features=FEATURES, **columns):
    """A data set of images with label i % 3 and age 10 i, or other columns."""
    numbers = list(numbers)
    made = {"image": [picture(i) for i in numbers], "label": [i % 3 for i in numbers], "age": [10 * i for i in numbers]} | columns
    return Dataset.from_dict({name: made[name] for name in features}, features=Features(features))


@pytest.fixture
def saved(tmp_path):
    """saved(name=dataset, ...) writes splits by save_to_disk, and gives the folder."""

    def write(**splits):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        DatasetDict(splits).save_to_disk(tmp_path / "set")
        return tmp_path / "set"

    return write


@pytest.fixture
def parquet(tmp_path):
    """parquet(name=dataset, ...) writes one Parquet file for each split, and gives the folder."""

    def write(**splits):
        (tmp_path / "files" / "data").mkdir(parents=True)
        for name, split in splits.items():
            split.to_parquet(tmp_path / "files" / "data" / f"{name}-00000-of-00001.parquet")
        return tmp_path / "files"

    return write


def key_of(image):
    """The number of an image, from its pixels."""
    assert image.shape == (4 + image[0, 0, 0], 5, 3)
    assert image.dtype == np.uint8
    return int(image[0, 0, 0])


def labelled(images, labels):
    return {key_of(image): int(label) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_images_and_labels_are_those_that_were_written(kind, request):
    folder = request.getfixturevalue(kind)(train=rows(range(8)), test=rows(range(8, 12)))
    task = load_task(f"hf:{folder}")
    assert (task.name, task.class_names, task.details["warnings"]) == (folder.name, tuple(CLASSES), [])
    assert labelled(task.images, task.labels) == {i: i % 3 for i in range(8)}
    assert labelled(task.test_images, task.test_labels) == {i: i % 3 for i in range(8, 12)}
    again = pickle.loads(pickle.dumps(task))
    np.testing.assert_array_equal(again.images[3], task.images[3])
    assert len(pickle.dumps(task)) < 20_000  # the files are named, not their images
    files, name = task.images.origin(0)
    assert all(file.endswith(".arrow") for file in files)
    assert name == "train 0"
    assert task.images.content(0).startswith(b"\x89PNG")


def test_a_single_data_set_is_for_training(tmp_path):
    rows(range(6)).save_to_disk(tmp_path / "one")
    task = load_task(f"hf:{tmp_path / 'one'}")
    assert labelled(task.images, task.labels) == {i: i % 3 for i in range(6)}
    assert task.test_images is None


def test_classes_without_images_keep_their_place(saved):
    task = load_task(f"hf:{saved(train=rows([0, 3, 2]), test=rows([1]))}")
    assert task.class_names == tuple(CLASSES)
    assert labelled(task.images, task.labels) == {0: 0, 3: 0, 2: 2}
    assert task.test_labels.tolist() == [1]


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["b", "a10", "a9", "b"], "string", ("a9", "a10", "b")),
        ([10, 9, 2, 2], "int32", ("2", "9", "10")),
        ([True, False, True, False], "bool", ("False", "True")),
    ],
)
def test_labels_may_be_texts_integers_or_truth_values(saved, values, kind, names):
    features = {"image": datasets.Image(), "species": Value(kind)}
    task = load_task(f"hf:{saved(train=rows(range(4), features, species=values))}?label=species")
    assert task.class_names == names
    assert labelled(task.images, task.labels) == {i: names.index(str(value)) for i, value in enumerate(values)}


def test_a_usual_name_of_a_label_is_found_and_class_labels_come_first(saved):
    features = {"picture": datasets.Image(), "class": Value("string"), "id": Value("int64")}
    task = load_task(f"hf:{saved(train=rows(range(4), features, picture=[picture(i) for i in range(4)], id=[5] * 4, **{'class': list('abab')}))}")
    assert task.class_names == ("a", "b")
    features = FEATURES | {"target": Value("string"), "kind": ClassLabel(names=["x", "y"])}
    folder = saved(train=rows(range(4), features, target=list("abab"), kind=[0, 1, 1, 0]))
    assert load_task(f"hf:{folder}").class_names == tuple(CLASSES)
    assert load_task(f"hf:{folder}?label=kind").class_names == ("x", "y")
    assert load_task(f"hf:{folder}?label=target&image=image").class_names == ("a", "b")


def test_images_may_be_bytes_without_a_type_or_files_in_the_folder(saved, tmp_path, encoded):
    data = [encoded(np.asarray(picture(i))) for i in range(4)]
    plain = {"image": Value("binary"), "label": Value("int64")}
    task = load_task(f"hf:{saved(train=rows(range(4), plain, image=data))}")
    assert labelled(task.images, task.labels) == {i: i % 3 for i in range(4)}
    pair = {"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("int64")}
    task = load_task(f"hf:{saved(train=rows(range(4), pair, image=[{'bytes': each, 'path': 'x.png'} for each in data]))}")
    assert labelled(task.images, task.labels) == {i: i % 3 for i in range(4)}
    for i in range(4):
        place = tmp_path / "tree" / "train" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(data[i])
    task = load_task(f"hf:{tmp_path / 'tree'}")
    assert labelled(task.images, task.labels) == {i: i % 2 for i in range(4)}
    assert task.images.origin(0) == ((str(tmp_path / "tree" / "train" / "a" / "0.png"),), "")


def test_orientation_grey_and_16_bits_are_handled_as_elsewhere(saved, encoded):
    exif = Image.Exif()
    exif[274] = 6
    turned = encoded(np.arange(12, dtype=np.uint8).reshape(3, 4), exif=exif)
    deep = [encoded(np.full((2, 2), value, np.uint16)) for value in (4095, 1000)]
    features = {"image": datasets.Image(), "label": Value("int64")}
    data = [{"bytes": each, "path": None} for each in (turned, *deep)]
    task = load_task(
        f"hf:{saved(train=rows(range(3), features, image=data, label=[0, 0, 1]), test=rows(range(1), features, image=data[2:], label=[0]))}"
    )
    np.testing.assert_array_equal(task.images[0], np.rot90(np.arange(12, dtype=np.uint8).reshape(3, 4), -1))
    assert [int(image[0, 0]) for image in (task.images[1], task.images[2], task.test_images[0])] == [255, 62, 62]
    assert task.details["warnings"][-1].startswith("Grey images of more than 8 bits are read as 12 bits")


def test_the_test_split_is_the_first_usual_one_that_has_labels(saved):
    hidden = {"label": [-1, 0]}
    task = load_task(f"hf:{saved(train=rows(range(6)), test=rows([6, 7], **hidden), validation=rows([8, 9]))}")
    assert labelled(task.test_images, task.test_labels) == {8: 2, 9: 0}
    assert task.details["warnings"][0] == "Ignored, because it has images without a label: the split 'test'."
    folder = saved(part1=rows(range(6)), part2=rows([6, 7]), test=rows([8]))
    with pytest.raises(DataError, match=r"there is no split 'train'. Splits: part1, part2, test. Try: 'hf:.*\?train=SPLIT'"):
        load_task(f"hf:{folder}")
    task = load_task(f"hf:{folder}?train=part1&test=part2")
    assert (len(task.labels), labelled(task.test_images, task.test_labels)) == (6, {6: 0, 7: 1})
    task = load_task(f"hf:{saved(everything=rows(range(6)))}")
    assert task.details["warnings"] == ["The only split, 'everything', is for training."]


def test_a_set_of_the_hub_is_read_from_its_cache(parquet, tmp_path):
    load_task(f"hf:{parquet(train=rows(range(8)), test=rows(range(8, 12)))}")
    for config in ("small", "large"):
        for file in shutil.copytree(tmp_path / "hub" / "files" / "default", tmp_path / "hub" / "org___mnist" / config).rglob("*.*"):
            if file.name == "dataset_info.json":
                file.write_text(json.dumps(json.loads(file.read_text()) | {"config_name": config, "dataset_name": "mnist"}))
            elif file.suffix == ".arrow":
                file.rename(file.with_name(file.name.replace("files", "mnist")))
    with pytest.raises(DataError, match=r"^hf:org/mnist: .*(configurations|small)"):
        load_task("hf:org/mnist")
    task = load_task("hf:org/mnist:small")
    assert (task.name, task.flips_keep_class) == ("mnist-small", None)
    assert labelled(task.images, task.labels) == {i: i % 3 for i in range(8)}


def test_without_network_and_cache_the_command_for_a_network_is_told(tmp_path):
    with pytest.raises(
        DataError,
        match=rf"^The hub cannot be reached, and 'org/name' is not in its cache {tmp_path}/hub. Try, with a network: ntk-select tasks show hf:org/name:c$",
    ):
        load_task("hf:org/name:c")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("no"),
            "There is no data set 'org/name' on the hub that you may read. Try: the name as on its page",
        ),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "org/name: is made by a script; code of a data set is never run"),
        (ValueError("Config name is missing.\nPick one of: ['a', 'b']"), r"org/name: choose one of its configurations: 'a', 'b'. Try: hf:org/name:a"),
        (MemoryError("too large"), r"hf:org/name: cannot be loaded \(MemoryError: too large\). Try: another name, or a folder: hf:PATH"),
    ],
)
def test_what_the_hub_answers_is_said_in_a_sentence(monkeypatch, error, sentence):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(DataError, match=sentence):
        load_task("hf:org/name")


@pytest.mark.parametrize("argument", ["", "two words", "org/", "-x", "a:b:c"])
def test_an_argument_of_another_form_is_refused(argument):
    with pytest.raises(TaskError, match=r"allowed are hf:NAME\[:CONFIG\] and hf:PATH\[:CONFIG\]. Example: hf:uoft-cs/cifar10"):
        load_task(f"hf:{argument}")


def test_a_folder_that_is_not_there_is_named():
    for path in ("/no/where", "./nowhere", "~/nowhere", "a/b/c"):
        with pytest.raises(DataError, match=rf"There is no folder '{path}'. Try: hf:PATH, for example hf:photos"):
            load_task(f"hf:{path}")


def test_without_the_package_its_installation_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"The task hf:org/name needs the package datasets.*'\.\[hf-datasets\]'"):
        load_task("hf:org/name")


SEVERAL = {"a": datasets.Image(), "b": datasets.Image(), "label": ClassLabel(names=CLASSES)}
KINDS = {"image": datasets.Image(), "fine": ClassLabel(names=CLASSES), "coarse": ClassLabel(names=CLASSES)}
MULTI = {"image": datasets.Image(), "tags": List(ClassLabel(names=CLASSES))}
PICTURES = [picture(i) for i in range(3)]


@pytest.mark.parametrize(
    ("features", "columns", "query", "sentence"),
    [
        (SEVERAL, {"a": PICTURES, "b": PICTURES}, "", r"several columns could be the image: a, b. Choose one. Try: 'hf:.*\?image=COLUMN'"),
        (
            KINDS,
            {"fine": [0, 1, 2], "coarse": [0, 1, 1]},
            "",
            r"several columns could be the label: fine, coarse. Choose one. Try: 'hf:.*\?label=COLUMN'",
        ),
        (
            MULTI,
            {"tags": [[0, 1], [], [2]]},
            "",
            r"found no column of the label.*Columns: image \(Image\), tags \(List\). tags has several labels per image",
        ),
        ({"image": datasets.Image()}, {}, "", "found no column of the label, of type ClassLabel, text or integer"),
        ({"label": Value("int64")}, {}, "", "found no column of the image, of type Image. Columns: label"),
        (FEATURES, {}, "?image=age", "found no column of the image"),
        (FEATURES, {}, "?label=image", "found no column of the label"),
        (FEATURES, {}, "?label=lable", r"there is no column 'lable'. Did you mean 'label'\?"),
        (FEATURES, {}, "?test=train", r"the split 'train' is for training, and cannot be the test set too. Splits: train. Try: 'hf:.*\?test=SPLIT'"),
        (FEATURES, {}, "?test=validation", r"there is no split 'validation'. Splits: train. Try: 'hf:.*\?test=SPLIT'"),
        (FEATURES, {}, "?colour=red", "option 'colour' is unknown.*Allowed: image, label, revision, test, train"),
        (FEATURES, {"label": [0, -1, None]}, "", r"2 of 3 images of the split 'train' have no label. Try: 'hf:.*\?train=SPLIT'"),
        ({"image": datasets.Image(), "label": Value("float32")}, {"label": [float("nan"), 1, 2]}, "", "1 of 3 images of the split 'train' have no"),
        ({"image": datasets.Image(), "label": Value("float32")}, {"label": [0.5, 1, 2]}, "", "labels are numbers with fractions, as '0.5'"),
    ],
)
def test_wrong_columns_and_options_are_told_with_the_remedy(saved, features, columns, query, sentence):
    with pytest.raises((DataError, TaskError), match=sentence):
        load_task(f"hf:{saved(train=rows(range(3), features, **columns))}{query}")


def test_an_empty_split_and_rows_without_an_image_are_told(saved, monkeypatch):
    empty = {"train": rows(range(3)).filter(lambda row: False), "test": rows(range(3))}
    monkeypatch.setattr(hugging_face, "_saved", lambda datasets, path: empty)
    with pytest.raises(DataError, match=r"the split 'train' has no images. Try: 'hf:.*\?train=SPLIT'"):
        load_task(f"hf:{saved(train=rows(range(3)))}")
    monkeypatch.undo()
    task = load_task(f"hf:{saved(train=rows(range(4), image=[*PICTURES, None]))}")
    with pytest.raises(DataError, match=r"set, split train, row 3: has no image. Try: remove rows without an image"):
        list(task.images)


def test_nothing_outside_the_data_set_is_read(saved, parquet, tmp_path, encoded):
    (tmp_path / "secret.png").write_bytes(encoded(np.asarray(picture(1))))
    features = {"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("int64")}
    inside = tmp_path / "set" / "train" / ".." / ".." / "secret.png"
    for path in (tmp_path / "secret.png", inside, "../secret.png"):
        folder = saved(train=rows(range(2), features, image=[{"bytes": None, "path": str(path)}] * 2))
        with pytest.raises(
            DataError, match=r"images are stored outside the data set: .*secret.png.* Try: save_to_disk or to_parquet, which embed them"
        ):
            load_task(f"hf:{folder}")
    folder = saved(train=rows(range(4)))
    state = json.loads((folder / "train" / "state.json").read_text())
    (folder / "train" / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../../other.arrow"}]}))
    with pytest.raises(DataError, match=r"names files outside the folder: train, ../../other.arrow. Try: another copy"):
        load_task(f"hf:{folder}")
    (folder / "dataset_dict.json").write_text('{"splits": ["../x"]}')
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="names files outside the folder: ../x"):
        load_task(f"hf:{folder}")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [str(tmp_path / "nowhere")]}))  # refused before it is looked up
    with pytest.raises(DataError, match="names files outside the folder: /.*/nowhere. Try: another copy"):
        load_task(f"hf:{folder}")
    outside = parquet(train=rows(range(4)))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: ../files/data/*.parquet\n---\n")
    with pytest.raises(DataError, match=rf"repo: names files outside the data set: .*/{outside.name}/data/train-.*Try: another copy of the data set"):
        load_task(f"hf:{tmp_path / 'repo'}")


def test_paths_that_are_no_files_are_named(saved):
    features = {"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("int64")}
    for name, sentence in (
        ("a\0.png", r"a\x00\.png: cannot be opened \(.*embedded null (byte|character)"),
        ("pipe", r"pipe: is not a regular file\. Try: delete it"),
    ):
        root = saved(train=rows(range(2))) / "train"
        folder = saved(train=rows(range(2), features, image=[{"bytes": None, "path": str(root / name)}] * 2))
        if name == "pipe":
            os.mkfifo(root / name)  # nobody writes to it
        with pytest.raises(DataError, match=sentence):
            load_task(f"hf:{folder}").images[0]


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("files", ["http://127.0.0.1:1/a.png", "{train: ['http\\x3a//127.0.0.1:1/a.png']}", "[{split: train, path: [s3://a/b.png]}]"])
def test_no_address_in_a_description_is_asked(tmp_path, monkeypatch, name, files):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / "a.png")
    text = f"homepage: https://example.org\nconfigs:\n- config_name: default\n  data_files: {files}\n".replace("'", '"')
    (tmp_path / "set" / name).write_text(f"---\n{text}---\n" if name == "README.md" else text)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: pytest.fail("the package was asked"))
    with pytest.raises(DataError, match=r"set: names files outside the data set: (http|s3)://.*\.png\. Try: another copy"):
        load_task(f"hf:{tmp_path / 'set'}")


def test_a_description_that_expands_to_billions_of_values_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    picture(1).save(tmp_path / "set" / "a.png")
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"] + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in itertools.pairwise("abcdefghi")]
    (tmp_path / "set" / "README.md").write_text("---\n" + "\n".join(lines) + "\nconfigs:\n- data_files: *i\n---\n")
    with pytest.raises(DataError, match=r"its description has more than 100,000 values\. Try: delete README\.md, or another copy"):
        load_task(f"hf:{tmp_path / 'set'}")


def test_scripts_and_formats_without_images_are_refused(tmp_path):
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit(3)")
    with pytest.raises(DataError, match="script: is made by a script; code of a data set is never run. Try: a data set in Parquet files"):
        load_task(f"hf:{tmp_path / 'script'}")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="text: has files of the format text; allowed are Parquet and Arrow files, and images"):
        load_task(f"hf:{tmp_path / 'text'}")


def test_configurations_of_a_folder_are_told(parquet, tmp_path):
    folder = parquet(a=rows(range(4)), b=rows(range(6)))
    texts = [f"- config_name: {name}\n  data_files: data/{name}-*.parquet\n" for name in "ab"]
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(texts) + "---\n")
    with pytest.raises(DataError, match=rf"choose one of its configurations: 'a', 'b'. Try: hf:{folder}:a"):
        load_task(f"hf:{folder}")
    task = load_task(f"hf:{folder}:b")
    assert (task.name, len(task.labels)) == ("files-b", 6)


def test_damaged_files_are_named(saved, parquet):
    folder = saved(train=rows(range(8)))
    file = next((folder / "train").glob("*.arrow"))
    whole = file.read_bytes()
    for data in (b"", b"hello", whole[:200]):
        file.write_bytes(data)
        with pytest.raises(DataError, match=r"set: cannot be read as a folder of save_to_disk \(.*\). Try: save it again"):
            load_task(f"hf:{folder}")
    (folder / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"set: cannot be read as a folder of save_to_disk"):
        load_task(f"hf:{folder}")
    folder = parquet(train=rows(range(8)))
    next((folder / "data").iterdir()).write_bytes(b"PAR1 hello")
    with pytest.raises(DataError, match=r"files: Hugging Face datasets cannot read it \(.*\). Try: Parquet files, or images in train/CLASS/"):
        load_task(f"hf:{folder}")


def test_columns_that_become_unreadable_are_named(saved, monkeypatch):
    folder = saved(train=rows(range(4)))
    task = load_task(f"hf:{folder}")

    def refuse(*arguments, **options):
        raise OSError("gone")

    monkeypatch.setattr(Dataset, "__getitem__", refuse)
    with pytest.raises(DataError, match=r"set, split train, row 2: cannot be read \(OSError: gone\). Try: download or save"):
        task.images.content(list(task.labels).index(2))
    with pytest.raises(DataError, match=r"set: the labels cannot be read \(OSError: gone\)"):
        load_task(f"hf:{folder}")
    monkeypatch.setattr(hugging_face, "_values", lambda where, split, label: [0, 1, 2, 0])
    with pytest.raises(DataError, match=r"set: the images cannot be read \(OSError: gone\)"):
        load_task(f"hf:{folder}")


def test_progress_bars_of_the_package_are_as_before(saved):
    datasets.enable_progress_bars()
    load_task(f"hf:{saved(train=rows(range(4)))}")
    assert not datasets.utils.are_progress_bars_disabled()
