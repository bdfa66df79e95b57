"""What identifies experts and tasks, and what is known of them before anything is measured."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ntk_select.data import load_task
from ntk_select.errors import ConfigError, TaskError, did_you_mean
from ntk_select.experts.card import Card
from ntk_select.kernels.engine.digest import digest_of_params
from ntk_select.models import ARCHITECTURES
from ntk_select.tasks.task import ChosenImages, Task

from .cells import ExpertFacts, TaskFacts, scores_of
from .config import BenchConfig, TaskConfig
from .content import digest_of_images


def load(name: str, config: TaskConfig, data: str | Path | None) -> Task:
    """The task of a config, with the classes that it names, as NAME.

    Raises:
      ConfigError: its URI names {data} and no folder is given, or no class fits.
      TaskError, DataError: it cannot be loaded.
    """
    if "{data}" in config.uri and data is None:
        raise ConfigError(f"The task {name!r} is at {config.uri}. Say where {{data}} is: --data FOLDER")
    task = load_task(config.uri.replace("{data}", str(data)))
    if config.classes:
        task = of_classes(task, config.classes)
    if task.test_images is None:
        raise TaskError(f"The task {name!r} has no test set, on which fine-tuned experts are judged. Put images into test/CLASS/.")
    return replace(task, name=name)


def of_classes(task: Task, patterns: tuple[str, ...]) -> Task:
    """The part of a task whose class names fit one of the patterns.

    Raises:
      ConfigError: no class fits.
    """
    kept = [place for place, name in enumerate(task.class_names) if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not kept:
        raise ConfigError(f"classes = {list(patterns)} fits no class of {task.name!r}: {', '.join(task.class_names[:8])} ...")
    number = np.full(task.num_classes, -1)
    number[kept] = np.arange(len(kept))

    def part(images, labels):
        places = np.flatnonzero(number[labels] >= 0)
        return ChosenImages(images, places), number[labels[places]]

    images, labels = part(task.images, task.labels)
    tests = (None, None) if task.test_images is None else part(task.test_images, task.test_labels)
    return replace(
        task, images=images, labels=labels, class_names=tuple(task.class_names[p] for p in kept), test_images=tests[0], test_labels=tests[1]
    )


def check_names(config: BenchConfig) -> None:
    """Refuses names that would only be met after hours.

    Raises:
      ConfigError: a score, the network of RSA, or an architecture is unknown.
    """
    from ntk_select.training.reference import check_reference

    scores_of(config)
    check_reference(config.reference_network)
    architectures = ARCHITECTURES
    for name in config.untrained:
        if name not in architectures:
            raise ConfigError(f"untrained holds {name!r}, which is no architecture.{did_you_mean(name, architectures)}")


def unknown_sources(config: BenchConfig, experts: Mapping[str, ExpertFacts]) -> list[str]:
    """What keeps the marks of own sources from being sure: experts that started from one that is not here, and sources that no expert names."""
    found = [
        f"{name} started from {facts.initialised_from}, which is not in the zoo: what that one had seen is not known."
        for name, facts in experts.items()
        if facts.initialised_from is not None and facts.initialised_from not in experts
    ]
    seen = {source for facts in experts.values() for source in facts.seen}
    for task, wanted in config.tasks.items():
        found += [f"No expert names the source {source!r} of the task {task!r}." for source in wanted.source if source not in seen]
    return found


def task_facts(task: Task) -> TaskFacts:
    """Sizes and digests. A digest covers the class names, all labels, and the content of every image: its encoded bytes where the task has
    them, else its pixels. So it is the same wherever the same files lie. See `digest_of_images` for what is remembered."""
    train = _digest(task.class_names, task.labels, task.images)
    whole = train + _digest((), task.test_labels, task.test_images)
    return TaskFacts(
        task.name,
        hashlib.sha256(whole.encode()).hexdigest(),
        train,
        len(task.labels),
        len(task.test_labels),
        task.num_classes,
        task.licence,
        task.flips_keep_class,
    )


def _digest(names, labels, images) -> str:
    digest = hashlib.sha256(repr(tuple(names)).encode() + np.asarray(labels, np.int32).tobytes())
    digest.update(digest_of_images(images).encode())
    return digest.hexdigest()


def expert_facts(zoo: Mapping[str, Callable]) -> dict[str, ExpertFacts]:
    """Of every expert of a zoo: from its card where it has one, else from its weights."""
    cards = {name: getattr(load, "card", None) for name, load in zoo.items()}
    return {name: _facts(name, zoo[name], cards) for name in zoo}


def _facts(name: str, load: Callable, cards: Mapping[str, Card | None]) -> ExpertFacts:
    card = cards[name]
    if not isinstance(card, Card):
        expert = load()
        return ExpertFacts(name, digest_of_params(expert.variables), parameters=expert.num_params)
    return ExpertFacts(
        name,
        _of(card.sha256, card.source, card.architecture, dict(card.config), card.preprocess),
        card.architecture,
        card.source,
        seen_by_card(name, cards),
        card.initialised_from,
        card.num_parameters,
        card.num_images,
        card.test_accuracy,
        _of(card.num_images, card.test_accuracy, card.class_counts, card.training.get("reference_extractor")),
    )


def _of(*facts) -> str:
    return hashlib.sha256(repr(list(facts)).encode()).hexdigest()


def seen_by_card(name: str, cards: Mapping[str, Card | None]) -> tuple[str, ...]:
    """All data sets that an expert has seen: its own, other domains, and those of the expert that it started from, and so on."""
    known = {each: card for each, card in cards.items() if isinstance(card, Card)}
    return seen_by_line(name, {each: card.seen for each, card in known.items()}, {each: card.initialised_from for each, card in known.items()})


def seen_by_line(name: str | None, seen: Mapping[str, tuple[str, ...]], parents: Mapping[str, str | None]) -> tuple[str, ...]:
    """What an expert and those that it descends from have seen, as far back as they are known."""
    found: dict[str, None] = {}
    visited = set()
    while name in seen and name not in visited:
        visited.add(name)
        found |= dict.fromkeys(seen[name])
        name = parents[name]
    return tuple(found)
