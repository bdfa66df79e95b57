"""Which gradients of the outputs does the kernel pair, and how?

Everything that `outputs=` can say comes down to m cotangents an example and a way to pair them:
"trace" and "diagonal" pair each with its like, "full" pairs all with all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_select.errors import ConfigError, did_you_mean

OUTPUTS = ("trace", "full", "diagonal", "sum")


@dataclass(frozen=True, eq=False)
class Outputs:
    """What to pull back, and what to make of it.

    Attributes:
      pairing: "trace" (mean over the m pairs of like cotangents), "diagonal" (those pairs apart), "full" (all m x m).
      left, right: cotangents (n, m, c), one set an example, or (1, m, c), the same for all examples.
    """

    pairing: str
    left: np.ndarray
    right: np.ndarray

    @property
    def count(self) -> int:
        """m, the number of cotangents an example."""
        return self.left.shape[1]

    def kernel_shape(self, n1: int, n2: int) -> tuple[int, ...]:
        """Shape of the kernel of n1 by n2 examples."""
        return (n1, n2, *{"trace": (), "diagonal": (self.count,), "full": (self.count, self.count)}[self.pairing])


def read_outputs(outputs: Any, n1: int, n2: int | None, c: int, dtype) -> Outputs:
    """What `outputs=` means for n1 by n2 examples (n2 None: the same on both sides) with c outputs.

    Raises:
      ConfigError: an unknown word, or cotangents whose shape does not fit.
    """
    if isinstance(outputs, str):
        if outputs not in OUTPUTS:
            raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(outputs, OUTPUTS)} Or give cotangents (c,) or (n, c).")
        cotangents = np.ones((1, 1, c), dtype) if outputs == "sum" else np.eye(c, dtype=dtype)[None]
        return Outputs("trace" if outputs == "sum" else outputs, cotangents, cotangents)
    if isinstance(outputs, tuple):
        if n2 is None or len(outputs) != 2:
            raise ConfigError("A pair of cotangents (for x1, for x2) needs x2. Type: ns.ntk(fn, params, x1, x2, outputs=(v1, v2))")
        return Outputs("trace", _cotangents(outputs[0], n1, c, dtype, "x1"), _cotangents(outputs[1], n2, c, dtype, "x2"))
    left = _cotangents(outputs, n1, c, dtype, "x1")
    if n2 is not None and len(left) != 1:
        raise ConfigError("Cotangents (n, c) belong to x1; with x2 give both sides. Type: ns.ntk(fn, params, x1, x2, outputs=(v1, v2))")
    return Outputs("trace", left, left)


def _cotangents(values, n: int, c: int, dtype, side: str) -> np.ndarray:
    if np.iscomplexobj(values):
        raise ConfigError(f"outputs= takes real cotangents; those of {side} are complex.")
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"outputs= takes one of {', '.join(OUTPUTS)}, or numbers (c,) or (n, c); given: {type(values).__name__}.") from error
    if array.shape not in ((c,), (n, c)):
        raise ConfigError(f"The cotangents of {side} have shape {array.shape}; with {n} examples and {c} outputs give ({c},) or ({n}, {c}).")
    if not np.isfinite(array).all():
        raise ConfigError(f"The cotangents of {side} hold NaN or infinity.")
    return array[None, None] if array.ndim == 1 else array[:, None]
