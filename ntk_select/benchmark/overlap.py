"""Source overlap: whether an expert was trained on a data set that the images of a task are from.

A task names its data sets in the config (`source`), an expert in its card. An expert has also seen what the expert that it started from was trained
on, and so on. With `source_overlap = "skip"` pairs with an overlap are not measured; with "mark" they are measured, and left out of all comparisons.
"""

from collections.abc import Collection, Mapping

from ntk_select.benchmark.config import BenchConfig
from ntk_select.experts.card import Card


def overlapping_sources(config: BenchConfig, task: str, seen: Collection[str]) -> tuple[str, ...]:
    """The sources of a task that are among the data sets `seen` by an expert; empty without an overlap."""
    return tuple(source for source in config.tasks[task].source if source in seen)


def seen_by_card(name: str, cards: Mapping[str, Card]) -> tuple[str, ...]:
    """All data sets that an expert was trained on, including those of the expert that it started from, and so on."""
    return seen_by_line(name, {each: card.seen for each, card in cards.items()}, {each: card.initialised_from for each, card in cards.items()})


def seen_by_line(name: str | None, seen: Mapping[str, tuple[str, ...]], parents: Mapping[str, str | None]) -> tuple[str, ...]:
    """The data sets of an expert and its ancestors, as far back as these are known."""
    found: dict[str, None] = {}
    visited = set()
    while name in seen and name not in visited:
        visited.add(name)
        found |= dict.fromkeys(seen[name])
        name = parents[name]
    return tuple(found)


def unknown_sources(config: BenchConfig, seen: Mapping[str, Collection[str]], parents: Mapping[str, str | None]) -> list[str]:
    """Warnings about overlaps that may be missed: the parent of an expert is not in the zoo, no expert has seen the source of a task, or a task
    without a source has the name or URI of a data set that experts have seen.

    Args:
      seen, parents: The data sets, and the name of the expert that it started from or None, of each expert by name.
    """
    found = [
        f"{name} started from {parent}, which is not in the zoo: the data sets of that expert are not known."
        for name, parent in parents.items()
        if parent is not None and parent not in parents
    ]
    known = {source for sources in seen.values() for source in sources}
    for task, wanted in config.tasks.items():
        found += [f"No expert names the source {source!r} of the task {task!r}." for source in wanted.source if source not in known]
        if not wanted.source and (alike := next((name for name in (task, wanted.uri) if name in known), None)):
            found.append(
                f"The task {task!r} names no source, and experts were trained on {alike!r}. If its images are from there: source = [{alike!r}]"
            )
    return found
