"""Networks of timm as zoos: `timm:NAME`, globs, `hf-hub:ORG/NAME`, and `timm_expert`. Nothing is loaded before an expert is called."""

import fnmatch
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ModelError, few, near
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert
from ntk_select.models.expert_folder import sha256_of_file
from ntk_select.models.hub import PREFIX as HUB
from ntk_select.models.hub import find_model, licence_text, repo_and_revision
from ntk_select.models.timm_networks import TimmNetwork, import_timm
from ntk_select.models.timm_preprocess import preprocess_of_timm
from ntk_select.models.timm_sources import UNTRAINED, seen_by_tag
from ntk_select.models.torch_experts import torch_expert

PREFIX = "timm:"
"""Beginning of the URI of networks of timm, and of the architecture in their cards."""
RANDOM = re.compile(r"random(?::(?P<seed>\d{1,18}))?", re.ASCII)
NAME_OF_FILE = re.compile(r"\w[\w.-]*")
MAX_CLASSES = 10**6
"""Largest number of classes in a configuration of the hub."""
AFTER_AT = "Allowed after @: a file of weights, random, or random:SEED."
HOW_TO_LIST = "To list the names, try: timm.list_pretrained('resnet*'), on the command line: ntk-select zoo list --zoo 'timm:resnet*'"


@dataclass(frozen=True)
class TimmExpert:
    """A network of timm, or of the hub in timm's format. Calling it loads the expert; its card needs no weights.

    Args:
      name: "timm:NAME" or "hf-hub:ORG/NAME[@REVISION]". NAME is an architecture, or an architecture with the tag of its weights
        ("resnet18.a1_in1k"); without a tag timm's default weights are meant.
      checkpoint: file of the weights; None for the published ones.
      seed: seed of random weights; None for trained ones.
    """

    name: str
    checkpoint: Path | None = None
    seed: int | None = None

    @property
    def uri(self) -> str:
        """Name of the expert, which is also its URI: "timm:resnet18@random" has random weights, "timm:resnet18@FILE" those of a file."""
        if self.seed is not None:
            return f"{self.name}@random{f':{self.seed}' if self.seed else ''}"
        return self.name if self.checkpoint is None else f"{self.name}@{self.checkpoint}"

    @property
    def is_stored(self) -> bool:
        """Whether its weights are on this machine, so that nothing is downloaded."""
        if self.seed is not None or self.checkpoint is not None:
            return True
        by_name = self.name.startswith(HUB)  # its configuration may not be on this machine either
        return (TimmNetwork(self.name, "", {}, {}, *repo_and_revision(self.name)) if by_name else self._network()).is_stored

    @property
    def card(self) -> Card:
        """The card. The number of classes of a checkpoint is known only after loading.

        Raises:
          ModelError: the preprocessing is not supported; of `hf-hub:`, the model does not exist, or is not timm's.
          MissingDependencyError: timm, or for `hf-hub:` huggingface_hub, is not installed.
        """
        return self._card(self._network())

    def __call__(self) -> Expert:
        """Loads the expert, and downloads its weights if they are not in the cache of the hub.

        Raises:
          ModelError: as for `card`; the weights are not available or do not fit, or the network cannot be an expert (`torch_expert`).
          MissingDependencyError: timm, PyTorch or torchax is not installed.
        """
        network, facts = self._network(), {}
        preprocess = self._card(network).preprocess  # before the weights
        if self.seed is not None:
            model = network.untrained(self.seed)
        else:
            file = network.weights() if self.checkpoint is None else self.checkpoint
            model, notes = network.trained(file, own=self.checkpoint is None)
            facts["file"] = file
            facts["notes"] = notes
        card = self._card(network, model, **facts)
        return expert_of_module(self.uri, model, network, preprocess=preprocess, card=card)

    def _network(self) -> TimmNetwork:
        return of_hub(self.name) if self.name.startswith(HUB) else registered(self.name)

    def _card(self, network: TimmNetwork, model: Any = None, file: Path | None = None, notes: Sequence[str] = ()) -> Card:
        """The card, with what the loaded model and its file say if there is one."""
        settings, training = network.settings, {}
        source, others = seen_by_tag(str(settings.get("tag") or network.uri.rpartition("/")[2].partition(".")[2]))
        if self.seed is not None:
            source, others, training = UNTRAINED, (), {"random_init": {"seed": self.seed}}
        elif self.checkpoint is not None:
            source, others = "unknown", ()
            training = {"converted_from": {"file": self.checkpoint.name, "notes": list(notes)}}
        trained = self.seed is None and self.checkpoint is None
        labels = settings.get("label_names") or ()
        return Card(
            name=self.uri,
            architecture=f"{PREFIX}{network.architecture}",
            source=source,
            preprocess=preprocess_of_timm(settings, f"The configuration of {self.name}"),
            sha256="" if (stored := file or self.checkpoint) is None else sha256_of_file(stored),
            num_classes=network.num_classes if model is None else int(model.num_classes),
            config=network.config,
            class_names=tuple(map(str, labels)) if trained and len(labels) == network.num_classes else (),
            licence=licence_text(settings.get("license")) if trained else None,
            num_parameters=network.num_parameters if model is None else sum(parameter.numel() for parameter in model.parameters()),
            origin=network.origin if trained else None if self.checkpoint is None else str(self.checkpoint),
            training={**training, **({"domains": list(others)} if others else {})},
        )


def timm_expert(name: str, *, checkpoint: str | Path | None = None, random_init: bool = False, seed: int = 0) -> Expert:
    """A network of timm as an expert, with its published weights, those of a file, or random ones.

    Args:
      name: timm's name, "convnext_atto" or with the tag of its weights "convnext_atto.d2_in1k"; also "timm:NAME" and "hf-hub:ORG/NAME".
      checkpoint: file of weights of this architecture, with any number of classes: safetensors, or written by `torch.save`, of which nothing is
        executed. None for the published weights, from the cache of the hub or the hub.
      random_init: whether the weights are random.
      seed: seed of random weights.

    Returns:
      An `Expert` as of `torch_expert`, whose card has the architecture, licence, number of parameters, and the data set according to the tag.

    Raises:
      ModelError: timm has no network of this name, it has no published weights, they are not in the cache and the hub cannot be reached, or the
        file does not fit.
      MissingDependencyError: timm, PyTorch, torchax or huggingface_hub is not installed.

    Cost: as for `torch_expert`, after the download.
    """
    if checkpoint is not None and random_init:
        raise ModelError(f"timm_expert({name!r}, ...) has both checkpoint= and random_init=True. Try: one of the two")
    if random_init and not (is_whole(seed) and 0 <= seed < 10**18):
        raise ModelError(f"seed of {name!r} is {seed!r}; it must be an integer from 0, of at most 18 digits. Try: seed=0")
    if name.startswith(HUB) and (checkpoint is not None or random_init):
        raise ModelError(f"{name!r} has its own weights; checkpoint= and random_init= are for names of timm. Try: timm_expert('resnet18', ...)")
    uri = name if name.startswith((PREFIX, HUB)) else f"{PREFIX}{name}"
    found = timm_zoo(f"{uri}@random:{seed}" if random_init else uri if checkpoint is None else f"{uri}@{checkpoint}")
    if len(found) != 1:
        raise ModelError(
            f"{name!r} is the name of {len(found)} networks of timm. Try: ntk_select.open_zoo({uri!r}), or one of them: {next(iter(found.values())).name!r}"
        )
    return next(iter(found.values()))()


def timm_zoo(uri: str) -> dict[str, TimmExpert]:
    """The experts of `timm:NAME`, `timm:GLOB` or `hf-hub:ORG/NAME[@REVISION]`, by their names; with `@random[:SEED]` or `@FILE` for other weights.

    A glob without a tag matches architectures with default weights ("timm:convnext_*"), one with a tag all their sets of weights
    ("timm:resnet*.a1_in1k", "timm:resnet18.*"), and with @random any architectures.

    Raises:
      ModelError: timm has no such network, it has no published weights, or a file is given for several networks.
      MissingDependencyError: timm is not installed.
    """
    if uri.startswith(HUB):
        repo_and_revision(uri)
        import_timm(f"The zoo {uri!r}")
        return {uri: TimmExpert(uri)}
    name, mark, weights = uri.removeprefix(PREFIX).partition("@")
    if mark and not weights:
        raise ModelError(f"{uri!r} names no weights. {AFTER_AT}")
    random = RANDOM.fullmatch(weights)
    names = _matching(uri, name, pretrained=not weights)
    if weights and not random and len(names) != 1:
        raise ModelError(f"{uri!r} names {len(names)} networks, and a file has the weights of one. Try: {PREFIX}{names[0]}@{weights}")
    seed, file = (int(random["seed"] or 0), None) if random else (None, Path(os.path.expanduser(weights)) if weights else None)
    if file is not None and not os.path.isfile(file):
        raise ModelError(f"{uri!r}: there is no file {str(file)!r}. {AFTER_AT}")
    experts = [TimmExpert(f"{PREFIX}{each}", file, seed) for each in names]
    return {expert.uri: expert for expert in experts}


def registered(name: str) -> TimmNetwork:
    """The network "timm:NAME" of timm's table. Raises ModelError if it has none."""
    _matching(name, name.removeprefix(PREFIX), pretrained=False)
    timm = import_timm(f"The expert {name!r}")
    name = name.removeprefix(PREFIX)
    found = timm.get_pretrained_cfg(name)
    settings = {} if found is None else found.to_dict(remove_null=True)
    repo, _, revision = str(settings.get("hf_hub_id") or "").partition("@")
    return TimmNetwork(f"{PREFIX}{name}", name.partition(".")[0], settings, {}, repo or None, revision or None, settings.get("url") or None)


@lru_cache(maxsize=64)
def of_hub(name: str) -> TimmNetwork:
    """The network "hf-hub:ORG/NAME[@REVISION]", by its configuration, which is downloaded.

    Raises:
      ModelError: the model does not exist or cannot be downloaded, or its configuration is not that of a network of timm.
      MissingDependencyError: timm or huggingface_hub is not installed.
    """
    timm = import_timm(f"The expert {name!r}")
    model = find_model(name)
    architecture = str(model.config.get("architecture") or "").partition(".")[0]
    if not timm.is_model(architecture):
        given = f"the architecture {architecture!r}" if architecture else "no architecture"
        raise ModelError(
            f"{model.where} names {given}; it must be one of timm's.{near(architecture, timm.list_models())} Try: ntk_select.torch_expert(name, model)"
        )
    known = {field.name for field in fields(type(timm.get_pretrained_cfg("resnet18")))}
    num_classes = model.config.get("num_classes", model.pretrained.get("num_classes"))
    settings = {key: value for key, value in {**model.pretrained, "num_classes": num_classes}.items() if key in known and value is not None}
    settings["label_names"] = model.config.get("label_names") or settings.get("label_names")
    arguments = dict(model.config.get("model_args") or {})
    _check_hub_config(model.where, settings, arguments)
    if arguments.get("dynamic_img_size") or arguments.get("strict_img_size") is False:
        settings["fixed_input_size"] = False
    if settings.get("fixed_input_size") and (size := arguments.get("img_size")) is not None:
        sides = size if isinstance(size, list) else [size]
        settings["input_size"] = (3, sides[0], sides[-1])
    return TimmNetwork(name, architecture, settings, arguments, model.repo, model.revision)


def _check_hub_config(where: str, settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raises ModelError for values of a configuration of the hub that have another type, or lead out of the model's folder."""
    size, count = arguments.get("img_size"), settings.get("num_classes", 0)
    names, file = settings["label_names"] or [], settings.get("hf_hub_filename", "model.safetensors")
    sides = size if isinstance(size, list) else [size]
    for name, value, fits, expected in (
        ("num_classes", count, is_whole(count) and 0 <= count <= MAX_CLASSES, f"a whole number up to {MAX_CLASSES:,}"),
        ("label_names", names, isinstance(names, list), "a list"),
        ("img_size", size, size is None or (len(sides) in (1, 2) and all(map(is_whole, sides))), "a whole number, or two"),
        ("hf_hub_filename", file, isinstance(file, str) and NAME_OF_FILE.fullmatch(file), "the name of a file of the model"),
    ):
        if not fits:
            raise ModelError(f"{where}: {name} is {str(value)[:80]!r}; it must be {expected}. Try: ntk_select.torch_expert(name, model)")


def expert_of_module(name: str, model: Any, network: TimmNetwork, *, preprocess: Any, card: Card) -> Expert:
    """The expert of a module that `network` has made. Networks of equal architecture and arguments share compilations."""
    identity = ("timm", network.architecture, int(model.num_classes), json.dumps(network.config, sort_keys=True, default=str))
    return torch_expert(name, model, preprocess=preprocess, card=card, identity=identity)


def untrained_of_card(card: Card) -> Expert:
    """The expert of a card whose architecture is "timm:NAME", as of a fine-tuned network, with random weights. Raises ModelError as for `torch_expert`."""
    config = dict(card.config)
    settings = config.pop("pretrained_cfg", {})
    if not isinstance(settings, Mapping):
        raise ModelError(f"The card of {card.name!r} has pretrained_cfg={settings!r}; it must be an object. Try: fine-tune the expert again")
    network = TimmNetwork(card.name, card.architecture.removeprefix(PREFIX), dict(settings), config)
    return expert_of_module(card.name, network.create(card.num_classes), network, preprocess=card.preprocess, card=card)


def _matching(uri: str, name: str, *, pretrained: bool) -> list[str]:
    """The names of timm that a name or glob means, in timm's order.

    Raises:
      ModelError: there are none; with `pretrained`, none with published weights.
    """
    timm = import_timm(f"The zoo {uri!r}")
    architecture, dot, tag = name.partition(".")
    if not re.search(r"[*?\[]", name):
        names = [name] if _exists(timm, architecture, tag) else []
        if names and pretrained and not timm.is_model_pretrained(name):
            others = timm.list_pretrained(f"{architecture}.*")
            hint = f" With weights: {', '.join(others)}." if others else ""
            raise ModelError(
                f"timm has no weights of {name!r}.{hint} Try: timm_expert({name!r}, random_init=True) ({PREFIX}{name}@random), or {PREFIX}{name}@FILE"
            )
    else:
        names = timm.list_models(name, pretrained=pretrained, include_tags=bool(dot))
    if names:
        return names
    renamed = _renamed(name)
    if renamed:
        raise ModelError(f"timm has renamed {name!r}. Try: {PREFIX}{renamed}")
    if dot and timm.is_model(architecture):
        raise ModelError(f"timm has no weights {tag!r} of {architecture!r}.{near(name, timm.list_pretrained(f'{architecture}.*'))} {HOW_TO_LIST}")
    untrained = pretrained and fnmatch.filter(timm.list_models(), name)
    if untrained:
        raise ModelError(f"timm has no weights of the networks {name!r} ({few(untrained)}). Try: {PREFIX}{name}@random")
    raise ModelError(f"timm has no network {name!r}.{near(re.sub(r'[*?_]+$', '', architecture), timm.list_models())} {HOW_TO_LIST}")


def _exists(timm: Any, architecture: str, tag: str) -> bool:
    return timm.is_model(architecture) and _renamed(architecture) is None and (not tag or tag in _tags(timm, architecture))


def _tags(timm: Any, architecture: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", include_tags=True)]


def _renamed(name: str) -> str | None:
    """The current name of a network that timm has renamed; None if it has not, or removed it."""
    from timm.models import get_deprecated_models

    return get_deprecated_models().get(name)
