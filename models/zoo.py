"""Zoos: folders of experts, and `open_zoo` for zoos by name or folder."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntk_select._runtime.files import describe_placeholder
from ntk_select.errors import ModelError, near
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert, SourceStatistics
from ntk_select.experts.multi_domain import compose
from ntk_select.models.architectures import build, make_expert
from ntk_select.models.expert_folder import CARD_FILE, WEIGHTS_FILE, domain_card_file, flatten, read_weights, unflatten
from ntk_select.models.feature_files import PREFIX as FEATURES
from ntk_select.models.feature_files import SUFFIXES, StoredFeatures, feature_files, has_feature_files
from ntk_select.models.hub import PREFIX as HUB
from ntk_select.models.timm_zoo import PREFIX as TIMM
from ntk_select.models.timm_zoo import timm_zoo, untrained_of_card

HOW_TO_MAKE_ONE = "To make one, try: ntk-select zoo convert CHECKPOINT --arch NAME --out FOLDER"


@dataclass(frozen=True)
class StoredExpert:
    """An expert on disk: a folder with `model.safetensors` and `card.json`. Calling it loads the expert.

    Args:
      folder: folder of the expert.
      domain: domain of a multi-domain expert, with the card `card@DOMAIN.json`; None for an ordinary expert.
    """

    folder: Path
    domain: str | None = None

    @property
    def card(self) -> Card:
        """The card of the expert. Raises ModelError if it cannot be read."""
        file = self.folder / (CARD_FILE if self.domain is None else domain_card_file(self.domain))
        try:
            content = file.read_bytes()
            if placeholder := describe_placeholder(content):
                raise ModelError(f"The card {file} {placeholder}.")
            text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"The card {file} cannot be read: {error}.") from error
        return Card.from_json(text, str(file))

    def __call__(self) -> Expert:
        """Loads the expert.

        Raises:
          ModelError: the card or the weights cannot be read, the weights have another hash than in the card, or do not fit
            the architecture.
        """
        card = self.card
        file = self.folder / WEIGHTS_FILE
        variables = read_weights(file, sha256=card.sha256)
        if card.architecture.startswith(TIMM):
            return self._of_timm(card, variables, file)
        if self.domain is not None:
            variables = self._composed(variables, file)
        source = self._source(card, variables.pop("source", {}), file)
        variables = {"batch_stats": {}, **variables}
        module = build(card.architecture, num_classes=card.num_classes, **card.config)
        _check_shapes({name: leaf.shape for name, leaf in flatten(variables).items()}, _expected_shapes(module, card.preprocess.size), file)
        return make_expert(card.name, module, variables, card=card, source=source)

    def _of_timm(self, card: Card, variables: Mapping, file: Path) -> Expert:
        """A fine-tuned network of timm. Only floating-point tensors are stored; the others are those of a new network."""
        expert = untrained_of_card(card)
        found, expected = flatten(variables), flatten(expert.variables)
        kept = {name: leaf for name, leaf in expected.items() if name not in found and np.asarray(leaf).dtype.kind != "f"}
        _check_shapes({name: leaf.shape for name, leaf in {**found, **kept}.items()}, {name: leaf.shape for name, leaf in expected.items()}, file)
        return expert.with_variables(unflatten({**found, **kept}))

    def _composed(self, variables: Mapping, file: Path) -> dict:
        """The variables of this domain, as those of an ordinary network."""
        domains = variables.get("domains")
        domains = domains if isinstance(domains, Mapping) else {}
        if self.domain not in domains or "common" not in variables:
            raise ModelError(f"The weights {file} contain no domain {self.domain!r}. Domains: {', '.join(domains) or '(none)'}.")
        try:
            whole = compose(variables["common"], domains[self.domain])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"The weights {file} do not fit together for the domain {self.domain!r}: {str(error).rstrip('.')}.") from error
        return jax.tree.map(np.asarray, whole)

    def _source(self, card: Card, means: dict[str, np.ndarray], file: Path) -> SourceStatistics | None:
        """Source statistics with a loader of the extractor shared by the zoo, which is in a sibling folder named by the card."""
        if not isinstance(means, Mapping):
            raise ModelError(f"The weights {file} contain a tensor 'source'; it must be a group, as in source/class_means. Try: convert them again")
        if not card.class_counts or not means:
            return None
        name = str(card.training.get("reference_extractor", ""))
        return SourceStatistics(
            np.array(card.class_counts),
            means.get("class_means"),
            means.get("reference_class_means"),
            StoredExpert(self.folder.resolve().parent / name) if name and Path(name).name == name else None,
            name,
        )


@dataclass(frozen=True)
class FolderZoo(Mapping[str, StoredExpert]):
    """The experts in a folder, one sub-folder each: a mapping from names to `StoredExpert`.

    A multi-domain expert has one entry per domain, FOLDER@DOMAIN. The folder of a single expert is a zoo of one. Files are read lazily.
    """

    folder: Path

    def _experts(self) -> dict[str, StoredExpert]:
        alone = _in_folder(self.folder)
        if alone:
            return alone
        if not self.folder.is_dir():
            raise ModelError(f"The zoo {str(self.folder)!r} is not a folder. {HOW_TO_MAKE_ONE}")
        try:
            children = [child for child in sorted(self.folder.iterdir()) if not child.name.startswith(".")]
            return {name: expert for child in children for name, expert in _in_folder(child).items()}
        except OSError as error:
            raise ModelError(f"The zoo {str(self.folder)!r} cannot be read: {error.strerror} ({error.filename}).") from error

    def __getitem__(self, name: str) -> StoredExpert:
        return self._experts()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._experts())

    def __len__(self) -> int:
        return len(self._experts())


def _in_folder(folder: Path) -> dict[str, StoredExpert]:
    """The expert in a folder, or its domains."""
    name = os.path.basename(os.path.abspath(folder))  # of a link, not of its target
    if (folder / CARD_FILE).is_file():
        return {name: StoredExpert(folder)}
    prefix, suffix = domain_card_file("*").split("*")
    domains = [card.name.removeprefix(prefix).removesuffix(suffix) for card in sorted(folder.glob(domain_card_file("*")))]
    return {f"{name}@{domain}": StoredExpert(folder, domain) for domain in domains}


def open_zoo(uris: Sequence[str]) -> dict[str, Callable[[], Expert]]:
    """The experts of several zoos as one mapping from names to functions that load them.

    Args:
      uris: each the name of an installed zoo ("builtin" and those that packages add through the entry points
        `ntk_select.zoo`), or a folder; "timm:NAME", "timm:convnext_*" and "hf-hub:ORG/NAME" are networks of timm (`timm_zoo`), with "@random" or "@FILE"
        for other than the published weights; "features:PATH" is a folder of files of features (`FeatureExpert`), or one such file. The files
        in any other folder are experts too if one of them has an array `features`.

    Raises:
      ModelError: a name or folder does not exist, a folder contains no experts, or two experts have the same name.
    """
    installed = {entry.name: entry for entry in entry_points(group="ntk_select.zoo")}
    experts: dict[str, Callable[[], Expert]] = {}
    for uri in map(str, [uris] if isinstance(uris, str | Path) else uris):
        if "\0" in uri:
            raise ModelError(f"The zoo {uri!r} contains a null byte, which no path can. {HOW_TO_MAKE_ONE}")
        if uri in ("", "folder:", FEATURES):
            raise ModelError(f"The zoo {uri!r} has no path. Try: {uri}PATH, in which . is the current folder")
        path = Path(os.path.expanduser(uri.removeprefix("folder:")))
        if uri in installed:
            zoo = installed[uri].load()
        elif uri.startswith(FEATURES):
            zoo = feature_files(Path(os.path.expanduser(uri.removeprefix(FEATURES))))
        elif uri.startswith((TIMM, HUB)):
            zoo = {name: load for name, load in timm_zoo(uri).items() if experts.get(name) != load}
        elif os.path.isdir(path):
            zoo = _in_folder(path) or {**FolderZoo(path), **_features_beside(path)}
            if not zoo:
                raise ModelError(f"The folder {str(path)!r} contains no expert (no sub-folder with {CARD_FILE}). {HOW_TO_MAKE_ONE}")
        elif os.path.isfile(path) and path.suffix.lower() in SUFFIXES:
            raise ModelError(f"The zoo {uri!r} is a file, not a folder. For a file of features, try: {FEATURES}{uri}. {HOW_TO_MAKE_ONE}")
        else:
            allowed = ", ".join([*sorted(installed), "a folder of experts", f"{TIMM}NAME", f"{HUB}ORG/NAME", f"{FEATURES}PATH"])
            raise ModelError(f"The zoo {uri!r} is neither installed nor a folder.{near(uri, installed)} Allowed: {allowed}. {HOW_TO_MAKE_ONE}")
        for name in zoo:
            if name in experts:
                raise ModelError(f"Two of the zoos {', '.join(map(str, uris))} have an expert {name!r}. Try: rename one of the folders")
            experts[name] = zoo[name]
    return experts


def _features_beside(folder: Path) -> dict[str, StoredFeatures]:
    """The files of features in a folder that may also have experts in sub-folders. Raises ModelError if two have the same name."""
    found = feature_files(folder) if has_feature_files(folder) else {}
    for name in found:
        if _in_folder(folder / name):
            raise ModelError(
                f"The zoo {str(folder)!r} has an expert {name!r} both in a folder and in {found[name].file.name!r}. Try: rename one of them"
            )
    return found


def is_zoo_uri(text: str) -> bool:
    """Whether a text names a zoo by its beginning, as "timm:resnet18" does; a folder may have the same name."""
    return text.startswith((FEATURES, TIMM, HUB))


def _expected_shapes(module: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    shapes, width = _shapes_of_headless(module.clone(num_classes=0), size)
    head = "/".join(("params", *module.head))
    return {**shapes, f"{head}/kernel": (width, module.num_classes), f"{head}/bias": (module.num_classes,)} if module.num_classes else shapes


@functools.lru_cache(maxsize=64)
def _shapes_of_headless(module: nn.Module, size: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of the variables of a network without its head, and the number of its pre-logits."""
    images = jnp.zeros((1, size, size, 3), jnp.float32)
    features, variables = jax.eval_shape(lambda key: module.init_with_output(key, images), jax.random.key(0))
    stored = {key: variables[key] for key in ("params", "batch_stats") if key in variables}
    return {name: leaf.shape for name, leaf in flatten(stored).items()}, features.shape[1]


def _check_shapes(found: Mapping[str, tuple], expected: Mapping[str, tuple], file: Path) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    problems += [f"{name} is {found[name]}, not {expected[name]}" for name in found if name in expected and found[name] != expected[name]]
    if problems:
        raise ModelError(f"The weights {file} do not fit the architecture: {'; '.join(problems[:8])}{' ...' if len(problems) > 8 else ''}.")
