"""Files of features are experts of a zoo: the arrays that NumPy and safetensors wrote, or an error message; nothing is executed."""

import io
import os
import pickle
import struct
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ntk_select import open_zoo
from ntk_select.errors import ModelError
from ntk_select.models import feature_files as module
from ntk_select.models.feature_files import StoredFeatures, feature_files

RNG = np.random.default_rng(0)
FEATURES, LABELS, LOGITS = RNG.normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 1, 0, 2, 2]), RNG.normal(size=(6, 4))
NAMES = ["ant", "bee", "cat"]
FACTS = {"source": "trees", "architecture": "vit", "num_params": 12, "source_size": 30, "source_accuracy": 0.75}
OF_SOURCE = {"source_counts": np.array([1, 2, 3, 4]), "own_source_means": RNG.normal(size=(4, 3))}
ARRAYS = {"features": FEATURES, "labels": LABELS, "logits": LOGITS, "gradient_kernel": np.eye(6), **OF_SOURCE}


def npz(folder, name="a", **arrays):
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def safetensors(folder, name="a", metadata=None, **arrays):
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / f"{name}.safetensors", metadata=metadata)
    return folder / f"{name}.safetensors"


def test_both_formats_give_what_was_saved(tmp_path):
    texts = {name: str(value) for name, value in FACTS.items()} | {"class_names": '["ant", "bee", "cat"]', "format": "pt"}
    npz(tmp_path, "one", **ARRAYS, **FACTS, class_names=np.array(NAMES))
    np.savez_compressed(tmp_path / "packed.npz", **ARRAYS, **FACTS, class_names=np.array(NAMES))
    safetensors(tmp_path, "two", texts, **ARRAYS)
    zoo = open_zoo([f"features:{tmp_path}"])
    assert list(zoo) == ["one", "packed", "two"]
    for name, load in zoo.items():
        expert = load()
        assert expert.name == name
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(getattr(expert, key), array)
            assert getattr(expert, key).dtype == array.dtype
        assert {key: getattr(expert, key) for key in FACTS} == FACTS
        assert expert.class_names == tuple(NAMES)
        assert load.classes.names == tuple(NAMES)
        assert load.card.given  # the order of a file
        assert {**vars(load.card), "given": set(load.card.given)} == {**vars(expert.card), "given": set(expert.card.given)}


def test_numbers_may_be_tensors_and_bfloat16_is_read(tmp_path):
    rounded = FEATURES.astype(ml_dtypes.bfloat16)
    expert = StoredFeatures(safetensors(tmp_path, features=rounded, num_params=np.array(12)))()
    assert expert.num_params == 12
    np.testing.assert_array_equal(expert.features, rounded.astype(np.float32))


def test_the_large_arrays_are_not_read_for_the_card_and_the_labels(tmp_path, monkeypatch):
    stored = [StoredFeatures(npz(tmp_path, **ARRAYS)), StoredFeatures(safetensors(tmp_path, **ARRAYS))]
    read, plain = [], module._plain
    monkeypatch.setattr(module, "_plain", lambda file, name, array: (read.append(name), plain(file, name, array))[1])
    for each in stored:
        assert each.classes.labels.tolist() == LABELS.tolist()
        assert (each.card.images, each.card.features, each.card.num_classes) == (6, 3, 4)
    assert set(read) == {"labels"}


def test_a_loader_can_be_sent_to_another_process(tmp_path):
    load = pickle.loads(pickle.dumps(StoredFeatures(npz(tmp_path, features=FEATURES))))
    np.testing.assert_array_equal(load().features, FEATURES)
    assert load.classes is None


def test_a_zoo_is_a_file_or_a_folder_and_a_plain_folder_is_recognised(tmp_path):
    file = npz(tmp_path, features=FEATURES)
    npz(tmp_path, ".hidden", features=FEATURES)
    (tmp_path / "notes.txt").touch()
    for uri in (f"features:{tmp_path}", str(tmp_path), f"folder:{tmp_path}", f"features:{file}"):
        assert list(open_zoo([uri])) == ["a"]
    with pytest.raises(ModelError, match="Two of the zoos .* have an expert 'a'"):
        open_zoo([str(tmp_path), f"features:{file}"])
    with pytest.raises(ModelError, match=rf"'{file}' is a file, not a folder\. For a file of features, try: features:{file}\."):
        open_zoo([str(file)])


def test_features_beside_the_folders_of_experts_are_experts_too(tmp_path):
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").touch()
    (tmp_path / "b" / "model.safetensors").touch()
    npz(tmp_path, features=FEATURES)
    assert list(open_zoo([str(tmp_path)])) == ["b", "c", "a"]
    npz(tmp_path / "b", features=FEATURES)
    assert list(open_zoo([str(tmp_path / "b")])) == ["b"]
    npz(tmp_path, "c", features=FEATURES)
    with pytest.raises(ModelError, match=r"has an expert 'c' both in a folder and in 'c\.npz'\. Try: rename one of them"):
        open_zoo([str(tmp_path)])


def test_a_folder_of_other_arrays_is_no_zoo(tmp_path):
    npz(tmp_path, "photos", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 1]))
    safetensors(tmp_path, "weights", **{"layer1.conv.weight": FEATURES})
    (tmp_path / "empty.npz").touch()
    with pytest.raises(ModelError, match=r"contains no expert \(no sub-folder with card\.json\)"):
        open_zoo([str(tmp_path)])


def test_what_is_no_zoo_of_features_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"There is no file or folder of features 'nowhere'\. Try: numpy\.savez\("):
        open_zoo(["features:nowhere"])
    with pytest.raises(ModelError, match="There is no file or folder of features"):
        open_zoo(["features:" + "x" * 5000])
    with pytest.raises(ModelError, match=r"contains no file of features \(\.npz or \.safetensors\)\. Try: "):
        feature_files(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ModelError, match=r"a\.txt' is no file of features; allowed are \.npz and \.safetensors"):
        feature_files(tmp_path / "a.txt")
    with pytest.raises(ModelError, match="There is no file of features"):
        StoredFeatures(tmp_path / "gone.npz")()
    npz(tmp_path, features=FEATURES)
    safetensors(tmp_path, features=FEATURES)
    with pytest.raises(ModelError, match=r"a\.npz' and '.*a\.safetensors' are both named 'a'\. Try: rename one of them"):
        feature_files(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tmp_path):
    file = npz(tmp_path, features=FEATURES)
    file.chmod(0)
    with pytest.raises(ModelError, match="cannot be read: Permission denied"):
        StoredFeatures(file)()
    tmp_path.chmod(0)
    try:
        with pytest.raises(ModelError, match="cannot be read: Permission denied"):
            feature_files(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_trouble_of_the_disk_is_an_error_message(tmp_path, monkeypatch):
    """Also where the tests run as root, who may read everything."""
    file = npz(tmp_path, features=FEATURES)

    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(type(file), "open", failing)
        with pytest.raises(ModelError, match=r"a\.npz cannot be read: Input/output error\."):
            StoredFeatures(file)()
    monkeypatch.setattr(type(file), "iterdir", failing)
    with pytest.raises(ModelError, match="The zoo .* cannot be read: Input/output error"):
        feature_files(tmp_path)


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def headed(shape: str, data: bytes = bytes(72), kind: str = "<f4") -> bytes:
    """An .npy file of any header."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def packed(*entries, method=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in entries:
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header_of(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


GOOD = ("features", npy(FEATURES))
UNREADABLE = r"a\.npz: array 'features' cannot be read \({}.*\)\. Try: save it again as a plain array"
NO_ZIP, NO_TENSORS = r"a\.npz cannot be read as an \.npz file", r"a\.safetensors is not a valid safetensors file \(.*\)\. Try: save it again"
HOSTILE = {
    "empty": (b"", NO_ZIP),
    "words": (b"these are words", NO_ZIP),
    "half a file": (packed(GOOD)[:100], NO_ZIP),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"a\.npz is a Git LFS pointer.*git lfs pull"),
    "a web page": (b"<!DOCTYPE html><html>", "is a web page"),
    "a pickle": (pickle.dumps(Runs("marker")), NO_ZIP),
    "objects": (packed(("features", headed("(1,)", pickle.dumps(Runs("marker")), "|O"))), UNREADABLE.format("it contains Python objects")),
    "more bytes than there are": (
        packed(("features", headed("(1099511627776, 64)"))),
        UNREADABLE.format("its header declares 281,474,976,710,656 bytes"),
    ),
    "fewer bytes than there are": (packed(("features", headed("(2, 3)"))), UNREADABLE.format("its header declares 24 bytes, it has 72")),
    "a negative side": (packed(("features", headed("(-6, -3)"))), UNREADABLE.format("")),
    "a shape of words": (packed(("features", headed("('a',)"))), UNREADABLE.format("")),
    "nothing": (packed(("features", b"")), UNREADABLE.format("")),
    "a wrong checksum": (packed(GOOD).replace(FEATURES.tobytes(), bytes(72)), UNREADABLE.format("Bad CRC-32")),
    "twice": (packed(GOOD, GOOD), r"has two arrays 'features'\. Try: save it again"),
    "another compression": (packed(GOOD, method=zipfile.ZIP_LZMA), r"'features' is compressed by a method that NumPy does not write"),
    "no features": (packed(("labels", npy(LABELS))), r"has no array 'features', only labels\. Try: numpy\.savez"),
    "no arrays": (packed(), r"has no array 'features', only nothing"),
    "another name": (
        packed(GOOD, ("label", npy(LABELS))),
        r"has 'label', which is not part of a file of features\. Did you mean 'labels'\?.* Allowed: .*logits",
    ),
    "names of bytes": (packed(GOOD, ("class_names", npy(np.array([b"x"])))), r"'class_names' is \|S1 \(1,\); it must be one text per class"),
    "many sources": (packed(GOOD, ("source", npy(np.array(["x", "y"])))), r"'source' has shape \(2,\); it must be a single value"),
    "a source of bytes": (packed(GOOD, ("source", npy(np.array(b"x")))), r"source=b'x' must be text"),
    "labels of fewer images": (packed(GOOD, ("labels", npy(LABELS[:3]))), r"labels is int64 \(3,\); it must be integers \(6,\)"),
}
HOSTILE_TENSORS = {
    "no tensors": (b"", NO_TENSORS),
    "bytes": (bytes(100), NO_TENSORS),
    "half": (header_of(b'{"features":{"dtype":"F32","shape":[6,3],"data_offsets":[0,72]}}', bytes(30)), NO_TENSORS),
    "an overlong header": (struct.pack("<Q", 2**60) + b"{}", NO_TENSORS),
    "an unknown type": (header_of(b'{"features":{"dtype":"F8_E4M3","shape":[3,1],"data_offsets":[0,3]}}', bytes(3)), "features"),
}


@pytest.mark.parametrize("case", [*HOSTILE, *HOSTILE_TENSORS])
def test_damaged_and_hostile_files_are_refused_and_run_nothing(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, says = {**HOSTILE, **HOSTILE_TENSORS}[case]
    file = tmp_path / ("a.npz" if case in HOSTILE else "a.safetensors")
    file.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        StoredFeatures(file)()
    for read in (lambda: StoredFeatures(file).card, lambda: StoredFeatures(file).classes):
        try:
            read()
        except ModelError:
            continue
        assert case in ("a wrong checksum", "many sources", "a source of bytes", "an unknown type")  # of arrays that these do not read
    assert not (tmp_path / "marker").exists()


def test_features_that_are_no_matrix_have_no_card(tmp_path):
    for array in (FEATURES[0], FEATURES[None], FEATURES[0, 0]):
        with pytest.raises(ModelError, match=r"features has shape \(.*\); it must have two axes, not empty, one row per image"):
            assert StoredFeatures(npz(tmp_path, features=array)).card
    for read in (lambda stored: stored.card, lambda stored: stored.classes):  # of a few bytes, which would become gigabytes
        with pytest.raises(ModelError, match=r"array 'features' cannot be read \(it is empty, float32 \(1000000000000000, 0\)\)"):
            read(StoredFeatures(npz(tmp_path, features=np.zeros((10**15, 0), np.float32))))
        with pytest.raises(ModelError, match=r"features has shape \(1000000000000000, 0\); it must have two axes, not empty"):
            read(StoredFeatures(safetensors(tmp_path, features=np.zeros((10**15, 0), np.float32))))
        with pytest.raises(ModelError, match=r"array 'class_names' cannot be read \(it is empty"):
            read(StoredFeatures(npz(tmp_path, features=FEATURES, class_names=np.zeros(0, "U3"))))
    assert StoredFeatures(npz(tmp_path, features=FEATURES, logits=FEATURES[0, 0])).card.num_classes == 0
    with pytest.raises(ModelError, match="logits has shape"):
        StoredFeatures(tmp_path / "a.npz")()


def test_a_small_file_does_not_expand_to_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 2**16)
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((2**12, 64), np.float32))
    with pytest.raises(ModelError, match=r"a\.npz has [\d,]+ bytes and expands to 1,048,704\. Try: save it again with numpy\.savez, uncompressed"):
        StoredFeatures(tmp_path / "a.npz")()
    assert len(StoredFeatures(npz(tmp_path, features=np.zeros((2**12, 64), np.float32)))()) == 2**12


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"sauce": "x"}, r"has 'sauce', which is not part of a file of features\. Did you mean 'source'"),
        ({"num_params": "many"}, r"'num_params' in the metadata is 'many'; it must be a number"),
        ({"num_params": '"12"'}, "num_params='12' must be a whole number"),
        ({"source_accuracy": "NaN"}, "source_accuracy=nan must be a number from 0 to 1"),
        ({"class_names": "ant,bee"}, r"'class_names' in the metadata is 'ant,bee'; it must be a JSON list, as in \[\"cat\", \"dog\"\]"),
        ({"class_names": "[" * 100_000}, "it must be a JSON list"),
        ({"class_names": "{}"}, "must be one text per class"),
        ({"labels": "[0, 1]"}, "'labels' is in the metadata; it must be a tensor"),
        ({"features": "x"}, "has 'features' both as a tensor and in its metadata. Try: only one of them"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path, metadata, says):
    with pytest.raises(ModelError, match=says):
        StoredFeatures(safetensors(tmp_path, features=FEATURES, metadata=metadata))()
