"""A TensorFlow Dataset prepared as ArrayRecord is a task, without TensorFlow and without the network."""

import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntk_select.data import load_task
from ntk_select.data import tfds as tfds_module
from ntk_select.errors import DataError, TaskError

tfds = pytest.importorskip("tensorflow_datasets")
CLASSES = ["circle", "square", "star"]


@pytest.fixture(scope="module")
def png():
    """The bytes of image number i: grey value i, 4 + i pixels high."""
    image = pytest.importorskip("PIL.Image")

    def encode(i, dtype=np.uint8):
        file = io.BytesIO()
        image.fromarray(np.full((4 + i, 5, 3), i, dtype) if dtype == np.uint8 else np.full((4, 5), i, dtype)).save(file, "PNG")
        file.seek(0)
        return file

    return encode


@pytest.fixture(scope="module")
def prepare(png):
    """prepare(data_dir, ...) writes a set `shapes` of 20 training images."""

    def make(data_dir, *, config=None, version="1.0.0", features=None, supervised=("image", "label"), splits=None, licence=None):
        features = features or {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
        splits = splits or {"train": range(20), "validation": range(20, 25)}

        class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
            __module__ = name = "shapes"  # TensorFlow Datasets would look for files beside a real module

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=supervised, license=licence)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(numbers) for split, numbers in splits.items()}

            def _generate_examples(self, numbers):
                for i in numbers:
                    yield i, {key: self._value(feature, i) for key, feature in features.items()}

            def _value(self, feature, i):
                if isinstance(feature, tfds.features.Image):
                    return png(i) if feature.np_dtype == np.uint8 else png(4095 - 100 * i, np.uint16)
                if isinstance(feature, tfds.features.Sequence):
                    return [i % 3, 2]
                return -1 if i >= 90 else i % 3

        Shapes(data_dir=data_dir, file_format="array_record").download_and_prepare()
        return Path(data_dir)

    return make


@pytest.fixture(scope="module")
def shapes(prepare, tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tfds"), licence="CC0")


@pytest.fixture(autouse=True)
def home_without_sets(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))


def key_of(image):
    """The number of an image, from its pixels."""
    assert image.shape == (4 + image[0, 0, 0], 5, 3)
    assert image.dtype == np.uint8
    assert (image == image[0, 0, 0]).all()
    return int(image[0, 0, 0])


def test_images_and_labels_are_those_that_were_prepared(shapes):
    task = load_task(f"tfds:shapes@{shapes}")
    assert (task.name, task.class_names, task.licence) == ("shapes", tuple(CLASSES), "CC0")
    assert sorted(map(key_of, task.images)) == list(range(20))
    assert sorted(map(key_of, task.test_images)) == list(range(20, 25))
    assert [key_of(image) % 3 for image in task.images] == task.labels.tolist()
    assert [key_of(image) % 3 for image in task.test_images] == task.test_labels.tolist()


def test_the_folder_is_named_in_the_uri_or_the_argument_or_the_environment(shapes, monkeypatch):
    assert len(load_task("tfds:shapes", data_dir=shapes).labels) == 20
    monkeypatch.setenv("TFDS_DATA_DIR", str(shapes))
    assert len(load_task("tfds:shapes").labels) == 20
    assert len(load_task("tfds:shapes", data_dir=shapes / "none").labels) == 20
    monkeypatch.setenv("HOME", str(shapes.parent))
    assert len(load_task(f"tfds:shapes@~/{shapes.name}").labels) == 20
    with pytest.raises(DataError, match=r"tfds:shapes is not prepared in /nowhere\. "):
        load_task("tfds:shapes@/nowhere", data_dir=shapes)


def test_a_pickled_task_reads_the_same_images(shapes):
    task = load_task(f"tfds:shapes@{shapes}")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(task)).images[3], task.images[3])


@pytest.mark.nightly  # the same test of prepared sets of the benchmark is quick
def test_tensorflow_is_not_imported(shapes):
    code = (
        "import sys; from ntk_select.data import load_task; task = load_task(sys.argv[1]); task.images[0];"
        "print([m for m in ('tensorflow', 'torch', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, f"tfds:shapes@{shapes}"], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_one_configuration_is_taken_and_of_several_one_has_to_be_named(prepare, tmp_path):
    prepare(tmp_path, config="small")
    assert load_task(f"tfds:shapes@{tmp_path}").name == "shapes-small"
    prepare(tmp_path, config="large", splits={"train": range(6)})
    with pytest.raises(DataError, match=r"several configurations. Try: tfds:shapes/large or tfds:shapes/small, with @"):
        load_task(f"tfds:shapes@{tmp_path}")
    assert len(load_task(f"tfds:shapes/large@{tmp_path}").labels) == 6


def test_the_newest_version_is_taken_unless_one_is_named(prepare, tmp_path):
    for version, size in (("1.9.0", 6), ("1.10.0", 9)):
        prepare(tmp_path, version=version, splits={"train": range(size)})
    assert len(load_task(f"tfds:shapes@{tmp_path}").labels) == 9
    assert len(load_task(f"tfds:shapes:1.9.0@{tmp_path}").labels) == 6
    with pytest.raises(DataError, match=r"tfds:shapes:2.0.0 is not prepared"):
        load_task(f"tfds:shapes:2.0.0@{tmp_path}")


def test_a_test_split_without_labels_is_passed_over_for_validation(prepare, tmp_path):
    prepare(tmp_path, splits={"train": range(6), "test": range(90, 93), "validation": range(6, 10)})
    task = load_task(f"tfds:shapes@{tmp_path}")
    assert len(task.test_labels) == 4
    assert task.details["warnings"] == ["Ignored, because it has images without a label: the split 'test'."]


def test_supervised_keys_are_honoured_and_other_images_are_not_decoded(prepare, tmp_path):
    features = {"photo": tfds.features.Image(), "kind": tfds.features.ClassLabel(names=CLASSES), "image": tfds.features.Image(shape=(None, None, 1))}
    prepare(tmp_path, features=features, supervised=("photo", "kind"))
    task = load_task(f"tfds:shapes@{tmp_path}")
    assert [key_of(image) % 3 for image in task.images] == task.labels.tolist()


def test_a_set_without_an_image_or_label_lists_its_features(prepare, tmp_path):
    prepare(tmp_path, features={"image": tfds.features.Image(), "age": tfds.features.Scalar(np.int64)}, supervised=None)
    with pytest.raises(DataError, match=r"expected a feature 'image'.* and a feature 'label'.*It has age: Scalar, image: Image."):
        load_task(f"tfds:shapes@{tmp_path}")


def test_a_set_without_a_training_split_lists_its_splits(prepare, tmp_path):
    prepare(tmp_path, splits={"test": range(3), "extra": range(3)})
    with pytest.raises(DataError, match=r"there is no split 'train', or it is empty. Splits: extra, test."):
        load_task(f"tfds:shapes@{tmp_path}")


def test_a_set_that_is_not_prepared_says_what_to_type(shapes):
    with pytest.raises(
        DataError,
        match=rf"tfds:cifar100 is not prepared in {shapes}\. .*try: download=True, or: ntk-select tasks show tfds:cifar100@{shapes} --download$",
    ):
        load_task(f"tfds:cifar100@{shapes}")
    with pytest.raises(DataError, match=r"is not prepared in .*\. Did you mean 'shapes'"):
        load_task(f"tfds:shape@{shapes}")
    with pytest.raises(DataError, match=r"Did you mean 'fashion_mnist'"):
        load_task("tfds:fashion_mnst/plain")


@pytest.mark.parametrize("argument", ["", "@here", "two words", "a/b/c", "cifar10:new", "../etc"])
def test_an_argument_of_another_form_is_refused(argument):
    with pytest.raises(TaskError, match=r"allowed is tfds:NAME\[/CONFIG\]\[:VERSION\]\[@DATA_DIR\]. Example: tfds:cifar10"):
        load_task(f"tfds:{argument}")


def test_another_file_format_is_refused(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "tf")
    info = next((tmp_path / "tf").rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=r"prepared as tfrecord, which needs TensorFlow.*file_format='array_record'"):
        load_task(f"tfds:shapes@{tmp_path / 'tf'}")


def test_damaged_files_are_named(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "tf")
    records = next((tmp_path / "tf").rglob("shapes-train.array_record*"))
    whole = records.read_bytes()
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:200] + bytes(400) + whole[600:]):
        records.write_bytes(data)
        with pytest.raises(DataError, match=r"1.0.0, split train, record \d+: cannot be read"):
            list(load_task(f"tfds:shapes@{tmp_path / 'tf'}").images)
    (records.parent / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"1.0.0: TensorFlow Datasets cannot read it"):
        load_task(f"tfds:shapes@{tmp_path / 'tf'}")


def test_a_folder_that_cannot_be_read_is_named(shapes, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tfds_module.Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"shapes: the folder cannot be read \(Permission denied\)"):
        load_task(f"tfds:shapes@{shapes}")


@pytest.mark.parametrize(("name", "known"), [("mnist", False), ("svhn_cropped", False), ("omniglot", False), ("shapes", None)])
def test_sets_of_characters_say_that_flips_do_not_keep_the_class(prepare, tmp_path, name, known):
    prepare(tmp_path / "made")
    (tmp_path / "made" / "shapes").rename(tmp_path / "made" / name)
    for file in (tmp_path / "made" / name / "1.0.0").iterdir():
        if file.suffix == ".json":
            file.write_text(file.read_text().replace("shapes", name))
        else:
            file.rename(file.with_name(file.name.replace("shapes", name)))
    assert load_task(f"tfds:{name}@{tmp_path / 'made'}").flips_keep_class is known


def test_16_bit_images_get_one_depth_for_both_splits(prepare, tmp_path):
    features = {"image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16), "label": tfds.features.ClassLabel(names=CLASSES)}
    task = load_task(f"tfds:shapes@{prepare(tmp_path, features=features)}")
    assert task.details["warnings"] == ["Grey images of more than 8 bits are read as 12 bits, 0 to 4,095: their largest value is 4,095."]
    for images, numbers in ((task.images, range(20)), (task.test_images, range(20, 25))):
        found = sorted(int(image[0, 0]) for image in images)
        assert np.abs(np.array(found) - sorted((4095 - 100 * i) * 255 / 4095 for i in numbers)).max() <= 0.5


def test_encoded_bytes_and_the_files_that_hold_them_are_known(shapes):
    task = load_task(f"tfds:shapes@{shapes}")
    assert task.images.content(3).startswith(b"\x89PNG")
    files, name = task.images.origin(3)
    assert name == "train 3"
    assert {Path(file).suffix for file in files} >= {".json"}
    assert any("array_record" in file for file in files)
    assert task.test_images.origin(3) == (files, "validation 3")


def test_several_labels_per_image_are_called_multi_label(prepare, tmp_path):
    several = tfds.features.Sequence(tfds.features.ClassLabel(names=CLASSES))
    with pytest.raises(DataError, match=r"It has image: Image, label: Sequence\. Multi-label data sets are not supported"):
        load_task(f"tfds:shapes@{prepare(tmp_path, features={'image': tfds.features.Image(), 'label': several})}")
