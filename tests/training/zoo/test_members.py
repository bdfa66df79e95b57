"""Experts that are listed one by one: their order, what is refused, and that they are trained as those of the grid."""

import importlib
import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file

from ntk_select.errors import ConfigError, ModelError
from ntk_select.executors import Queue
from ntk_select.models import FolderZoo, build, open_zoo
from ntk_select.models.expert_folder import unflatten
from ntk_select.training.zoo import members, plan, read_config, single, train_zoo
from ntk_select.training.zoo.plan import Speed
from ntk_select.training.zoo.run import _items, _untrained, load_source

planning = importlib.import_module("ntk_select.training.zoo.plan")  # the package has a function of that name

pytestmark = pytest.mark.usefixtures("quickly")

SETTINGS = {"stage_sizes": (1,), "widths": (4,), "stem": "small"}
LISTED = """
seed = 1
size = 8
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
batch_size = 8
extractor = "short"
[learning_rate]
scratch = 0.05
transfer = 0.02
[networks]
tiny = { architecture = "resnet18", stage_sizes = [1], widths = [4], stem = "small" }
plain = { architecture = "conv4", widths = [3, 5], stem = "small" }
[sources.stripes]
uri = "npz:{data}/stripes.npz"
licence = "made by the test"
augment = { shift = 1 }
[sources.part]
uri = "npz:{data}/stripes.npz"
classes = ["[bc]"]
augment = { shift = 1 }
[experts.grandchild]
source = "part"
architecture = "tiny"
epochs = 2
start = "child"
[experts.plain]
source = "stripes"
architecture = "plain"
epochs = 3
learning_rate = 0.3
[experts.child]
source = "part"
architecture = "tiny"
epochs = 1
start = "short"
[experts.short]
source = "stripes"
architecture = "tiny"
epochs = 1
"""


@pytest.fixture
def text():
    return LISTED


@pytest.fixture
def config(tmp_path):
    """The path of the config."""
    (tmp_path / "config.toml").write_text(LISTED)
    return tmp_path / "config.toml"


@pytest.fixture
def found(config):
    return read_config(config)


def test_listed_experts_are_read_as_they_are_written(found):
    experts = {member.name: member for member in members(found)}
    assert (experts["plain"].architecture, experts["plain"].source, experts["plain"].epochs) == ("plain", "stripes", 3)
    rates = {name: (member.start, member.learning_rate, member.initialised_from) for name, member in experts.items()}
    assert rates == {
        "short": ("scratch", 0.05, None),
        "child": ("transfer", 0.02, "short"),
        "grandchild": ("transfer", 0.02, "child"),
        "plain": ("scratch", 0.3, None),
    }
    assert found.network("tiny") == ("resnet18", SETTINGS)
    assert found.network("resnet50") == ("resnet50", {})
    assert (found.sources["part"].classes, found.sources["stripes"].classes) == (("[bc]",), ())


def test_whatever_their_order_in_the_file_every_expert_comes_after_its_parent(found):
    """All orders of four experts, in two families; without relatives the order of the file remains."""
    for order in itertools.permutations(found.experts):
        for extractor in ("short", "plain"):
            changed = replace(found, extractor=extractor, experts={name: found.experts[name] for name in order})
            names = [member.name for member in members(changed)]
            assert sorted(names) == sorted(order)
            assert names.index("short") < names.index("child") < names.index("grandchild")
            assert names[0] == extractor
    alone = {name: replace(expert, start="scratch") for name, expert in found.experts.items()}
    assert [member.name for member in members(replace(found, experts=alone, extractor=""))] == list(alone)


def test_experts_of_the_grid_and_of_many_domains_may_start_from_listed_ones(found, config, text):
    """Though they come first in the config."""
    config.write_text(
        text.replace("seed = 1", 'seed = 1\ninitial_source = "stripes"\narchitectures = ["tiny"]')
        .replace("[experts.short]", "[experts.stripes-tiny]")
        .replace('"short"', '"stripes-tiny"')
        .replace('classes = ["[bc]"]', 'classes = ["[bc]"]\nepochs = { transfer = 1 }')
        + '[multi_domain.both]\narchitecture = "tiny"\nsharing = "shared"\nepochs = 1\nlearning_rate = 0.1\nstart = "transfer"\n'
    )
    names = [(member.name, member.initialised_from) for member in members(read_config(config))]
    assert names == [
        ("stripes-tiny", None),
        ("part-tiny-from-stripes", "stripes-tiny"),
        ("child", "stripes-tiny"),
        ("grandchild", "child"),
        ("plain", None),
        ("both-tiny", "stripes-tiny"),
    ]


def test_a_thousand_experts_each_from_the_last_are_ordered(found):
    line = {f"e{n}": replace(found.experts["child"], start=f"e{n + 1}") for n in range(1000)}
    names = [member.name for member in members(replace(found, experts={**line, "e1000": found.experts["short"]}, extractor=""))]
    assert names == [f"e{n}" for n in range(1000, -1, -1)]
    with pytest.raises(ConfigError, match="circle: e0, e1, e2, e3, e4, e5, e6, e7 and 994 more. Try"):
        members(replace(found, experts={**line, "e1000": replace(found.experts["child"], start="e0")}, extractor="e0"))


MANY = '[multi_domain.both]\narchitecture = "tiny"\nsharing = "shared"\nepochs = 1\nlearning_rate = 0.1\n'
WRONG = {
    "a circle": (
        'epochs = 1\nstart = "short"',
        'epochs = 1\nstart = "grandchild"',
        r"start from each other in a circle: grandchild, child, grandchild. Try: start = .scratch. for one",
    ),
    "itself": ('epochs = 1\nstart = "short"', 'epochs = 1\nstart = "child"', "Experts start from each other in a circle: child, child. Try"),
    "a start at a path": (
        'start = "child"',
        'start = "../child"',
        r"experts\.grandchild\.start = '\.\./child' is not the name of an expert\. Try: start = .scratch., or",
    ),
    "a null byte": ('start = "child"', r'start = "a\u0000"', r"experts\.grandchild\.start = 'a\\x00' is not the name of an expert"),
    "no name": ('start = "child"', 'start = ""', r"experts\.grandchild\.start = '' is not the name of an expert"),
    "a long name": (
        LISTED,
        LISTED.replace("experts.plain", f"experts.{'p' * 201}"),
        "The name 'p{201}' has more than 200 bytes, and is to be the name of a",
    ),
    "another network": (
        'start = "child"',
        'start = "plain"',
        "'grandchild' is a 'tiny' and cannot start from 'plain', a 'plain'. Try: start = an expert",
    ),
    "many domains": (
        LISTED,
        LISTED.replace('start = "child"', 'start = "both-tiny"') + MANY,
        "'grandchild' cannot start from 'both-tiny', an expert of many domains",
    ),
    "a name of the grid": (
        LISTED,
        LISTED.replace("seed = 1", 'architectures = ["tiny"]').replace("augment =", "epochs = 2\naugment =").replace("plain]", "stripes-tiny]"),
        r"Two experts have the name 'stripes-tiny'. Try: another name in \[experts\]",
    ),
    "a name of many domains": (LISTED, LISTED.replace("experts.plain", "experts.both-tiny") + MANY, "Two experts have the name 'both-tiny'"),
    "names that differ in case": ("experts.plain", "experts.Child", "The experts 'Child' and 'child' have names that differ only in case, .*Try: an"),
    "sources that differ in case": (
        LISTED,
        LISTED.replace("sources.part", "sources.STRIPES").replace('"part"', '"STRIPES"'),
        "The sources 'stripes' and 'STRIPES' have names that differ only in case",
    ),
    "source": ('source = "part"', 'source = "parts"', "experts.grandchild.source = 'parts' is unknown. Did you mean 'part'"),
    "no epochs": ("epochs = 2\n", "", r"\[experts.grandchild\]: the field 'epochs' is missing"),
    "a rate of zero": ("learning_rate = 0.3", "learning_rate = 0", "learning_rate = 0 must be a number above 0"),
    "extractor": (
        'extractor = "short"',
        'extractor = "shirt"',
        "extractor = 'shirt' is not an expert of one source of this config. Did you mean 'short'",
    ),
    "extractor of many": (LISTED, LISTED.replace('"short"\n[l', '"both-tiny"\n[l') + MANY, "extractor = 'both-tiny' is not an expert of one source"),
    "no architecture": ('architecture = "conv4", ', "", r'networks.plain has no architecture. Try: architecture = "resnet18"'),
    "unknown architecture": ('"conv4", ', '"conv5", ', "networks.plain: Architecture 'conv5' is unknown. Did you mean 'conv4'"),
    "unknown setting": ("stage_sizes = [1]", "stages = [1]", "networks.tiny: Architecture 'resnet18' does not take .*Did you mean 'stage_sizes'"),
    "setting of another": ("widths = [3, 5]", "growth = 3", "networks.plain: Architecture 'conv4' does not take"),
    "a number of classes": ("stage_sizes = [1]", "num_classes = 3", "networks.tiny: num_classes is that of the source. Try: without it"),
    "the name of another": (
        "plain = { architecture",
        "resnet50 = { architecture",
        "networks.resnet50: 'resnet50' is another architecture than 'conv4'. Try: another name for this network",
    ),
    "a path": ("plain = { architecture", '"../plain" = { architecture', r"\[networks.../plain\]: a name consists of letters"),
    "no table": ("[networks]", "[networks]\nother = 3", "networks.other = 3 must be a table"),
    "no list": ('classes = ["[bc]"]', 'classes = "b"', "classes = 'b' must be a list"),
}


def test_a_wrong_list_is_refused(text, config, check_refusals):
    assert {name for name, (old, _, _) in WRONG.items() if old not in text} == set()
    check_refusals(read_config, config, {name: (text.replace(old, new, 1), words) for name, (old, new, words) in WRONG.items()})


def test_a_source_without_epochs_and_without_experts_is_refused(config, text):
    config.write_text(text.replace('source = "part"', 'source = "stripes"'))
    with pytest.raises(
        ConfigError, match=r"sources.part: the field 'epochs' is missing, and no expert of \[experts\] or \[multi_domain\] is trained"
    ):
        read_config(config)
    for sources in ("", 'sources = ["part"]\n'):  # all sources, or this one
        config.write_text(text.replace('source = "part"', 'source = "stripes"') + MANY + sources)
        assert not read_config(config).sources["part"].epochs


def test_a_network_may_have_the_name_of_its_own_architecture(config, text):
    config.write_text(text.replace("plain = { architecture", "conv4 = { architecture").replace('architecture = "plain"', 'architecture = "conv4"'))
    assert read_config(config).network("conv4") == ("conv4", {"widths": (3, 5), "stem": "small"})


def test_networks_of_equal_settings_start_from_each_other(config, text):
    same = 'same = { stem = "small", widths = [4], architecture = "resnet18", stage_sizes = [1] }\n[sources.stripes]'
    config.write_text(text.replace("[sources.stripes]", same, 1).replace('architecture = "tiny"\nepochs = 2', 'architecture = "same"\nepochs = 2'))
    assert {member.name: member.architecture for member in members(read_config(config))}["grandchild"] == "same"


def test_no_expert_waits_for_an_extractor_that_starts_from_it(found):
    """Every expert is trained, in whichever order two workers take them."""
    changed = replace(found, extractor="grandchild")
    items = _items(changed, members(changed))
    assert {item.key: item.after for item in items} == {
        "short": (),
        "child": ("short",),
        "grandchild": ("child",),
        "plain": ("grandchild",),
    }
    queue, done = Queue([items]), []
    while (item := queue.take(0)) is not None:
        queue.finished(item)
        done.append(item.key)
    assert done == ["short", "child", "grandchild", "plain"]


def test_an_unknown_start_is_refused_before_training_with_close_names(found, config, text, data):
    config.write_text(text.replace('start = "child"', 'start = "childs"'))
    with pytest.raises(
        ModelError, match=r"There is no expert 'childs' to start from, neither in .*zoo nor built in. Did you mean 'child'.*Try: the name"
    ):
        train_zoo(read_config(config), out=data / "zoo", data=data, work=data / "work")
    assert not (data / "work").exists()
    with pytest.raises(
        ModelError, match="There is no expert 'short' to start from, neither in .*zoo nor built in. Try: train it first, with the same"
    ):
        train_zoo(found, out=data / "zoo", data=data, work=data / "work", only="child")


def test_a_built_in_expert_of_another_network_is_refused_before_training(config, text, data):
    config.write_text(text.replace('start = "child"', 'start = "cifar10-resnet_small"'))
    told = (
        r"'grandchild' cannot start from 'cifar10-resnet_small', which is another network: params/bn1/bias has the shape \(32,\) there and "
        r"the shape \(4,\) here. Try: an expert with the same network"
    )
    with pytest.raises(ModelError, match=told):
        train_zoo(read_config(config), out=data / "zoo", data=data, work=data / "work")
    assert not (data / "work").exists()


def test_a_built_in_expert_of_the_same_network_is_a_start(config, text, data):
    config.write_text(
        text.replace(
            'architecture = "tiny"\nepochs = 2\nstart = "child"', 'architecture = "resnet_small"\nepochs = 2\nstart = "cifar10-resnet_small"'
        )
    )
    found = read_config(config)
    zoo = single.Zoo(found, data / "zoo", None, None, None, None)
    (member,) = (member for member in members(found) if member.name == "grandchild")
    assert _untrained(zoo, [member]) == [member]
    parent = open_zoo(["builtin"])["cifar10-resnet_small"]()
    started = single.with_backbone(single.fresh_member(found, member, 2, seed="x"), parent)
    np.testing.assert_array_equal(started["params"]["conv1"]["kernel"], parent.params["conv1"]["kernel"])
    assert started["params"]["fc"]["kernel"].shape[1] == 2


def test_a_network_with_more_layers_or_fewer_is_refused(found):
    deep = {"architecture": "resnet18", **SETTINGS, "stage_sizes": (2,)}
    found = replace(found, networks={**found.networks, "plain": deep})
    experts = {member.name: single.abstract_expert(partial(single.fresh_member, found, member, 2, seed="")) for member in members(found)}
    for name, parent, words in (("plain", "short", "no such variable there"), ("short", "plain", "no such variable here")):
        with pytest.raises(ModelError, match=rf"'{name}' cannot start from '{parent}', .*: (params|batch_stats)/layer1_1/.* has .*{words}"):
            single.with_backbone(experts[name], experts[parent])


@pytest.fixture
def trained(found, data):
    """trained(config, only=...): the folder of the trained experts."""
    folders = itertools.count()

    def train(config=found, only=""):
        out = data / f"zoo{next(folders)}"
        train_zoo(config, out=out, data=data, work=data / "work", only=only)
        return out

    return train


def test_a_listed_expert_is_that_of_the_grid_with_the_same_name_and_settings(found, trained):
    grid = replace(found, architectures=("tiny",), experts={}, extractor="")
    grid = replace(grid, sources={**found.sources, "stripes": replace(found.sources["stripes"], epochs={"scratch": 1})})
    listed = {name: found.experts["short"] for name in ("stripes-tiny", "other")}
    weights = [
        load_file(out / name / "model.safetensors")
        for out, name in (
            (trained(grid), "stripes-tiny"),
            *zip(itertools.repeat(trained(replace(found, experts=listed, extractor="stripes-tiny"))), listed, strict=False),
        )
    ]
    by_grid, by_list, other = weights
    assert by_grid.keys() == by_list.keys()
    for name, value in by_grid.items():
        np.testing.assert_array_equal(value, by_list[name], err_msg=name)
    assert not np.array_equal(by_grid["params/conv1/kernel"], other["params/conv1/kernel"])  # another seed


def test_a_card_has_the_network_from_which_the_expert_is_opened_again(found, trained, data):
    """Logits by the Flax module that is built by hand, from the file of weights."""
    out = trained(found, only="short")
    card = json.loads((out / "short" / "card.json").read_text())
    assert (card["architecture"], card["config"]) == ("resnet18", {"stage_sizes": [1], "widths": [4], "stem": "small"})
    assert card["training"]["reference_extractor"] == "short"
    expert = FolderZoo(out)["short"]()
    images = np.load(data / "stripes.npz")["images"]
    x = np.repeat((images[..., None] / 255 - 0.5) / 0.25, 3, axis=-1).astype(np.float32)
    stored = unflatten(load_file(out / "short" / "model.safetensors"))
    expected = build("resnet18", num_classes=3, **SETTINGS).apply({key: stored[key] for key in ("params", "batch_stats")}, x)
    np.testing.assert_allclose(expert.apply_fn(expert.variables, expert.preprocess(images)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stored["source"]["class_means"], stored["source"]["reference_class_means"])


def test_a_source_of_some_classes_has_their_images_and_no_others(found, data):
    with np.load(data / "stripes.npz") as stored:
        images, labels, test_images, test_labels = (stored[name] for name in ("images", "labels", "test_images", "test_labels"))
    for work in (None, data / "work"):  # as read, and as cached
        whole, part = load_source(found, "stripes", data, work), load_source(found, "part", data, work)
        assert (whole.class_names, part.class_names) == (("a", "b", "c"), ("b", "c"))
        np.testing.assert_array_equal(part.labels, labels[labels > 0] - 1)
        np.testing.assert_array_equal(part.test_labels, test_labels[test_labels > 0] - 1)
        for got, wanted in ((part.images, images[labels > 0]), (part.test_images, test_images[test_labels > 0]), (whole.images, images)):
            got = np.stack(list(got))
            np.testing.assert_array_equal(got[..., 0] if got.ndim == 4 else got, wanted)
    again = load_source(found, "part", data, data / "work")
    np.testing.assert_array_equal(again.labels, labels[labels > 0] - 1)


def test_classes_are_chosen_after_they_were_merged_and_must_exist(found, data):
    part = found.sources["part"]
    merged = replace(found, sources={"part": replace(part, rename={"a": "c"})})
    task = load_source(merged, "part", data, None)
    assert (task.class_names, np.bincount(task.labels).tolist()) == (("b", "c"), [16, 32])
    with pytest.raises(ConfigError, match=r"classes = \['d\*'\] matches no class of .*: a, b, c"):
        load_source(replace(found, sources={"part": replace(part, classes=("d*",))}), "part", data, None)


def test_the_planned_work_is_that_of_each_network_and_part(found, data, monkeypatch):
    monkeypatch.setattr(planning, "training_rate", lambda *_, **__: 1e9)
    works = {work.name: work for work in plan(found, data=data)}
    tiny = 2 * 64 * (27 * 4 + 2 * 36 * 4)  # the stem and two convolutions of 8 x 8 pixels
    plain = 2 * (64 * 27 * 3 + 16 * 27 * 5)  # the stem, and after pooling one convolution of 4 x 4
    expected = {
        "short": (48, 6, 3 * (tiny + 2 * 4 * 3)),
        "plain": (3 * 48, 18, 3 * (plain + 2 * 5 * 3)),
        "child": (32, 4, 3 * (tiny + 2 * 4 * 2)),
        "grandchild": (2 * 32, 8, 3 * (tiny + 2 * 4 * 2)),
    }
    assert {name: (work.images, work.steps, work.flops) for name, work in works.items()} == {
        name: (images, steps, images * flops) for name, (images, steps, flops) in expected.items()
    }
    assert {name: work.architecture for name, work in works.items()}["plain"] == "plain"


def test_each_network_is_measured_once(found, data, monkeypatch):
    asked = []
    monkeypatch.setattr(planning, "speeds", lambda experts, *_, **__: asked.append(list(experts)) or dict.fromkeys(experts, Speed(1.0, 4, 1.0, 8)))
    plan(found, data=data)
    assert asked == [["tiny", "plain"]]
