"""URIs of timm's networks, without timm and PyTorch: a stand-in has the names."""

import fnmatch
import sys
import types
from collections import namedtuple

import pytest

import ntk_select as ns
from ntk_select.cli import main
from ntk_select.cli.weights import MANY, ask_before_download, with_weights
from ntk_select.errors import ConfigError, MissingDependencyError, ModelError
from ntk_select.models.timm_sources import seen_by_tag, sources_of
from ntk_select.models.timm_zoo import TimmExpert, timm_zoo
from ntk_select.ranking.records import identity_of
from ntk_select.resolve import as_experts

TAGS = {"resnet18": ["a1_in1k", "a2_in1k"], "resnet34": ["a1_in1k"], "resnet50d": [], "vit_tiny": ["in21k"]}
PRETRAINED = [f"{name}.{tag}" for name, tags in TAGS.items() for tag in tags]


def list_models(filter="", pretrained=False, include_tags=None):
    """As of timm: names with tags where they are included, otherwise architectures."""
    names = list(TAGS) if not include_tags else [each for name, tags in TAGS.items() for each in ([f"{name}.{tag}" for tag in tags] or [name])]
    names = [name for name in names if not pretrained or TAGS[name.partition(".")[0]]]
    filters = [filter, f"{filter}.*"] if include_tags and "." not in filter else [filter]
    return [name for name in names if not filter or any(fnmatch.fnmatch(name, each) for each in filters)]


@pytest.fixture
def timm(monkeypatch):
    """A stand-in with the functions that names need."""
    found = types.ModuleType("timm")
    found.list_models, found.is_model = list_models, lambda name: name in TAGS or name == "resnet18_old"
    found.list_pretrained = lambda filter="": list_models(filter, pretrained=True, include_tags=True)
    found.is_model_pretrained = lambda name: bool(TAGS.get(name)) or name in PRETRAINED
    found.get_pretrained_cfg = lambda name: namedtuple("Config", "to_dict")(lambda remove_null: {})
    found.models = types.ModuleType("timm.models")
    found.models.get_deprecated_models = lambda: {"resnet18_old": "resnet18.a2_in1k"}
    monkeypatch.setitem(sys.modules, "timm", found)
    monkeypatch.setitem(sys.modules, "timm.models", found.models)
    return found


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        ("timm:resnet18", ["timm:resnet18"]),
        ("timm:resnet18.a2_in1k", ["timm:resnet18.a2_in1k"]),
        ("timm:resnet*", ["timm:resnet18", "timm:resnet34"]),
        ("timm:resnet*.a1_in1k", ["timm:resnet18.a1_in1k", "timm:resnet34.a1_in1k"]),
        ("timm:resnet18.*", ["timm:resnet18.a1_in1k", "timm:resnet18.a2_in1k"]),
        ("timm:resnet*@random", ["timm:resnet18@random", "timm:resnet34@random", "timm:resnet50d@random"]),
        ("timm:resnet50d@random:3", ["timm:resnet50d@random:3"]),
        ("hf-hub:org/net@v2", ["hf-hub:org/net@v2"]),
    ],
)
def test_names_and_patterns_give_experts_named_by_their_uris(timm, uri, names):
    assert list(ns.open_zoo(uri)) == list(as_experts(uri)) == names
    for name in names:  # each is accepted by itself, and is the same expert
        assert timm_zoo(name) == {name: timm_zoo(uri)[name]}


def test_a_seed_and_a_file_are_part_of_the_name(timm, tmp_path):
    (tmp_path / "weights.pth").touch()
    assert timm_zoo("timm:vit_tiny@random:7") == {"timm:vit_tiny@random:7": TimmExpert("timm:vit_tiny", seed=7)}
    uri = f"timm:vit_tiny@{tmp_path / 'weights.pth'}"
    assert timm_zoo(uri) == {uri: TimmExpert("timm:vit_tiny", checkpoint=tmp_path / "weights.pth")}


def test_overlapping_patterns_have_an_expert_once(timm):
    assert list(ns.open_zoo(["timm:resnet18", "timm:resnet*"])) == ["timm:resnet18", "timm:resnet34"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("timm:resnt18", "timm has no network 'resnt18'. Did you mean 'resnet18'.*ntk-select zoo list --zoo 'timm:resnet"),
        ("timm:resnt*", "timm has no network 'resnt.*Did you mean 'resnet"),
        ("timm:resnet18.b1", "timm has no weights 'b1' of 'resnet18'. Did you mean 'resnet18.a2_in1k'"),
        ("timm:resnet50d", r"timm has no weights of 'resnet50d'. Try: timm_expert\('resnet50d', random_init=True\) \(timm:resnet50d@random\)"),
        ("timm:resnet50*", r"timm has no weights of the networks 'resnet50\*' \(resnet50d\). Try: timm:resnet50\*@random"),
        ("timm:resnet18_old", "timm has renamed 'resnet18_old'. Try: timm:resnet18.a2_in1k"),
        ("timm:", "timm has no network ''"),
        ("timm:resnet18@absent.pth", "there is no file 'absent.pth'. Allowed after @: a file of weights, random, or random:SEED"),
        ("timm:resnet18@", "'timm:resnet18@' names no weights. Allowed after @: a file of weights, random, or random:SEED"),
        ("timm:resnet18@random:9999999999999999999", "there is no file 'random:9999999999999999999'. Allowed after @: .* random:SEED"),
        ("timm:resnet*@absent.pth", "names 3 networks, and a file has the weights of one. Try: timm:resnet18@absent.pth"),
        ("hf-hub:net", "'hf-hub:net' is not a name of the hub. Try: hf-hub:ORG/NAME"),
    ],
)
def test_names_that_lead_to_nothing_are_refused_with_what_is_near(timm, uri, message):
    with pytest.raises(ModelError, match=message):
        ns.open_zoo(uri)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet*", {}, r"'resnet\*' is the name of 2 networks of timm. .*'timm:resnet18'"),
        ("resnet18", {"checkpoint": "a.pth", "random_init": True}, "both checkpoint= and random_init=True. Try: one of the two"),
        ("resnet18", {"random_init": True, "seed": -1}, "seed of 'resnet18' is -1; it must be an integer from 0, of at most 18 digits"),
        ("resnet18", {"random_init": True, "seed": 10**18}, "it must be an integer from 0, of at most 18 digits. Try: seed=0"),
        ("resnet18", {"checkpoint": "absent.pth"}, "there is no file 'absent.pth'"),
        ("hf-hub:org/net", {"random_init": True}, "'hf-hub:org/net' has its own weights"),
    ],
)
def test_arguments_of_timm_expert_are_checked_first(timm, name, options, message):
    with pytest.raises(ModelError, match=message):
        ns.timm_expert(name, **options)


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for uri in ("timm:resnet18", "timm:resnet*", "hf-hub:org/net"):
        with pytest.raises(MissingDependencyError, match=r"needs the package timm.*uv pip install -e '.\[torch\]'"):
            ns.open_zoo(uri)


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            r"cannot be imported \(RuntimeError: operator .* --upgrade timm torch torchvision",
        ),
        ("import torchvision_of_nobody", "needs the package timm"),
        ("raise ImportError('no', name='torch.nn')", r"needs the package torch, which cannot be imported \(ImportError: no\)"),
    ],
)
def test_a_timm_that_cannot_be_imported_says_why(says, message, tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text(says)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(MissingDependencyError, match=message):
        ns.open_zoo("timm:resnet18")


@pytest.mark.parametrize(
    ("tag", "sources"),
    [
        ("a1_in1k", ("ImageNet-1k",)),
        ("clip_laion2b_ft_in12k_in1k", ("LAION-2B", "ImageNet-12k", "ImageNet-1k")),
        ("fcmae_ft_in22k_in1k_384", ("ImageNet-21k", "ImageNet-1k")),
        ("lvd142m", ("LVD-142M",)),
        ("c4_ah", ()),
        ("", ()),
    ],
)
def test_data_sets_are_read_from_tags_in_the_order_of_training(tag, sources):
    assert sources_of(tag) == sources


def test_the_last_data_set_is_the_source_and_imagenet_has_the_name_that_benchmarks_give_it():
    assert seen_by_tag("clip_laion2b_ft_in12k_in1k") == ("ImageNet-1k", ("imagenet", "LAION-2B", "ImageNet-12k"))
    assert seen_by_tag("openai") == ("WebImageText", ())
    assert seen_by_tag("something") == ("unknown", ())


def test_options_become_part_of_the_names():
    assert with_weights(["builtin", "timm:a,timm:b@random:2"], None, True) == ["builtin", "timm:a@random", "timm:b@random:2"]
    assert with_weights(["timm:a"], "w.pth", False) == ["timm:a@w.pth"]
    assert with_weights(["builtin"], None, False) == ["builtin"]
    with pytest.raises(ConfigError, match="--random-init is for networks of timm, and builtin is none. Try: timm:NAME"):
        with_weights(["builtin"], None, True)
    with pytest.raises(ConfigError, match="--checkpoint 'w.pth' and --random-init are both given. Try: one of the two"):
        with_weights(["timm:a"], "w.pth", True)


class Absent:
    """An expert whose weights are not on this machine."""

    is_stored = False

    def __init__(self, parameters):
        self._parameters = parameters

    @property
    def card(self):
        if self._parameters is None:
            raise ModelError("unknown")
        return namedtuple("Card", "num_parameters")(self._parameters)


def experts(count, parameters=50_000_000):
    return {str(number): Absent(parameters) for number in range(count)}


@pytest.mark.parametrize(("count", "yes"), [(MANY, False), (300, True)])
def test_few_experts_are_downloaded_without_asking_and_many_with_yes(count, yes):
    ask_before_download({**experts(count), "stored": lambda: None}, yes)


def test_many_are_refused_where_nobody_can_answer():
    with pytest.raises(ConfigError, match="The weights of 300 experts are not in the cache, about 60 GB. Try: --yes, a narrower pattern"):
        ask_before_download(experts(300), False)
    with pytest.raises(ConfigError, match="The weights of 21 experts are not in the cache. Try: --yes"):
        ask_before_download(experts(21, None), False)


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("Yes\n", True), ("\n", False), ("", False), ("n\n", False)])
def test_on_a_terminal_the_answer_decides_and_the_default_is_no(answer, agreed, monkeypatch, capsys):
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: answer, raising=False)
    if agreed:
        ask_before_download(experts(21), False)
    else:
        with pytest.raises(ConfigError, match="Nothing was downloaded. Try: --yes"):
            ask_before_download(experts(21), False)
    assert "Download them? [y/N]" in capsys.readouterr().err


def test_the_command_line_refuses_many_downloads_before_it_loads_anything(timm, monkeypatch, capsys):
    monkeypatch.setattr("ntk_select.cli.weights.MANY", 1)
    monkeypatch.setattr(TimmExpert, "is_stored", False)
    monkeypatch.setattr(TimmExpert, "__call__", None)
    for words in (["rank", "--task", "digits"], ["zoo", "verify"]):
        assert main([*words, "--zoo", "timm:resnet*"]) != 0
        assert "The weights of 2 experts are not in the cache. Try: --yes" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ModelError("the crop mode is not supported"), MissingDependencyError("huggingface_hub"), KeyError("size")])
def test_an_expert_whose_card_cannot_be_made_is_not_kept_and_stops_no_ranking(error):
    assert identity_of(Unsupported(error), None) is None


class Unsupported:
    def __init__(self, error):
        self.error = error

    @property
    def card(self):
        raise self.error
