"""`ntk-select dynamics`: a fine-tuning as the kernel predicts it, and the fine-tuning itself."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from ntk_select.cli.console import Flag, command, zoo_option


@dataclass(frozen=True)
class Dynamics:
    """Predict the fine-tuning of one expert from its kernel, fine-tune it, and compare the curves."""

    expert: str
    """The expert."""
    task: str
    """The task: digits, fashion_mnist, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the expert is: builtin, folders of experts, or several of them."""
    lr: float | None = None
    """Learning rate. Default: 0.1 x the largest stable learning rate of the linearised network."""
    steps: int = 50
    """Steps of training."""
    optimizer: str = "gd"
    """gd, momentum or nesterov: what trains in steps."""
    momentum: float | None = None
    """Of the last two; 0.9 if not given."""
    weight_decay: float = 0.0
    """Strength of the pull back to the pre-trained weights."""
    loss: str = "mean"
    """mean, half_sum or sum of squares; cross_entropy or cross_entropy_sum."""
    layers: str = "all"
    """Parameters that are fine-tuned: all, last_conv, ^head/, or another regular expression over their paths."""
    head: str = "random"
    """The new head starts random, or zero."""
    encoding: str = "onehot"
    """onehot: one output per class; pm1: for two classes, one output of -1 and +1, as in the paper's binary case."""
    outputs: str = "full"
    """full: the exact kernel; trace: its mean over the outputs, used for each of them."""
    method: str = "auto"
    """auto: dense or matrix-free, whichever costs less."""
    per_class: int = 10
    """Training images per class, at most."""
    test: int = 100
    """Test images, at most."""
    batch: int | None = None
    """Images in a mini-batch; all of them at every step, if not given."""
    seed: int = 0
    """Of the images, the head and the mini-batches."""
    linear: bool = True
    """Also train the linearised network, which the formula should meet to rounding."""
    explain: Flag = field(default=False)
    """Also say, layer by layer, how much of the kernel the features' kernel and other simpler ones stand for (appendix A)."""
    memory_gb: float | None = None
    """Memory that the kernel may take; by default half of what is free."""
    out: Path | None = None
    """Folder for the figure (dynamics.png), the table (dynamics.csv) and everything (dynamics.json)."""
    json: Flag = field(default=False)
    """Print JSON instead of text."""

    def run(self) -> int:
        """Predicts, trains, prints and saves."""
        from ntk_select.cli.dynamics_run import run  # here, for it imports JAX

        return run(self)

    def again(self, *more: str) -> str:
        """The command to type for the same again, with more options."""
        words = ["dynamics", "--expert", self.expert, "--task", self.task, *zoo_option(self.zoo)]
        for option in dataclasses.fields(self)[3:]:
            value = getattr(self, option.name)
            if option.name not in ("out", "json") and value != option.default:
                name = option.name.replace("_", "-")
                words += [f"--{name}"] if value is True else [f"--no-{name}"] if value is False else [f"--{name}", str(value)]
        return command(*words, *more)
