"""Keeping a fine-tuned expert as one of a zoo."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ntk_select._runtime.files import file_name
from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert
from ntk_select.experts.new_head import has_new_head, in_place
from ntk_select.tasks.task import Task

from .result import FinetuneResult
from .shots import chosen_images


def kept_name(expert: str, task: str) -> str:
    """Name of the expert that `keep` writes."""
    return file_name(f"{expert}-on-{task}")


def keep(result: FinetuneResult, original: Expert, task: Task, folder: str | Path, *, replace_existing: bool = False) -> Card:
    """Writes the fine-tuned expert as a new one below `folder`, for `open_zoo` and `rank`.

    Args:
      result: of fine-tuning `original` on `task`.
      original: with a card, for its architecture is named there.
      folder: of experts; the new one is EXPERT-on-TASK.
      replace_existing: whether one of this name may be written over.

    Raises:
      ModelError: the original has no card or no head, was given a head itself, or there is one of this name; or the result is of others.
    """
    from ntk_select.models.weights import write_expert

    if original.card is None:
        raise ModelError(f"Expert {original.name!r} has no card that names its architecture, so that it cannot be kept as an expert.")
    if (result.expert, result.task) != (original.name, task.name):
        raise ModelError(f"The result is of {result.expert!r} on {result.task!r}, not of {original.name!r} on {task.name!r}.")
    if has_new_head(original):
        raise ModelError(
            f"Expert {original.name!r} was given a new head before, so that its card no longer describes it. "
            "Keep the first fine-tuning, and fine-tune what open_zoo makes of it."
        )
    task = task if result.test_split is None else task.with_test_split()
    places = chosen_images(task, result.shots, result.sample_seed)
    name = kept_name(original.name, task.name)
    card = replace(
        original.card,
        name=name,
        source=task.name,
        num_classes=task.num_classes,
        class_names=task.class_names,
        class_counts=tuple(np.bincount(task.labels[places], minlength=task.num_classes).tolist()),
        num_images=result.train_images,
        test_accuracy=round(result.accuracy, 5),
        initialised_from=original.name,
        licence=f"weights as of {original.name}; images: {task.licence or 'unknown'}",
        num_parameters=result.tuned.num_params,
        origin=None,
        training={"fine_tuned": True, "seed": result.seed, "shots": result.shots, "learning_rate": result.learning_rate, **asdict(result.recipe)},
    )
    variables = {key: value for key, value in in_place(result.tuned, original).items() if value}
    return write_expert(Path(folder).expanduser() / name, variables, card, replace_existing=replace_existing)
