"""Is a whole zoo trained, goes it on after a cut to the same bytes, and are its cards complete?"""

from dataclasses import replace

import numpy as np
import pytest
from ntk_select.models import FolderZoo
from ntk_select.models.architectures import fresh_expert

from ntk_select import Preprocess
from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.multi_domain import SHARINGS
from ntk_select.training.checkpoints import Checkpoints
from ntk_select.training.zoo import multi, read_config, single, train_zoo

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture
def kept_each_epoch(monkeypatch):
    monkeypatch.setitem(Checkpoints.__init__.__kwdefaults__, "every_seconds", 0.0)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of one block instead of those of the config."""

    def small(name, architecture, **options):
        return fresh_expert(name, "resnet18", config={"stage_sizes": (1,), "widths": (4,), "stem": "small"}, **options)

    for module in (single, multi):
        monkeypatch.setattr(module, "fresh_expert", small)


def cut_and_whole(config, data, **options):
    """The bytes of the weights of a training that was not cut, and of one that was cut after its second epoch."""

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


def test_a_training_that_was_cut_goes_on_to_the_same_weights(config, data, tiny, kept_each_epoch):
    whole, cut = cut_and_whole(read_config(config), data, only="stripes-resnet_small")
    assert whole == cut


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
def test_so_does_one_of_many_domains(sharing, config, data, tiny, kept_each_epoch):
    found = read_config(config)
    found = replace(found, multi_domain={"both": replace(found.multi_domain["both"], sharing=sharing)})
    whole, cut = cut_and_whole(found, data, only="both")
    assert whole == cut


def test_what_is_there_is_not_trained_again_and_what_is_half_there_is_refused(config, data, tiny):
    found, done = replace(read_config(config), multi_domain={}), []
    options = {"out": data / "zoo", "data": data, "work": data / "work", "only": "stripes-resnet_small", "done": done.append}
    found = replace(found, sources={"stripes": found.sources["stripes"]})
    (card,) = train_zoo(found, **options)
    assert done == [[card]]
    assert train_zoo(found, **options) == []
    (data / "zoo" / "stripes-resnet_small" / "card.json").unlink()
    with pytest.raises(ModelError, match="stripes-resnet_small is there, but without card.json. Delete or rename it to have it trained"):
        train_zoo(found, **options)


def test_a_name_that_no_expert_has_is_refused(config, data):
    with pytest.raises(ConfigError, match="No expert's name contains 'cats'. There is: stripes-resnet_small, dots-resnet_small-from-stripes, both-"):
        train_zoo(read_config(config), out=data / "zoo", data=data, work=data, only="cats")
    assert not (data / "zoo").exists()


@pytest.mark.parametrize("litter", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_expert_to_start_from_must_be_there(config, data, litter):
    if litter:
        (data / "zoo" / "notes").mkdir(parents=True)
    with pytest.raises(ModelError, match="There is no expert 'stripes-resnet_small' to start from, neither in .*zoo nor built in. Train it first"):
        train_zoo(read_config(config), out=data / "zoo", data=data, work=data, only="dots")


def test_an_expert_to_start_from_may_be_built_in(data):
    zoo = single.Zoo(None, data, None, None, None, None)
    assert single.parent_of(zoo, "cifar10-resnet_small").card.name == "cifar10-resnet_small"
    assert single.parent_of(zoo, None) is None


def test_training_that_diverges_says_so_and_writes_nothing_and_the_others_go_on(config, data, tiny):
    found = replace(read_config(config), learning_rate={"scratch": 1e30, "transfer": 0.1}, architectures=("resnet_small",))
    told = (
        r"2 of 3 experts were not trained. stripes-resnet_small: Training diverged in epoch 1, .*; dots-.*: There is no expert 'stripes-resnet_small'"
    )
    with pytest.raises(ModelError, match=told):
        train_zoo(found, out=data / "zoo", data=data, work=data / "work")
    assert [folder.name for folder in (data / "zoo").iterdir()] == ["both-resnet_small"]


def test_what_could_not_be_begun_is_refused_before_the_work(config, data, tiny):
    found = replace(read_config(config), initial_source="dots")
    found = replace(found, sources={**found.sources, "stripes": replace(found.sources["stripes"], epochs={"transfer": 1})})
    with pytest.raises(ModelError, match=r"There is no expert 'dots-resnet_small' to start from"):
        train_zoo(found, out=data / "zoo", data=data, work=data / "work", only="stripes")
    assert not (data / "work").exists()


def test_the_backbone_is_taken_over_and_the_head_is_not():
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
