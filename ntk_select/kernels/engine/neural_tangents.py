"""Kernels by neural-tangents 0.6.5 on a current JAX, to cross-check the engine.

Its import fails on a current JAX only because some names were moved or removed. They are restored during the import and
removed afterwards. TensorFlow, which only `neural_tangents.experimental` needs, is never imported.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType

import jax
import jax.core
import jax.extend.core
import numpy as np
from jax.interpreters import ad

from ntk_select.errors import ConfigError, MissingDependencyError, did_you_mean, first_line, missing
from ntk_select.kernels.engine.arguments import Outputs, count_examples, some_examples
from ntk_select.kernels.engine.vector_product import hold

# Version of JAX -> implementations of neural-tangents 0.6.5 that give correct kernels on it.
TESTED_JAX = {
    "0.4.23": ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS", "STRUCTURED_DERIVATIVES"),
    "0.10.2": ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"),
    "0.12.0.1": ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"),
}
# Their numbers in neural-tangents. 0 (AUTO) is unreliable on CPU and GPU by its own documentation.
IMPLEMENTATIONS = {"JACOBIAN_CONTRACTION": 1, "NTK_VECTOR_PRODUCTS": 2, "STRUCTURED_DERIVATIVES": 3}
_AXES = {"trace": ((-1,), ()), "diagonal": ((), (-1,)), "full": ((), ())}
_NAME, _EXPERIMENTAL = "neural_tangents", "neural_tangents.experimental"
# NTK_VECTOR_PRODUCTS calls jax.numpy.size on shapes, which is deprecated.
_SIZE_OF_A_SHAPE = "size requires ndarray or scalar arguments"
_WAY_OUT = "Try: method='structured', which does not need neural-tangents."


def import_neural_tangents() -> ModuleType:
    """Imports `neural_tangents`; otherwise JAX and `sys.modules` are unchanged.

    Raises:
      MissingDependencyError: it is not installed, or cannot be imported on this JAX.
    """
    if sys.modules.get(_NAME) is not None:
        return importlib.import_module(_NAME)
    if not _installed():
        raise missing("neural-tangents", "method='neural-tangents'")
    _forget()
    try:
        with _names_it_expects():
            module = importlib.import_module(_NAME)
    except BaseException as error:
        _forget()
        if not isinstance(error, Exception):
            raise
        raise MissingDependencyError(
            f"neural-tangents cannot be imported on jax {jax.__version__} ({type(error).__name__}: {first_line(error)}); "
            f"it was tested with jax {', '.join(TESTED_JAX)}. {_WAY_OUT}"
        ) from error
    vars(module).pop("experimental", None)
    return module


def neural_tangents_kernel(
    fn, params, x1, x2, outputs: Outputs, chosen: tuple[int, ...], *, implementation: str = "JACOBIAN_CONTRACTION", batch_size: int | None = None
) -> np.ndarray:
    """The kernel by neural-tangents.

    Args:
      fn, params: fn(params, x) -> (n, c) or (n,), and any pytree of parameters.
      x1, x2: examples, arrays or pytrees of arrays with a leading axis of examples; x2 None means x1.
      outputs: cotangents, and how they are paired.
      chosen: indices into `jax.tree.leaves(params)` of the leaves to differentiate; the others are constants.
      implementation: a name in `IMPLEMENTATIONS`.
      batch_size: examples along each side of the computed blocks; None: all at once.

    Returns:
      On the host, in the type of fn's output, of shape `outputs.kernel_shape(n1, n2)`. The precision of products is the
      active `jax.default_matmul_precision`.

    Raises:
      ConfigError: the implementation is unknown, or gives wrong kernels on this JAX.
      MissingDependencyError: see `import_neural_tangents`.

    Reference: Novak et al. 2022.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ConfigError(f"implementation={implementation!r} is unknown.{did_you_mean(str(implementation), IMPLEMENTATIONS)}")
    if implementation == "STRUCTURED_DERIVATIVES" and implementation not in TESTED_JAX.get(jax.__version__, ()):
        able = " or ".join(version for version, works in TESTED_JAX.items() if implementation in works)
        raise ConfigError(
            f"STRUCTURED_DERIVATIVES of neural-tangents needs jax {able}, in an environment of its own; installed is jax {jax.__version__}. {_WAY_OUT}"
        )
    call, picked, held = hold(fn, params, chosen)
    kernel_of = jax.jit(partial(_block, import_neural_tangents(), call, outputs.pairing, IMPLEMENTATIONS[implementation]))
    mirrored = x2 is None
    plain = _is_identity(outputs.left) and _is_identity(outputs.right)
    left, right = _inputs(x1, None if plain else outputs.left), _inputs(x1 if x2 is None else x2, None if plain else outputs.right)
    n1, n2 = count_examples(left), count_examples(right)
    size1, size2 = (n if batch_size is None else min(batch_size, n) for n in (n1, n2))
    kernel = np.empty(outputs.kernel_shape(n1, n2), jax.eval_shape(call, picked, held, some_examples(x1, slice(1))).dtype)
    for i in range(0, n1, size1):
        for j in range(i if mirrored else 0, n2, size2):
            a, b = _part(left, i, size1), _part(right, j, size2)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", _SIZE_OF_A_SHAPE, DeprecationWarning)
                block = np.asarray(kernel_of(picked, held, a, None if mirrored and size1 == n1 else b))[: n1 - i, : n2 - j]
            kernel[i : i + size1, j : j + size2] = block
            if mirrored and j > i:
                kernel[j : j + size2, i : i + size1] = block.transpose(1, 0, *range(block.ndim - 1, 1, -1))
    return kernel


def _block(nt, call, pairing, implementation, picked, held, a, b):
    """One call of neural-tangents: examples alone, or examples and their cotangents."""

    def f(leaves, x):
        examples, cotangents = x
        out = call(leaves, held, examples)
        out = out if out.ndim == 2 else out[:, None]
        return out if cotangents is None else jax.numpy.einsum("nc,nmc->nm", out, cotangents.astype(out.dtype))

    trace_axes, diagonal_axes = _AXES[pairing]
    kernel_fn = nt.empirical_ntk_fn(f, trace_axes=trace_axes, diagonal_axes=diagonal_axes, vmap_axes=0, implementation=implementation)
    return kernel_fn(a, b, picked)


def _is_identity(cotangents: np.ndarray) -> bool:
    """Whether they are the rows of an identity, the same for all examples."""
    _, m, c = cotangents.shape
    return len(cotangents) == 1 and m == c and bool((cotangents[0] == np.eye(c)).all())


def _inputs(x, cotangents: np.ndarray | None):
    """Examples, and a set of cotangents for each or None."""
    return x, None if cotangents is None else np.broadcast_to(cotangents, (count_examples(x), *cotangents.shape[1:]))


def _part(inputs, first: int, size: int):
    """`size` examples from `first` on, padded with the last one: one shape, one compilation."""
    index = np.minimum(np.arange(first, first + size), count_examples(inputs) - 1)
    return some_examples(inputs, index)


def _installed() -> bool:
    try:
        return importlib.util.find_spec(_NAME) is not None
    except ImportError:
        return False


def _forget() -> None:
    """Removes the remains of a failed import from `sys.modules`."""
    for name in [name for name in sys.modules if name == _NAME or name.startswith(_NAME + ".")]:
        del sys.modules[name]


@contextmanager
def _names_it_expects() -> Iterator[None]:
    """Temporarily restores the names that neural-tangents imports and JAX has moved or removed."""
    util = ModuleType("jax.util")
    util.safe_map = lambda f, *args: [f(*each) for each in zip(*args, strict=True)]
    util.safe_zip = lambda *args: list(zip(*args, strict=True))
    moved = {name: value for name, value in vars(jax.extend.core).items() if not name.startswith("_")}
    places = (
        (vars(jax.core), moved),
        (vars(ad), {"zeros_like_p": object()}),  # a key in two tables that only STRUCTURED_DERIVATIVES reads
        (sys.modules, {"jax.util": util, _EXPERIMENTAL: ModuleType(_EXPERIMENTAL)}),
    )
    with ExitStack() as undo:
        for place, names in places:
            for name in names.keys() - place.keys():
                place[name] = names[name]
                undo.callback(place.pop, name, None)
        yield
