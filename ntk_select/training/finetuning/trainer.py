"""Training and evaluation of one expert at one learning rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from ntk_select._runtime.progress import timed
from ntk_select.errors import ConfigError, ModelError, not_finite
from ntk_select.experts.expert import Expert, Taps
from ntk_select.experts.forward import batched_outputs
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.engine.digest import digest_of_program
from ntk_select.tasks.task import ChosenImages, Task
from ntk_select.training.checkpoints import Checkpoints, fingerprint
from ntk_select.training.feeding import SMALL, Feed, feed
from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.loop import DivergedError, begin, cross_entropy, make_step, sgd, step_decay, train_epochs

DIVERGENCE_FACTOR = 1000
"""Training counts as diverged once its loss exceeds the loss of uniform guessing by this factor, even if all numbers are finite."""


class Accuracy(NamedTuple):
    """Accuracies, 0 to 1, and the mean cross-entropy.

    Attributes:
      top1: accuracy over all images.
      balanced: mean accuracy over the classes that have images.
      per_class: accuracy of each class, (classes,); NaN for classes without images.
      loss: mean cross-entropy in nats, non-negative.
    """

    top1: float
    balanced: float
    per_class: Float[np.ndarray, " c"]
    loss: float


def accuracy(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Accuracy:
    """The accuracy of finite logits. Ties are resolved in favour of the first class."""
    from scipy.special import logsumexp

    logits = np.asarray(logits, np.float64)
    correct, counts = logits.argmax(1) == labels, np.bincount(labels, minlength=logits.shape[1])
    with np.errstate(invalid="ignore"):
        per_class = np.bincount(labels, correct, minlength=logits.shape[1]) / counts
    loss = float((logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]).mean())
    return Accuracy(float(correct.mean()), float(per_class[counts > 0].mean()), per_class, max(loss, 0.0))


class Run(NamedTuple):
    """The outcome of one training.

    Attributes:
      expert: expert with the trained variables; None if training diverged.
      losses: mean training loss of each epoch.
      images: number of images seen, counted with repetition.
      images_now: those of them seen since training was resumed from a checkpoint; all if it was not.
      diverged: the message of the divergence; None if training did not diverge.
    """

    expert: Expert | None
    losses: tuple[float, ...]
    images: int
    images_now: int
    diverged: str | None = None


class OutputsError(ModelError):
    """A fine-tuned network has NaN or infinite outputs although its weights are finite."""


@dataclass(frozen=True)
class _EvaluationMode:
    """An `apply_fn` as a `train_fn` that leaves the state unchanged."""

    apply_fn: Callable

    def __call__(self, variables, x):
        return Taps(self.apply_fn(variables, x), None), {}


def train_fn_of(expert: Expert, batch_norm: str) -> Callable:
    """The `train_fn` to be differentiated: the expert's own, or `apply_fn` for frozen batch norm or an expert without state.

    Raises:
      ModelError: batch norm in training mode for an expert with a state but without `train_fn`.
    """
    if batch_norm == "frozen":
        return _EvaluationMode(expert.apply_fn)
    if expert.train_fn is not None:
        return expert.train_fn
    state = [key for key in expert.state if not key.startswith("source_head") and jax.tree.leaves(expert.state[key])]
    if state:
        raise ModelError(
            f"Expert {expert.name!r} has state ({', '.join(state)}) but no train_fn to update it. "
            "Try: Expert(..., train_fn=...), or Recipe(batch_norm='frozen')"
        )
    return _EvaluationMode(expert.apply_fn)


class Trainer:
    """One expert with its new head on one task. All runs of a search share images and compiled programs.

    Args:
      network: the expert with its new head.
      task: task with test images.
      recipe, seed, mesh, checkpoints: as for `finetune`; the augmentation is another than "auto".
      settings: everything else that determines a run, to identify its checkpoints.

    Attributes:
      seconds: time spent to "read" images, "compile" and "evaluate".
      small: whether images are small enough to be held in memory.
    """

    def __init__(
        self,
        network: Expert,
        task: Task,
        recipe: Recipe,
        seed: int,
        *,
        mesh: Mesh | None = None,
        checkpoints: Path | None = None,
        settings: Any = None,
    ):
        self.network, self.task, self.recipe, self.seed, self.mesh = network, task, recipe, seed, mesh
        self.checkpoints, self.settings = checkpoints, settings
        self.seconds: dict[str, float] = {}
        self._feeds: dict[bytes, Feed] = {}
        self._fingerprints: dict[bytes, Any] = {}
        self._opened: list[Checkpoints] = []
        self._train_fn = train_fn_of(network, recipe.batch_norm)
        self._optimizer = sgd(recipe.momentum, recipe.weight_decay, nesterov=recipe.nesterov)
        self.small = isinstance(network.preprocess, Preprocess) and network.preprocess.size <= SMALL

    def prepare(self, indices: np.ndarray) -> None:
        """Reads the images and compiles the step for their batch shapes, once for all runs and threads.

        Raises:
          ConfigError: a batch size that is not a multiple of the number of devices, or augmentation of inputs that are not from a `Preprocess`.
        """
        size = min(self.recipe.batch_size, len(indices))
        if self.mesh is not None and size % self.mesh.size:
            raise ConfigError(
                f"A batch of {size} images cannot be shared evenly by {self.mesh.size} devices. "
                f"Try: Recipe(batch_size={self.mesh.size * max(size // self.mesh.size, 1)})"
            )
        with timed(self.seconds, "read"):
            images = ChosenImages(self.task.images, indices)
            found = feed(images, self.task.labels[indices], self.network.preprocess, self.recipe.augment, size, remainder=self.mesh is None)
            self._feeds[indices.tobytes()] = found
            if self.checkpoints is not None:
                self._fingerprints[indices.tobytes()] = [fingerprint(found.batches.images, found.batches.labels), self._program]
            batch = next(iter(found.batches(np.random.default_rng(0))))
        with timed(self.seconds, "compile"):
            for number in {size, found.batches.seen % size or size}:
                some = jax.tree.map(lambda part, number=number: part[:number], batch)
                jax.block_until_ready(self._step(begin(self.network.variables, self._optimizer), some, jax.random.key(0), 0.0))

    @cached_property
    def _program(self) -> str | None:
        """Digest of the trained function; None if it calls back to Python, which no digest can identify."""
        inputs = self.network.preprocess([np.asarray(self.task.images[0])])
        return digest_of_program(self._train_fn, self.network.variables, inputs)

    @cached_property
    def _step(self):
        prepare = next(iter(self._feeds.values())).prepare
        return make_step(cross_entropy(self._train_fn, prepare, precision=self.recipe.precision), self._optimizer, self.mesh)

    def run(self, indices: np.ndarray, learning_rate: float, report: Callable[[int, Sequence[float]], None]) -> Run:
        """Trains from the start on images that have been prepared.

        `report` is called with the number of epochs done, and the mean losses of those since its last call: first of all that were restored from a
        checkpoint. When training has diverged, all epochs count as done.
        """
        recipe, batches = self.recipe, self._feeds[indices.tobytes()].batches
        rates = step_decay(learning_rate, recipe.epochs, batches.steps, recipe.decays)
        settings = [self.settings, recipe, learning_rate, self.seed, indices, self._fingerprints.get(indices.tobytes())]
        identified = self.checkpoints is not None and self._program is not None
        with Checkpoints(self.checkpoints if identified else None, f"{self.network.name}-{self.task.name}", settings) as checkpoints:
            self._opened.append(checkpoints)
            first, state, notes = checkpoints.latest(begin(self.network.variables, self._optimizer))
            losses = notes.get("losses", [])
            after_epoch = checkpoints.after_epoch(lambda epoch, loss: report(epoch, [loss]), losses)
            report(first, tuple(losses))
            try:
                ceiling = DIVERGENCE_FACTOR * float(np.log(max(self.task.num_classes, 2)))
                state = train_epochs(self._step, state, batches, rates, seed=[self.seed], first_epoch=first, after_epoch=after_epoch, ceiling=ceiling)
            except DivergedError as error:
                report(recipe.epochs, ())
                images = (error.epoch - 1) * batches.seen + min(error.step * batches.batch_size, batches.seen)
                return Run(None, tuple(losses), images, images - first * batches.seen, str(error))
            checkpoints.save(recipe.epochs, state, {"losses": losses}, now=True)
        expert = self.network.with_variables(jax.tree.map(np.asarray, dict(state.variables)))
        return Run(expert, tuple(losses), recipe.epochs * batches.seen, (recipe.epochs - first) * batches.seen)

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """Checkpoint folders of all runs."""
        return tuple(checkpoints.folder for checkpoints in self._opened if checkpoints.folder is not None)

    def images(self, indices: np.ndarray) -> int:
        """Number of images seen in one training on images that have been prepared."""
        return self.recipe.epochs * self._feeds[indices.tobytes()].batches.seen

    def validation_accuracy(self, expert: Expert, indices: np.ndarray) -> Accuracy:
        """Accuracy on held-out training images."""
        return self._evaluate(expert, ChosenImages(self.task.images, indices), self.task.labels[indices])

    def test_accuracy(self, expert: Expert) -> Accuracy:
        """Accuracy on the whole test set."""
        return self._evaluate(expert, self.task.test_images, self.task.test_labels)

    def _evaluate(self, expert: Expert, images, labels) -> Accuracy:
        with timed(self.seconds, "evaluate"):
            logits = np.concatenate(list(batched_outputs(expert.apply_fn, expert.variables, images, expert.preprocess)))
        if not np.isfinite(logits).all():
            raise OutputsError(not_finite(f"Outputs of the fine-tuned expert {expert.name!r} contain") + " Or the learning rate is too large.")
        return accuracy(logits, labels)
