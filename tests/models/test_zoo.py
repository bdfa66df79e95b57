"""Folders of experts load as they were written; broken ones are rejected with an error message."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from ntk_select import Card, Preprocess
from ntk_select.errors import ModelError
from ntk_select.models import FolderZoo, StoredExpert, build, initialise, open_zoo
from ntk_select.models.expert_folder import flatten, serialise, sha256_of, write_expert

CONFIG = {"stage_sizes": [1], "widths": [4], "stem": "small"}


@pytest.fixture(scope="module")
def written():
    shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=3, **CONFIG), size=8), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def original(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("zoo")
    for name, factor in (("a", 1.0), ("b", 2.0)):
        card = Card(name, "resnet18", "flowers", Preprocess(size=8), "", 3, config=CONFIG)
        write_expert(folder / name, jax.tree.map(lambda leaf, factor=factor: leaf * np.float32(factor), written), card)
    return folder


@pytest.fixture
def zoo(tmp_path, original):
    """A zoo of two experts, a and b, that a test may damage."""
    return shutil.copytree(original, tmp_path / "zoo")


def rewrite_card(expert, **changes):
    card = expert / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))


def rewrite_weights(expert, variables):
    content = serialise(variables)
    (expert / "model.safetensors").write_bytes(content)
    rewrite_card(expert, sha256=sha256_of(content))


def test_a_folder_is_a_mapping_of_its_experts(zoo):
    (zoo / "notes").mkdir()
    (zoo / "unfinished").mkdir()
    (zoo / "unfinished" / "model.safetensors").write_bytes(b"")
    (zoo / "readme.txt").write_text("hello")
    experts = FolderZoo(zoo)
    assert list(experts) == ["a", "b"]
    assert len(experts) == 2
    assert experts["a"] == StoredExpert(zoo / "a")
    with pytest.raises(KeyError):
        experts["c"]


def test_an_expert_loads_as_it_was_written(zoo, written):
    stored = FolderZoo(zoo)["b"]
    expert = stored()
    assert (expert.name, expert.card, expert.preprocess) == ("b", stored.card, Preprocess(size=8))
    found = flatten(expert.variables)
    assert {name: value.tolist() for name, value in found.items()} == {name: (2 * value).tolist() for name, value in flatten(written).items()}
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    network = build("resnet18", num_classes=3, **CONFIG)
    np.testing.assert_allclose(expert.apply_fn(expert.variables, x), network.apply(jax.tree.map(lambda leaf: 2 * leaf, written), x), rtol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "card.json"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "is a Git LFS pointer, .*git lfs pull"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "is a Git LFS pointer, .*git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page, .*Try: download the file itself"),
    ],
    ids=["pointer", "pointer with a mark", "page"],
)
def test_what_stands_in_place_of_an_experts_file_is_said(zoo, file, content, sentence):
    (zoo / "a" / file).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{file}.* {sentence}"):
        FolderZoo(zoo)["a"]()


def test_nothing_is_read_until_it_is_asked_for(zoo):
    for name in ("a", "b"):
        (zoo / name / "model.safetensors").write_bytes(b"broken")
        (zoo / name / "card.json").write_text("broken")
    assert set(open_zoo([str(zoo)])) == {"a", "b"}


def test_what_is_known_of_the_source_lies_beside_the_weights(zoo, written):
    means = np.arange(12.0).reshape(3, 4)
    rewrite_weights(zoo / "a", {**written, "source": {"class_means": means, "reference_class_means": means[:, :2]}})
    card = json.loads((zoo / "a" / "card.json").read_text())
    assert FolderZoo(zoo)["a"]().source is None  # means without counts say nothing of the weights of classes
    card |= {"class_counts": [5, 6, 7], "training": {"reference_extractor": "b"}}
    (zoo / "a" / "card.json").write_text(json.dumps(card))
    expert = FolderZoo(zoo)["a"]()
    np.testing.assert_array_equal(expert.source.class_means, means)
    np.testing.assert_array_equal(expert.source.reference_class_means, means[:, :2])
    assert expert.source.class_counts.tolist() == [5, 6, 7]
    assert expert.source.reference().name == FolderZoo(zoo)["b"]().name
    assert set(expert.variables) == {"params", "batch_stats"}
    assert FolderZoo(zoo)["b"]().source is None


def test_an_extractor_outside_the_zoo_is_not_reached(zoo, written):
    rewrite_weights(zoo / "a", {**written, "source": {"class_means": np.ones((1, 2))}})
    card = json.loads((zoo / "a" / "card.json").read_text()) | {"class_counts": [5], "training": {"reference_extractor": "../elsewhere/b"}}
    (zoo / "a" / "card.json").write_text(json.dumps(card))
    assert FolderZoo(zoo)["a"]().source.reference is None


def test_a_folder_that_is_one_expert_is_a_zoo_of_one(zoo, monkeypatch):
    assert list(open_zoo([str(zoo / "a")])) == ["a"]
    monkeypatch.chdir(zoo / "a")
    assert list(open_zoo(["."])) == ["a"]


def test_two_zoos_become_one_mapping(zoo, tmp_path):
    shutil.copytree(zoo / "a", tmp_path / "other" / "c")
    experts = open_zoo([str(zoo), f"folder:{tmp_path / 'other'}"])
    assert list(experts) == ["a", "b", "c"]
    assert experts["c"] == StoredExpert(tmp_path / "other" / "c")


def test_the_installed_zoo_has_a_name():
    experts = open_zoo(["builtin"])
    assert "cifar10-resnet_small" in experts


def test_two_experts_of_one_name_are_refused(zoo, tmp_path):
    shutil.copytree(zoo, tmp_path / "again")
    with pytest.raises(ModelError, match="Two of the zoos .*again have an expert 'a'. Try: rename one of the folders"):
        open_zoo([str(zoo), str(tmp_path / "again")])


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("bultin", "The zoo 'bultin' is neither installed nor a folder. Did you mean 'builtin'.*zoo convert"),
        ("/no/such/folder", "The zoo '/no/such/folder' is neither installed nor a folder"),
        ("resnet18", "a folder. Allowed: builtin, a folder of experts, timm:NAME, hf-hub:ORG/NAME, features:PATH. To make one, try: "),
        ("folder:builtin", "The zoo 'folder:builtin' is neither"),
        ("", "The zoo '' has no path. Try: PATH"),
        ("folder:", "The zoo 'folder:' has no path. Try: folder:PATH, in which . is the current folder"),
        ("features:", "The zoo 'features:' has no path. Try: features:PATH"),
    ],
)
def test_a_zoo_that_is_not_there_is_refused(uri, message):
    with pytest.raises(ModelError, match=message):
        open_zoo([uri])


def test_a_folder_without_experts_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"contains no expert \(no sub-folder with card.json\).*zoo convert"):
        open_zoo([str(tmp_path)])


def test_a_zoo_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="file' is not a folder"):
        list(FolderZoo(tmp_path / "file"))


def broken(zoo, written, how):
    """Damages the expert a."""
    expert = zoo / "a"
    weights = expert / "model.safetensors"
    content = weights.read_bytes()
    flat = flatten(written)
    match how:
        case "cut":
            weights.write_bytes(content[:-4])
        case "bit flip":
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "not safetensors":
            weights.write_bytes(b"PK\x03\x04")
            rewrite_card(expert, sha256=sha256_of(b"PK\x03\x04"))
        case "no weights":
            weights.unlink()
        case "nan":
            rewrite_weights(expert, {**flat, "params/fc/bias": np.float32([0, np.nan, 0])})
        case "missing tensor":
            rewrite_weights(expert, {name: value for name, value in flat.items() if name != "batch_stats/bn1/var"})
        case "unknown tensor":
            rewrite_weights(expert, {**flat, "params/extra": np.ones(1)})
        case "wrong shape":
            rewrite_weights(expert, {**flat, "params/fc/bias": np.ones(4)})
        case "empty":
            rewrite_weights(expert, {})
        case "card not json":
            (expert / "card.json").write_text("{")
        case "card not text":
            (expert / "card.json").write_bytes(b"\xff\xfe\x00")
        case "card is a folder":
            (expert / "card.json").unlink()
            (expert / "card.json").mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "model.safetensors have sha256 .*one of the two was modified or truncated"),
        ("bit flip", "model.safetensors have sha256"),
        ("not safetensors", "are not a valid safetensors file"),
        ("no weights", "model.safetensors cannot be read: No such file"),
        ("nan", "contain NaN or infinity in params/fc/bias"),
        ("missing tensor", "do not fit the architecture: batch_stats/bn1/var is missing"),
        ("unknown tensor", "params/extra is unknown"),
        ("wrong shape", r"params/fc/bias is \(4,\), not \(3,\)"),
        ("empty", r"is missing; .* \.\.\.\."),
        ("card not json", "card.json is not valid JSON"),
        ("card not text", "The card .*card.json cannot be read"),
        ("card is a folder", "The card .*card.json cannot be read"),
    ],
)
def test_a_broken_expert_is_refused_with_what_is_wrong(zoo, written, how, message):
    broken(zoo, written, how)
    with pytest.raises(ModelError, match=message):
        StoredExpert(zoo / "a")()
    assert FolderZoo(zoo)["b"]().name == "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet1"}, "Architecture 'resnet1' is unknown"),
        ({"config": {**CONFIG, "wide": 3}}, "does not take .*wide"),
        ({"num_classes": 4}, r"params/fc/kernel is \(4, 3\), not \(4, 4\)"),
        ({"config": {}}, "do not fit the architecture: .*is missing"),
        ({"sha256": "0" * 64}, "the card says 000000000000"),
        pytest.param({"config": 5}, "config"),
        pytest.param({"config": {**CONFIG, "num_classes": 3}}, "num_classes"),
        pytest.param({"config": {**CONFIG, "stage_sizes": [1, 1]}}, "widths|stage_sizes"),
        pytest.param({"config": {**CONFIG, "stage_sizes": "abc"}}, "stage_sizes"),
        pytest.param({"config": {**CONFIG, "block": "basic"}}, "block"),
    ],
)
def test_a_card_that_does_not_fit_the_weights_is_refused(zoo, changes, message):
    rewrite_card(zoo / "a", **changes)
    with pytest.raises(ModelError, match=message):
        StoredExpert(zoo / "a")()
