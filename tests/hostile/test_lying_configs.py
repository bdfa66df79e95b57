"""Configurations of networks of timm, from the hub or in a card, cannot make timm read other files, and have values of the right types.

A stand-in for timm records what it is asked for.
"""

import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest

from ntk_select import Card, Preprocess
from ntk_select.errors import ModelError
from ntk_select.models import timm_zoo
from ntk_select.models.hub import HubModel
from ntk_select.models.timm_networks import TimmNetwork
from ntk_select.models.timm_zoo import TimmExpert, of_hub, untrained_of_card


@dataclass
class Settings:
    """Some fields of timm's configurations."""

    num_classes: int = 1000
    input_size: Any = None
    fixed_input_size: bool = False
    label_names: Any = None
    hf_hub_filename: Any = None


@pytest.fixture
def made(monkeypatch):
    """The networks that timm was asked for."""
    asked, found = [], types.ModuleType("timm")
    found.is_model, found.list_models = (lambda name: name == "resnet18"), lambda *_, **__: ["resnet18"]
    found.get_pretrained_cfg = lambda _: Settings()

    def create_model(architecture, **options):
        asked.append((architecture, options))
        return types.SimpleNamespace(pretrained_cfg={}, num_classes=options["pretrained_cfg"]["num_classes"])

    found.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", found)
    return asked


@pytest.fixture
def on_hub(monkeypatch, made):
    """on_hub(config): the network of a model with this configuration."""
    of_hub.cache_clear()

    def find(config):
        monkeypatch.setattr(timm_zoo, "find_model", lambda name: HubModel("org/net", None, {"architecture": "resnet18", **config}))
        of_hub.cache_clear()
        return of_hub("hf-hub:org/net")

    yield find
    of_hub.cache_clear()


def of_weights(**settings):
    return {"pretrained_cfg": settings}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"num_classes": "many"}, "num_classes is 'many'; it must be a whole number up to 1,000,000"),
        ({"num_classes": 10**12}, "num_classes is '1000000000000'; it must be a whole number up to"),
        ({"num_classes": -1}, "num_classes is '-1'"),
        ({"num_classes": 2.5}, "num_classes is '2.5'"),
        ({"num_classes": True}, "num_classes is 'True'"),
        (of_weights(num_classes=[3]), r"num_classes is '\[3\]'"),
        ({"label_names": 5}, "label_names is '5'; it must be a list"),
        (of_weights(label_names="cat"), "label_names is 'cat'; it must be a list"),
        ({"model_args": {"img_size": 2.5}}, "img_size is '2.5'; it must be a whole number, or two"),
        ({"model_args": {"img_size": [1, 2, 3]}}, r"img_size is '\[1, 2, 3\]'"),
        ({"model_args": {"img_size": []}}, r"img_size is '\[\]'"),
        (of_weights(hf_hub_filename="../../../etc/passwd"), r"hf_hub_filename is '\.\./.*'; it must be the name of a file of the model"),
        (of_weights(hf_hub_filename=5), "hf_hub_filename is '5'"),
    ],
)
def test_a_value_of_another_type_is_refused(on_hub, made, config, sentence):
    with pytest.raises(ModelError, match=rf"config\.json of hf-hub:org/net: {sentence}.*\. Try: "):
        on_hub(config)
    assert made == []


@pytest.mark.parametrize(("size", "expected"), [(64, (3, 64, 64)), ([64], (3, 64, 64)), ([64, 32], (3, 64, 32))])
def test_sound_values_are_kept(on_hub, size, expected):
    config = {"num_classes": 3, "label_names": ["a", "b", "c"], "model_args": {"img_size": size}}
    found = on_hub(config | of_weights(fixed_input_size=True, hf_hub_filename="open_clip_model.bin"))
    assert (found.num_classes, found.settings["label_names"], found.files) == (3, ["a", "b", "c"], ("open_clip_model.bin",))
    assert found.settings["input_size"] == expected


@pytest.mark.parametrize("argument", [{"checkpoint_path": "/home/x.pth"}, {"pretrained_cfg_overlay": {"url": "http://a/b"}}, {"cache_dir": "/tmp"}])
def test_timm_reads_no_file_that_a_configuration_names(on_hub, made, argument):
    network = on_hub({"model_args": argument})
    name = next(iter(argument))
    with pytest.raises(ModelError, match=rf"hf-hub:org/net: its configuration names other files \({name}=.*\), which are not read\. Try: "):
        network.create()
    card = Card("mine", "timm:resnet18", "birds", Preprocess(size=8), "ab" * 32, 2, config=argument)
    with pytest.raises(ModelError, match="mine: its configuration names other files"):
        untrained_of_card(card)
    assert made == []
    TimmNetwork("timm:resnet18", "resnet18", {}, dict.fromkeys(argument, "")).create()
    assert len(made) == 1


@pytest.mark.parametrize("name", ["hf-hub:org/net", "local-dir:/home/x", "../x", "resnet18/../x", ""])
def test_a_card_names_a_network_of_timm_and_no_other_place(made, name):
    with pytest.raises(ModelError, match=r"mine: the architecture '.*' is not a name of timm\. Try: one of timm\.list_models"):
        untrained_of_card(Card("mine", f"timm:{name}", "birds", Preprocess(size=8), "ab" * 32, 2))
    assert made == []


def test_a_card_without_an_object_for_the_weights_is_refused(made):
    with pytest.raises(ModelError, match=r"The card of 'mine' has pretrained_cfg=5; it must be an object\. Try: fine-tune the expert again"):
        untrained_of_card(Card("mine", "timm:resnet18", "birds", Preprocess(size=8), "ab" * 32, 2, config={"pretrained_cfg": 5}))


def test_whether_weights_are_stored_is_asked_for_names_of_the_hub_alone(made):
    for name in ("hf-hub:a b/c", "hf-hub:../..", "hf-hub:org/net@../../x"):
        with pytest.raises(ModelError, match="Try: hf-hub:"):
            assert TimmExpert(name).is_stored
