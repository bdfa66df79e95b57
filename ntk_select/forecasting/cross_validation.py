"""Cross-validation of the simulated training: accuracy and loss of the linearised network on images that were held out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from ntk_select._runtime.checks import check_count
from ntk_select.errors import TaskError, UndefinedScoreError, not_finite
from ntk_select.evaluate.intervals import wilson
from ntk_select.evaluate.resampling import Z95
from ntk_select.forecasting.simulate import Batches, Course, draw_batches, simulate
from ntk_select.linearized.problem import AnyArray
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.finetuning.run import HOPELESS

FOLDS, REPEATS = 10, 2
ONE_EACH = "Every class has one image only, so that none can be held out. Give at least two of a class, or look at more: --per-class 5 (per_class=5)"
MOST_NUMBERS = 2**28
"""Of all simulated trainings together; beyond it they follow one after the other."""


class Split(NamedTuple):
    """One simulated training: places that are trained on, and whether each image is held out."""

    trained: Int[np.ndarray, "..."]
    held: Bool[np.ndarray, " n"]


class Curve(NamedTuple):
    """What is expected after each epoch: of held-out images accuracy and loss, and the mean loss of training."""

    accuracies: Float[np.ndarray, " epochs"]
    losses: Float[np.ndarray, " epochs"]
    training_losses: Float[np.ndarray, " epochs"]


@dataclass(frozen=True, eq=False)
class Outlook:
    """What is expected of one learning rate. Intervals are 95 %, over the choice of the images that judge.

    Attributes:
      learning_rate: of the first epochs.
      accuracy, low, high: share of held-out images that are answered rightly, 0 .. 1, and its interval.
      balanced_accuracy, balanced_low, balanced_high: the mean over classes.
      loss, loss_low, loss_high: mean cross-entropy of held-out images, in nats.
      curve: the same after each epoch.
      distance: |w - w_0| after training.
      diverged: the simulation did: a loss is not finite, or a thousand times that of guessing.
      log_likelihoods, right: of each image, mean over the trainings that held it out; NaN where none did.
    """

    learning_rate: float
    accuracy: float
    low: float
    high: float
    balanced_accuracy: float
    balanced_low: float
    balanced_high: float
    loss: float
    loss_low: float
    loss_high: float
    curve: Curve
    distance: float
    diverged: bool
    log_likelihoods: Float[np.ndarray, " n"]
    right: Float[np.ndarray, " n"]


def cross_validate(
    kernel: Num[AnyArray, "n n"] | Num[AnyArray, "n n c c"],
    labels: Int[np.ndarray, " n"],
    recipe: Recipe,
    learning_rates: tuple[float, ...],
    *,
    shots: int | None = None,
    images: int | None = None,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seed: int = 0,
    start: Float[AnyArray, "n c"] | None = None,
) -> list[Outlook]:
    """Simulates the recipe on parts of the images and asks for the others, once for each learning rate.

    Args:
      kernel: of all images, as for `simulate`.
      labels: class ids, any integers. Their names play no part, and the order of the images does so only where the kernel does not tell
        them apart: folds go by the order of its diagonal.
      recipe, learning_rates, start: as for `simulate`.
      shots: images of each class that a training has. None for all, of which each is held out once in each of `repeats` divisions into
        `folds` parts; else `folds` x `repeats` random choices.
      images: of the fine-tuning that is forecast, all classes together; by default as many as the training images and their fold.
      folds, repeats: as above.
      seed: of the division and of the order of the batches.

    Returns:
      One `Outlook` for each rate, in the order given.

    Raises:
      TaskError: labels that do not fit.
      UndefinedScoreError: one class, no class with two images, or a kernel that is not finite.
      ConfigError: an option is not allowed.

    Cost: `folds` x `repeats` simulations for each rate; see `simulate`.
    """
    check_count("folds", folds, 2)
    check_count("repeats", repeats, 1)
    check_count("seed", seed, 0)
    kernel, ids = _read(kernel, labels)
    order = _canonical(kernel, ids)
    ids = ids[order]
    kernel = kernel[np.ix_(order, order)]
    start = None if start is None else np.asarray(start)[order]
    classes = int(ids.max()) + 1
    splits = _choices(ids, shots, folds * repeats, seed) if shots is not None else _divisions(ids, folds, repeats, seed)
    trained = len(ids) if shots is None else int(np.minimum(np.bincount(ids), shots).sum())
    batches = draw_batches([split.trained for split in splits], recipe, images or trained, seed)
    each = 6 * len(ids) * classes + batches.rows.shape[3] * kernel[0].size
    together = each * len(splits) * len(learning_rates) <= MOST_NUMBERS
    groups = [(learning_rates, slice(None))] if together else [((rate,), slice(q, q + 1)) for rate in learning_rates for q in range(len(splits))]
    courses = [
        simulate(kernel, ids, Batches(*(part[chosen] for part in batches)), rates, recipe, start=start, outputs=False) for rates, chosen in groups
    ]
    course = courses[0] if together else _joined(courses, len(learning_rates))
    return [_outlook(rate, _of_rate(course, place), splits, ids, np.argsort(order)) for place, rate in enumerate(learning_rates)]


def best(outlooks: list[Outlook]) -> Outlook | None:
    """The rate with the least loss on held-out images; None where all diverged."""
    known = [outlook for outlook in outlooks if not outlook.diverged]
    return min(known, key=lambda outlook: outlook.loss) if known else None


def _read(kernel, labels) -> tuple[np.ndarray, np.ndarray]:
    kernel, labels = np.asarray(kernel), np.asarray(labels)
    if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1] or kernel.dtype.kind not in "fiub":
        raise TaskError(f"The kernel has shape {kernel.shape} and type {kernel.dtype}; it must be (n, n) or (n, n, c, c), real numbers.")
    if labels.shape != kernel.shape[:1] or labels.dtype.kind not in "iu":
        raise TaskError(f"labels has shape {labels.shape} and type {labels.dtype} for {len(kernel)} images; give one whole number per image.")
    if not np.isfinite(kernel).all():
        raise UndefinedScoreError(not_finite("The kernel holds"))
    ids = np.unique(labels, return_inverse=True)[1]
    if len(ids) == 0 or ids.max() == 0:
        raise UndefinedScoreError("There are images of one class only, so that there is nothing to forecast.")
    if np.bincount(ids).max() < 2:
        raise UndefinedScoreError(ONE_EACH)
    return kernel if kernel.dtype.kind == "f" else kernel.astype(np.float64), ids


def _canonical(kernel, ids) -> Int[np.ndarray, " n"]:
    """Places of the images in an order that the kernel alone decides, as far as its diagonal tells images apart."""
    diagonal = np.einsum("ii...->i...", kernel).reshape(len(ids), -1).sum(axis=1)
    least = np.full(ids.max() + 1, np.inf)
    np.minimum.at(least, ids, diagonal)
    return np.lexsort((diagonal, least[ids]))


def _divisions(ids, folds: int, repeats: int, seed: int) -> list[Split]:
    """Stratified folds. The only image of a class is always trained on."""
    splits = []
    for repeat in range(repeats):
        rng, fold, first = np.random.default_rng([seed, repeat]), np.full(len(ids), -1), 0
        for label in dict.fromkeys(ids.tolist()):
            members = rng.permutation(np.flatnonzero(ids == label))
            if len(members) > 1:
                fold[members] = (first + np.arange(len(members))) % folds
                first += len(members)
        splits += [Split(np.flatnonzero(fold != part), fold == part) for part in range(folds) if (fold == part).any()]
    return splits


def _choices(ids, shots: int, count: int, seed: int) -> list[Split]:
    """Random choices of `shots` images of each class; of a class with no more, all but one."""
    check_count("shots", shots, 1)
    splits = []
    for draw in range(count):
        rng, trained = np.random.default_rng([seed, draw]), []
        for label in dict.fromkeys(ids.tolist()):
            members = rng.permutation(np.flatnonzero(ids == label))
            trained.append(members[: min(shots, max(len(members) - 1, 1))])
        trained = np.sort(np.concatenate(trained))
        splits.append(Split(trained, ~np.isin(np.arange(len(ids)), trained)))
    return splits


def _joined(courses: list[Course], rates: int) -> Course:
    count = len(courses) // rates
    stacked = (np.concatenate(parts, axis=1) for parts in list(zip(*courses, strict=True))[:-1])
    return Course(*(part.reshape(rates, count, *part.shape[2:]) for part in stacked), None)


def _of_rate(course: Course, place: int) -> Course:
    return Course(*(part if part is None else part[place] for part in course))


def _outlook(rate: float, course: Course, splits: list[Split], ids, back) -> Outlook:
    held = np.stack([split.held for split in splits])
    times = held.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ceiling = HOPELESS * np.log(ids.max() + 1)
        sums = (np.where(held[:, None], part, 0).astype(np.float64).sum(axis=0) for part in (course.log_likelihoods, course.right))
        likelihoods, right = (total / times for total in sums)  # (epochs, n)
        known = times > 0
        sound = np.isfinite(course.losses) & (course.losses <= ceiling)
        diverged = not (sound.all() and np.isfinite(course.distances).all() and np.isfinite(likelihoods[-1, known]).all())
        curve = Curve(right[:, known].mean(axis=1), -likelihoods[:, known].mean(axis=1), course.losses.astype(np.float64).mean(axis=0))
        return Outlook(
            rate,
            *_share(right[-1, known]),
            *_balanced(right[-1, known], ids[known]),
            *_mean(-likelihoods[-1, known]),
            curve,
            float(course.distances.mean()),
            bool(diverged),
            likelihoods[-1][back],
            right[-1][back],
        )


def _mean(values) -> tuple[float, float, float]:
    mean = float(values.mean())
    margin = Z95 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return mean, max(mean - margin, 0.0), mean + margin


def _share(values) -> tuple[float, float, float]:
    mean = float(values.mean())
    return mean, *wilson(mean, len(values))


def _balanced(values, ids) -> tuple[float, float, float]:
    present = np.unique(ids)
    mean = float(np.mean([values[ids == label].mean() for label in present]))
    # As many images as would give the same variance, were they evenly spread.
    return mean, *wilson(mean, len(present) ** 2 / float((1 / np.bincount(ids)[present]).sum()))
