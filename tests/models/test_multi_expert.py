"""Each domain of a multi-domain expert is an ordinary expert; broken ones are rejected with an error message."""

import copy
import functools
import json

import jax
import numpy as np
import pytest

from ntk_select import Card, Preprocess
from ntk_select.cli import main
from ntk_select.errors import ModelError
from ntk_select.experts.multi_domain import SHARINGS, compose, split
from ntk_select.models import FolderZoo, StoredExpert, open_zoo
from ntk_select.models.architectures import build, initialise
from ntk_select.models.expert_folder import flatten, read_weights, serialise, sha256_of, write_expert, write_multi_expert

CONFIG = {"stage_sizes": [1], "widths": [4], "stem": "small"}
CLASSES = {"cats": 2, "dogs": 3}


@functools.cache
def parts_of(sharing):
    """{"common": ..., "domains": ...} with random numbers throughout."""
    rng, stored = np.random.default_rng(0), {"domains": {}}

    def filled(tree):
        return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), tree)

    for domain, classes in CLASSES.items():
        module = build("resnet18", num_classes=classes, **CONFIG)
        shapes = jax.eval_shape(functools.partial(initialise, module, size=8), jax.random.key(0))
        common, own = split(filled(shapes), sharing, module.head)
        stored.setdefault("common", common)
        stored["domains"][domain] = jax.tree.map(lambda leaf: leaf if leaf.any() else rng.uniform(0.1, 1, leaf.shape).astype(np.float32), own)
    return stored


def cards():
    return {
        domain: Card(f"pets@{domain}", "resnet18", domain, Preprocess(size=8), "", classes, config=CONFIG, class_counts=(5,) * classes)
        for domain, classes in CLASSES.items()
    }


@pytest.fixture
def written(tmp_path):
    """The folder of an expert with adapters, and what was written."""
    stored = copy.deepcopy(parts_of("adapters"))
    for domain, classes in CLASSES.items():
        stored["domains"][domain]["source"] = {"class_means": np.arange(4.0 * classes).reshape(classes, 4)}
    write_multi_expert(tmp_path / "zoo" / "pets", stored, cards())
    return tmp_path / "zoo" / "pets", stored


def rewritten(folder, variables):
    content = serialise(variables)
    (folder / "model.safetensors").write_bytes(content)
    for card in folder.glob("card@*.json"):
        card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": sha256_of(content)}))


def test_there_is_one_weights_file_and_a_card_for_each_domain_that_names_it(written):
    folder, stored = written
    assert sorted(path.name for path in folder.iterdir()) == ["card@cats.json", "card@dogs.json", "model.safetensors"]
    digest = sha256_of((folder / "model.safetensors").read_bytes())
    found = flatten(read_weights(folder / "model.safetensors", sha256=digest))
    assert {name: leaf.tolist() for name, leaf in found.items()} == {name: leaf.tolist() for name, leaf in flatten(stored).items()}
    for domain, card in cards().items():
        stored_card = Card.from_json((folder / f"card@{domain}.json").read_text(), "card")
        assert stored_card.sha256 == digest
        assert (stored_card.name, stored_card.num_classes) == (card.name, card.num_classes)


def test_writing_gives_the_cards_by_domain_and_never_over_another(written):
    folder, stored = written
    with pytest.raises(ModelError, match="pets already exists. Try: another name, or replace_existing=True"):
        write_multi_expert(folder, stored, cards())
    found = write_multi_expert(folder.with_name("cats"), stored, {"cats": cards()["cats"]})
    assert list(found) == ["cats"]
    assert sorted(FolderZoo(folder.parent)) == ["cats@cats", "pets@cats", "pets@dogs"]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_each_domain_answers_as_its_parts_put_together(sharing, tmp_path, rng):
    stored = parts_of(sharing)
    write_multi_expert(tmp_path / "pets", stored, cards())
    experts, x = open_zoo([str(tmp_path)]), rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    assert list(experts) == ["pets@cats", "pets@dogs"]
    for domain, classes in CLASSES.items():
        expert = experts[f"pets@{domain}"]()
        whole = compose(stored["common"], stored["domains"][domain])
        expected = build("resnet18", num_classes=classes, **CONFIG).apply(whole, x)
        np.testing.assert_allclose(expert.apply_fn(expert.variables, x), expected, rtol=1e-5)
        assert set(expert.variables) == {"params", "batch_stats"}
        assert {type(leaf) for leaf in jax.tree.leaves(expert.params)} == {np.ndarray}
        assert (expert.name, expert.card.source) == (f"pets@{domain}", domain)


def test_what_is_known_of_a_domains_source_lies_with_it(written):
    folder, stored = written
    for domain in CLASSES:
        expert = StoredExpert(folder, domain)()
        np.testing.assert_array_equal(expert.source.class_means, stored["domains"][domain]["source"]["class_means"])
        assert expert.source.reference is None


def test_an_ordinary_expert_beside_it_a_link_to_it_and_the_folder_itself_are_zoos(written):
    folder, _ = written
    write_expert(folder.parent / "plain", {"params": {"w": np.ones(1)}}, Card("plain", "resnet18", "cats", Preprocess(8), "", 2, config=CONFIG))
    (folder.parent / "linked").symlink_to(folder)
    names = ["linked@cats", "linked@dogs", "pets@cats", "pets@dogs", "plain"]
    assert list(FolderZoo(folder.parent)) == names
    assert list(open_zoo([str(folder)])) == ["pets@cats", "pets@dogs"]
    assert len(FolderZoo(folder.parent)) == 5


def damaged(folder, stored, how):
    flat = flatten(stored)
    match how:
        case "no domain":
            rewritten(folder, {"common": stored["common"], "domains": {"dogs": stored["domains"]["dogs"]}})
        case "domains are a tensor":
            rewritten(folder, {"common": stored["common"], "domains": np.ones(2)})
        case "no domains":
            rewritten(folder, {"common": stored["common"]})
        case "nothing common":
            rewritten(folder, {"domains": stored["domains"]})
        case "common is a tensor":
            rewritten(folder, {"domains": stored["domains"], "common": np.ones(2)})
        case "domain is a tensor":
            rewritten(folder, {"common": stored["common"], "domains": {"cats": np.ones(2)}})
        case "kernel is missing":
            rewritten(folder, {name: leaf for name, leaf in flat.items() if name != "common/params/layer1_0/conv1/kernel"})
        case "adapter of another shape":
            rewritten(folder, {**flat, "domains/cats/params/layer1_0/conv1/adapter": np.ones((1, 1, 1, 1), np.float32)})
        case "common tensor is missing":
            rewritten(folder, {name: leaf for name, leaf in flat.items() if not name.startswith("domains/cats/batch_stats/bn1/")})
        case "unknown tensor":
            rewritten(folder, {**flat, "domains/cats/params/extra": np.ones(1, np.float32)})
        case "cut":
            content = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(content[:-4])
        case "card":
            (folder / "card@cats.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no domain", r"model.safetensors contain no domain 'cats'. Domains: dogs\."),
        ("no domains", r"contain no domain 'cats'. Domains: \(none\)"),
        ("domains are a tensor", r"contain no domain 'cats'. Domains: \(none\)"),
        ("nothing common", "contain no domain 'cats'"),
        ("common is a tensor", "do not fit together for the domain 'cats'"),
        ("domain is a tensor", "do not fit together for the domain 'cats'"),
        ("kernel is missing", "do not fit together for the domain 'cats'"),
        ("adapter of another shape", "do not fit together for the domain 'cats'"),
        ("common tensor is missing", "do not fit the architecture: batch_stats/bn1/mean is missing"),
        ("unknown tensor", "params/extra is unknown"),
        ("cut", "have sha256 .*one of the two was modified or truncated"),
        ("card", "card@cats.json is not valid JSON"),
    ],
)
def test_a_broken_one_is_refused_with_what_is_wrong(written, how, message):
    folder, stored = written
    damaged(folder, stored, how)
    with pytest.raises(ModelError, match=message):
        StoredExpert(folder, "cats")()


def test_a_card_without_its_file_is_no_domain(written):
    folder, _ = written
    with pytest.raises(ModelError, match="The card .*card@birds.json cannot be read"):
        StoredExpert(folder, "birds")()
    assert "pets@birds" not in FolderZoo(folder.parent)


def test_domains_are_ranked_and_listed_like_any_other_expert(written, rng, capsys):
    folder, _ = written
    labels = np.repeat([0, 1], 8)
    images = rng.integers(0, 100, (16, 8, 8), np.uint8) + (100 * labels[:, None, None]).astype(np.uint8)
    np.savez(folder.parent.parent / "task.npz", images=images, labels=labels, class_names=["dark", "bright"])
    assert main(["rank", "--task", f"npz:{folder.parent.parent / 'task.npz'}", "--zoo", str(folder.parent), "--scores", "lfc", "--draws", "20"]) == 0
    ranked = capsys.readouterr().out
    assert main(["zoo", "list", "--zoo", str(folder.parent)]) == 0
    listed = capsys.readouterr().out
    for name in ("pets@cats", "pets@dogs"):
        assert name in ranked
        assert name in listed
