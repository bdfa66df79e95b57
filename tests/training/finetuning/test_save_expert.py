"""A fine-tuned expert saved in a zoo is the same expert when the zoo opens it."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.experts.multi_domain import split
from ntk_select.experts.new_head import has_new_head, in_place
from ntk_select.models import build, initialise, open_zoo
from ntk_select.models.architectures import fresh_expert
from ntk_select.models.expert_folder import write_expert, write_multi_expert
from ntk_select.training.finetuning import save_expert

CONFIG = {"stage_sizes": [1], "widths": [3], "stem": "small"}
RECIPE = ns.Recipe(epochs=2, batch_size=6, augment="none", milestones=(1,))


@pytest.fixture(scope="module")
def task():
    labels, rng = np.repeat([0, 1, 2], 6), np.random.default_rng(1)
    images = rng.integers(0, 100, (18, 8, 8), dtype=np.uint8)
    images += (70 * labels[:, None, None]).astype(np.uint8)
    return ns.Task("dark & bright", images, labels, ("dark", "dim", "bright"), images[::2], labels[::2], licence="CC0")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("zoo"), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=5, **CONFIG), size=8), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    write_expert(place / "ash", variables, ns.Card("ash", "resnet18", "trees", ns.Preprocess(size=8), "", 5, config=CONFIG, origin="ash.pt"))
    return open_zoo([str(place)])["ash"]()


@pytest.fixture(scope="module")
def result(original, task, quickly):
    return ns.finetune(original, task, shots=4, learning_rates=0.01, recipe=RECIPE, seed=np.int64(2))


@pytest.fixture(scope="module")
def kept(result, original, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    card = save_expert(result, original, task, folder)
    return folder, card


NAME = "ash-on-dark___bright"


def test_the_zoo_opens_it_and_its_logits_and_features_are_those_of_the_tuned_expert(kept, result, task):
    folder, _ = kept
    opened = open_zoo([str(folder)])[NAME]()
    x = opened.preprocess(task.test_images)
    expected = result.tuned.apply_fn(result.tuned.variables, x)
    np.testing.assert_allclose(opened.apply_fn(opened.variables, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(opened.features_fn(opened.variables, x), result.tuned.features_fn(result.tuned.variables, x), rtol=1e-5, atol=1e-5)
    assert (np.asarray(expected).argmax(1) == task.test_labels).mean() == result.accuracy
    for name in ("params", "batch_stats"):
        found = {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(opened.variables[name])}
        assert found == {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result.tuned.variables[name])}


def test_its_card_says_what_it_is_and_how_it_came_to_be(kept, result, original, task):
    folder, written = kept
    card = open_zoo([str(folder)])[NAME]().card
    assert (card.name, card.architecture, card.source, card.initialised_from, card.origin) == (NAME, "resnet18", "dark & bright", "ash", None)
    assert (card.num_classes, card.class_names, tuple(card.class_counts), card.num_images) == (3, task.class_names, (4, 4, 4), 12)
    assert card.test_accuracy == pytest.approx(result.accuracy, abs=1e-5)
    assert card.preprocess == original.preprocess
    assert card.licence == "weights as of ash; images: CC0"
    assert card.num_parameters == result.tuned.num_params == open_zoo([str(folder)])[NAME]().num_params
    assert card.seen == ("dark & bright",)
    training = dict(card.training)
    assert training.pop("milestones") == [1]
    recipe = dataclasses.asdict(RECIPE)
    del recipe["milestones"]
    assert training == {"fine_tuned": True, "seed": 2, "shots": 4, "learning_rate": 0.01, **recipe}
    assert card.sha256 == written.sha256


def test_it_can_be_ranked(kept, task):
    folder, _ = kept
    ranking = ns.rank({NAME: open_zoo([str(folder)])[NAME]}, task, scores=("lfc",))
    assert NAME in repr(ranking)


def test_it_can_be_fine_tuned_and_kept_again(kept, task, tmp_path, quickly):
    folder, _ = kept
    once = open_zoo([str(folder)])[NAME]()
    again = ns.finetune(once, task, learning_rates=0.01, recipe=dataclasses.replace(RECIPE, batch_norm="frozen"))
    card = save_expert(again, once, task, tmp_path)
    opened = open_zoo([str(tmp_path)])[card.name]()
    assert card.initialised_from == NAME
    x = opened.preprocess(task.test_images)
    np.testing.assert_allclose(opened.apply_fn(opened.variables, x), again.tuned.apply_fn(again.tuned.variables, x), rtol=1e-5, atol=1e-5)


def test_one_of_the_same_name_is_not_written_over_unless_asked(kept, result, original, task):
    folder, card = kept
    with pytest.raises(ModelError, match="already exists"):
        save_expert(result, original, task, folder)
    assert save_expert(result, original, task, folder, replace_existing=True) == card


def test_what_cannot_be_an_expert_of_a_zoo_is_refused_in_a_sentence_and_nothing_is_written(result, original, task, tmp_path):
    with pytest.raises(ModelError, match="Expert 'ash' has no card that names its architecture"):
        save_expert(result, dataclasses.replace(original, card=None), task, tmp_path)
    with pytest.raises(ModelError, match="Expert 'ash' has no head"):
        save_expert(result, dataclasses.replace(original, head=None), task, tmp_path)
    with pytest.raises(ModelError, match="Expert 'ash' has a new head"):
        save_expert(result, result.tuned, task, tmp_path)
    with pytest.raises(ModelError, match="The result is of 'ash' on 'dark & bright', not of 'oak' on 'dark & bright'"):
        save_expert(result, dataclasses.replace(original, name="oak"), task, tmp_path)
    with pytest.raises(ModelError, match="not of 'ash' on 'night'"):
        save_expert(result, original, dataclasses.replace(task, name="night"), tmp_path)
    assert list(tmp_path.iterdir()) == []


FAMILIES = {
    "resnet": ("resnet50", 8, CONFIG),
    "densenet": ("densenet121", 8, {"block_sizes": [1, 1], "growth": 3, "initial": 4, "stem": "small"}),
    "alexnet": ("alexnet", 63, {"hidden": 8}),
}


@pytest.mark.parametrize("family", [pytest.param(name, marks=pytest.mark.slow if place else ()) for place, name in enumerate(FAMILIES)])
def test_variables_with_the_new_head_in_place_are_those_of_the_architecture_of_so_many_classes(family, quickly):
    architecture, size, config = FAMILIES[family]
    expert = fresh_expert("e", architecture, num_classes=5, preprocess=ns.Preprocess(size=size), config=config)
    fresh = ns.with_new_head(expert, 3, seed=1)
    found = in_place(fresh, expert)
    module = build(architecture, num_classes=3, **config)
    wanted = jax.eval_shape(partial(initialise, module, size=size), jax.random.key(0))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    np.testing.assert_allclose(module.apply(found, x), fresh.apply_fn(fresh.variables, x), rtol=1e-5, atol=1e-6)


def test_one_domain_of_an_expert_of_many_is_kept_as_an_expert_of_its_own(task, tmp_path, quickly):
    rng, stored = np.random.default_rng(0), {"domains": {}}
    for domain, classes in {"cats": 2, "dogs": 3}.items():
        module = build("resnet18", num_classes=classes, **CONFIG)
        shapes = jax.eval_shape(partial(initialise, module, size=8), jax.random.key(0))
        common, own = split(jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes), "adapters", module.head)
        stored.setdefault("common", common)
        stored["domains"][domain] = own
    cards = {
        name: ns.Card(f"pets@{name}", "resnet18", name, ns.Preprocess(size=8), "", classes, config=CONFIG, training={"domains": ["cats", "dogs"]})
        for name, classes in {"cats": 2, "dogs": 3}.items()
    }
    write_multi_expert(tmp_path / "zoo" / "pets", stored, cards)
    expert = open_zoo([str(tmp_path / "zoo")])["pets@dogs"]()
    result = ns.finetune(expert, task, learning_rates=0.01, recipe=RECIPE)
    card = save_expert(result, expert, task, tmp_path / "kept")
    opened = open_zoo([str(tmp_path / "kept")])["pets@dogs-on-dark___bright"]()
    x = opened.preprocess(task.test_images)
    np.testing.assert_allclose(opened.apply_fn(opened.variables, x), result.tuned.apply_fn(result.tuned.variables, x), rtol=1e-5, atol=1e-5)
    assert card.seen == ("dark & bright",)
    assert card.initialised_from == "pets@dogs"


def test_training_through_a_new_head_is_that_of_the_backbone_and_the_old_head_is_a_constant(made):
    expert = made.normed_expert()
    fresh = ns.with_new_head(expert, 3, seed=2)
    x = np.random.default_rng(1).normal(size=(5, made.side, made.side))
    taps, changed = fresh.train_fn(fresh.variables, x)
    whole, expected = expert.train_fn(expert.variables, x)
    np.testing.assert_array_equal(taps.features, whole.features)
    np.testing.assert_allclose(taps.logits, whole.features @ fresh.params["head"]["kernel"], rtol=0, atol=1e-14)
    assert set(changed) == {"batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, changed, expected)
    assert ns.with_new_head(dataclasses.replace(expert, train_fn=None), 3).train_fn is None
    found = in_place(fresh, expert)
    assert set(found) == {"params", "batch_stats"}
    assert found["params"]["head"]["kernel"] is fresh.params["head"]["kernel"]
    np.testing.assert_array_equal(found["params"]["body"], expert.params["body"])


def test_a_nested_head_is_put_back_where_it_was():
    params = {"top": {"fc": {"kernel": np.ones((4, 2))}, "scale": np.ones(3)}, "body": np.ones(5)}
    expert = ns.Expert("deep", lambda v, x: x @ v["params"]["top"]["fc"]["kernel"], params, features_fn=lambda v, x: x, head=("top", "fc"))
    fresh = ns.with_new_head(expert, 6)
    found = in_place(fresh, expert)["params"]
    assert jax.tree.map(np.shape, found) == {"top": {"fc": {"kernel": (4, 6), "bias": (6,)}, "scale": (3,)}, "body": (5,)}
    assert has_new_head(fresh)
    assert not has_new_head(expert)
