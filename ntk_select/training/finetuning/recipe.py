"""Configuration of a fine-tuning: the recipe, the learning rates, and the images for training and validation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.new_head import HEADS
from ntk_select.tasks.probe_sample import probe_sample
from ntk_select.tasks.task import Task
from ntk_select.training.augment import automatic, check_augmentation
from ntk_select.training.loop import PRECISIONS

LEARNING_RATES = (0.01, 0.005, 0.001)
"""Default learning rates of `finetune`, `forecast` and the command line: those of the paper."""
BATCH_NORMS = ("train", "frozen")
VALIDATION_SHARE = 0.2
"""Fraction of the training images of each class that is held out for validation."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a fine-tuning other than the learning rate. The defaults are those of the paper.

    Args:
      epochs: passes over the training images.
      milestones: epochs after which the learning rate is divided by ten. None: after 1/2 and 5/6 of the epochs, 15 and 25 of 30.
      batch_size: images per step, or all images if there are fewer. The last batch of an epoch may be smaller, as usual in PyTorch; it is
        dropped if it holds a single image (batch norm needs two) or cannot be shared evenly by several devices.
      momentum, nesterov, weight_decay: parameters of SGD, as in PyTorch; weight decay applies to all parameters.
      augment: "crop_flip", "crop", "flip" or "none". "auto" is "crop_flip", or "crop" for a task whose `flips_keep_class` is False, such as
        digits and letters. Up to 64 pixels, a crop is taken from the image padded by four black pixels; above, it is a random resized crop.
      batch_norm: "train": statistics of the batch, as usual in PyTorch; "frozen": the expert's running statistics, not updated, and no dropout.
      head: initial weights of the new head, as in `with_new_head`.
      precision: "float32" (on accelerators as JAX computes it: TF32 on NVIDIA GPUs unless `jax_default_matmul_precision` says otherwise), or
        "bfloat16" for activations.

    Raises:
      ConfigError: a value is not allowed.

    Reference: Deshpande et al. 2021, section 4.2.
    """

    epochs: int = 30
    milestones: tuple[int, ...] | None = None
    batch_size: int = 32
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    augment: str = "auto"
    batch_norm: str = "train"
    head: str = "random"
    precision: str = "float32"

    def __post_init__(self):
        check_count("epochs", self.epochs, 1)
        check_count("batch_size", self.batch_size, 2 if self.batch_norm == "train" else 1)
        if self.milestones is not None:
            if isinstance(self.milestones, str) or not isinstance(self.milestones, Iterable):
                raise ConfigError(f"milestones={self.milestones!r} must be epochs, as in (15, 25), or None.")
            object.__setattr__(self, "milestones", tuple(self.milestones))
            for milestone in self.milestones:
                check_count("a milestone", milestone, 0)
        for name, most in (("momentum", 1.0), ("weight_decay", float("inf"))):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < most:
                raise ConfigError(f"{name}={value!r} must be a number{' from 0 to below 1' if most == 1 else ' of at least 0'}.")
        if not isinstance(self.nesterov, bool):
            raise ConfigError(f"nesterov={self.nesterov!r} must be True or False.")
        check_augmentation(self.augment)
        for name, allowed in (("batch_norm", BATCH_NORMS), ("head", HEADS), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name}={value!r} is unknown.{did_you_mean(str(value), allowed)}")
        # NumPy scalars become Python numbers, which JSON can represent.
        for name, kind in (("epochs", int), ("batch_size", int), ("momentum", float), ("weight_decay", float)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))

    def augmentation(self, preprocess: Callable | None, flips_keep_class: bool | None) -> str:
        """`augment` with "auto" resolved to one of `AUGMENTATIONS`, for an expert's `preprocess` and a task's `flips_keep_class`."""
        return automatic(preprocess, flips_keep_class) if self.augment == "auto" else self.augment

    @property
    def decays(self) -> tuple[int, ...]:
        """Epochs after which the learning rate is divided by ten; none by default for a single epoch."""
        usual = tuple(sorted({self.epochs // 2, self.epochs * 5 // 6} - {0}))
        return usual if self.milestones is None else self.milestones


def checked_rates(learning_rates) -> tuple[float, ...]:
    """Distinct learning rates, largest first.

    Raises:
      ConfigError: there are none, or one is not positive.
    """
    try:
        rates = (learning_rates,) if is_number(learning_rates) else tuple(learning_rates)
    except TypeError:
        rates = ()
    if not rates or not all(is_number(rate) and 0 < rate < float("inf") for rate in rates):
        raise ConfigError(f"learning_rates={learning_rates!r} must be numbers above 0, as in {LEARNING_RATES}.")
    return tuple(sorted(set(map(float, rates)), reverse=True))


def training_images(task: Task, shots: int | str | None, seed: int) -> Int[np.ndarray, " n"]:
    """Indices of the training images: all of them for "full" or None, otherwise `shots` per class.

    They are the images of `probe_sample(task, per_class=shots)` with the same seed, which the scores see.

    Raises:
      ConfigError: `shots` is neither.
    """
    if shots in (None, "full"):
        return np.arange(len(task.labels))
    if isinstance(shots, str):
        raise ConfigError(f"shots={shots!r} must be a whole number from 1, or 'full'.")
    check_count("shots", shots, 1)
    return probe_sample(task, per_class=shots, seed=seed).indices


def hold_out(labels: Int[np.ndarray, " n"], seed: int) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """A stratified split into indices for training and for validation.

    `VALIDATION_SHARE` of each class is held out, and at least one image of every class that has two.

    Raises:
      ConfigError: no class has two images.
    """
    held = []
    for label in np.unique(labels):
        members = np.random.default_rng([seed, int(label), 2]).permutation(np.flatnonzero(labels == label))
        held.append(members[: min(max(1, round(VALIDATION_SHARE * len(members))), len(members) - 1)])
    held = np.sort(np.concatenate(held))
    if len(held) == 0:
        raise ConfigError("No class has two training images, so none can be held out for validation. Try: a single learning rate, or choose='paper'")
    return np.setdiff1d(np.arange(len(labels)), held), held
