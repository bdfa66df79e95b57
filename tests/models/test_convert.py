"""Checkpoint files become experts that can be read back; all other files are rejected with an error message."""

import argparse
import json
import os
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models import StoredExpert
from ntk_select.models.architectures import build
from ntk_select.models.checkpoint_file import opened_checkpoint
from ntk_select.models.convert import convert_checkpoint, convert_state_dict, read_checkpoint
from ntk_select.models.expert_folder import flatten, read_weights
from ntk_select.models.state_dict import tensor_table

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
    with pytest.raises(
        ModelError,
        match=r"does not declare its architecture. It looks like a resnet_small. Try: architecture='resnet_small' \(--arch resnet_small\)\. Allowed: resnet18, .*alexnet",
    ):
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
    for checkpoint in (file, "hf-hub:absent/absent"):  # before anything is read or downloaded
        with pytest.raises(ModelError, match=r"zoo/a already exists.*--replace"):
            convert_checkpoint(checkpoint, architecture="resnet_small", out=out, source="second")
    assert StoredExpert(out).card.source == "first"
    convert_checkpoint(file, architecture="resnet_small", out=out, source="second", replace_existing=True)
    assert StoredExpert(out).card.source == "second"
    assert [path.name for path in out.parent.iterdir()] == ["a"]


def test_a_missing_file_is_said_whatever_else_is_missing(tmp_path):
    for architecture in (None, "resnet18"):
        with pytest.raises(ModelError, match=r"absent\.pth is not a file: there is no such file\."):
            convert_checkpoint(tmp_path / "absent.pth", architecture=architecture, out=tmp_path / "expert")


def test_a_file_without_tensors_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"empty\.safetensors contains no tensors"):
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
    ids=["cut header", "cut data", "surplus", "huge header", "long header", "flipped bit", "wrong shape", "wrong offsets", "negative"],
)
def test_damaged_safetensors_are_named(content, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.safetensors is not a valid safetensors file"):
        read_checkpoint(path)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "locked.safetensors"
    path.write_bytes(SOUND)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match=r"locked\.safetensors cannot be read: Permission denied"):
        read_checkpoint(path)


@pytest.fixture
def writer(loaded):
    return loaded("models/torch_writer.py")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_file_becomes_the_same_expert_as_safetensors_without_pytorch(state, tmp_path, writer, legacy, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    content = {
        "arch": "resnet_small",
        "state_dict": {f"model.{key}": array * 2 for key, array in state.items()},
        "state_dict_ema": OrderedDict({f"module._orig_mod.{key}": array for key, array in state.items()}),
        "optimizer": {"state": {0: {"momentum_buffer": np.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), metric=np.float64(3)),
    }
    path = writer.save(content, tmp_path / "last.CKPT", legacy=legacy)
    card = convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert")
    same(read_weights(tmp_path / "expert" / "model.safetensors"), convert_state_dict(state, NETWORK))
    made = card.training["converted_from"]
    assert (made["file"], made["weights"]) == ("last.CKPT", "state_dict_ema.module._orig_mod")
    assert made["notes"] == [
        "Weights selected: state_dict_ema.module._orig_mod (an average over training). Also in the file: state_dict.model. "
        "To select state_dict.model, try: weights='state_dict.model' (--weights state_dict.model)",
        "The prefix 'module._orig_mod.' of all names was dropped.",
    ]
    convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "other", weights="state_dict")
    same(read_weights(tmp_path / "other" / "model.safetensors"), convert_state_dict({key: array * 2 for key, array in state.items()}, NETWORK))


def test_a_head_of_several_layers_is_refused_until_it_is_dropped(state, tmp_path):
    state = {key: array for key, array in state.items() if not key.startswith("fc.")}
    head = {"fc.0.weight": np.ones((7, 48), np.float32), "fc.0.bias": np.ones(7, np.float32), "fc.2.weight": np.ones((3, 7), np.float32)}
    path = written(state | head, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"The head is not one linear layer 'fc': fc\.0\.bias, fc\.0\.weight, fc\.2\.weight\. .*--drop-head"):
        convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert")
    assert not (tmp_path / "expert").exists()
    card = convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert", drop_head=True)
    assert card.num_classes == 0
    assert card.training["converted_from"]["notes"] == ["The head was dropped: fc.0.bias, fc.0.weight, fc.2.weight."]


def test_a_linear_layer_behind_dropout_is_the_head(state, tmp_path):
    named = {key.replace("fc.", "fc.1."): array for key, array in state.items()}
    card = convert_checkpoint(written(named, tmp_path / "a.safetensors"), architecture="resnet_small", out=tmp_path / "expert")
    assert card.num_classes == 3
    same(read_weights(tmp_path / "expert" / "model.safetensors"), convert_state_dict(state, NETWORK))


def test_a_training_file_may_say_its_architecture(state, tmp_path, writer):
    path = writer.save({"arch": "resnet_small", "state_dict": state}, tmp_path / "a.pth")
    assert convert_checkpoint(path, out=tmp_path / "expert").architecture == "resnet_small"
    writer.save({"args": argparse.Namespace(model="resnet_small.mine"), "state_dict": state}, path)
    assert convert_checkpoint(path, out=tmp_path / "third").architecture == "resnet_small"
    writer.save({"arch": "my_network", "state_dict": state}, path)
    assert convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "other").architecture == "resnet_small"


def test_a_file_that_says_that_it_is_a_variant_is_refused_unless_outputs_agree(state, tmp_path, writer):
    path = writer.save({"arch": "resnetblur50.bt_in1k", "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(
        ModelError, match=r"a\.pth declares the architecture 'resnetblur50', which is another network than 'resnet_small', .*--check-logits FILE"
    ):
        convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert")
    with pytest.raises(ModelError, match=r"architecture 'resnetblur50', which is not one of the architectures here"):
        convert_checkpoint(path, out=tmp_path / "expert")
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    y = NETWORK.apply(convert_state_dict(state, NETWORK), x)
    card = convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert", check_logits={"inputs": x, "logits": np.asarray(y)})
    assert "Compared with 2 outputs" in card.training["converted_from"]["notes"][-1]


@pytest.mark.parametrize("said", ["simclr_resnet18", "resnet18_pretrained", "timm/resnet18"])
def test_a_file_that_names_the_architecture_among_other_words_is_taken_when_it_is_given(said, tmp_path, writer):
    path = writer.save({"arch": said, "state_dict": {}}, tmp_path / "a.pth")
    with pytest.raises(
        ModelError,
        match=rf"declares the architecture '{said}', which is not one of .* If it is a resnet18 .*, try: architecture='resnet18' \(--arch resnet18\)",
    ):
        convert_checkpoint(path, out=tmp_path / "expert")
    with pytest.raises(ModelError, match="contains no tensors"):
        convert_checkpoint(path, architecture="resnet18", out=tmp_path / "expert")
    with pytest.raises(ModelError, match=rf"declares the architecture '{said}', which is another network than 'resnet50'"):
        convert_checkpoint(path, architecture="resnet50", out=tmp_path / "expert")


def test_what_else_a_file_says_that_it_is_stands_in_the_card(state, tmp_path, writer):
    path = writer.save({"arch": "my_network", "state_dict": state}, tmp_path / "a.pth")
    card = convert_checkpoint(path, architecture="resnet_small", out=tmp_path / "expert")
    assert "The file declares the architecture 'my_network'." in card.training["converted_from"]["notes"]


VARIANTS = (
    "resnetblur50 resnet50d resnet50c seresnet50 caffe_resnet50 resnet50_os8 resnext50_32x4d resnetv2_50 resnest50d densenetblur121d resnetaa50"
)


@pytest.mark.parametrize("name", VARIANTS.split())
def test_for_a_variant_no_other_network_is_suggested(name):
    with pytest.raises(
        ModelError, match=rf"'{name}' is unknown\. It is not among the architectures here, and cannot be replaced by another"
    ) as caught:
        build(name, num_classes=1)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("resnet5O", "resnet50"), ("ResNet-50", "resnet50"), ("wide_resnet50", "wide_resnet50_2"), ("densnet121", "densenet121")]
)
def test_a_slip_of_the_finger_is_answered_with_near_names(name, meant):
    with pytest.raises(ModelError, match=rf"'{name}' is unknown\. Did you mean '{meant}'"):
        build(name, num_classes=1)


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
    with opened_checkpoint(path) as content:
        assert content["payload"].kind == "posix.mkdir"
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the payload works where it is not refused"


@pytest.mark.oracle
def test_a_pth_that_is_no_state_dict_is_refused(tmp_path, torch):
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match=r"list\.pth contains a list, not a state dict, and nothing in it was run\. Try: torch\.save"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"weight": torch.ones(2), "epoch": 3}, tmp_path / "mixed.pth")
    assert read_checkpoint(tmp_path / "mixed.pth").keys() == {"weight"}


@pytest.mark.oracle
def test_a_pth_that_holds_itself_is_read_once(tmp_path, torch):
    endless = {"weight": torch.ones(2)}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")
    assert read_checkpoint(tmp_path / "endless.pth").keys() == {"weight"}


@pytest.mark.oracle
def test_a_sparse_tensor_is_named(tmp_path, torch):
    torch.save({"weight": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(ModelError, match=r"sparse\.pth contains no tensors: weight \(torch\._utils\._rebuild_sparse_tensor\)"):
        read_checkpoint(tmp_path / "sparse.pth")
