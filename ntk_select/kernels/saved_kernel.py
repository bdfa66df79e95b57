"""Kernel files: one .npz without pickles, with labels, class names and provenance."""

import io
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ntk_select._runtime.files import write_atomically
from ntk_select.errors import ConfigError, DataError, UndefinedScoreError, first_line
from ntk_select.kernels.alignment import kernel_label_correlation
from ntk_select.kernels.engine.certificate import certify
from ntk_select.kernels.sketches.correlation import SketchedScore, sketched_correlation
from ntk_select.kernels.sketches.sketched_kernel import SketchedKernel

KEYS = ("kernel", "labels", "class_names", "indices", "provenance")
MAX_ROWS = 4000  # eigenvalues of larger kernels are not computed: they may take longer than the kernel


@dataclass(frozen=True, eq=False)
class SavedKernel:
    """A kernel with its images and provenance.

    Attributes:
      kernel: (n, n), (n, n, c) or (n, n, c, c), as `ntk` returns it.
      labels: class ids, positions in `class_names`.
      class_names: names of the classes.
      indices: positions of the n images in the task's training set.
      provenance: how the kernel was computed, JSON-serialisable.
      layers: kernels of the layers by path, which add up to `kernel`; empty if they were not stored.
      sketch: Z (n, k) where `kernel` is the estimate Z Z'; None for exact kernels. `provenance["sketch"]` then holds its kind,
        dim, blocks, seed, the version (scheme) of its random numbers, and whether columns are directions (jvp).
    """

    kernel: Float[np.ndarray, "n n ..."]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    indices: Int[np.ndarray, " n"]
    provenance: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Float[np.ndarray, "n n ..."]] = field(default_factory=dict)
    sketch: Float[np.ndarray, "n k"] | None = None

    def __repr__(self):
        extra = f", {len(self.layers)} layers" if self.layers else ""
        extra += "" if self.sketch is None else f", sketched in {self.sketch.shape[1]} columns"
        made = "".join(f", {word} {self.provenance[key]}" for word, key in (("of", "expert"), ("made", "made")) if key in self.provenance)
        return f"SavedKernel({self.kernel.dtype} {self.kernel.shape}, {len(self.class_names)} classes{extra}{made})"

    def sketched(self) -> SketchedKernel | None:
        """The estimate with its error; None for an exact kernel.

        Raises:
          DataError: the provenance does not describe the sketch.
        """
        if self.sketch is None:
            return None
        try:
            which = self.provenance["sketch"]
            return SketchedKernel(self.sketch, which["kind"], which["blocks"], which["directions"])
        except (KeyError, TypeError, ConfigError) as error:
            raise DataError(f"The provenance does not describe the sketch ({first_line(error)}).") from error

    def summary(self) -> dict[str, Any]:
        """Summary statistics of the kernel, JSON-serialisable.

        Returns:
          shape, dtype; certificate (see `certify`; `certified` states whether it is of the class trace); correlation of the
          class trace with the labels (None if undefined); shares of the layers in the trace, in descending order. For a
          sketch also the estimate of the exact score: `score`, the correlation with its interval, and the predicted and
          measured relative errors of the kernel.
        """
        trace, shape = class_trace(self.kernel), self.kernel.shape
        whole = len(shape) == 2 or (len(shape) == 4 and shape[0] * shape[2] <= MAX_ROWS)
        certificate = certify(self.kernel if whole else trace)
        sketched = self.sketched()
        score = self._score(sketched)
        correlation = score.value if isinstance(score, SketchedScore) else score
        traces = {name: float(np.trace(class_trace(layer), dtype=np.float64)) for name, layer in self.layers.items()}
        total = sum(traces.values()) or 1.0
        said = {
            "shape": list(shape),
            "dtype": str(self.kernel.dtype),
            "certified": "kernel" if whole else "class trace",
            "certificate": asdict(certificate) | {"holds": certificate.holds, "jitter": certificate.jitter, "text": str(certificate)},
            "kernel_label_correlation": correlation,
            "shares": {name: traces[name] / total for name in sorted(traces, key=traces.get, reverse=True)},
        }
        if sketched is None:
            return said
        score = None if score is None else asdict(score)
        return said | {"score": score, "predicted_error": sketched.predicted_error(), "measured_error": sketched.measured_error()}

    def _score(self, sketched: SketchedKernel | None) -> float | SketchedScore | None:
        """Correlation with the labels; None if undefined."""
        try:
            if sketched is not None:
                return sketched_correlation(sketched, self.labels)
            return kernel_label_correlation(class_trace(self.kernel), self.labels)
        except UndefinedScoreError:
            return None

    def save(self, path: str | Path) -> Path:
        """Writes the .npz file atomically. Returns the path.

        The arrays are `kernel`, `labels`, `class_names`, `indices`, `provenance` (JSON text) and, if the kernels of the
        layers were stored, `layer_names` and `layer_kernels` (layers, n, n, ...); of a sketched kernel `sketch` (n, k).

        Raises:
          ConfigError: a suffix other than .npz, or an unwritable path.
        """
        path = Path(os.path.expanduser(path))
        if path.suffix != ".npz":
            raise ConfigError(f"{path.name!r} does not end in .npz. Try: kernel.npz")
        arrays = {
            "kernel": self.kernel,
            "labels": self.labels,
            "class_names": np.array(self.class_names, np.str_),
            "indices": self.indices,
            "provenance": np.array(json.dumps(self.provenance)),
        }
        if self.layers:
            arrays |= {"layer_names": np.array(list(self.layers), np.str_), "layer_kernels": np.stack(list(self.layers.values()))}
        if self.sketch is not None:
            arrays["sketch"] = self.sketch
        content = io.BytesIO()
        np.savez(content, **arrays)
        try:
            write_atomically(path, content.getbuffer())
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}. Try: another folder") from error
        return path


def class_trace(kernel: Float[np.ndarray, "n n ..."]) -> Float[np.ndarray, "n n"]:
    """Mean of the kernels of the outputs; a kernel (n, n) is unchanged."""
    if kernel.ndim == 4:
        kernel = np.diagonal(kernel, axis1=2, axis2=3)
    return kernel if kernel.ndim == 2 else kernel.mean(axis=2)


def load_kernel(path: str | Path) -> SavedKernel:
    """Loads a kernel written by `SavedKernel.save` or `ntk-select kernel --out`, without pickles.

    Raises:
      DataError: no such file, damaged, or something else.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise DataError(f"There is no file {str(path)!r}. Try: ntk-select kernel --expert NAME --task URI --out kernel.npz")
    arrays = _read(path)
    lacking = [key for key in KEYS if key not in arrays]
    if lacking:
        raise DataError(f"{path} is no saved kernel: it has the arrays {', '.join(sorted(arrays)) or '(none)'}, and lacks {', '.join(lacking)}.")
    _check(path, arrays)
    try:
        provenance = json.loads(str(arrays["provenance"]))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the provenance is not JSON ({error}).") from error
    if not isinstance(provenance, dict):
        raise DataError(f"{path}: the provenance is a {type(provenance).__name__}; it must be an object.")
    layers = dict(zip(arrays["layer_names"].tolist(), arrays["layer_kernels"], strict=True)) if "layer_names" in arrays else {}
    names, sketch = tuple(arrays["class_names"].tolist()), arrays.get("sketch")
    saved = SavedKernel(arrays["kernel"], arrays["labels"], names, arrays["indices"], provenance, layers, sketch)
    try:
        saved.sketched()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return saved


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:  # closed also where NumPy, given the path, would not
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array")
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # NumPy and zipfile raise many kinds on files that are something else
        raise DataError(f"{path} is not an .npz file that can be read ({first_line(error)}). Is it complete?") from error


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises DataError if arrays are invalid or inconsistent."""
    kernel, labels, names, indices = (arrays[key] for key in KEYS[:4])
    square = labels.ndim == 1 and kernel.shape[:2] == 2 * labels.shape and (kernel.ndim != 4 or kernel.shape[2] == kernel.shape[3])
    if kernel.dtype.kind != "f" or kernel.ndim not in (2, 3, 4) or not square:
        raise DataError(
            f"{path}: the kernel is {kernel.dtype} {kernel.shape} for labels {labels.shape}; allowed are floats (n, n), (n, n, c) and (n, n, c, c)."
        )
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{path}: class_names is {names.dtype} {names.shape}; it must be text (classes,).")
    if labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < len(names))).all():
        raise DataError(f"{path}: labels must be whole numbers from 0 to {len(names) - 1}, positions in class_names.")
    if indices.dtype.kind not in "iu" or indices.shape != labels.shape:
        raise DataError(f"{path}: indices is {indices.dtype} {indices.shape}; it must be whole numbers {labels.shape}.")
    if "layer_names" in arrays or "layer_kernels" in arrays:
        layers, kernels = arrays.get("layer_names", np.zeros(0)), arrays.get("layer_kernels", np.zeros(0))
        if layers.dtype.kind != "U" or layers.ndim != 1 or kernels.dtype.kind != "f" or kernels.shape != (*layers.shape, *kernel.shape):
            raise DataError(
                f"{path}: layer_names {layers.shape} and layer_kernels {kernels.shape} do not fit; each name needs a kernel {kernel.shape}."
            )
    if "sketch" in arrays:
        _check_sketch(path, kernel, arrays["sketch"])


def _check_sketch(path: Path, kernel: np.ndarray, sketch: np.ndarray) -> None:
    if sketch.dtype.kind != "f" or sketch.ndim != 2 or kernel.ndim != 2 or len(sketch) != len(kernel) or 0 in sketch.shape:
        raise DataError(f"{path}: the sketch is {sketch.dtype} {sketch.shape} for a kernel {kernel.shape}; it must be floats ({len(kernel)}, k).")
    squares = np.square(sketch, dtype=np.float64).sum(axis=1)
    if not np.allclose(np.diagonal(kernel), squares, rtol=1e-4, atol=1e-6 * squares.max()):
        raise DataError(f"{path}: the kernel is not that of the sketch: its diagonal differs from the squared norms of the rows.")
