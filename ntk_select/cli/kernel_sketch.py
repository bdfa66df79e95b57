"""`ntk-select kernel --kind sketch`: the kernel estimated from gradients projected at random, and how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ntk_select.cli.console import progress_bar, split
from ntk_select.cli.sketch_comparison import DIMS
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.kernels.gradients import gradient_sketch
from ntk_select.kernels.sketches import Sketch, SketchedKernel, sketch
from ntk_select.kernels.sketches.hashing import SCHEME
from ntk_select.kernels.sketches.projection import ALL_KINDS, FORWARD, decided

if TYPE_CHECKING:
    from ntk_select.cli.kernel import Kernel

DIM = 8192
OUTPUTS = ("trace", "sum")
SKETCH_OPTIONS = ("--sketch", "--dim", "--blocks", "--sketch-seed", "--compare", "--repeats")


def only_sketch(command: Kernel) -> list[str]:
    """The options that were given and make sense with --kind sketch alone."""
    return [word for word in command.options() if word in SKETCH_OPTIONS]


def check_sketch(command: Kernel) -> None:
    """Refuses what a sketch has not, before any work."""
    if command.plan:
        raise ConfigError("--plan: nothing is planned for a sketch, which costs the gradients of each image once. Leave it out, or type: --kind ntk")
    if command.float64:
        raise ConfigError("--float64: the kernel of a sketch is summed in float64 already. Leave it out.")
    if command.by_layer:
        raise ConfigError("--by-layer tells the layers of an exact kernel apart. For a sketch of one layer type: --layers PATTERN")
    if command.outputs not in OUTPUTS:
        raise ConfigError(
            f"--outputs {command.outputs}: a sketch has one row an image here. Type: --outputs trace, or sum; ns.sketch in Python keeps outputs apart."
        )
    kinds, dims = kinds_of(command), dims_of(command)
    if command.compare is None:
        several = [word for word, values in (("--sketch", kinds), ("--dim", dims)) if len(values) > 1]
        several += ["--repeats"] if "--repeats" in command.options() else []
        if several:
            raise ConfigError(f"Several sketches at once are for comparing: {', '.join(several)} needs --compare exact.")
        asked(command)
        return
    if command.compare != "exact":
        raise ConfigError(f"--compare {command.compare} is unknown.{did_you_mean(command.compare, ['exact'])}")
    if "auto" in dims:
        raise ConfigError("--dim auto chooses one dimension; --compare exact tries those that it is given. Type: --dim 512 2048 8192")
    if command.repeats < 1:
        raise ConfigError(f"--repeats {command.repeats} must be at least 1.")
    for word, value, usual in (("--precision", command.precision, "highest"), ("--memory-gb", command.memory_gb, None)):
        if value != usual:
            raise ConfigError(f"{word}: exact and sketched kernels are compared at full precision and in the memory that there is. Leave it out.")
    for kind in kinds:
        for dim in dims:
            Sketch(dim, kind, command.sketch_seed, command.blocks)


def kinds_of(command: Kernel) -> list[str]:
    """The kinds of sketch that were asked for."""
    kinds = list(dict.fromkeys(split(command.sketch)))
    if not kinds:
        raise ConfigError(f"--sketch names no kind.{did_you_mean('', ALL_KINDS)}")
    if kinds == ["all"]:
        return list(ALL_KINDS)
    for kind in kinds:
        if kind not in ALL_KINDS:
            raise ConfigError(f"--sketch {kind}: there is no such sketch.{did_you_mean(kind, (*ALL_KINDS, 'all'))}")
    return kinds


def dims_of(command: Kernel) -> list[int | str]:
    """The dimensions that were asked for; "auto" stays a word."""
    words = list(dict.fromkeys(split(command.dim)))
    for word in words:
        if word != "auto" and not word.removeprefix("-").isdecimal():
            raise ConfigError(f"--dim {word} must be a whole number, or auto.")
    return [word if word == "auto" else int(word) for word in words] or (list(DIMS) if command.compare else [DIM])


def asked(command: Kernel) -> Sketch:
    """The sketch, its dimension and blocks as numbers; two blocks at least where they are not given, so that they can disagree."""
    return decided(Sketch(dims_of(command)[0], kinds_of(command)[0], command.sketch_seed, command.blocks), 2)


def sketched(command: Kernel, expert: Expert, x: np.ndarray, layers, *, pooled: bool) -> tuple[SketchedKernel, dict[str, Any]]:
    """The estimate, and which sketch it is.

    Args:
      command: the options.
      expert, x: what is differentiated, and where.
      layers: chooses the paths of the expert's variables.
      pooled: whether the last convolution is only pooled, so that its forward passes are enough.
    """
    which = asked(command)
    if pooled and which.kind != FORWARD:
        found = gradient_sketch(expert, x, which, outputs=command.outputs)
    else:
        choice = {"dim": which.dim, "kind": which.kind, "seed": which.seed, "blocks": which.blocks}
        work = {"memory_gb": command.memory_gb, "precision": command.precision}
        with progress_bar("sketch") as progress:
            z = sketch(expert.apply_fn, expert.variables, x, outputs=command.outputs, layers=layers, progress=progress, **choice, **work)
        found = SketchedKernel(z, which.kind, which.blocks, directions=command.outputs != "trace")
    directions = bool(found.directions)
    return found, {"kind": which.kind, "dim": which.dim, "blocks": which.blocks, "seed": which.seed, "scheme": SCHEME, "directions": directions}


def sketch_lines(summary: dict[str, Any], which: dict[str, Any]) -> list[str]:
    """What a sketch says of the exact kernel, for people."""
    blocks = f"{which['blocks']} block{'s' if which['blocks'] > 1 else ''}"
    lines = [f"Sketch: {which['kind']}, {which['dim']} columns in {blocks}, seed {which['seed']}, scheme {which['scheme']}."]
    errors = [("predicted by the formula", summary["predicted_error"]), ("measured by blocks that disagree", summary["measured_error"])]
    known = [f"{value:.4f} {how}" for how, value in errors if value is not None]
    lines.append(f"Relative error of the kernel: {', '.join(known) or 'not known; more blocks tell it'}.")
    score = summary["score"]
    if score is None:
        return [*lines, "Correlation with the labels: none, the kernel is constant or drowned in the error of the sketch."]
    sure = (
        "no interval; more blocks tell it"
        if score["low"] is None
        else f"95 % interval for the exact kernel [{score['low']:.4f}, {score['high']:.4f}]"
    )
    return [*lines, f"Correlation with the labels: {score['value']:.4f}, {sure}."]
