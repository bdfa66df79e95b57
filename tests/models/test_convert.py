"""Does a checkpoint file become an expert that can be read back, and is every other file refused with a sentence?"""

import builtins
import json
import os
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from ntk_select.models import StoredExpert
from ntk_select.models.architectures import build
from ntk_select.models.convert import convert_checkpoint, convert_state_dict, read_checkpoint
from ntk_select.models.mapping import tensor_table
from ntk_select.models.weights import flatten, read_weights
from safetensors.numpy import save_file

from ntk_select.card import Card
from ntk_select.errors import MissingDependencyError, ModelError
from ntk_select.preprocess import Preprocess

NETWORK = build("resnet_small", num_classes=3)
TABLE = tensor_table(NETWORK)


@pytest.fixture
def state(seeded):
    return {key: array.astype(np.float32) for key, array in seeded.seeded_state({key: row.shape for key, row in TABLE.items()}).items()}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def written(state, path: Path) -> Path:
    save_file(state, path)
    return path


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file of any types, by the definition of the format."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


def test_a_safetensors_file_becomes_an_expert_folder(state, tmp_path):
    checkpoint = written(state, tmp_path / "mine.safetensors")
    card = convert_checkpoint(checkpoint, architecture="resnet_small", out=tmp_path / "expert", source="cifar10", licence="mit")
    assert Card.from_json((tmp_path / "expert" / "card.json").read_text(), "card.json") == card
    assert (card.name, card.architecture, card.source, card.num_classes, card.licence) == ("mine", "resnet_small", "cifar10", 3, "mit")
    assert card.preprocess == Preprocess(size=224, resize=256)
    assert card.origin == str(checkpoint)
    assert card.num_parameters == sum(np.prod(row.shape) for row in TABLE.values() if row.variable.startswith("params/"))
    same(read_weights(tmp_path / "expert" / "model.safetensors"), convert_state_dict(state, NETWORK))


def test_name_and_preprocessing_can_be_given(state, tmp_path):
    checkpoint, preprocess = written(state, tmp_path / "mine.safetensors"), Preprocess(size=32)
    card = convert_checkpoint(checkpoint, architecture="resnet_small.my_tag", name="other", out=tmp_path / "expert", preprocess=preprocess)
    assert (card.name, card.architecture, card.preprocess, card.source) == ("other", "resnet_small", preprocess, "unknown")


def test_the_same_checkpoint_gives_the_same_bytes(state, tmp_path):
    checkpoint = written(state, tmp_path / "mine.safetensors")
    first, second = (convert_checkpoint(checkpoint, architecture="resnet_small", out=tmp_path / out) for out in ("a", "b"))
    assert first == second


def test_bfloat16_is_read_without_torch(tmp_path):
    values = np.float32([[1, -2.5], [3, 0.15625]])
    path = tmp_path / "half.safetensors"
    path.write_bytes(safetensors_bytes({"a": ("BF16", (2, 2), values.astype(ml_dtypes.bfloat16).tobytes())}))
    np.testing.assert_array_equal(read_checkpoint(path)["a"].astype(np.float32), values)


def test_the_prefix_of_data_parallel_training_is_dropped(state, tmp_path):
    path = written({f"module.{key}": array for key, array in state.items()}, tmp_path / "parallel.safetensors")
    assert read_checkpoint(path).keys() == state.keys()


def test_an_unknown_architecture_is_answered_with_near_names(state, tmp_path):
    with pytest.raises(ModelError, match=r"'resnet_smal' is unknown. Did you mean 'resnet_small'"):
        convert_checkpoint(written(state, tmp_path / "a.safetensors"), architecture="resnet_smal", out=tmp_path / "expert")


def test_a_file_needs_an_architecture(state, tmp_path):
    with pytest.raises(ModelError, match=r"does not say its architecture. Give one of resnet18, .*alexnet"):
        convert_checkpoint(written(state, tmp_path / "a.safetensors"), out=tmp_path / "expert")


@pytest.mark.parametrize("head", [None, np.float32(1), np.ones((0, 96), np.float32)], ids=["missing", "a number", "empty"])
def test_a_checkpoint_without_a_sound_head_is_refused(head, state, tmp_path):
    state = {key: array for key, array in state.items() if key != "fc.weight"} | ({} if head is None else {"fc.weight": np.asarray(head)})
    path = written(state, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"a\.safetensors as resnet_small: The checkpoint does not fit ResNet\. .*fc\.weight"):
        convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


def test_a_folder_that_cannot_be_written_is_named(state, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ModelError, match=r"cannot be written to .*taken"):
        convert_checkpoint(written(state, tmp_path / "a.safetensors"), architecture="resnet_small", out=tmp_path / "taken" / "a")


def test_an_expert_is_replaced_only_when_asked(state, tmp_path):
    file, out = written(state, tmp_path / "a.safetensors"), tmp_path / "zoo" / "a"
    convert_checkpoint(file, architecture="resnet_small", out=out, source="first")
    with pytest.raises(ModelError, match=r"There is already something at .*zoo/a.*--replace"):
        convert_checkpoint(file, architecture="resnet_small", out=out, source="second")
    assert StoredExpert(out).card.source == "first"
    convert_checkpoint(file, architecture="resnet_small", out=out, source="second", replace_existing=True)
    assert StoredExpert(out).card.source == "second"
    assert [path.name for path in out.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("name", "sentence"), [("a.onnx", r"suffix '\.onnx'; allowed: \.safetensors, \.pth"), ("absent.pth", "absent.pth is not a file")]
)
def test_other_files_are_refused(name, sentence, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=sentence):
        read_checkpoint(tmp_path / name)


def test_a_file_without_tensors_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"empty\.safetensors holds no tensors"):
        read_checkpoint(written({}, tmp_path / "empty.safetensors"))


def test_types_that_have_no_float32_are_named(tmp_path):
    path = tmp_path / "eight.safetensors"
    path.write_bytes(safetensors_bytes({"a": ("F8_E4M3", (2,), b"ab")}))
    with pytest.raises(ModelError, match=r"types that cannot be converted: a \(F8_E4M3\)\. Allowed: F64"):
        read_checkpoint(path)


SOUND = safetensors_bytes({"weight": ("F32", (2, 3), bytes(24))})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        SOUND[:20],
        SOUND[:-1],
        SOUND + b"more",
        b"\xff" * 8 + SOUND[8:],
        struct.pack("<Q", 10**7) + SOUND[8:],
        SOUND[:9] + bytes([SOUND[9] ^ 0x80]) + SOUND[10:],
        SOUND.replace(b"[2, 3]", b"[2, 9]"),
        SOUND.replace(b"[0, 24]", b"[0, 99]"),
        SOUND.replace(b"[2, 3]", b"[-2,3]"),
    ],
    ids=["empty", "cut header", "cut data", "surplus", "huge header", "long header", "flipped bit", "wrong shape", "wrong offsets", "negative"],
)
def test_damaged_safetensors_are_named(content, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.safetensors is not a sound safetensors file"):
        read_checkpoint(path)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "locked.safetensors"
    path.write_bytes(SOUND)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match=r"locked\.safetensors cannot be read: Permission denied"):
        read_checkpoint(path)


def test_a_pth_without_torch_says_what_to_install(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(MissingDependencyError, match=r"needs the package torch.*pip install torch"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.oracle
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_a_pth_becomes_the_same_expert_as_safetensors(wrapper, state, tmp_path, torch):
    tensors = {f"module.{key}": torch.from_numpy(array) for key, array in state.items()} | {"module.bn1.num_batches_tracked": torch.tensor(7)}
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, tmp_path / "mine.pth")
    convert_checkpoint(tmp_path / "mine.pth", architecture="resnet_small", out=tmp_path / "expert")
    same(read_weights(tmp_path / "expert" / "model.safetensors"), convert_state_dict(state, NETWORK))


@pytest.mark.oracle
def test_half_precision_of_a_pth_is_widened(tmp_path, torch):
    values = torch.tensor([1.0, -2.5, 0.15625])
    torch.save({"a": values.bfloat16(), "b": values.half(), "c": torch.nn.Parameter(values)}, tmp_path / "half.pt")
    for array in read_checkpoint(tmp_path / "half.pt").values():
        np.testing.assert_array_equal(array.astype(np.float32), values.numpy())


class Payload:
    """What a hostile checkpoint holds: unpickled, it creates a folder."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.oracle
@pytest.mark.parametrize("new_format", [True, False])
def test_a_hostile_pickle_is_refused_and_not_run(new_format, tmp_path, torch):
    target, path = tmp_path / "created", tmp_path / "hostile.pth"
    torch.save({"weight": torch.ones(2), "payload": Payload(target)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ModelError, match=r"hostile\.pth is damaged or holds more than tensors in plain containers, and nothing in it was run"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the payload works where it is not refused"


@pytest.mark.oracle
def test_damaged_pth_files_are_named(tmp_path, torch):
    torch.save({"weight": torch.ones(64)}, tmp_path / "sound.pth")
    sound = (tmp_path / "sound.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "foreign.pth", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes(sound[: len(sound) // 2])
    for name in ("foreign", "empty", "cut"):
        with pytest.raises(ModelError, match=rf"{name}\.pth is damaged"):
            read_checkpoint(tmp_path / f"{name}.pth")


@pytest.mark.oracle
def test_a_pth_that_is_no_state_dict_is_refused(tmp_path, torch):
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"weight": torch.ones(2), "epoch": 3}, tmp_path / "mixed.pth")
    with pytest.raises(ModelError, match=r"list\.pth holds a list, not a state dict\. Save it with: torch\.save"):
        read_checkpoint(tmp_path / "list.pth")
    with pytest.raises(ModelError, match=r"mixed\.pth is no state dict: epoch \(int\) are no tensors\. Allowed"):
        read_checkpoint(tmp_path / "mixed.pth")


@pytest.mark.oracle
def test_a_pth_that_holds_itself_is_refused(tmp_path, torch):
    endless = {"weight": torch.ones(2)}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")
    with pytest.raises(ModelError, match=r"endless\.pth is no state dict: model \(dict\) are no tensors"):
        read_checkpoint(tmp_path / "endless.pth")


@pytest.mark.oracle
def test_a_sparse_tensor_is_named(tmp_path, torch):
    torch.save({"weight": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(ModelError, match=r"weight of checkpoint .*sparse\.pth cannot be converted: it is torch\.sparse_coo, torch\.float32"):
        read_checkpoint(tmp_path / "sparse.pth")
