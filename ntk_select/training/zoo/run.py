"""Training of a whole zoo from its config, which can be interrupted and resumed."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ntk_select._runtime.cache import Cache, key_of
from ntk_select.data import load_task
from ntk_select.data.uri import parse_uri, task_kinds
from ntk_select.errors import ConfigError, ModelError
from ntk_select.executors import checked_options, executor_of
from ntk_select.experts.card import Card
from ntk_select.tasks.classes import of_classes
from ntk_select.tasks.task import Task
from ntk_select.training.feeding import SMALL
from ntk_select.training.zoo.config import ZooConfig
from ntk_select.training.zoo.members import Member, SingleMember, chosen, members, reference_name
from ntk_select.training.zoo.multi import train_multi
from ntk_select.training.zoo.single import Progress, Zoo, abstract_expert, fresh_member, parent_of, train_single, with_backbone


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
    executor: str = "local",
    workers: int = 0,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
) -> list[Card]:
    """Trains every expert of the config that does not exist yet, those that others start from first.

    An interrupted run resumes at the last checkpoint and gives the same weights on a CPU: every random number depends only on the config's seed, the
    expert's name and the epoch. With several workers, experts that do not depend on each other are trained at the same time. An expert waits for
    the one that it starts from, and for the common extractor of class means. A lost worker costs one training, which another resumes from its
    last checkpoint; it is started at most three times.

    Args:
      config: the config from `read_config`.
      out: folder of the experts, one subfolder each.
      data: folder that replaces {data} in the sources' URIs.
      work: folder for resized images and checkpoints.
      only: train only experts whose name contains this text.
      mesh: devices that share each batch.
      progress: called with (epochs done, epochs, name and loss); with several workers with (experts done, experts, name of the last).
      done: called with the cards of each finished expert.
      executor: where experts are trained: "local" (this process), "processes" (of this machine; in a script below `if __name__ == "__main__":`), or
        "ray" (a cluster, of which every node sees `out`, `work` and `data` under the same path).
      workers: number of workers; 0 for as many as fit.
      address: address of a running Ray cluster ("auto", HOST:PORT or ray://HOST:10001); None starts one on this machine.
      cpus, gpus: CPUs and GPUs per Ray worker.

    Returns:
      The cards of the experts that this call trained, in the order of the config.

    Raises:
      ConfigError: no expert's name contains `only`, an architecture is unknown, a source needs `data`, an option of the executor is out of range, or
        `mesh` is given with several workers.
      ModelError: an expert to start from is missing, an expert's folder exists without its cards, or, after all others were trained, some trainings
        diverged or lost their workers.
    """
    execute, options = executor_of(executor), checked_options(workers, address, cpus, gpus)
    if mesh is not None and executor != "local":
        raise ConfigError(
            f"mesh= divides the batches of one process; with executor={executor!r} every worker trains an expert of its own. "
            "Try: mesh=None (no --devices), or executor='local' (--executor local)"
        )
    out, work = Path(out).expanduser(), Path(work).expanduser()
    wanted = chosen(config, only)
    out.mkdir(parents=True, exist_ok=True)
    folders = out, work, None if data is None else Path(data).expanduser()
    if executor != "local":
        folders = tuple(folder and folder.resolve() for folder in folders)
    training = Training(config, *folders, all(isinstance(member, SingleMember) for member in wanted), mesh, progress if executor == "local" else None)
    items = _items(config, _untrained(training.zoo, wanted))
    trained: dict[str, list[Card]] = {}
    failures: dict[str, str] = {}

    def finished(outcome: Trained) -> bool:
        if outcome.error is not None:
            failures[outcome.name] = outcome.error
        else:
            trained[outcome.name] = outcome.cards
            if done is not None:
                done(outcome.cards)
        if progress is not None and executor != "local":
            progress(len(trained) + len(failures), len(items), outcome.name)
        return False

    if items:
        execute(training, [list(group) for _, group in itertools.groupby(items, key=lambda item: item.member.sources)], finished, **options)
    if failures:
        details = "; ".join(f"{item.key}: {failures[item.key]}" for item in items if item.key in failures)
        raise ModelError(f"{len(failures)} of {len(items)} experts were not trained. {details}")
    return [card for item in items for card in trained[item.key]]


@dataclass(frozen=True)
class MemberItem:
    """An expert to be trained, after those whose weights it needs."""

    member: Member
    after: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the expert."""
        return self.member.name


@dataclass(frozen=True)
class Trained:
    """The cards of an expert that was trained, or why it was not."""

    name: str
    cards: list[Card]
    error: str | None = None


@dataclass(frozen=True)
class Training:
    """Work of an executor: the training of one expert.

    Args:
      config: the config of the zoo.
      out, work, data: folders, as for `train_zoo`.
      one_source: whether a single source is kept in memory.
      mesh: devices that share each batch.
      progress: called with (epochs done, epochs, name and loss), in this process only.
    """

    config: ZooConfig
    out: Path
    work: Path
    data: Path | None
    one_source: bool
    mesh: Mesh | None = None
    progress: Progress | None = None

    @functools.cached_property
    def zoo(self) -> Zoo:
        """The zoo of this worker."""
        source = functools.partial(load_source, self.config, data=self.data, work=self.work)
        source = functools.lru_cache(maxsize=1 if self.one_source else None)(source)
        return Zoo(self.config, self.out, source, self.work / "checkpoints", self.mesh, self.progress or (lambda *_: None))

    def __call__(self, item: MemberItem) -> Trained:
        """Trains an expert. Other exceptions than ModelError propagate, and end the run."""
        member = item.member
        try:
            return Trained(item.key, [train_single(self.zoo, member)] if isinstance(member, SingleMember) else train_multi(self.zoo, member))
        except ModelError as error:  # it diverged, or its parent did; the others are trained
            return Trained(item.key, [], str(error))

    def failed(self, item: MemberItem, error: str) -> Trained:
        """The outcome of an expert whose workers were lost."""
        return Trained(item.key, [], error)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "zoo"} | {"progress": None}


def _items(config: ZooConfig, waiting: Sequence[Member]) -> list[MemberItem]:
    """Experts to be trained, in their order, with the names of those that they wait for: the one they start from, and the common extractor, unless this
    one itself starts from them."""
    parents, common = {member.name: member.initialised_from for member in members(config)}, reference_name(config)
    before, name = set(), common
    while name is not None:
        before.add(name)
        name = parents.get(name)
    return [MemberItem(member, tuple(filter(None, (member.initialised_from, common if member.name not in before else None)))) for member in waiting]


def _untrained(zoo: Zoo, wanted: list[Member]) -> list[Member]:
    """The experts that do not exist yet. Checks before any training that all of them can start and be written."""
    waiting = []
    for member in wanted:
        absent = [file for file in member.files if not (zoo.folder / member.name / file).exists()]
        if absent and (zoo.folder / member.name).exists():
            raise ModelError(f"{zoo.folder / member.name} exists, but without {', '.join(absent)}. Try: delete or rename it, to have it trained")
        waiting += [member] if absent else []
    starts = {(member.architecture, member.initialised_from): member for member in waiting if member.initialised_from is not None}
    for (_, parent), member in starts.items():
        if parent not in {each.name for each in waiting}:
            fresh = abstract_expert(functools.partial(fresh_member, zoo.config, member, 2, seed=""))
            with_backbone(fresh, parent_of(zoo, parent))
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
    if source.classes:
        task = of_classes(task, source.classes)
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
    kind, path = parse_uri(uri, task_kinds())
    archive = Path(path).expanduser()
    if work is None or config.size > SMALL or kind not in ("zip", "npz") or not archive.is_file():
        return None
    now = archive.stat()
    settings = (str(archive.resolve()), now.st_size, now.st_mtime_ns, config.preprocess.geometry, sorted(config.sources[name].rename.items()))
    settings += (tuple(config.sources[name].classes),) if config.sources[name].classes else ()
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
