"""Cross-validation of the simulated training: accuracy and loss of the linearised network on held-out images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from ntk_select._runtime.checks import check_count
from ntk_select.errors import TaskError, UndefinedScoreError, not_finite
from ntk_select.evaluate.intervals import Z95, wilson
from ntk_select.forecasting.simulate import Batches, SimulatedTraining, draw_batches, simulate
from ntk_select.linearized.problem import AnyArray
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.finetuning.trainer import DIVERGENCE_FACTOR

FOLDS, REPEATS = 10, 2
ONE_EACH = "Every class has only one image, so none can be held out. Try: per_class=5 (--per-class 5)"
MAX_NUMBERS = 2**28
"""Numbers in memory up to which all trainings are simulated together; above, one after the other."""


class Split(NamedTuple):
    """Indices of the training images of one simulated training, and a mask of the held-out images."""

    trained: Int[np.ndarray, "..."]
    held: Bool[np.ndarray, " n"]


class Curve(NamedTuple):
    """Expected accuracy and loss of held-out images after each epoch, and mean training loss of each epoch."""

    accuracies: Float[np.ndarray, " epochs"]
    losses: Float[np.ndarray, " epochs"]
    training_losses: Float[np.ndarray, " epochs"]


@dataclass(frozen=True, eq=False)
class RateForecast:
    """Forecast for one learning rate. Intervals are 95 %, over the choice of held-out images.

    Attributes:
      learning_rate: initial learning rate, before any decay.
      accuracy, low, high: accuracy on held-out images, 0 to 1, and its interval.
      balanced_accuracy, balanced_low, balanced_high: mean accuracy over classes.
      loss, loss_low, loss_high: mean cross-entropy of held-out images, in nats.
      curve: accuracy and losses after each epoch.
      distance: |w - w_0| after training.
      diverged: whether a loss is not finite, or exceeds that of uniform guessing a thousandfold.
      log_likelihoods, correct: log-likelihood of the true class and share of correct answers of each image, mean over the trainings that held
        it out; NaN if none did.
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
    correct: Float[np.ndarray, " n"]

    @property
    def right(self) -> Float[np.ndarray, " n"]:
        """Deprecated name of `correct`."""
        warnings.warn("RateForecast.right is deprecated. Try: RateForecast.correct", DeprecationWarning, stacklevel=2)
        return self.correct


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
) -> list[RateForecast]:
    """Simulates the recipe on part of the images and evaluates it on the others, for each learning rate.

    Args:
      kernel: kernel of all images, as for `simulate`.
      labels: class ids, any integers. Results do not depend on the names of classes or the order of images: images are sorted by the diagonal
        of the kernel (ties excepted) before they are divided into folds.
      recipe, learning_rates, start: as for `simulate`.
      shots: training images per class of each simulated training, chosen at random `folds` x `repeats` times. None: stratified cross-validation,
        `repeats` times with `folds` folds.
      images: number of training images of the forecasted fine-tuning; by default all images (None), or those of `shots`.
      folds, repeats: numbers of folds and of repetitions, as above.
      seed: seed of the folds and of the order of batches.

    Returns:
      One `RateForecast` per learning rate, in the given order.

    Raises:
      TaskError: kernel or labels of a wrong shape or type.
      UndefinedScoreError: a single class, no class with two images, or a kernel that is not finite.
      ConfigError: an option is not allowed.

    Cost: `folds` x `repeats` simulations per learning rate; see `simulate`.
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
    splits = _random_splits(ids, shots, folds * repeats, seed) if shots is not None else _stratified_folds(ids, folds, repeats, seed)
    trained = len(ids) if shots is None else int(np.minimum(np.bincount(ids), shots).sum())
    batches = draw_batches([split.trained for split in splits], recipe, images or trained, seed)
    each = 6 * len(ids) * classes + batches.rows.shape[3] * kernel[0].size
    together = each * len(splits) * len(learning_rates) <= MAX_NUMBERS
    groups = [(learning_rates, slice(None))] if together else [((rate,), slice(q, q + 1)) for rate in learning_rates for q in range(len(splits))]
    simulations = [
        simulate(kernel, ids, Batches(*(part[chosen] for part in batches)), rates, recipe, start=start, outputs=False) for rates, chosen in groups
    ]
    simulated = simulations[0] if together else _joined(simulations, len(learning_rates))
    return [_rate_forecast(rate, _of_rate(simulated, index), splits, ids, np.argsort(order)) for index, rate in enumerate(learning_rates)]


def best(forecasts: Sequence[RateForecast]) -> RateForecast | None:
    """The learning rate that the search of `finetune` would choose: of the largest accuracy, then of the smallest loss. None if all diverged."""
    return min((one for one in forecasts if not one.diverged), key=lambda one: (-one.accuracy, one.loss, one.learning_rate), default=None)


def least_loss(forecasts: Sequence[RateForecast]) -> RateForecast | None:
    """The learning rate with the smallest loss on held-out images; None if all diverged."""
    return min((one for one in forecasts if not one.diverged), key=lambda one: one.loss, default=None)


def _read(kernel, labels) -> tuple[np.ndarray, np.ndarray]:
    kernel, labels = np.asarray(kernel), np.asarray(labels)
    if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1] or kernel.dtype.kind not in "fiub":
        raise TaskError(f"The kernel has shape {kernel.shape} and type {kernel.dtype}; it must be (n, n) or (n, n, c, c), real numbers.")
    if labels.shape != kernel.shape[:1] or labels.dtype.kind not in "iu":
        raise TaskError(f"labels has shape {labels.shape} and type {labels.dtype} for {len(kernel)} images; give one integer per image.")
    if not np.isfinite(kernel).all():
        raise UndefinedScoreError(not_finite("The kernel contains"))
    ids = np.unique(labels, return_inverse=True)[1]
    if len(ids) == 0 or ids.max() == 0:
        raise UndefinedScoreError("All images are of one class: there is nothing to forecast.")
    if np.bincount(ids).max() < 2:
        raise UndefinedScoreError(ONE_EACH)
    return kernel if kernel.dtype.kind == "f" else kernel.astype(np.float64), ids


def _canonical(kernel, ids) -> Int[np.ndarray, " n"]:
    """Indices of the images in an order determined by the diagonal of the kernel: results do not depend on the given order."""
    diagonal = np.einsum("ii...->i...", kernel).reshape(len(ids), -1).sum(axis=1)
    least = np.full(ids.max() + 1, np.inf)
    np.minimum.at(least, ids, diagonal)
    return np.lexsort((diagonal, least[ids]))


def _stratified_folds(ids, folds: int, repeats: int, seed: int) -> list[Split]:
    """Stratified folds. The only image of a class is always a training image."""
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


def _random_splits(ids, shots: int, count: int, seed: int) -> list[Split]:
    """Random training sets of `shots` images per class; all but one of a class with no more than `shots`."""
    check_count("shots", shots, 1)
    splits = []
    for split in range(count):
        rng, trained = np.random.default_rng([seed, split]), []
        for label in dict.fromkeys(ids.tolist()):
            members = rng.permutation(np.flatnonzero(ids == label))
            trained.append(members[: min(shots, max(len(members) - 1, 1))])
        trained = np.sort(np.concatenate(trained))
        splits.append(Split(trained, ~np.isin(np.arange(len(ids)), trained)))
    return splits


def _joined(simulations: list[SimulatedTraining], rates: int) -> SimulatedTraining:
    count = len(simulations) // rates
    stacked = (np.concatenate(parts, axis=1) for parts in list(zip(*simulations, strict=True))[:-1])
    return SimulatedTraining(*(part.reshape(rates, count, *part.shape[2:]) for part in stacked), None)


def _of_rate(simulated: SimulatedTraining, index: int) -> SimulatedTraining:
    return SimulatedTraining(*(part if part is None else part[index] for part in simulated))


def _rate_forecast(rate: float, simulated: SimulatedTraining, splits: list[Split], ids, back) -> RateForecast:
    held = np.stack([split.held for split in splits])
    times = held.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ceiling = DIVERGENCE_FACTOR * np.log(ids.max() + 1)
        sums = (np.where(held[:, None], part, 0).astype(np.float64).sum(axis=0) for part in (simulated.log_likelihoods, simulated.correct))
        likelihoods, correct = (total / times for total in sums)  # (epochs, n)
        known = times > 0
        sound = np.isfinite(simulated.losses) & (simulated.losses <= ceiling)
        diverged = not (sound.all() and np.isfinite(simulated.distances).all() and np.isfinite(likelihoods[-1, known]).all())
        curve = Curve(correct[:, known].mean(axis=1), -likelihoods[:, known].mean(axis=1), simulated.losses.astype(np.float64).mean(axis=0))
        return RateForecast(
            rate,
            *_share(correct[-1, known]),
            *_balanced(correct[-1, known], ids[known]),
            *_mean(-likelihoods[-1, known]),
            curve,
            float(simulated.distances.mean()),
            bool(diverged),
            likelihoods[-1][back],
            correct[-1][back],
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
    # The number of images that would give the same variance if they were spread evenly over the classes.
    return mean, *wilson(mean, len(present) ** 2 / float((1 / np.bincount(ids)[present]).sum()))
