"""Identity of tasks and experts: digests of their content, and what is known of them before anything is measured."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ntk_select._runtime.cache import Cache, default_folder, key_of, state_of
from ntk_select._runtime.host import threads
from ntk_select.benchmark.cells import ExpertFacts, TaskFacts, scores_of
from ntk_select.benchmark.config import BenchConfig, TaskConfig
from ntk_select.benchmark.overlap import seen_by_card
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.card import Card
from ntk_select.experts.feature_expert import with_network
from ntk_select.kernels.engine.digest import digest_of_params
from ntk_select.models import ARCHITECTURES
from ntk_select.tasks.classes import of_classes
from ntk_select.tasks.task import Images, Task, encoded_bytes
from ntk_select.training.reference import check_reference

CHUNK = 64
"""Images per unit of work of a thread."""


def load(name: str, config: TaskConfig, data: str | Path | None) -> Task:
    """The task of a config, restricted to the classes that it names, with `name` as its name.

    Of a task without a test set a fifth of the images of each class is held out (`Task.with_test_split`), as `finetune` does.

    Raises:
      ConfigError: its URI contains {data} and no folder is given, or no class matches.
      TaskError, DataError: it cannot be loaded, or has no test set and no class of two images.
    """
    if "{data}" in config.uri and data is None:
        raise ConfigError(f"The task {name!r} is at {config.uri}, and the folder for {{data}} is missing. Try: data=FOLDER (--data FOLDER)")
    task = load_task(config.uri.replace("{data}", str(data)))
    if config.classes:
        task = of_classes(task, config.classes)
    if task.test_images is None or not len(task.test_images):
        task = task.with_test_split()
    return replace(task, name=name)


def check_names(config: BenchConfig) -> None:
    """Validates names before the run.

    Raises:
      ConfigError: a score, the network of RSA, or an architecture is unknown.
    """
    scores_of(config)
    check_reference(config.reference_network)
    for name in config.untrained:
        if name not in ARCHITECTURES:
            raise ConfigError(f"untrained contains {name!r}, which is not an architecture.{did_you_mean(name, ARCHITECTURES)}")


def expert_facts(zoo: Mapping[str, Callable]) -> dict[str, ExpertFacts]:
    """Facts of every expert of a zoo: from its card if it has one, otherwise from its weights. Raises ModelError for a `FeatureExpert`."""
    cards = {name: getattr(load, "card", None) for name, load in zoo.items()}
    cards = {name: card for name, card in cards.items() if isinstance(card, Card)}
    found = {}
    for name, load_expert in zoo.items():
        if (card := cards.get(name)) is None:
            expert = with_network(load_expert())
            found[name] = ExpertFacts(name, digest_of_params(expert.variables), parameters=expert.num_params)
            continue
        found[name] = ExpertFacts(
            name,
            _digest_of(card.sha256 or f"{card.name} {card.origin}", card.source, card.architecture, dict(card.config), card.preprocess),
            card.architecture,
            card.source,
            seen_by_card(name, cards),
            card.initialised_from,
            card.num_parameters,
            card.num_images,
            card.test_accuracy,
            _digest_of(card.num_images, card.test_accuracy, card.class_counts, card.training.get("reference_extractor")),
        )
    return found


def _digest_of(*facts) -> str:
    return hashlib.sha256(repr(list(facts)).encode()).hexdigest()


def task_facts(task: Task) -> TaskFacts:
    """Sizes and digests. A digest covers the class names, all labels, and the content of every image: its encoded bytes if the task has
    them, otherwise its pixels. It does not depend on where the files are. See `digest_of_images` for caching."""
    train = _digest(task.class_names, task.labels, task.images)
    whole = hashlib.sha256((train + _digest((), task.test_labels, task.test_images)).encode()).hexdigest()
    sizes = len(task.labels), len(task.test_labels), task.num_classes
    return TaskFacts(task.name, whole, train, *sizes, task.licence, flips_keep_class=task.flips_keep_class, test_split=task.details.get("test_split"))


def _digest(names, labels, images) -> str:
    digest = hashlib.sha256(repr(tuple(names)).encode() + np.asarray(labels, np.int32).tobytes())
    digest.update(digest_of_images(images).encode())
    return digest.hexdigest()


def digest_of_images(images: Images, cache: Cache | None = None) -> str:
    """Digest of the content of all images in their order: encoded bytes if the sequence gives them, otherwise shape and pixels.

    The digest of images from files is cached under the state of every file (`state_of`). It is not cached if a file changed within the last seconds
    or during reading, or if the files are unknown: computing a digest again is better than a wrong one.

    Args:
      cache: The cache to use; by default in the user's cache folder.
    """
    cache = Cache(default_folder()) if cache is None else cache
    before = _state(images)
    known = cache.get(before)
    if known is not None and known.keys() == {"digest"}:
        return known["digest"].tobytes().hex()
    digest = hashlib.sha256(f"{len(images)} images".encode())
    for one in _digests(images):
        digest.update(one)
    if before is not None and before == _state(images):
        cache.put(before, {"digest": np.frombuffer(digest.digest(), np.uint8)})
    return digest.hexdigest()


def _digests(images: Images) -> Iterator[bytes]:
    """The digest of each image, in order. Threads read images that are not in memory."""
    places = range(len(images))
    if isinstance(images, np.ndarray):
        yield from (_digest_of_one(images, place) for place in places)
        return
    with ThreadPoolExecutor(threads()) as pool:
        for first in range(0, len(images), CHUNK * threads()):  # at most one round of chunks in memory
            starts = range(first, min(first + CHUNK * threads(), len(images)), CHUNK)
            for found in pool.map(lambda start: [_digest_of_one(images, place) for place in places[start : start + CHUNK]], starts):
                yield from found


def _digest_of_one(images: Images, place: int) -> bytes:
    encoded = encoded_bytes(images, place)
    if encoded is not None:
        return hashlib.sha256(b"encoded" + encoded).digest()
    image = np.asarray(images[place])
    return hashlib.sha256(f"pixels {image.dtype} {image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()


def _state(images: Images) -> str | None:
    """Cache key of the images and the state of their files; None if the state does not guarantee their content."""
    origin = getattr(images, "origin", None)
    state = None if origin is None else state_of(origin(place) for place in range(len(images)))
    return None if state is None else key_of("digest of images", state)
