"""Does a config ask for the experts that it should, those that others start from first?"""

from dataclasses import replace
from pathlib import Path

import pytest
from ntk_select.models import FolderZoo

from ntk_select.errors import ConfigError
from ntk_select.training.zoo import MultiMember, SingleMember, members, read_config
from ntk_select.training.zoo.members import chosen as chosen_members

ROOT = Path(__file__).parents[3]


def test_members_come_in_an_order_in_which_parents_are_first(config):
    found = read_config(config)
    both = replace(found.sources["dots"], epochs={"transfer": {"resnet_small": 1, "densenet_small": 4}, "scratch": 2})
    stripes = replace(found.sources["stripes"], epochs={"transfer": 5, "scratch": 3})
    found = replace(found, architectures=("resnet_small", "densenet_small"), sources={"dots": both, "stripes": stripes})
    wanted = [
        ("stripes-resnet_small", 3, None),
        ("stripes-resnet_small-from-stripes", 5, "stripes-resnet_small"),
        ("stripes-densenet_small", 3, None),
        ("stripes-densenet_small-from-stripes", 5, "stripes-densenet_small"),
        ("dots-resnet_small", 2, None),
        ("dots-resnet_small-from-stripes", 1, "stripes-resnet_small"),
        ("dots-densenet_small", 2, None),
        ("dots-densenet_small-from-stripes", 4, "stripes-densenet_small"),
    ]
    *singles, multi = members(found)
    assert [(member.name, member.epochs, member.initialised_from) for member in singles] == wanted
    assert {member.start: member.learning_rate for member in singles} == {"scratch": 0.05, "transfer": 0.02}
    assert all(member.files == ("card.json",) for member in singles)
    assert (multi.name, multi.architecture, multi.sources, multi.initialised_from) == ("both-resnet_small", "resnet_small", ("dots", "stripes"), None)
    assert multi.files == ("card@dots.json", "card@stripes.json")


def test_an_expert_for_many_may_choose_its_domains_and_start_from_the_initial_source(config):
    found = read_config(config)
    chosen = replace(found.multi_domain["both"], sources=("dots",), start="transfer")
    (multi,) = members(replace(found, architectures=(), multi_domain={"one": chosen}))
    assert (multi.name, multi.sources, multi.initialised_from) == ("one-resnet_small", ("dots",), "stripes-resnet_small")


def test_only_what_is_there_can_be_chosen(config):
    found = read_config(config)
    assert [member.name for member in chosen_members(found, "dots")] == ["dots-resnet_small-from-stripes"]
    with pytest.raises(ConfigError, match=r"No expert's name contains 'cats'. There is: stripes-resnet_small, "):
        chosen_members(found, "cats")
    with pytest.raises(ConfigError, match=r"The architecture 'resnet_smal' is unknown. Did you mean 'resnet_small'"):
        chosen_members(replace(found, multi_domain={"both": replace(found.multi_domain["both"], architecture="resnet_smal")}))


def test_the_embedded_zoo_is_that_of_its_config():
    config = read_config(ROOT / "scripts" / "configs" / "embedded_zoo.toml")
    zoo, wanted = FolderZoo(ROOT / "models" / "weights"), members(config)
    singles = {member.name: member for member in wanted if isinstance(member, SingleMember)}
    assert {name for name in zoo if "@" not in name} == set(singles)
    for name, member in singles.items():
        card = zoo[name].card
        assert (card.training["epochs"], card.training["learning_rate"], card.initialised_from, card.source) == (
            member.epochs,
            member.learning_rate,
            member.initialised_from,
            member.source,
        )
        assert card.training["augment"] == config.sources[member.source].augment
    multis = {member.name: member for member in wanted if isinstance(member, MultiMember)}
    for name in (name for name in zoo if "@" in name):
        card, (folder, domain) = zoo[name].card, name.split("@")
        member = multis[folder]
        assert domain in member.sources
        assert card.training["domains"] == list(member.sources)
        assert (card.training["epochs"], card.training["sharing"], card.initialised_from, card.source) == (
            member.config.epochs,
            member.config.sharing,
            member.initialised_from,
            domain,
        )
