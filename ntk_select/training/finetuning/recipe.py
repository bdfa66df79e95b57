"""The recipe of a fine-tuning."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.new_head import HEADS
from ntk_select.training.augment import automatic, check_augmentation
from ntk_select.training.step import PRECISIONS

LEARNING_RATES = (0.01, 0.005, 0.001)
"""The paper's."""

BATCH_NORMS = ("train", "frozen")


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuning does besides the learning rate. The defaults are the paper's.

    Args:
      epochs: over the training images.
      milestones: epochs after which the learning rate is divided by ten; None for one half and five sixths of them, 15 and 25 of 30.
      batch_size: images in a step, or all if there are fewer. What is left over of an epoch is a smaller batch, as usual in PyTorch; a single image,
        of which batch norm has nothing to say, or what devices cannot share evenly, is left out.
      momentum, nesterov, weight_decay: of SGD, with PyTorch's meaning; weight decay is on all parameters.
      augment: "crop_flip", "crop", "flip" or "none"; "auto" is "crop_flip", or "crop" for a task whose `flips_keep_class` is False, as of
        digits and letters. Up to 64 pixels a crop is one of the image with four black pixels around it, above a random resized crop.
      batch_norm: "train": statistics of the batch, as usual in PyTorch; "frozen": those of the expert, which stay, and no dropout.
      head: of `with_new_head`.
      precision: "float32" (on accelerators what JAX makes of it: TF32 on NVIDIA's, unless `jax_default_matmul_precision` says otherwise), or
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
                raise ConfigError(f"{name}={value!r} must be a number from 0{'' if most > 1 else ' to below 1'}.")
        if not isinstance(self.nesterov, bool):
            raise ConfigError(f"nesterov={self.nesterov!r} must be True or False.")
        check_augmentation(self.augment)
        for name, allowed in (("batch_norm", BATCH_NORMS), ("head", HEADS), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name}={value!r} is unknown.{did_you_mean(str(value), allowed)}")
        # numbers of NumPy become those that JSON can hold
        for name, kind in (("epochs", int), ("batch_size", int), ("momentum", float), ("weight_decay", float)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))

    def augmentation(self, preprocess: Callable | None, flips_keep_class: bool | None) -> str:
        """What `augment` stands for, one of `AUGMENTATIONS`, for an expert with this `preprocess` and a task with this `flips_keep_class`."""
        return automatic(preprocess, flips_keep_class) if self.augment == "auto" else self.augment

    @property
    def decays(self) -> tuple[int, ...]:
        """Epochs after which the learning rate is divided by ten; a single epoch is at the full rate."""
        usual = tuple(sorted({self.epochs // 2, self.epochs * 5 // 6} - {0}))
        return usual if self.milestones is None else self.milestones


def checked_rates(learning_rates) -> tuple[float, ...]:
    """Learning rates, largest first, each once.

    Raises:
      ConfigError: there is none, or one is not above 0.
    """
    try:
        rates = (learning_rates,) if is_number(learning_rates) else tuple(learning_rates)
    except TypeError:
        rates = ()
    if not rates or not all(is_number(rate) and 0 < rate < float("inf") for rate in rates):
        raise ConfigError(f"learning_rates={learning_rates!r} must be numbers above 0, as in {LEARNING_RATES}.")
    return tuple(sorted(set(map(float, rates)), reverse=True))
