"""A model on few examples and few outputs, with the kernels and ordinary derivatives that the laws compare."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.engine.kernel import ntk
from ntk_select.engine.routes import hold
from ntk_select.engine.selection import leaf_names, select
from ntk_select.engine.structure import read_structure

EXAMPLES, OUTPUTS, ROWS_BYTES = 8, 3, 2**30
_NAMES = {2.0**-52: "float64", 2.0**-23: "float32", 2.0**-10: "float16", 2.0**-7: "bfloat16"}


class Subject:
    """fn with at most three outputs, at most eight examples, and one random cotangent `v` for each.

    Attributes:
      leaves: the chosen leaves; `names` are their paths.
      epsilon: of the coarsest floating-point type in which fn computes anything.
      tolerance: for two ways to the same number.
    """

    def __init__(self, fn: Callable, params: Any, x: np.ndarray, layers, precision: str, tolerance: float | None, rng: np.random.Generator):
        chosen = select(params, layers)
        self.all_outputs = read_structure(fn, params, x, chosen).outputs
        k = min(OUTPUTS, self.all_outputs)
        self.fn = fn if k == self.all_outputs else _mixed(fn, np.linalg.qr(rng.normal(size=(self.all_outputs, k)))[0])
        self.params, self.layers, self.precision, self.rng = params, layers, precision, rng
        self.structure = read_structure(self.fn, params, x, chosen)
        program = self.structure.program
        self.dtype = program.shapes[program.outputs[0]].dtype
        self._call, self.leaves, self._held = hold(self.fn, params, chosen)
        self.names = [leaf_names(params)[index] for index in chosen]
        gradient_bytes = sum(leaf.size for leaf in self.leaves) * np.dtype(self.structure.dtype).itemsize
        self.x = x[: max(2, min(EXAMPLES, ROWS_BYTES // (k * gradient_bytes)))]
        self.v = rng.normal(size=(len(self.x), k))
        types = {getattr(program.shapes[slot], "dtype", None) for step in program.steps for slot in step.outputs} | {self.dtype}
        self.epsilon = max(float(jnp.finfo(kind).eps) for kind in types if kind is not None and jnp.issubdtype(kind, jnp.floating))
        rounds = precision != "highest" and jax.default_backend() != "cpu"
        default = 1e-9 if self.epsilon < 1e-12 else 1e-4 if self.epsilon < 1e-6 else 0.1
        self.tolerance = tolerance or (max(default, 1e-2) if rounds else default)
        one = lambda leaves, held, example: self._call(leaves, held, example[None])[0]  # noqa: E731
        self._value = jax.jit(one)
        self._pull = jax.jit(lambda leaves, held, example, v: jax.vjp(lambda leaves: one(leaves, held, example), leaves)[1](v)[0])
        self._push = jax.jit(lambda leaves, held, example, u: jax.jvp(lambda leaves: one(leaves, held, example), (leaves,), (u,))[1])

    def __str__(self):
        examples = f"{len(self.x)} example{'' if len(self.x) == 1 else 's'}"
        outputs = (
            f"{self.v.shape[1]} random combinations of {self.all_outputs} outputs" if self.all_outputs > OUTPUTS else f"{self.all_outputs} outputs"
        )
        return f"{examples}, {outputs}, {_NAMES.get(self.epsilon, 'low precision')}"

    def kernel(self, outputs="trace", *, fn=None, params=None, x1=None, x2=None, **options):
        """From the engine, or with method= from another route."""
        given = (fn or self.fn, self.params if params is None else params, self.x if x1 is None else x1, x2)
        return ntk(*given, outputs=outputs, layers=self.layers, precision=self.precision, **options)

    @cached_property
    def full(self) -> np.ndarray:
        """The engine's full kernel."""
        return self.kernel("full")

    @cached_property
    def trace(self) -> np.ndarray:
        """The engine's trace kernel."""
        return self.kernel("trace")

    def together(self) -> np.ndarray:
        """fn of all examples at once, (n, k)."""
        return np.asarray(jax.jit(self._call)(self.leaves, self._held, self.x), np.float64)

    def values(self, leaves: list | None = None) -> np.ndarray:
        """fn of each example alone, (n, k)."""
        return np.stack([np.asarray(self._value(leaves or self.leaves, self._held, example), np.float64) for example in self.x])

    def pulled(self, index: int, v: np.ndarray) -> list:
        """J_i' v, by reverse mode."""
        return self._pull(self.leaves, self._held, self.x[index], jnp.asarray(v, self.dtype))

    def pushed(self, index: int, u: list) -> np.ndarray:
        """J_i u, by forward mode."""
        return np.asarray(self._push(self.leaves, self._held, self.x[index], u), np.float64)

    def gradients(self) -> list[list]:
        """J_i' v_i of each example."""
        return [self.pulled(index, v) for index, v in enumerate(self.v)]


def inner(left: list, right: list) -> float:
    """Inner product of two lists of arrays."""
    return sum(float((a.astype(jnp.promote_types(a.dtype, jnp.float32)) * b).sum()) for a, b in zip(left, right, strict=True))


def _mixed(fn: Callable, mix: np.ndarray) -> Callable:
    def mixed(params, x):
        outputs = fn(params, x)
        return outputs @ jnp.asarray(mix, outputs.dtype)

    return mixed
