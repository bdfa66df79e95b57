"""How is a whole zoo trained, so that it can be cut and resumed?"""

import functools
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card

from .config import ZooConfig
from .members import SingleMember, chosen
from .multi import train_multi
from .single import Progress, Zoo, parent_of, train_single
from .sources import load_source


def train_zoo(
    config: ZooConfig,
    *,
    out: str | Path,
    data: str | Path | None = None,
    work: str | Path = "runs/zoo",
    only: str = "",
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    done: Callable[[list[Card]], None] | None = None,
) -> list[Card]:
    """Trains every expert of the config that is not there yet, those that others start from first.

    A run that was cut goes on from the last kept state and gives the same weights on a CPU: every random draw depends on the config's seed, the
    expert's name and the epoch alone.

    Args:
      config: from `read_config`.
      out: folder of the experts, one folder each.
      data: stands for {data} in the sources' URIs.
      work: resized images and checkpoints.
      only: train only experts whose name contains this text.
      mesh: devices that share each batch.
      progress: called with (epochs done, epochs, name and loss).
      done: called with the cards of each expert that is finished.

    Returns:
      The cards of what was trained now.

    Raises:
      ConfigError: no expert's name contains `only`, an architecture is unknown, or a source cannot be found without `data`.
      ModelError: an expert to start from is missing, what lies at an expert's place is not that expert, or, after all others were trained, some
        training diverged.
    """
    out, work = Path(out).expanduser(), Path(work).expanduser()
    wanted = chosen(config, only)
    source = functools.lru_cache(maxsize=None if any(not isinstance(member, SingleMember) for member in wanted) else 1)(
        functools.partial(load_source, config, data=data, work=work)
    )
    out.mkdir(parents=True, exist_ok=True)
    zoo = Zoo(config, out, source, work / "checkpoints", mesh, progress or (lambda *_: None))
    waiting = _not_there_yet(zoo, wanted)
    trained, failures = [], {}
    for member in waiting:
        try:
            cards = [train_single(zoo, member)] if isinstance(member, SingleMember) else train_multi(zoo, member)
        except ModelError as error:  # it diverged, or its parent did; the others go on
            failures[member.name] = str(error)
            continue
        trained += cards
        if done is not None:
            done(cards)
    if failures:
        told = "; ".join(f"{name}: {error}" for name, error in failures.items())
        raise ModelError(f"{len(failures)} of {len(waiting)} experts were not trained. {told}")
    return trained


def _not_there_yet(zoo: Zoo, wanted: list) -> list:
    """What is to be trained. Refuses before the work what could not be begun, or not be written, after hours of it."""
    waiting = []
    for member in wanted:
        absent = [file for file in member.files if not (zoo.folder / member.name / file).exists()]
        if absent and (zoo.folder / member.name).exists():
            raise ModelError(f"{zoo.folder / member.name} is there, but without {', '.join(absent)}. Delete or rename it to have it trained.")
        waiting += [member] if absent else []
    names = {member.name for member in wanted}
    for parent in {member.initialised_from for member in waiting} - names - {None}:
        parent_of(zoo, parent)
    return waiting
