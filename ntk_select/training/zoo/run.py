"""Training of a whole zoo from its config, which can be interrupted and resumed."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from ntk_select._runtime.cache import Cache, key_of
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.card import Card
from ntk_select.tasks.task import Task
from ntk_select.training.feeding import SMALL
from ntk_select.training.zoo.config import Member, SingleMember, ZooConfig, chosen
from ntk_select.training.zoo.multi import train_multi
from ntk_select.training.zoo.single import Progress, Zoo, parent_of, train_single


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
    """Trains every expert of the config that does not exist yet, those that others start from first.

    An interrupted run resumes at the last checkpoint and gives the same weights on a CPU: every random number depends only on the config's seed, the
    expert's name and the epoch.

    Args:
      config: The config from `read_config`.
      out: folder of the experts, one subfolder each.
      data: Folder that replaces {data} in the sources' URIs.
      work: folder for resized images and checkpoints.
      only: train only experts whose name contains this text.
      mesh: devices that share each batch.
      progress: called with (epochs done, epochs, name and loss).
      done: called with the cards of each finished expert.

    Returns:
      The cards of the experts that this call trained.

    Raises:
      ConfigError: no expert's name contains `only`, an architecture is unknown, or a source needs `data`.
      ModelError: an expert to start from is missing, an expert's folder exists without its cards, or, after all others were trained, some trainings
        diverged.
    """
    out, work = Path(out).expanduser(), Path(work).expanduser()
    wanted = chosen(config, only)
    source = functools.lru_cache(maxsize=1 if all(isinstance(member, SingleMember) for member in wanted) else None)(
        functools.partial(load_source, config, data=data, work=work)
    )
    out.mkdir(parents=True, exist_ok=True)
    zoo = Zoo(config, out, source, work / "checkpoints", mesh, progress or (lambda *_: None))
    waiting = _untrained(zoo, wanted)
    trained, failures = [], {}
    for member in waiting:
        try:
            cards = [train_single(zoo, member)] if isinstance(member, SingleMember) else train_multi(zoo, member)
        except ModelError as error:  # it diverged, or its parent did; the others are trained
            failures[member.name] = str(error)
            continue
        trained += cards
        if done is not None:
            done(cards)
    if failures:
        details = "; ".join(f"{name}: {error}" for name, error in failures.items())
        raise ModelError(f"{len(failures)} of {len(waiting)} experts were not trained. {details}")
    return trained


def _untrained(zoo: Zoo, wanted: list[Member]) -> list[Member]:
    """The experts that do not exist yet. Checks before any training that all of them can start and be written."""
    waiting = []
    for member in wanted:
        absent = [file for file in member.files if not (zoo.folder / member.name / file).exists()]
        if absent and (zoo.folder / member.name).exists():
            raise ModelError(f"{zoo.folder / member.name} exists, but without {', '.join(absent)}. Try: delete or rename it, to have it trained")
        waiting += [member] if absent else []
    for parent in {member.initialised_from for member in waiting} - {member.name for member in wanted} - {None}:
        parent_of(zoo, parent)
    return waiting


def load_source(config: ZooConfig, name: str, data: str | Path | None, work: Path | None) -> Task:
    """A source data set with a test set. Small images from an archive are resized once and cached below `work` until the archive changes.

    With `work=None` nothing is cached, and the images have their original sizes.

    Raises:
      ConfigError: its URI has {data} and no folder was given, or it has no test set.
      TaskError, DataError: it cannot be read.
    """
    source = config.sources[name]
    if "{data}" in source.uri and data is None:
        raise ConfigError(f"The source {name!r} is at {source.uri!r}, and the folder for {{data}} is missing. Try: data=FOLDER (--data FOLDER)")
    uri = source.uri.replace("{data}", str(data))
    key = _key(config, name, uri, work)
    cache = Cache(None if key is None else work / "data")
    arrays = cache.get(key)
    if arrays is not None:
        return Task(name, arrays["images"], arrays["labels"], tuple(arrays["class_names"].tolist()), arrays["test_images"], arrays["test_labels"])
    task = renamed(load_task(uri), source.rename)
    if task.test_images is None or not len(task.test_images):
        raise ConfigError(f"The source {name!r} ({uri}) has no test set, on which its expert is evaluated.")
    if key is None:
        return task
    images, test_images = config.preprocess.resized(task.images), config.preprocess.resized(task.test_images)
    arrays = {"images": images, "labels": task.labels, "test_images": test_images, "test_labels": task.test_labels}
    cache.put(key, {**arrays, "class_names": np.array(task.class_names)})
    return Task(name, images, task.labels, task.class_names, test_images, task.test_labels)


def _key(config: ZooConfig, name: str, uri: str, work: Path | None) -> str | None:
    """Cache key of the resized images of an archive in its present state. None for large images, and if changes of the source cannot be detected."""
    archive = Path(uri.partition(":")[2] or uri).expanduser()
    if work is None or config.size > SMALL or not archive.is_file():
        return None
    now = archive.stat()
    settings = (str(archive.resolve()), now.st_size, now.st_mtime_ns, config.preprocess.geometry, sorted(config.sources[name].rename.items()))
    return key_of(repr(settings))


def renamed(task: Task, names: Mapping[str, str]) -> Task:
    """The task with the classes that are keys of `names` merged into those that are the values.

    Raises:
      ConfigError: a name is not that of a class, or a class is both merged and merged into.
    """
    for name in (*names, *names.values()):
        if name not in task.class_names:
            raise ConfigError(f"rename: the task {task.name!r} has no class {name!r}.")
    for name in names.values():
        if name in names:
            raise ConfigError(f"rename: the class {name!r} is merged into another, so no class can be merged into it.")
    remaining = [name for name in task.class_names if name not in names]
    ids = np.array([remaining.index(names.get(name, name)) for name in task.class_names])
    test_labels = None if task.test_labels is None else ids[task.test_labels]
    return replace(task, labels=ids[task.labels], test_labels=test_labels, class_names=tuple(remaining))
