"""A whole zoo is trained from its sources, resumes after an interruption to the same bytes, and has complete cards."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ntk_select import Preprocess, Task
from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.multi_domain import SHARINGS
from ntk_select.models import FolderZoo
from ntk_select.models.architectures import fresh_expert
from ntk_select.tasks.probe_sample import probe_sample
from ntk_select.training.checkpoints import Checkpoints
from ntk_select.training.zoo import members, read_config, single, train_zoo
from ntk_select.training.zoo.run import load_source, renamed

running = importlib.import_module("ntk_select.training.zoo.run")

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture
def kept_each_epoch(monkeypatch):
    monkeypatch.setitem(Checkpoints.__init__.__kwdefaults__, "every_seconds", 0.0)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of one block instead of those of the config."""

    def small(name, architecture, *, config, **options):
        return fresh_expert(name, "resnet18", config={"stage_sizes": (1,), "widths": (4,), "stem": "small"}, **options)

    monkeypatch.setattr(single, "fresh_expert", small)


def cut_and_whole(config, data, **options):
    """The bytes of the weights of an uninterrupted training, and of one that was interrupted after its second epoch."""

    def cut(epoch, epochs, text):
        if epoch == 2:
            raise KeyboardInterrupt

    def run(name, **more):
        return train_zoo(config, out=data / name, data=data, work=data / "work" / name, **options, **more)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", progress=cut)
    assert list((data / "cut").iterdir()) == []
    seen = []
    resumed = run("cut", progress=lambda epoch, epochs, text: seen.append(epoch))
    assert seen == [2, 3]
    assert [card.sha256 for card in resumed] == [card.sha256 for card in whole]
    assert list((data / "work" / "cut" / "checkpoints").iterdir()) == []
    (folder,) = (data / "cut").iterdir()
    return tuple((data / name / folder.name / "model.safetensors").read_bytes() for name in ("whole", "cut"))


def test_interrupted_training_resumes_to_the_same_weights(config, data, tiny, kept_each_epoch):
    whole, cut = cut_and_whole(read_config(config), data, only="stripes-resnet_small")
    assert whole == cut


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
def test_interrupted_training_on_many_domains_resumes_to_the_same_weights(sharing, config, data, tiny, kept_each_epoch):
    found = read_config(config)
    found = replace(found, multi_domain={"both": replace(found.multi_domain["both"], sharing=sharing)})
    whole, cut = cut_and_whole(found, data, only="both")
    assert whole == cut


def test_an_existing_expert_is_not_trained_again_and_an_incomplete_one_is_refused(config, data, tiny):
    found, done = replace(read_config(config), multi_domain={}), []
    options = {"out": data / "zoo", "data": data, "work": data / "work", "only": "stripes-resnet_small", "done": done.append}
    found = replace(found, sources={"stripes": found.sources["stripes"]})
    (card,) = train_zoo(found, **options)
    assert done == [[card]]
    assert train_zoo(found, **options) == []
    (data / "zoo" / "stripes-resnet_small" / "card.json").unlink()
    with pytest.raises(ModelError, match="stripes-resnet_small exists, but without card.json. Try: delete or rename it, to have it trained"):
        train_zoo(found, **options)


def test_an_unknown_name_is_refused(config, data):
    with pytest.raises(ConfigError, match="No expert's name contains 'cats'. Available: stripes-resnet_small, dots-resnet_small-from-stripes, both-"):
        train_zoo(read_config(config), out=data / "zoo", data=data, work=data, only="cats")
    assert not (data / "zoo").exists()


@pytest.mark.parametrize("litter", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_expert_to_start_from_must_exist(config, data, litter):
    if litter:
        (data / "zoo" / "notes").mkdir(parents=True)
    with pytest.raises(
        ModelError, match="There is no expert 'stripes-resnet_small' to start from, neither in .*zoo nor built in. Try: train it first"
    ):
        train_zoo(read_config(config), out=data / "zoo", data=data, work=data, only="dots")


def test_an_expert_to_start_from_may_be_built_in(data):
    zoo = single.Zoo(None, data, None, None, None, None)
    assert single.parent_of(zoo, "cifar10-resnet_small").card.name == "cifar10-resnet_small"
    assert single.parent_of(zoo, None) is None


def test_diverging_training_is_reported_writes_nothing_and_does_not_stop_the_others(config, data, tiny):
    found = replace(read_config(config), learning_rate={"scratch": 1e30, "transfer": 0.1}, architectures=("resnet_small",))
    told = (
        r"2 of 3 experts were not trained. stripes-resnet_small: Training diverged in epoch 1, .*; dots-.*: There is no expert 'stripes-resnet_small'"
    )
    with pytest.raises(ModelError, match=told):
        train_zoo(found, out=data / "zoo", data=data, work=data / "work")
    assert [folder.name for folder in (data / "zoo").iterdir()] == ["both-resnet_small"]


def test_training_that_cannot_start_is_refused_before_any_other(config, data, tiny):
    found = replace(read_config(config), initial_source="dots")
    found = replace(found, sources={**found.sources, "stripes": replace(found.sources["stripes"], epochs={"transfer": 1})})
    with pytest.raises(ModelError, match=r"There is no expert 'dots-resnet_small' to start from"):
        train_zoo(found, out=data / "zoo", data=data, work=data / "work", only="stripes")
    assert not (data / "work").exists()


def test_the_backbone_is_that_of_the_parent_and_the_head_is_new():
    options = {"num_classes": 3, "preprocess": Preprocess(8), "config": {"stage_sizes": (1,), "widths": (4,), "stem": "small"}}
    fresh, parent = (fresh_expert("a", "resnet18", seed=seed, **options) for seed in (0, 1))
    found = single.with_backbone(fresh, parent)
    np.testing.assert_array_equal(found["params"]["fc"]["kernel"], fresh.params["fc"]["kernel"])
    np.testing.assert_array_equal(found["params"]["conv1"]["kernel"], parent.params["conv1"]["kernel"])
    assert single.with_backbone(fresh, None) == fresh.variables


def top1(expert, images, labels):
    return float((np.asarray(expert.apply_fn(expert.variables, expert.preprocess(images))).argmax(1) == labels).mean())


@pytest.mark.slow
def test_the_experts_of_a_zoo_load_and_their_cards_are_complete(config, data):
    found = read_config(config)
    found = replace(found, multi_domain={"both": replace(found.multi_domain["both"], start="transfer")})
    cards = train_zoo(found, out=data / "zoo", data=data, work=data / "work")
    zoo = FolderZoo(data / "zoo")
    assert sorted(zoo) == sorted(card.name for card in cards)
    assert list(zoo) == ["both-resnet_small@dots", "both-resnet_small@stripes", "dots-resnet_small-from-stripes", "stripes-resnet_small"]
    with np.load(data / "stripes.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    joined = np.where(labels == 2, 0, labels)
    for name, stored in zoo.items():
        expert, card, dots = stored(), stored.card, "dots" in name
        assert (card.class_names, card.class_counts) == ((("a", "b"), (32, 16)) if dots else (("a", "b", "c"), (16, 16, 16)))
        assert card.initialised_from == (None if name == "stripes-resnet_small" else "stripes-resnet_small")
        assert card.licence == "weights Apache-2.0; made by the test"
        assert (card.num_images, card.num_parameters, card.source) == (48, expert.num_params, "dots" if dots else "stripes")
        truth = joined if dots else labels
        assert card.test_accuracy == round(top1(expert, images[:12], truth[:12]), 5)
        features = np.asarray(expert.features_fn(expert.variables, expert.preprocess(images)))
        for label in range(card.num_classes):
            np.testing.assert_allclose(expert.source.class_means[label], features[truth == label].mean(0), atol=1e-5)
        reference = expert.source.reference()
        assert reference.name == expert.source.reference_name == "stripes-resnet_small"
        features = np.asarray(reference.features_fn(reference.variables, reference.preprocess(images)))
        np.testing.assert_allclose(expert.source.reference_class_means[1], features[truth == 1].mean(0), atol=1e-5)
    training = zoo["both-resnet_small@dots"].card.training
    assert (training["sharing"], training["domains"], training["images_per_epoch"]) == ("adapters", ["stripes", "dots"], 18)
    assert (training["epochs"], training["nesterov"], training["schedule"]) == (3, True, "cosine")


@pytest.fixture
def task(rng):
    images = rng.integers(0, 256, (6, 4, 4), np.uint8)
    return Task("t", images, np.array([0, 1, 2, 3, 3, 0]), ("a", "b", "c", "d"), images, np.array([3, 2, 1, 0, 0, 0]))


def test_merged_classes_lose_their_name_and_keep_their_images(task):
    found = renamed(task, {"b": "d", "a": "c"})
    assert found.class_names == ("c", "d")
    assert found.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert found.test_labels.tolist() == [1, 0, 1, 0, 0, 0]
    assert renamed(replace(task, test_images=None, test_labels=None), {"a": "b"}).test_labels is None
    assert renamed(task, {}).labels.tolist() == task.labels.tolist()


@pytest.mark.parametrize("names", [{"e": "a"}, {"a": "e"}])
def test_an_unknown_class_cannot_be_merged(task, names):
    with pytest.raises(ConfigError, match="rename: the task 't' has no class 'e'"):
        renamed(task, names)


@pytest.mark.parametrize("names", [{"a": "b", "b": "c"}, {"a": "b", "b": "b"}])
def test_a_class_cannot_be_merged_into_a_merged_one(task, names):
    with pytest.raises(ConfigError, match="rename: the class 'b' is merged into another, so no class can be merged into it"):
        renamed(task, names)


def test_resized_images_are_cached_until_the_archive_changes(config, data, tmp_path, monkeypatch):
    found = replace(read_config(config), size=5)
    first = load_source(found, "dots", data, tmp_path / "work")
    with np.load(data / "stripes.npz") as stored:
        arrays = dict(stored)
    np.testing.assert_array_equal(first.images, found.preprocess.resized(arrays["images"]))
    np.testing.assert_array_equal(first.test_images, found.preprocess.resized(arrays["test_images"]))
    np.testing.assert_array_equal(first.labels, np.where(arrays["labels"] == 2, 0, arrays["labels"]))
    with monkeypatch.context() as patch:
        patch.setattr(running, "load_task", None)  # nothing is read
        again = load_source(found, "dots", data, tmp_path / "work")
    for name in ("images", "labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (again.name, again.class_names) == ("dots", ("a", "b"))
    np.savez(data / "stripes.npz", **{**arrays, "images": 255 - arrays["images"]})
    changed = load_source(found, "dots", data, tmp_path / "work")
    np.testing.assert_array_equal(changed.images, found.preprocess.resized(255 - arrays["images"]))


def test_other_sizes_and_names_are_not_read_from_the_cache(config, data, tmp_path):
    found = read_config(config)
    load_source(found, "dots", data, tmp_path / "work")
    assert load_source(replace(found, size=5), "dots", data, tmp_path / "work").images.shape[1:] == (5, 5, 3)
    plain = replace(found, sources={"dots": replace(found.sources["dots"], rename={})})
    assert load_source(plain, "dots", data, tmp_path / "work").num_classes == 3


def test_large_images_are_not_cached(config, data, tmp_path):
    found = load_source(replace(read_config(config), size=65), "stripes", data, tmp_path / "work")
    assert found.images.shape[1:3] == (8, 8)
    assert not (tmp_path / "work").exists()


def test_the_images_of_a_table_are_not_cached_since_their_files_may_change(config, data, tmp_path):
    rows = [(f"{split}-{label}-{i}.png", label, split) for split in ("train", "test") for label in "ab" for i in range(2)]
    for file, _, _ in rows:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / file)
    (tmp_path / "a.csv").write_text("\n".join(map(",".join, [("path", "label", "split"), *rows])))
    found = read_config(config)
    found = replace(found, sources={"table": replace(found.sources["stripes"], uri=f"csv:{tmp_path / 'a.csv'}")})
    assert not np.asarray(load_source(found, "table", data, tmp_path / "work").images[0]).any()
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "train-a-0.png")
    assert (np.asarray(load_source(found, "table", data, tmp_path / "work").images[0]) == 255).all()


def test_without_a_folder_of_data_the_option_is_named(config, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"The source 'dots' is at 'npz:\{data\}/stripes.npz', and the folder for \{data\} is missing. Try: data=FOLDER .--data FOLDER",
    ):
        load_source(read_config(config), "dots", None, tmp_path)


def test_a_source_without_a_test_set_is_refused(config, tmp_path):
    np.savez(tmp_path / "stripes.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 3)
    with pytest.raises(ConfigError, match=r"The source 'stripes' \(npz:.*stripes.npz\) has no test set, on which its expert is evaluated"):
        load_source(read_config(config), "stripes", tmp_path, tmp_path / "work")


def test_resized_images_that_are_damaged_are_made_again(config, data, tmp_path):
    found = read_config(config)
    first = load_source(found, "stripes", data, tmp_path / "work")
    (kept,) = (tmp_path / "work" / "data").glob("*/*.npz")
    for content in (b"", kept.read_bytes()[:-200], b"no archive"):
        kept.write_bytes(content)
        np.testing.assert_array_equal(load_source(found, "stripes", data, tmp_path / "work").images, first.images)


@pytest.fixture
def linear(rng):
    """A linear expert of 8 x 8 images with 3 pre-logits and 2 classes, and its weights."""
    weights, head = rng.normal(size=(192, 3)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)

    def expert(size: int) -> SimpleNamespace:
        return SimpleNamespace(
            features_fn=lambda variables, x: x[:, :8, :8].reshape(len(x), -1) @ variables["w"],
            apply_fn=lambda variables, x: x[:, :8, :8].reshape(len(x), -1) @ variables["w"] @ variables["h"],
            variables={"w": weights, "h": head},
            preprocess=Preprocess(size, (0.5,) * 3, (0.25,) * 3),
            num_params=7,
        )

    return expert, weights, head


def test_an_expert_is_evaluated_on_the_test_set_and_its_class_means_are_those_of_the_training_images(linear, rng, monkeypatch):
    expert, weights, head = linear
    images, labels = rng.integers(0, 256, (9, 8, 8, 3), np.uint8), np.arange(9) % 2
    task = Task("t", images, labels, ("a", "b"), images[:4], np.array([0, 1, 1, 0]))
    features = ((images / 255 - 0.5) / 0.25).reshape(9, -1) @ weights
    accuracy, means = single.evaluated(expert(8), task)
    assert accuracy == np.mean((features @ head).argmax(1)[:4] == task.test_labels)
    np.testing.assert_allclose(means, [features[labels == label].mean(0) for label in (0, 1)], rtol=1e-4)
    monkeypatch.setattr(single, "MAX_PER_CLASS", 2)
    np.testing.assert_allclose(single.class_means(expert(8), task), means, rtol=1e-6)  # of small images all count
    places = probe_sample(task, per_class=2).indices
    enlarged = expert(65)
    inputs = np.asarray(enlarged.preprocess(list(images)))[:, :8, :8].reshape(9, -1) @ weights
    expected = [inputs[[place for place in places if labels[place] == label]].mean(0) for label in (0, 1)]
    np.testing.assert_allclose(single.class_means(enlarged, task), expected, rtol=1e-4)


def test_a_card_has_the_recipe_of_the_zoo_and_class_means_by_the_common_extractor(linear, config, data, rng):
    zoo = single.Zoo(replace(read_config(config), precision="bfloat16"), data / "zoo", None, None, None, None)
    images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    task = Task("t", images, np.array([0, 0, 0, 1, 1, 1]), ("a", "b"), images[:3], np.array([0, 1, 1]))
    member = members(zoo.config)[1]
    card = single.card_of(zoo, member, "dots", linear[0](8), task, 2 / 3, {"epochs": 1})
    assert (card.name, card.architecture, card.source, card.initialised_from) == (member.name, "resnet_small", "dots", "stripes-resnet_small")
    assert (card.num_classes, card.class_names, card.class_counts, card.num_images, card.num_parameters) == (2, ("a", "b"), (3, 3), 6, 7)
    assert (card.test_accuracy, card.licence, card.preprocess) == (0.66667, "weights Apache-2.0; made by the test", zoo.config.preprocess)
    assert card.training == {
        **{"seed": 1, "epochs": 1, "reference_extractor": "stripes-resnet_small", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        **{"schedule": "cosine", "warmup": 0.15, "milestones": (), "precision": "bfloat16", "test_images": 3},
        "augment": {"rotate": 5, "zoom": 0.1, "flip_horizontal": True, "brightness": 0.1},
    }
    assert single.card_of(zoo, member, "dots", linear[0](8), task, 0.5, {}, "both@dots").name == "both@dots"
    means = np.ones((2, 3))
    assert single.reference_means(zoo, task, means, "stripes-resnet_small")["reference_class_means"] is means
    assert single.reference_means(zoo, task, means, "other") == {}  # the common extractor has not been trained
    assert single.reference_name(replace(zoo.config, architectures=())) == "stripes-resnet_small"
