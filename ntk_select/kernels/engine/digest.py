"""SHA-256 digests of functions, parameters and examples, reproducible across processes.

The digest of a function covers its program and the bytes of every constant, those of custom derivative rules included.
Another version of JAX may trace the same function to other operations.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from ntk_select.kernels.engine.arguments import count_examples, leaf_names
from ntk_select.kernels.engine.program import Program, calls_python, trace
from ntk_select.kernels.engine.structure import Analysed


def digest_of_function(analysed: Analysed) -> str:
    """Depends on every operation and constant of fn and on the selected leaves.

    It does not depend on the parameters, on function names, or on the code of Python callbacks.
    """
    digest = hashlib.sha256(f"{[leaf.name for leaf in analysed.structure.leaves]}".encode())
    _feed_program(digest, analysed.structure.program, analysed.values)
    return digest.hexdigest()


def digest_of_program(fn: Callable[..., Any], *arguments: Any) -> str | None:
    """Depends on every operation and constant of `fn` for arguments of these shapes; None if fn has Python callbacks.

    Cost: one trace.
    """
    program, values = trace(fn, *arguments)
    if calls_python(program):
        return None
    digest = hashlib.sha256()
    _feed_program(digest, program, values)
    return digest.hexdigest()


def digest_of_params(params: Any) -> str:
    """Depends on the path, dtype, shape and every number of every leaf."""
    digest = hashlib.sha256()
    for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True):
        digest.update(f"{name} ".encode())
        _feed_array(digest, leaf)
    return digest.hexdigest()


def digests_of_examples(x: Any, cotangents: np.ndarray) -> UInt8[np.ndarray, "n 16"]:
    """One digest per example, of its numbers and its cotangents (n or 1, m, c)."""
    shared, rows = len(cotangents) == 1, []
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    for index in range(count_examples(x)):
        digest = hashlib.sha256()
        for leaf in leaves:
            digest.update(leaf[index].tobytes())
        digest.update(cotangents[0 if shared else index].tobytes())
        rows.append(np.frombuffer(digest.digest()[:16], np.uint8))
    return np.stack(rows)


def _feed_program(digest, program: Program, values) -> None:
    digest.update(re.sub(" at 0x[0-9a-f]+", "", repr(program.key)).encode())
    for value in values:
        _feed_array(digest, value)


def _feed_array(digest, value) -> None:
    if jnp.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    digest.update(f"{array.dtype}{list(array.shape)} ".encode())
    digest.update(array.tobytes())
