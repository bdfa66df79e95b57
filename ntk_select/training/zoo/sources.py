"""Which images does an expert learn from?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ntk_select._runtime.cache import Cache, key_of
from ntk_select.data import load_task
from ntk_select.errors import ConfigError
from ntk_select.tasks.task import Task
from ntk_select.training.feeding import SMALL

from .config import ZooConfig


def load_source(config: ZooConfig, name: str, data: Path | None, work: Path | None) -> Task:
    """A source data set with a test set; of small images in an archive those are resized once and kept below `work`, while the archive stays as it is.

    With `work=None` nothing is kept, and the images are of their own sizes.

    Raises:
      ConfigError: its URI has {data} and no folder was given, or it has no test set.
      TaskError, DataError: it cannot be read.
    """
    source = config.sources[name]
    if "{data}" in source.uri and data is None:
        raise ConfigError(f"The source {name!r} lies at {source.uri!r}. Say where the data is: --data FOLDER")
    uri = source.uri.replace("{data}", str(data))
    key = _key(config, name, uri, work)
    cache = Cache(None if key is None else work / "data")
    arrays = cache.get(key)
    if arrays is not None:
        return Task(name, arrays["images"], arrays["labels"], tuple(arrays["class_names"].tolist()), arrays["test_images"], arrays["test_labels"])
    task = renamed(load_task(uri), source.rename)
    if task.test_images is None or not len(task.test_images):
        raise ConfigError(f"The source {name!r} ({uri}) has no test set, by which its expert is judged.")
    if key is None:
        return task
    images, test_images = config.preprocess.resized(task.images), config.preprocess.resized(task.test_images)
    arrays = {"images": images, "labels": task.labels, "test_images": test_images, "test_labels": task.test_labels}
    cache.put(key, {**arrays, "class_names": np.array(task.class_names)})
    return Task(name, images, task.labels, task.class_names, test_images, task.test_labels)


def _key(config: ZooConfig, name: str, uri: str, work: Path | None) -> str | None:
    """Of the resized images of an archive as it is now; None for large ones, and where it cannot be told whether the source has changed."""
    archive = Path(uri.partition(":")[2] or uri).expanduser()
    if work is None or config.size > SMALL or not archive.is_file():
        return None
    now = archive.stat()
    settings = (str(archive.resolve()), now.st_size, now.st_mtime_ns, config.preprocess.geometry, sorted(config.sources[name].rename.items()))
    return key_of(repr(settings))


def renamed(task: Task, names: Mapping[str, str]) -> Task:
    """The task with the classes named in `names` joined to others.

    Raises:
      ConfigError: a name is that of no class, or of one that is to stay and to go.
    """
    for name in (*names, *names.values()):
        if name not in task.class_names:
            raise ConfigError(f"rename: the task {task.name!r} has no class {name!r}.")
    for name in names.values():
        if name in names:
            raise ConfigError(f"rename: the class {name!r} is to be joined to another, so that none can be joined to it.")
    kept = [name for name in task.class_names if name not in names]
    ids = np.array([kept.index(names.get(name, name)) for name in task.class_names])
    test_labels = None if task.test_labels is None else ids[task.test_labels]
    return replace(task, labels=ids[task.labels], test_labels=test_labels, class_names=tuple(kept))
