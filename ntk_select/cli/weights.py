"""Options on the weights of timm's networks, and the question before a large download."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ntk_select.cli.options import split
from ntk_select.errors import ConfigError

RandomInit = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Random weights for timm:NAME: as timm:NAME@random.")]
Checkpoint = Annotated[Path | None, tyro.conf.arg(help="File with the weights of timm:NAME: as timm:NAME@FILE.")]
Yes = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Download the weights of many experts without asking.")]

MANY = 20
"""Experts whose weights are downloaded without asking."""
MEASURED = 8
"""Experts whose sizes give that of the download."""


def with_weights(uris: Sequence[str], checkpoint: Path | None, random_init: bool) -> list[str]:
    """Zoos or experts, with the weights of --checkpoint or --random-init for those of timm that name no others.

    Raises:
      ConfigError: both options are given, or none of the URIs is timm's.
    """
    words = split(uris)
    if checkpoint is None and not random_init:
        return words
    option = "--random-init" if checkpoint is None else f"--checkpoint {str(checkpoint)!r}"
    if checkpoint is not None and random_init:
        raise ConfigError(f"{option} and --random-init are both given. Try: one of the two")
    if not any(word.startswith("timm:") for word in words):
        raise ConfigError(f"{option} is for networks of timm, and {', '.join(words)} is none. Try: timm:NAME, such as timm:resnet18")
    end = "random" if checkpoint is None else str(checkpoint)
    return [f"{word}@{end}" if word.startswith("timm:") and "@" not in word else word for word in words]


def ask_before_download(experts: Mapping[str, Callable[[], Any]], yes: bool) -> None:
    """Asks on the terminal whether the weights of more than `MANY` experts are to be downloaded.

    Raises:
      ConfigError: the answer is no, or there is no terminal and no --yes.
    """
    absent = [] if yes else [load for load in experts.values() if not getattr(load, "is_stored", True)]
    if len(absent) <= MANY:
        return
    sentence = f"The weights of {len(absent)} experts are not in the cache{_size(absent)}."
    hint = "Try: --yes, a narrower pattern, or --only NAME"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(f"{sentence} {hint}")
    sys.stderr.write(f"{sentence} Download them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError(f"Nothing was downloaded. {hint}")


def _size(absent: Sequence[Any]) -> str:
    """The size of a download in words, from a few of the experts; empty if it is unknown."""
    found = []
    for load in absent[:: -(-len(absent) // MEASURED)]:
        try:
            found.append(load.card.num_parameters)
        except Exception:  # a zoo may be foreign code; whatever is wrong with the expert is reported when it is loaded
            continue
    known = [count for count in found if count]
    size = 4e-9 * len(absent) * sum(known) / len(known) if known else 0.0
    return "" if not known else f", about {size:,.0f} GB" if size >= 1 else ", below 1 GB"
