"""`ntk-select kernel`: the kernel of one expert on a task, exact or sketched, what it says, and where it comes from."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from ntk_select.cli.console import Flag, command, split, zoo_option


@dataclass(frozen=True)
class Kernel:
    """Compute the kernel of one expert on a task, exact or sketched, say what it says, and save it with its provenance."""

    expert: str
    """The expert."""
    task: str
    """The task: digits, fashion_mnist, folder:PATH, zip:PATH, npz:PATH, tfds:NAME, or the path of a folder or archive."""
    zoo: tuple[str, ...] = ("builtin",)
    """Where the expert is: builtin, folders of experts, or several of them."""
    kind: str = "ntk"
    """ntk: inner products of gradients; sketch: the same, estimated from gradients projected at random; feature: of pre-logits."""
    layers: str = "all"
    """Parameters to differentiate: all, last_conv, or a regular expression over their paths."""
    outputs: str = "trace"
    """trace: mean of the kernels of the outputs; sum: of the sum of the outputs; diagonal: output by output; full: all pairs of outputs."""
    per_class: int = 25
    """Images per class, at most."""
    seed: int = 0
    """Seed of the probe sample."""
    precision: str = "highest"
    """Of products: highest, high or default; the last two allow the device to round float32."""
    memory_gb: float | None = None
    """Memory that the computation may take; by default half of what is free, or most of a GPU's."""
    float64: Flag = field(default=False)
    """Sum the kernel in float64."""
    by_layer: Flag = field(default=False)
    """Tell the layers apart: their shares of the trace, and their kernels in the file."""
    sketch: tuple[str, ...] = ("countsketch",)
    """With --kind sketch: countsketch, rademacher, gaussian, srht, kronecker or jvp; with --compare several, or all."""
    dim: tuple[str, ...] = ()
    """Columns of the sketch, 8192 if not given, or auto; with --compare several, 512 2048 8192 if not given."""
    blocks: int | None = None
    """Independent parts of the sketch, which tell its error; two where the kind has no other wish."""
    sketch_seed: int = 0
    """Seed of the projection."""
    compare: str | None = None
    """exact: compare sketches with the exact kernel instead; errors, time and memory for each kind and dimension."""
    repeats: int = 5
    """With --compare: seeds for each kind and dimension, from --sketch-seed on."""
    plan: Flag = field(default=False)
    """Print what would be done and what it should cost, and stop."""
    out: Path | None = None
    """File for the kernel, ending in .npz, or with --compare for the numbers, ending in .json, and with the same name a figure, ending in .png; or a
    folder for kernel.npz (comparison.json) and the figure."""
    json: Flag = field(default=False)
    """Print JSON instead of text."""

    def run(self) -> int:
        """Computes, prints and saves."""
        from ntk_select.cli.kernel_run import run  # here, for it imports JAX

        return run(self)

    def options(self, *without: str) -> list[str]:
        """The options that a repetition must name, beside expert, task and zoo."""
        words = []
        for option in dataclasses.fields(self)[3:]:
            value = getattr(self, option.name)
            if option.name not in ("plan", "out", "json", *without) and value != option.default:
                values = [] if value is True else split(value) if isinstance(value, tuple) else [str(value)]
                words += ["--" + option.name.replace("_", "-"), *values]
        return words

    def again(self, *more: str, without: tuple[str, ...] = ()) -> str:
        """The command to type for the same again, with more options or without some."""
        return command("kernel", "--expert", self.expert, "--task", self.task, *zoo_option(self.zoo), *self.options(*without), *more)
