"""Outputs of the original network beside those of the converted one."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select.errors import DataError, ModelError, first_line
from ntk_select.experts.expert import Expert

from .weights import is_no_file_of_weights, read_whole

TOLERANCES = {"inputs": 1e-3, "images": 2e-2}
"""Largest difference that is allowed, as a share of the largest logit. Libraries resize images a little differently."""

BATCH = 16


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gave.

    Args:
      kind: "inputs" or "images".
      given: images (n, height, width, 3) in uint8, or the inputs of the network in float32.
      logits: (n, classes).
    """

    kind: str
    given: np.ndarray
    logits: np.ndarray


def as_outputs(given: str | Path | Mapping[str, Any]) -> Outputs:
    """Outputs from a `.npz` file or a mapping with `logits` and either `images` or `inputs`.

    Raises:
      ModelError: the file cannot be read, or the arrays are not of these names, types and shapes.
    """
    where = "check_logits" if isinstance(given, Mapping) else f"The file of logits {given}"
    arrays = dict(given) if isinstance(given, Mapping) else _read(Path(given), where)
    kinds = [kind for kind in TOLERANCES if kind in arrays]
    if "logits" not in arrays or len(kinds) != 1:
        raise ModelError(
            f"{where} holds {', '.join(map(str, arrays)) or 'nothing'}; it must hold logits (n, classes), and either images (uint8, n x height x width x 3) "
            "or inputs (float32, as the network takes them). Write it with: np.savez('logits.npz', inputs=x, logits=y)"
        )
    (kind,) = kinds
    try:
        images, logits = np.asarray(arrays[kind]), np.asarray(arrays["logits"], np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: {kind} and logits must be arrays of numbers ({first_line(error)}).") from error
    if kind == "inputs" and images.ndim == 4 and images.shape[1] == 3 != images.shape[3]:
        images = images.transpose(0, 2, 3, 1)
    typed = images.dtype == np.uint8 if kind == "images" else images.dtype.kind == "f"
    if not typed or images.ndim != 4 or images.shape[3] != 3 or logits.ndim != 2 or len(logits) != len(images) or not logits.size:
        raise ModelError(
            f"{where}: {kind} is {images.dtype} {images.shape} and logits {logits.shape}; allowed are images in uint8 (n, height, width, 3), or inputs in "
            "float32 (n, height, width, 3) or (n, 3, height, width), and logits (n, classes)."
        )
    if not np.isfinite(logits).all() or not np.abs(logits).max() > 0 or not np.isfinite(images).all():
        raise ModelError(f"{where}: {kind} and logits must be finite, and logits not all zero.")
    return Outputs(kind, images if kind == "images" else images.astype(np.float32), logits)


def _read(path: Path, where: str) -> dict[str, np.ndarray]:
    content = read_whole(path, where)
    if problem := is_no_file_of_weights(content[:1024]):
        raise ModelError(f"{where} {problem}.")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(
            f"{where} is no .npz file of numbers ({first_line(error)}). Write it with: np.savez('logits.npz', inputs=x, logits=y)"
        ) from error


def check_logits_of(expert: Expert, outputs: Outputs) -> str:
    """A sentence that says how far the expert's outputs are from those of the original.

    Raises:
      ModelError: they are further away than `TOLERANCES` allows, or of another shape.
    """
    try:
        inputs = np.asarray(expert.preprocess(outputs.given)) if outputs.kind == "images" else outputs.given
    except DataError as error:
        raise ModelError(f"The images beside the logits cannot be used: {error}") from error
    forward = jax.jit(expert.apply_fn)
    try:
        found = np.concatenate([forward(expert.variables, inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]).astype(
            np.float64
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"The network does not take the inputs {inputs.shape} beside the logits: {first_line(error)}") from error
    if found.shape != outputs.logits.shape:
        raise ModelError(
            f"The logits to check against are {outputs.logits.shape}, those of the converted network {found.shape}. Nothing was written."
        )
    share = np.abs(found - outputs.logits).max() / np.abs(outputs.logits).max()
    allowed = TOLERANCES[outputs.kind]
    if not share <= allowed:
        raise ModelError(
            f"The converted network does not give the logits that it should: the largest difference is {100 * share:.2g} % of the largest logit, "
            f"allowed are {100 * allowed:g} %. The original computes something else with the same tensors (strides, dilation, blurring, activation), "
            "or its input was made in another way. Nothing was written."
        )
    return f"Checked against {len(inputs)} outputs of the original: the largest difference is {100 * share:.2g} % of the largest logit."
