"""One training with one learning rate."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ntk_select._runtime.progress import timed
from ntk_select.errors import ConfigError, ModelError, not_finite
from ntk_select.experts.expert import Expert, Taps
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.engine.digest import digest_of_program
from ntk_select.tasks.task import ChosenImages, Task
from ntk_select.training.checkpoints import Checkpoints, fingerprint
from ntk_select.training.feeding import SMALL, Feed, feed, outputs_of
from ntk_select.training.step import DivergedError, begin, cross_entropy, make_step, sgd, stepwise, train_epochs

from .accuracy import Accuracy, accuracy
from .recipe import Recipe

HOPELESS = 1000
"""Times the loss of guessing: a training whose loss is above has diverged, though its numbers may be finite."""


class Run(NamedTuple):
    """A network after its training.

    Attributes:
      expert: with what was learnt; None when the training diverged.
      losses: mean training loss of each epoch.
      images: seen in training, each as often as it was seen.
      seen_now: those of them that were seen since it was taken up again, if it was.
      diverged: what was said when it did; None when it did not.
    """

    expert: Expert | None
    losses: tuple[float, ...]
    images: int
    seen_now: int
    diverged: str | None = None


class OutputsError(ModelError):
    """A fine-tuned network gives NaN or infinity, though its weights are finite."""


@dataclass(frozen=True)
class _AsEvaluated:
    """A function of evaluation mode as one of training: nothing changes in the state."""

    apply_fn: Callable

    def __call__(self, variables, x):
        return Taps(self.apply_fn(variables, x), None), {}


def train_fn_of(expert: Expert, batch_norm: str) -> Callable:
    """The function that is trained.

    Raises:
      ModelError: batch norm in training mode is asked of an expert that does not say how that goes, though it has a state.
    """
    if batch_norm == "frozen":
        return _AsEvaluated(expert.apply_fn)
    if expert.train_fn is not None:
        return expert.train_fn
    state = [key for key in expert.state if not key.startswith("source_head") and jax.tree.leaves(expert.state[key])]
    if state:
        raise ModelError(
            f"Expert {expert.name!r} has state ({', '.join(state)}) and no train_fn that says how training changes it. "
            "Type: Expert(..., train_fn=...), or Recipe(batch_norm='frozen')"
        )
    return _AsEvaluated(expert.apply_fn)


class Trainer:
    """One expert with its fresh head on one task: all runs of a search share images and programs.

    Args:
      network: with the fresh head.
      task: of the search.
      recipe, seed, mesh, checkpoints: as for `finetune`.
      settings: what else decides a run, for its checkpoints.

    Attributes:
      seconds: spent to "read" images, to "compile" and to "evaluate".
      small: whether the images are small enough to lie in memory.
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
        self._seen: dict[bytes, Any] = {}
        self._kept: list[Checkpoints] = []
        self._train_fn = train_fn_of(network, recipe.batch_norm)
        self._optimizer = sgd(recipe.momentum, recipe.weight_decay, nesterov=recipe.nesterov)
        self.small = isinstance(network.preprocess, Preprocess) and network.preprocess.size <= SMALL

    @property
    def augment(self) -> str:
        """What the recipe's augmentation stands for."""
        return self.recipe.augmentation(self.network.preprocess, self.task.flips_keep_class)

    def prepare(self, places: np.ndarray) -> None:
        """Reads the images and compiles the step for their batches, so that runs in threads need not each do so.

        Raises:
          ConfigError: a batch that the mesh cannot share, or augmentation of inputs that are not this package's.
        """
        size = min(self.recipe.batch_size, len(places))
        if self.mesh is not None and size % self.mesh.size:
            raise ConfigError(f"A batch of {size} images cannot be shared by {self.mesh.size} devices. Give a batch_size that they divide.")
        with timed(self.seconds, "read"):
            images = ChosenImages(self.task.images, places)
            found = feed(images, self.task.labels[places], self.network.preprocess, self.augment, size, rest=self.mesh is None)
            self._feeds[places.tobytes()] = found
            if self.checkpoints is not None:
                self._seen[places.tobytes()] = [fingerprint(found.batches.images, found.batches.labels), self._program]
            batch = next(iter(found.batches(np.random.default_rng(0))))
        with timed(self.seconds, "compile"):
            for number in {size, found.batches.seen % size or size}:
                some = jax.tree.map(lambda part, number=number: part[:number], batch)
                jax.block_until_ready(self._step(begin(self.network.variables, self._optimizer), some, jax.random.key(0), 0.0))

    @cached_property
    def _program(self) -> str | None:
        """What tells the trained function from others; None where it calls back to Python, so that nothing can."""
        inputs = self.network.preprocess([np.asarray(self.task.images[0])])
        return digest_of_program(self._train_fn, self.network.variables, inputs)

    @cached_property
    def _step(self):
        prepare = next(iter(self._feeds.values())).prepare
        return make_step(cross_entropy(self._train_fn, prepare, precision=self.recipe.precision), self._optimizer, self.mesh)

    def run(self, places: np.ndarray, learning_rate: float, report: Callable[[int], None]) -> Run:
        """Trains from the start on the images at `places`, which were prepared; `report` is called with the number of epochs done."""
        recipe, batches = self.recipe, self._feeds[places.tobytes()].batches
        rates = stepwise(learning_rate, recipe.epochs, batches.steps, recipe.decays)
        settings = [self.settings, recipe, learning_rate, self.seed, places, self._seen.get(places.tobytes())]
        known = self.checkpoints is not None and self._program is not None
        with Checkpoints(self.checkpoints if known else None, f"{self.network.name}-{self.task.name}", settings) as kept:
            self._kept.append(kept)
            first, state, notes = kept.latest(begin(self.network.variables, self._optimizer))
            losses = notes.get("losses", [])
            after_epoch = kept.then(lambda epoch, _loss: report(epoch), losses)
            report(first)
            try:
                ceiling = HOPELESS * float(np.log(max(self.task.num_classes, 2)))
                state = train_epochs(self._step, state, batches, rates, seed=[self.seed], first_epoch=first, after_epoch=after_epoch, ceiling=ceiling)
            except DivergedError as error:
                report(recipe.epochs)
                images = (error.epoch - 1) * batches.seen + min(error.step * batches.batch_size, batches.seen)
                return Run(None, tuple(losses), images, images - first * batches.seen, str(error))
            kept.save(recipe.epochs, state, {"losses": losses}, now=True)
        expert = self.network.with_variables(jax.tree.map(np.asarray, dict(state.variables)))
        return Run(expert, tuple(losses), recipe.epochs * batches.seen, (recipe.epochs - first) * batches.seen)

    @property
    def kept(self) -> tuple[Path, ...]:
        """Folders of the checkpoints of all runs."""
        return tuple(kept.folder for kept in self._kept if kept.folder is not None)

    def images(self, places: np.ndarray) -> int:
        """Seen in one training on those at `places`, which were prepared."""
        return self.recipe.epochs * self._feeds[places.tobytes()].batches.seen

    def validated(self, expert: Expert, places: np.ndarray) -> Accuracy:
        """How well it answers on training images that were held out."""
        return self._judged(expert, ChosenImages(self.task.images, places), self.task.labels[places])

    def tested(self, expert: Expert) -> Accuracy:
        """How well it answers on the whole test set."""
        return self._judged(expert, self.task.test_images, self.task.test_labels)

    def _judged(self, expert: Expert, images, labels) -> Accuracy:
        with timed(self.seconds, "evaluate"):
            logits = np.concatenate(list(outputs_of(expert.apply_fn, expert.variables, images, expert.preprocess)))
        if not np.isfinite(logits).all():
            raise OutputsError(not_finite(f"Outputs of the fine-tuned expert {expert.name!r} hold") + " Or the learning rate is too large.")
        return accuracy(logits, labels)
