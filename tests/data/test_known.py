"""The benchmark's table is sound, and its sets are loaded with the table's splits."""

import io

import numpy as np
import pytest
from PIL import Image

from ntk_select.data import KNOWN, TASKS, load_task
from ntk_select.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")
TABLE_4 = {  # training images, testing images, classes, as the paper's appendix B prints them
    "resisc45": (25_200, 6_300, 45),
    "food101": (75_750, 25_250, 101),
    "logo_2k": (134_907, 32_233, 2_341),
    "google_landmarks": (200_000, 15_601, 256),
    "inaturalist2019": (265_213, 3_030, 1_010),
    "imaterialist": (965_782, 9_639, 2_019),
    "imagenet": (1_281_167, 50_000, 1_000),
    "places365": (1_803_460, 36_500, 365),
    "magnetic_tile": (1_008, 336, 6),
    "uc_merced": (1_575, 525, 21),
    "oxford_flowers": (2_040, 6_149, 102),
    "cucumber": (2_326, 597, 30),
    "eu_flood": (3_153, 557, 2),
    "oxford_pets": (3_680, 3_669, 37),
    "dtd": (4_230, 1_410, 47),
    "icassava": (5_367, 280, 5),
    "cub200": (5_994, 5_793, 200),
    "belga_logos": (7_500, 2_500, 27),
    "stanford_cars": (8_144, 8_041, 196),
}
PUBLISHED = {"cub200": "5,794", "dtd": "3,760", "icassava": "5,656", "imaterialist": "1,011,532", "belga_logos": "37 logos", "cucumber": "9 or 10"}
"""Sets whose published images differ from the table, and a figure of theirs."""


def prepare(data_dir, name, splits, classes=3):
    """Writes a set whose image number i is 4 + i % 7 pixels high, of class i % classes, with value i."""

    class Mini(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        __module__ = name

        def _info(self):
            label = tfds.features.ClassLabel(names=[f"c{i}" for i in range(classes)])
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label, "filename": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label", "filename"))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(numbers) for split, numbers in splits.items()}

        def _generate_examples(self, numbers):
            for i in numbers:
                file = io.BytesIO()
                Image.fromarray(np.full((4, 5, 3), i, np.uint8)).save(file, "PNG")
                file.seek(0)
                yield i, {"image": file, "label": i % classes, "filename": f"{i}.png"}

    Mini.name = name
    Mini(data_dir=data_dir, file_format="array_record").download_and_prepare()


def numbers(images, labels):
    """The sorted numbers of images, each of which must have the class of its number."""
    found = [int(image[0, 0, 0]) for image in images]
    assert [number % 3 for number in found] == labels.tolist()
    return sorted(found)


def test_the_table_has_8_sources_and_11_targets_and_each_is_a_kind_of_task():
    roles = [known.role for known in KNOWN.values()]
    assert roles == ["source"] * 8 + ["target"] * 11
    assert list(TASKS)[-19:] == list(KNOWN)
    for name, known in KNOWN.items():
        kind = TASKS[name]
        assert (kind.known, kind.takes_data_dir, kind.example) == (known, True, name)
        assert known.title in kind.summary


def test_every_record_is_complete():
    for name, known in KNOWN.items():
        for field in ("title", "evidence", "split", "licence", "home", "obtain", "citation"):
            assert getattr(known, field).strip() == getattr(known, field) != "", (name, field)
        assert known.home.startswith("http"), name
        assert (known.layout == "") == (known.tfds is not None), name
        assert known.test_split != "", name


def test_the_figures_are_those_of_the_papers_table_4():
    assert {name: (known.train, known.test, known.classes) for name, known in KNOWN.items()} == TABLE_4


def test_where_the_published_images_differ_from_the_table_the_note_has_both_figures():
    for name, figure in PUBLISHED.items():
        assert figure in KNOWN[name].note, name
        assert any(f"{number:,}" in KNOWN[name].note for number in TABLE_4[name]), name


def test_tensorflow_datasets_knows_every_name_that_is_left_to_it():
    assert {known.tfds for known in KNOWN.values()} - {None} <= set(tfds.list_builders(with_community_datasets=False))


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.tfds])
def test_classes_are_those_that_tensorflow_datasets_gives_where_it_says(name, tmp_path):
    known = KNOWN[name]
    try:
        label = tfds.builder(known.tfds, data_dir=tmp_path).info.features["label"]
    except ModuleNotFoundError as error:
        pytest.skip(f"{known.tfds} needs {error.name}")
    if label.num_classes is not None:
        assert label.num_classes == known.classes


@pytest.mark.parametrize(
    ("name", "splits", "train", "test"),
    [
        ("oxford_flowers", {"train": range(9), "validation": range(9, 18), "test": range(18, 60)}, range(18), range(18, 60)),
        ("food101", {"train": range(9), "validation": range(9, 12)}, range(9), range(9, 12)),
        ("imagenet", {"train": range(9), "validation": range(9, 12), "test": range(20, 30)}, range(9), range(9, 12)),
        ("places365", {"train": range(9), "validation": range(9, 12), "test": range(20, 30)}, range(9), range(9, 12)),
        ("cub200", {"train": range(9), "test": range(9, 18)}, range(9), range(9, 18)),
        ("oxford_pets", {"train": range(9), "test": range(9, 18)}, range(9), range(9, 18)),
        ("stanford_cars", {"train": range(9), "test": range(9, 18)}, range(9), range(9, 18)),
    ],
)
def test_splits_are_combined_as_in_the_table(tmp_path, name, splits, train, test):
    prepare(tmp_path, KNOWN[name].tfds, splits)
    task = load_task(f"{name}:{tmp_path}")
    assert (task.name, task.uri, task.licence) == (name, f"{name}:{tmp_path}", KNOWN[name].licence)
    assert numbers(task.images, task.labels) == list(train)
    assert numbers(task.test_images, task.test_labels) == list(test)
    assert task.details["warnings"][-1] == f"The table has {KNOWN[name].classes:,} classes; here are 3."


@pytest.mark.parametrize(("name", "share"), [("resisc45", 0.8), ("uc_merced", 0.75)])
def test_a_set_without_a_test_split_is_cut_the_same_way_every_time(tmp_path, name, share):
    prepare(tmp_path, KNOWN[name].tfds, {"train": range(60)})
    first, second = load_task(name, data_dir=tmp_path), load_task(name, data_dir=tmp_path)
    train, test = numbers(first.images, first.labels), numbers(first.test_images, first.test_labels)
    assert sorted(train + test) == list(range(60))
    assert np.bincount(first.labels).tolist() == [20 * share] * 3
    assert numbers(second.images, second.labels) == train
    assert numbers(first.images[2:5], first.labels[2:5]) == sorted(int(first.images[i][0, 0, 0]) for i in (2, 3, 4))


@pytest.mark.parametrize(
    ("name", "splits", "train", "total"),
    [
        ("dtd", {"train": range(20), "validation": range(20, 40), "test": range(40, 60)}, 45, 60),
        ("icassava", {"train": range(60), "test": range(60, 90)}, 57, 60),
    ],
)
def test_sets_whose_published_split_is_not_the_tables_are_cut_as_the_table_says(tmp_path, name, splits, train, total):
    prepare(tmp_path, KNOWN[name].tfds, splits)
    task = load_task(name, data_dir=tmp_path)
    assert (len(task.labels), len(task.test_labels)) == (train, total - train)
    assert sorted(numbers(task.images, task.labels) + numbers(task.test_images, task.test_labels)) == list(range(total))


def test_a_split_that_is_missing_is_named(tmp_path):
    prepare(tmp_path, "oxford_flowers102", {"train": range(9), "test": range(9, 18)})
    with pytest.raises(DataError, match=r"oxford_flowers102/1.0.0: there is no split 'validation', or it is empty. Splits: test, train."):
        load_task(f"oxford_flowers:{tmp_path}")


def test_a_set_that_is_not_prepared_says_how_to_obtain_it_and_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/own")
    with pytest.raises(
        DataError, match=r"^eu_flood is not prepared in /own\. Download european.* Then try: ntk-select tasks prepare eu_flood --archive PATH$"
    ):
        load_task("eu_flood")
    with pytest.raises(DataError, match=r"not prepared in /two words\. .*--archive PATH --data-dir '/two words'$"):
        load_task("eu_flood:/two words")
    with pytest.raises(DataError, match=r"^dtd is not prepared in /d or /own\. .* Then try: ntk-select tasks show dtd:/d --download$"):
        load_task("dtd", data_dir="/d")


def test_logos_say_that_flips_do_not_keep_the_class(tmp_path):
    for name, known in (("belga_logos", False), ("logo_2k", False), ("magnetic_tile", None)):
        prepare(tmp_path, name, {"train": range(12), "test": range(12, 18)})
        assert load_task(f"{name}:{tmp_path}").flips_keep_class is known
