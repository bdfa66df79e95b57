"""Which experts does a config ask for, in which order?"""

from dataclasses import dataclass

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.models import ARCHITECTURES

from .config import MultiConfig, ZooConfig


@dataclass(frozen=True)
class SingleMember:
    """An expert of one source, to be trained."""

    name: str
    architecture: str
    source: str
    start: str
    epochs: int
    learning_rate: float
    initialised_from: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the cards that say that it is there."""
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
        """Names of the cards that say that it is there."""
        return tuple(f"card@{source}.json" for source in self.sources)


def members(config: ZooConfig) -> list[SingleMember | MultiMember]:
    """All experts of the config, those that others start from first."""
    first, found = config.initial_source, []
    for source in sorted(config.sources, key=lambda name: name != first):
        for architecture in config.architectures:
            for start, epochs in sorted(config.sources[source].epochs.items(), key=lambda item: item[0] == "transfer"):
                parent = f"{first}-{architecture}" if start == "transfer" else None
                name = f"{source}-{architecture}" + (f"-from-{first}" if parent else "")
                epochs = epochs[architecture] if isinstance(epochs, dict) else epochs
                found.append(SingleMember(name, architecture, source, start, epochs, config.learning_rate[start], parent))
    for name, multi in config.multi_domain.items():
        parent = f"{first}-{multi.architecture}" if multi.start == "transfer" else None
        found.append(MultiMember(f"{name}-{multi.architecture}", multi, multi.sources or tuple(config.sources), parent))
    return found


def chosen(config: ZooConfig, only: str = "") -> list[SingleMember | MultiMember]:
    """The experts whose name contains `only`.

    Raises:
      ConfigError: there is none, or an architecture is unknown.
    """
    everybody, known = members(config), ARCHITECTURES
    wanted = [member for member in everybody if only in member.name]
    if not wanted:
        raise ConfigError(f"No expert's name contains {only!r}. There is: {', '.join(member.name for member in everybody)}.")
    for member in wanted:
        if member.architecture not in known:
            raise ConfigError(f"The architecture {member.architecture!r} is unknown.{did_you_mean(member.architecture, known)}")
    return wanted
