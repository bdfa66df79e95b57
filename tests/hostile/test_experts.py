"""`zoo verify` and `open_zoo` name the fault of a damaged expert folder."""

import json
import os
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save

from ntk_select import Card, Preprocess
from ntk_select.cli import main
from ntk_select.errors import ModelError
from ntk_select.models import build, initialise, open_zoo
from ntk_select.models.expert_folder import flatten, serialise, sha256_of, write_expert

CONFIG = {"stage_sizes": [1], "widths": [3], "stem": "small"}
SHAPES = jax.eval_shape(partial(initialise, build("resnet18", num_classes=2, **CONFIG), size=8), jax.random.key(0))


def weights(change=lambda _name, array: array) -> bytes:
    tensors = {name: np.full(leaf.shape, 0.5, np.float32) for name, leaf in flatten(SHAPES).items()}
    return save({name: change(name, array) for name, array in tensors.items()})


def spoilt(part: str, value: float):
    return lambda name, array: np.full_like(array, value) if name.endswith(part) else array


@pytest.fixture
def zoo(tmp_path) -> Path:
    for name in ("ash", "oak"):
        variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), SHAPES)
        write_expert(tmp_path / "zoo" / name, variables, Card(name, "resnet18", "trees", Preprocess(size=8), "", 2, config=CONFIG))
    return tmp_path / "zoo"


def card(**changes):
    return lambda folder: (folder / "card.json").write_text(json.dumps(json.loads((folder / "card.json").read_text()) | changes))


def text(content: str | bytes):
    return lambda folder: (folder / "card.json").write_bytes(content if isinstance(content, bytes) else content.encode())


def named(content: bytes, **changes):
    """Weights that the card names: only what is in them is wrong."""

    def put(folder):
        (folder / "model.safetensors").write_bytes(content)
        card(sha256=sha256_of(content), **changes)(folder)

    return put


def bit(place: int):
    def turn(folder):
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[place] ^= 1
        (folder / "model.safetensors").write_bytes(content)

    return turn


def instead(make):
    def put(folder):
        (folder / "model.safetensors").unlink()
        make(folder / "model.safetensors")

    return put


OTHER = r"model\.safetensors have sha256 [0-9a-f]{12}\.\.\., the card says [0-9a-f]{12}\.\.\.; one of the two was modified or truncated"
NO_JSON = r"ash/card\.json is not valid JSON \({}.*\)\. To make the card again, try: ntk-select zoo convert CHECKPOINT --arch NAME"
DAMAGE = {
    "a bit of the length": (bit(0), OTHER),
    "a bit of the header": (bit(20), OTHER),
    "the last bit": (bit(-1), OTHER),
    "weights cut": (lambda folder: os.truncate(folder / "model.safetensors", 500), OTHER),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors cannot be read: No such file"),
    "a folder for weights": (instead(Path.mkdir), r"model\.safetensors cannot be read: Is a directory"),
    "a pipe for weights": (instead(os.mkfifo), r"model\.safetensors cannot be read: it is not a regular file"),
    "a link to itself": (instead(lambda path: path.symlink_to(path.name)), r"cannot be read: Too many levels of symbolic links"),
    "NaN": (named(weights(spoilt("fc/kernel", np.nan))), r"model\.safetensors contain NaN or infinity in params/fc/kernel\."),
    "infinity": (named(weights(spoilt("fc/bias", np.inf))), r"contain NaN or infinity in params/fc/bias\."),
    "a variance below zero": (
        named(weights(spoilt("bn1/var", -1.0))),
        r"contain negative variances in batch_stats/bn1/var, batch_stats/layer1_0/bn1/var",
    ),
    "whole numbers": (
        named(weights(lambda _name, array: array.astype(np.int8))),
        r"contain tensors that are not floating point: batch_stats/bn1/mean \(int8\), .*Params of an expert are float32",
    ),
    "names without end": (named(save({"a/" * 50_000 + "b": np.ones(1)})), r"The name 'a/a/.*'\.\.\. has 50,000 groups; allowed are 100"),
    "a tensor in the place of a group": (
        named(serialise({**jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), SHAPES), "source": np.ones(1)}), class_counts=[1, 2]),
        r"contain a tensor 'source'; it must be a group, as in source/class_means",
    ),
    "another number of classes": (card(num_classes=10**9), r"do not fit the architecture: .*params/fc/kernel is \(3, 2\), not \(3, 1000000000\)"),
    "no card's JSON": (text(""), NO_JSON.format("Expecting value")),
    "a card nested without end": (text("[" * 100_000), NO_JSON.format("maximum recursion depth exceeded")),
    "a card not in UTF-8": (text(b'{"name": "\xff"}'), r"The card .*ash/card\.json cannot be read: 'utf-8' codec can't decode"),
    "half a letter in the card": (text('{"name": "\\ud800"}'), NO_JSON.format("'utf-8' codec can't encode")),
    "a number without end": (text('{"name": ' + "9" * 5000 + "}"), NO_JSON.format("Exceeds the limit")),
    "a list for a card": (text("[]"), r"ash/card\.json contains a list; a card is an object with the fields name, architecture"),
    "an image of a million pixels a side": (card(preprocess={"size": 10**6}), r"size=1,000,000, resize=None; at most 16,384 pixels are allowed"),
    "a size without end": (card(preprocess={"size": 10**30}), r"at most 16,384 pixels are allowed"),
    "a std of zero": (card(preprocess={"size": 8, "std": [0, 0, 0]}), r"std=\(0\.0, 0\.0, 0\.0\); both need three numbers, std above 0"),
    "a strange word": (card(preprocess={"size": 8, "__class__": 1}), r"unexpected keyword argument '__class__'"),
    "an architecture that is none": (card(architecture="resnet18; rm -rf"), r"'resnet18; rm -rf' is unknown\. Did you mean 'resnet18'"),
    "a width that is a word": (card(config={**CONFIG, "widths": ["x"]}), r"Architecture 'resnet18' does not take widths=\('x',\)"),
    "more blocks than can be built": (card(config={**CONFIG, "stage_sizes": [100_000]}), r"does not take stage_sizes=\(100000,\)"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_says_what_is_wrong_with_an_expert_and_that_the_other_is_whole(zoo, capsys, case):
    damage, sentence = DAMAGE[case]
    damage(zoo / "ash")
    with pytest.raises(ModelError, match=sentence):
        open_zoo([str(zoo)])["ash"]()
    assert main(["zoo", "verify", "--zoo", str(zoo), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    with pytest.raises(ModelError, match=sentence):
        raise ModelError(found["ash"])
    assert found["oak"] is None


@pytest.mark.parametrize("uri", ["x" * 5000, "new\nline", "~nobody_of_this_name/zoo"])
def test_a_zoo_that_cannot_be_is_named(uri):
    with pytest.raises(ModelError, match=r"neither installed nor a folder.*To make one, try: ntk-select zoo convert"):
        open_zoo([uri])


def test_a_zoo_that_may_not_be_read_is_named(zoo, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(ModelError, match=r"The zoo '.*zoo' cannot be read: Permission denied \(.*zoo\)"):
        open_zoo([str(zoo)])


def test_rank_reports_an_expert_with_nan_and_ranks_the_other(zoo, tmp_path, capsys):
    named(weights(spoilt("fc/kernel", np.nan)))(zoo / "ash")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "task.npz", images=rng.integers(0, 256, (6, 8, 8), dtype=np.uint8), labels=np.arange(6) % 2)
    arguments = ["rank", "--task", str(tmp_path / "task.npz"), "--zoo", str(zoo), "--scores", "num_params", "--cache", "none", "--json"]
    assert main(arguments) == 1
    found = json.loads(capsys.readouterr().out)
    assert [expert["name"] for expert in found["experts"] if expert["rank"] is not None] == ["oak"]
    assert "contain NaN or infinity in params/fc/kernel" in json.dumps(found)
