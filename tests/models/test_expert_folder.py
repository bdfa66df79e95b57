"""Weights survive a round trip through disk; invalid files are rejected."""

import json
import struct
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from ntk_select import Card, Preprocess
from ntk_select.errors import ModelError
from ntk_select.models.expert_folder import CARD_FILE, WEIGHTS_FILE, flatten, read_weights, serialise, sha256_of, unflatten, write_expert

KEYS = st.text(st.characters(exclude_characters="/", codec="utf-8"), max_size=4)
TREES = st.recursive(st.integers(), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=8).filter(
    lambda tree: isinstance(tree, dict)
)

VARIABLES = {"params": {"b": {"kernel": np.arange(6.0).reshape(2, 3)}, "a": np.float32([1, 2])}, "batch_stats": {"mean": np.zeros(2)}}


@given(TREES)
def test_unflatten_is_the_inverse_of_flatten(tree):
    assert unflatten(flatten(tree)) == tree


def test_names_are_paths():
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}


def test_equal_weights_give_equal_bytes_in_whatever_order_and_memory_layout():
    other = {
        "batch_stats": VARIABLES["batch_stats"],
        "params": {"a": VARIABLES["params"]["a"], "b": {"kernel": np.asfortranarray(VARIABLES["params"]["b"]["kernel"])}},
    }
    assert serialise(VARIABLES) == serialise(other)
    assert serialise(VARIABLES) != serialise({**other, "batch_stats": {"mean": np.ones(2)}})


def test_the_bytes_are_a_plain_safetensors_file():
    """Read here by the format's definition: eight bytes of length, JSON, then the numbers."""
    content = serialise(VARIABLES)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert set(header) - {"__metadata__"} == {"params/a", "params/b/kernel", "batch_stats/mean"}
    entry = header["params/b/kernel"]
    assert (entry["dtype"], entry["shape"]) == ("F64", [2, 3])
    start, stop = entry["data_offsets"]
    assert np.frombuffer(content[8 + length :][start:stop]).tolist() == [0, 1, 2, 3, 4, 5]


def test_weights_read_back_as_what_was_written(tmp_path):
    (tmp_path / "w").write_bytes(serialise(VARIABLES))
    found = flatten(read_weights(tmp_path / "w", sha256=sha256_of(serialise(VARIABLES))))
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        name: (value.dtype, value.tolist()) for name, value in flatten(VARIABLES).items()
    }


def test_sha256_is_the_published_one():
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_expert_names_the_weights_in_the_card_and_leaves_two_files(tmp_path):
    given_card = Card("a", "resnet18", "s", Preprocess(size=8), "", 2)
    card = write_expert(tmp_path / "zoo" / "a", VARIABLES, given_card)
    assert given_card.sha256 == ""
    assert card.sha256 == sha256_of((tmp_path / "zoo" / "a" / WEIGHTS_FILE).read_bytes())
    assert Card.from_json((tmp_path / "zoo" / "a" / CARD_FILE).read_text(), "card") == card
    assert {path.name for path in (tmp_path / "zoo" / "a").iterdir()} == {WEIGHTS_FILE, CARD_FILE}


@pytest.mark.parametrize("at", ["card", "rename"])
def test_a_cut_while_replacing_keeps_the_old_expert_and_nothing_half(tmp_path, monkeypatch, at):
    from ntk_select.models import expert_folder

    def stopped(*_):
        raise KeyboardInterrupt

    card = Card("a", "resnet18", "s", Preprocess(size=8), "", 2)
    old = write_expert(tmp_path / "a", VARIABLES, card)
    if at == "card":
        write = expert_folder.write_atomically
        monkeypatch.setattr(expert_folder, "write_atomically", lambda path, content: stopped() if path.name == CARD_FILE else write(path, content))
    else:
        rename = expert_folder.os.replace
        monkeypatch.setattr(expert_folder.os, "replace", lambda a, b: stopped() if ".new" in str(a) else rename(a, b))
    with pytest.raises(KeyboardInterrupt):
        write_expert(tmp_path / "a", VARIABLES, replace(card, source="other"), replace_existing=True)
    with pytest.raises(KeyboardInterrupt):
        write_expert(tmp_path / "b", VARIABLES, card)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert Card.from_json((tmp_path / "a" / CARD_FILE).read_text(), "card") == old
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted([CARD_FILE, WEIGHTS_FILE])


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-1]])
def test_weights_other_than_the_named_ones_are_refused(tmp_path, damage):
    content = serialise(VARIABLES)
    (tmp_path / "w").write_bytes(damage(content))
    with pytest.raises(ModelError, match=f"have sha256 .*the card says {sha256_of(content)[:12]}"):
        read_weights(tmp_path / "w", sha256=sha256_of(content))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n", "the file is a Git LFS pointer, .*git lfs pull"),
        (b"<html>", "the file is a web page"),
        (b"", "the file is empty"),
    ],
)
def test_what_stands_in_place_of_weights_is_said(tmp_path, content, sentence):
    (tmp_path / "w").write_bytes(content)
    for sha256 in (None, "0" * 64):
        with pytest.raises(ModelError, match=sentence):
            read_weights(tmp_path / "w", sha256=sha256)


@pytest.mark.parametrize("content", [b"not safetensors at all", serialise(VARIABLES)[:-1], b"\xff" * 100])
def test_a_file_that_is_not_sound_is_refused(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ModelError, match="are not a valid safetensors file"):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad):
    (tmp_path / "w").write_bytes(serialise({"params": {f"p{i}": np.array([1, bad]) for i in range(6)}, "fine": np.ones(2)}))
    with pytest.raises(ModelError, match=r"contain NaN or infinity in (params/p\d, ){4}params/p\d \.\.\.\."):
        read_weights(tmp_path / "w")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="w cannot be read: No such file"):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize(
    ("flat", "sentence"),
    [
        ({"params": np.ones(2), "params/a": np.ones(2)}, "The name 'params(/a' is inside the tensor|' is that of a tensor and of a group)"),
        ({"params/a": np.ones(2, ml_dtypes.bfloat16)}, "contain tensors of type 'BF16'; params of an expert are float32"),
    ],
    ids=["name inside a tensor", "bfloat16"],
)
def test_a_sound_file_that_is_none_of_ours_is_refused(tmp_path, flat, sentence):
    (tmp_path / "w").write_bytes(save(flat))
    with pytest.raises(ModelError, match=sentence):
        read_weights(tmp_path / "w")
