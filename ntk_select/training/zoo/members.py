"""The experts that the config of a zoo requests, in an order in which they can be trained."""

from collections.abc import Iterable
from dataclasses import dataclass

from ntk_select._runtime.files import file_name
from ntk_select.errors import ConfigError, did_you_mean, few
from ntk_select.models import ARCHITECTURES
from ntk_select.training.zoo.config import MultiConfig, ZooConfig

LONGEST = 200
"""Bytes of the name of an expert; names of files have at most 255, those of temporary files included."""


@dataclass(frozen=True)
class SingleMember:
    """An expert of one source, to be trained; `architecture` is a network of the config (`ZooConfig.network`)."""

    name: str
    architecture: str
    source: str
    start: str
    epochs: int
    learning_rate: float
    initialised_from: str | None

    @property
    def sources(self) -> tuple[str, ...]:
        """Data sets that it is trained on."""
        return (self.source,)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the cards that a trained expert has."""
        return ("card.json",)


@dataclass(frozen=True)
class MultiMember:
    """An expert of many domains, to be trained."""

    name: str
    config: MultiConfig
    sources: tuple[str, ...]
    initialised_from: str | None

    @property
    def architecture(self) -> str:
        """Of the network."""
        return self.config.architecture

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the cards that a trained expert has."""
        return tuple(f"card@{source}.json" for source in self.sources)


Member = SingleMember | MultiMember


def members(config: ZooConfig) -> list[Member]:
    """All experts of the config in their order, but each after the one that it starts from, and the common extractor first.

    Raises:
      ConfigError: some start from each other in a circle.
    """
    found = {member.name: member for member in _requested(config)}
    ordered: dict[str, Member] = {}
    for name in (reference_name(config), *found):
        line: dict[str, Member] = {}
        while name in found and name not in ordered:
            if name in line:
                circle = [*list(line)[list(line).index(name) :], name]
                raise ConfigError(f'Experts start from each other in a circle: {few(circle, 8)}. Try: start = "scratch" for one of them')
            line[name] = found[name]
            name = found[name].initialised_from
        ordered.update(reversed(line.items()))
    return list(ordered.values())


def _requested(config: ZooConfig) -> list[Member]:
    """All experts in the order of the config: those of every source, those listed, and those of many domains."""
    first, found = config.initial_source, []
    for source in sorted(config.sources, key=lambda name: name != first):
        for architecture in config.architectures:
            for start, epochs in sorted(config.sources[source].epochs.items(), key=lambda item: item[0] == "transfer"):
                parent = f"{first}-{architecture}" if start == "transfer" else None
                name = f"{source}-{architecture}" + (f"-from-{first}" if parent else "")
                epochs = epochs[architecture] if isinstance(epochs, dict) else epochs
                found.append(SingleMember(name, architecture, source, start, epochs, config.learning_rate[start], parent))
    for name, expert in config.experts.items():
        parent = None if expert.start == "scratch" else expert.start
        start = "transfer" if parent else "scratch"
        rate = expert.learning_rate or config.learning_rate[start]
        found.append(SingleMember(name, expert.architecture, expert.source, start, expert.epochs, rate, parent))
    for name, multi in config.multi_domain.items():
        parent = f"{first}-{multi.architecture}" if multi.start == "transfer" else None
        found.append(MultiMember(f"{name}-{multi.architecture}", multi, multi.sources or tuple(config.sources), parent))
    return found


def check_members(config: ZooConfig) -> None:
    """Checks names and starts.

    Raises:
      ConfigError: two experts have one name, two experts or sources names that differ only in case, a name is too long for a folder, an expert
        starts from another network, from one of many domains, or in a circle, or the extractor is not an expert of one source.
    """
    _check_apart("sources", config.sources)
    for name, expert in config.experts.items():
        if file_name(expert.start) != expert.start:
            raise ConfigError(
                f'experts.{name}.start = {expert.start!r} is not the name of an expert. Try: start = "scratch", or an expert of this config'
            )
    found: dict[str, Member] = {}
    for member in _requested(config):
        if len(member.name.encode()) > LONGEST:
            raise ConfigError(f"The name {member.name!r} has more than {LONGEST} bytes, and is to be the name of a folder. Try: a shorter one")
        if member.name in found:
            raise ConfigError(
                f"Two experts have the name {member.name!r}. Try: another name in [experts], or for a source, network or multi-domain expert"
            )
        found[member.name] = member
    _check_apart("experts", found)
    for member in members(config):
        parent = found.get(member.initialised_from)
        if isinstance(parent, MultiMember):
            raise ConfigError(f"{member.name!r} cannot start from {parent.name!r}, an expert of many domains. Try: start = an expert of one source")
        if parent is not None and config.network(parent.architecture) != config.network(member.architecture):
            raise ConfigError(
                f"{member.name!r} is a {member.architecture!r} and cannot start from {parent.name!r}, a {parent.architecture!r}. "
                "Try: start = an expert with the same network"
            )
    singles = [name for name, member in found.items() if isinstance(member, SingleMember)]
    if config.extractor and config.extractor not in singles:
        raise ConfigError(f"extractor = {config.extractor!r} is not an expert of one source of this config.{did_you_mean(config.extractor, singles)}")


def _check_apart(what: str, names: Iterable[str]) -> None:
    """Raises ConfigError for names of files or folders that some file systems do not keep apart."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(f"The {what} {other!r} and {name!r} have names that differ only in case, as those of files must not. Try: another name")


def reference_name(config: ZooConfig) -> str:
    """Name of the common extractor for class means of all sources. By default the first architecture's expert of the initial source."""
    if config.extractor:
        return config.extractor
    architectures = config.architectures or tuple(each.architecture for each in (*config.multi_domain.values(), *config.experts.values()))
    return f"{config.initial_source}-{architectures[0]}" if architectures else ""


def chosen(config: ZooConfig, only: str = "") -> list[Member]:
    """The experts whose name contains `only`.

    Raises:
      ConfigError: there is none, or an architecture is unknown.
    """
    everybody = members(config)
    wanted = [member for member in everybody if only in member.name]
    if not wanted:
        raise ConfigError(f"No expert's name contains {only!r}. Available: {', '.join(member.name for member in everybody)}.")
    for member in wanted:
        if config.network(member.architecture)[0] not in ARCHITECTURES:
            known = [*config.networks, *ARCHITECTURES]
            raise ConfigError(f"The architecture {member.architecture!r} is unknown.{did_you_mean(member.architecture, known)}")
    return wanted
