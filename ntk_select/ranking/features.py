"""Experts that are known by their features, in a ranking: the task of their labels, and their inputs of scores."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntk_select.errors import ModelError, TaskError
from ntk_select.experts.feature_expert import Classes, FeatureExpert, first_difference
from ntk_select.scores import Features
from ntk_select.tasks.labels_only import labels_only_task
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import Task

FACTS = ("num_params", "source_size", "source_accuracy", "source_counts", "own_source_means")
"""Inputs of scores that are fields of a `FeatureExpert`."""
HOW_TO_LABEL = "Try: labels in every file, or a task, as in rank(experts, task) (--task)"


def task_of_labels(experts: Mapping[str, Callable[[], Any]]) -> Task:
    """The task of experts that bring their labels: labels alone, without images.

    Args:
      experts: functions that load one expert each, by name. Of files of features only the labels are read. Experts that cannot be loaded are
        skipped.

    Raises:
      TaskError: an expert has no labels or is a network; two have different labels; or there is one class only.

    If no expert can be loaded, the exception of the first propagates.
    """
    found: dict[str, Classes] = {}
    folders, failure = set(), None
    for name, load in experts.items():
        file = found_in if isinstance(found_in := getattr(load, "file", None), Path) else None
        where = name if file is None else str(file)
        try:
            found[where] = classes = _classes(where, load)
        except TaskError:
            raise
        except Exception as error:  # foreign code; the ranking reports the failure
            failure = failure or error
            continue
        folders.add(None if file is None else file.resolve().parent.name)
        first = next(iter(found))
        if (what := _disagreement(classes, found[first])) is not None:
            raise TaskError(
                f"The labels of {first!r} and {where!r} differ: {what}. Without a task, all experts must have the same labels. {HOW_TO_LABEL}"
            )
    if failure is not None and not found:
        raise failure
    classes = next((classes for classes in found.values() if classes.named), next(iter(found.values())))
    return labels_only_task((folders.pop() if len(folders) == 1 else None) or "features", classes.labels, classes.names)


def _classes(where: str, load: Callable[[], Any]) -> Classes:
    """The labels of an expert. Raises TaskError if it has none; exceptions of the loader propagate."""
    absent = object()
    classes = getattr(load, "classes", absent)
    if classes is absent:
        classes = getattr(load(), "classes", absent)
    if classes is None:
        raise TaskError(f"Without a task, experts need labels; {where!r} has none. {HOW_TO_LABEL}")
    if not isinstance(classes, Classes):
        raise TaskError(
            f"A ranking needs a task; only files of features with labels need none, and {where!r} is a network. "
            "Try: task='my_images' (--task my_images)"
        )
    return classes


def _disagreement(one: Classes, other: Classes) -> str | None:
    """How the labels of the first differ from those of the other; None if they agree."""
    if len(one.labels) != len(other.labels):
        return f"{len(other.labels):,} and {len(one.labels):,} images"
    if (place := first_difference(one, other)) is None:
        return None
    return f"image {place:,} is {other.names[other.labels[place]]!r} and {one.names[one.labels[place]]!r}"


def check_images(expert: FeatureExpert, task: Task) -> None:
    """Checks that the features are those of the training images of the task.

    Raises:
      ModelError: their number or their labels differ.
    """
    if len(expert) != len(task.labels):
        raise ModelError(
            f"Expert {expert.name!r} has {len(expert):,} rows of features; the task {task.name!r} has {len(task.labels):,} training images. "
            "Try: features of all its training images, in their order (ntk_select.load_task(...).images)"
        )
    of_task = Classes(task.labels, task.class_names, True)
    if expert.classes is not None and (what := _disagreement(expert.classes, of_task)) is not None:
        raise ModelError(
            f"The labels of expert {expert.name!r} are not those of the task {task.name!r}: {what}. Features must be of its training images, in "
            "their order. Try: the images of ntk_select.load_task(...)"
        )


def inputs_of_features(expert: FeatureExpert, sample: ProbeSample) -> tuple[dict[str, Any], dict[str, str]]:
    """The inputs of scores that an expert has on the probe sample, and for those that it lacks the reason."""
    rows, facts = sample.indices, {name: value for name in FACTS if (value := getattr(expert, name)) is not None}
    inputs: dict[str, Any] = {"features": Features(expert.features[rows]), **facts}
    reasons = {name: f"Expert {expert.name!r} is known by its features, without {name}. Try: {name}=... with its features" for name in FACTS}
    known = without_network(expert)
    reasons |= {
        "training_kernel": f"A forecast needs the network; {known}.",
        "gradient_kernel": f"The gradient kernel needs the network; {known}. Try: gradient_kernel=... with its features",
        "source_means": f"domain_similarity needs a network that is shared by the zoo; {known}. Try: domain_similarity_own",
    }
    if expert.gradient_kernel is not None:
        inputs["gradient_kernel"] = expert.gradient_kernel[np.ix_(rows, rows)].astype(np.float64)
    probs = _source_probs(expert, rows)
    (reasons if isinstance(probs, str) else inputs)["source_probs"] = probs
    return inputs, {name: reason for name, reason in reasons.items() if name not in inputs}


def without_network(expert: FeatureExpert) -> str:
    """The end of a sentence on what needs the network."""
    return f"expert {expert.name!r} is known by its features only"


def _source_probs(expert: FeatureExpert, rows: np.ndarray) -> np.ndarray | str:
    """Probabilities of the source classes, or why there are none."""
    outputs = expert.logits if expert.source_probs is None else expert.source_probs
    if outputs is None:
        return f"Expert {expert.name!r} has features without logits, so LEEP and NCE are undefined. Try: logits=... with its features, or nleep"
    if expert.source_probs is None or outputs.shape[1] < 2:
        return softmax_of(expert.name, outputs[rows])
    probs = outputs[rows].astype(np.float64)
    return probs / probs.sum(axis=1, keepdims=True)


def softmax_of(name: str, logits: np.ndarray) -> np.ndarray | str:
    """Probabilities (n, s) of the source classes from the logits of an expert; for a single output the reason why there are none."""
    from scipy.special import softmax

    if logits.shape[1] < 2:
        return f"The head of expert {name!r} has a single output, so LEEP and NCE are undefined. Try: nleep"
    return softmax(logits.astype(np.float64), axis=1)
