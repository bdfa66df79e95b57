"""Computation of a comparison of sketched kernels with exact ones: error, LGC, time and memory by kind and dimension."""

import ctypes
import gc
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from ntk_select._runtime.checks import check_progress, is_whole
from ntk_select.errors import ConfigError, ModelError, TaskError, UndefinedScoreError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import has_pooled_last_conv
from ntk_select.kernels.alignment import checked_labels, kernel_label_correlation
from ntk_select.kernels.comparison import Comparison, ExactCell, LeftOut, SketchCell
from ntk_select.kernels.gradients import OUTPUTS, expert_inputs, gradient_kernel, gradient_sketch
from ntk_select.kernels.sketches import Sketch, SketchedKernel, sketched_correlation
from ntk_select.kernels.sketches.projection import ALL_KINDS

Experts = Mapping[str, Expert | Callable[[], Expert]]
Inputs = Float[np.ndarray, "n ..."] | Callable[[Expert], Float[np.ndarray, "n ..."]]
DIMS = (512, 2048, 8192)
PROCESS = Path("/proc/self")
"""Where Linux reports the memory of this process."""


def compare(
    experts: Experts,
    inputs: Inputs,
    labels: Int[np.ndarray, " n"],
    *,
    kinds: Sequence[str] = ALL_KINDS,
    dims: Sequence[int] = DIMS,
    seeds: Sequence[int] = (0, 1, 2),
    most_dim: Mapping[str, int] | None = None,
    layers: str = "last_conv",
    outputs: str = "trace",
    blocks: int | None = None,
    memory: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Computes the exact kernel and LGC of each expert, and those of a sketch for each kind, dimension and seed.

    Args:
      experts: Experts by name, each an `Expert` or a function that loads one. One expert is in memory at a time.
      inputs: preprocessed network inputs of the probe sample; or a function of the expert that returns them, where experts differ in that.
      labels: class ids, any integers.
      kinds, dims, seeds: Kinds, dimensions and seeds of the sketches. A seed is the same projection for all experts of one architecture.
      most_dim: {kind: largest dimension}, for kinds that take too long beyond it.
      layers, outputs: See `gradient_kernel`; strings only.
      blocks: Blocks of each sketch; None as `gradient_sketch` chooses.
      memory: also measure the peak memory, with one more call for each kind and dimension, and for the exact kernel.
      progress: called with (done, all, what) before each kind and dimension of each expert, and at the end.

    Returns:
      A `Comparison`. Times exclude compilation: the first seed's sketch of a kind and dimension is not timed, and if it
      is the only one it is made again.

    Raises:
      ConfigError, ModelError, TaskError: invalid arguments, checked for all experts before anything is compiled.

    Cost: for each expert two exact kernels (three with `memory`), and seeds + 1 sketches of each kind and dimension.
    """
    labels = checked_labels(labels)
    if len(np.unique(labels)) < 2:
        raise TaskError("All examples are of one class; a correlation with the labels needs at least two.")
    _check_experts(experts, layers, outputs)
    cells = _checked_cells(kinds, dims, blocks, most_dim or {})
    seeds = _integers("seeds", seeds, "0, 1")
    if not callable(inputs):
        _check_inputs(np.asarray(inputs), labels, "inputs")
    check_progress(progress)
    steps, calls = len(experts) * (1 + len(cells)), itertools.count()
    say = (lambda what: progress(next(calls), steps, what)) if progress else lambda _: None
    exact, rows, left_out = [], [], []
    for name, given in experts.items():
        say(f"{name}: exact")
        expert = _loaded(name, given)
        x = _check_inputs(np.asarray(inputs(expert) if callable(inputs) else inputs), labels, f"inputs of {name}")
        kernel, found = _exact(name, lambda: gradient_kernel(expert, x, layers=layers, outputs=outputs), labels, memory)  # noqa: B023
        exact.append(found)
        for kind, dim in cells:
            say(f"{name}: {kind}, {dim}")

            def draw(seed: int, kind=kind, dim=dim, expert=expert, x=x) -> SketchedKernel:
                return gradient_sketch(expert, x, Sketch(dim, kind, seed, blocks), layers=layers, outputs=outputs)

            try:
                rows += _sketched(found, kernel, labels, draw, seeds, memory)
            except ConfigError as error:  # the exact kernel was accepted, so it is this sketch that does not fit
                left_out.append(LeftOut(name, kind, dim, str(error)))
    say("done")
    return Comparison(layers, outputs, tuple(exact), tuple(rows), tuple(left_out))


def _exact(name: str, run: Callable[[], np.ndarray], labels, memory: bool) -> tuple[np.ndarray, ExactCell]:
    run()
    kernel, seconds = timed(run)
    norm = float(np.linalg.norm(kernel))
    if not norm > 0:
        raise ModelError(f"The kernel of expert {name!r} is zero; relative errors are undefined.")
    try:
        correlation = kernel_label_correlation(kernel, labels)
    except UndefinedScoreError:
        correlation = None
    peak = peak_added(run) if memory else None
    return kernel, ExactCell(name, len(kernel), correlation, float(np.trace(kernel)) ** 2 / norm**2, norm, seconds, kernel.nbytes, peak)


def _sketched(exact: ExactCell, kernel: np.ndarray, labels, draw: Callable[[int], SketchedKernel], seeds: list[int], memory: bool):
    """The cells of one kind and dimension. The first call compiles; a second call of the same seed is timed if there is no other seed."""
    first, rows = draw(seeds[0]), []
    peak = peak_added(lambda: draw(seeds[0]).kernel) if memory else None
    for seed in seeds:
        sketched, sketch_seconds, seconds = first, None, None
        if seed != seeds[0] or len(seeds) == 1:
            sketched, sketch_seconds = timed(lambda seed=seed: draw(seed))
            seconds = sketch_seconds + timed(lambda sketched=sketched: sketched.kernel)[1]
        rows.append(
            SketchCell(
                expert=exact.expert,
                kind=sketched.kind,
                dim=sketched.dim,
                seed=seed,
                blocks=sketched.blocks,
                error=float(np.linalg.norm(sketched.kernel - kernel)) / exact.norm,
                law=exact.law(sketched.dim),
                predicted_error=sketched.predicted_error(),
                measured_error=sketched.measured_error(),
                **_score(sketched, labels, exact.correlation),
                seconds=seconds,
                sketch_seconds=sketch_seconds,
                bytes=sketched.sketch.nbytes,
                peak_bytes=peak,
            )
        )
    return rows


def _score(sketched: SketchedKernel, labels, exact: float | None) -> dict[str, Any]:
    names = ("correlation", "correlation_error", "standard_error", "low", "high", "holds")
    try:
        score = None if exact is None else sketched_correlation(sketched, labels)
    except UndefinedScoreError:
        score = None
    if score is None:
        return dict.fromkeys(names)
    error = score.standard_error if score.standard_error is not None else score.measured_error
    holds = None if score.low is None else bool(score.low <= exact <= score.high)
    return dict(zip(names, (score.value, score.value - exact, error, score.low, score.high, holds), strict=True))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the seconds it took."""
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


def peak_added(run: Callable[[], Any]) -> int | None:
    """Peak host memory that a call adds to the memory in use before it, in bytes; None where it cannot be measured.

    Freed memory is first returned to the system, since it would not be counted when it is used again. On accelerators,
    whose memory this is not, and outside Linux the result is None and the call is not made.
    """

    def status(key: str) -> int:
        lines = (PROCESS / "status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])

    if jax.default_backend() != "cpu":
        return None
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")  # resets the high-water mark to the memory in use
        before = status("VmRSS")
    except (OSError, AttributeError, LookupError, ValueError):
        return None
    run()
    return max(0, status("VmHWM") - before)


def _checked_cells(kinds, dims, blocks, most_dim: Mapping[str, int]) -> list[tuple[str, int]]:
    """The pairs of kind and dimension, kind by kind, smallest dimension first. Raises ConfigError."""
    if isinstance(kinds, str):
        raise ConfigError(f"kinds={kinds!r} must be a sequence. Try: kinds=({kinds!r},)")
    kinds, dims = list(dict.fromkeys(kinds)), sorted(_integers("dims", dims, "256, 1024"))
    if not kinds:
        raise ConfigError(f"kinds= names no kind of sketch.{did_you_mean('', ALL_KINDS)}")
    for kind in most_dim:
        if kind not in ALL_KINDS:
            raise ConfigError(f"most_dim: there is no sketch {kind!r}.{did_you_mean(str(kind), ALL_KINDS)}")
    sketches = [Sketch(dim, kind, blocks=blocks) for kind in kinds for dim in dims if dim <= most_dim.get(kind, dim)]  # checks the values
    if not sketches:
        raise ConfigError(f"most_dim leaves no dimension: the smallest is {dims[0]}.")
    return [(sketch.kind, sketch.dim) for sketch in sketches]


def _integers(name: str, values, example: str) -> list[int]:
    """Distinct integers, at least one. Raises ConfigError."""
    numbers = list(values) if isinstance(values, Sequence | np.ndarray | range) and not isinstance(values, str) else []
    if not numbers or not all(map(is_whole, numbers)):
        raise ConfigError(f"{name}={values!r} must be a sequence of whole numbers, one at least. Try: {name}=({example})")
    return list(dict.fromkeys(map(int, numbers)))


def _check_experts(experts, layers: str, outputs: str) -> None:
    """Raises before any computation for what an expert lacks. Each expert is loaded for the check, and released."""
    if not isinstance(experts, Mapping) or not experts:
        raise ConfigError("experts= takes a mapping from names to experts, or to functions that load them, with at least one.")
    if not isinstance(layers, str):
        raise ConfigError(f"layers={layers!r} must be 'last_conv', 'all', or a regular expression over parameter paths.")
    if not isinstance(outputs, str) or outputs not in OUTPUTS:
        raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(str(outputs), OUTPUTS)}")
    for name, given in experts.items():
        expert = _loaded(name, given)
        if layers == "last_conv" and has_pooled_last_conv(expert) and expert.head is None and outputs != "features":
            raise ModelError(f"Expert {name!r} has no head, and so no gradient of outputs. Try: outputs='features'")
        expert_inputs(expert, layers, outputs)


def _loaded(name: str, given) -> Expert:
    expert = given if isinstance(given, Expert) else given() if callable(given) else given
    if not isinstance(expert, Expert):
        raise ConfigError(f"experts[{name!r}] gives a {type(expert).__name__}; expected an Expert, or a function that returns one.")
    return expert


def _check_inputs(x: np.ndarray, labels: np.ndarray, what: str) -> np.ndarray:
    if x.ndim == 0 or len(x) != len(labels):
        raise TaskError(f"The {what} have shape {x.shape} for {len(labels)} labels; each example needs one label.")
    return x
