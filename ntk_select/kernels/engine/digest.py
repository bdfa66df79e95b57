"""Digests that tell one function, one set of parameters, one example from another, the same in every process.

A function is known by its program with the bytes of every constant, derivative rules of its own among them. Another
version of JAX may write the same function in other operations.
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
    """Changes with any operation of fn, with any constant in it, and with the chosen leaves.

    Not with the parameters, nor with names of functions. What a callback to Python does is not seen.
    """
    digest = hashlib.sha256(f"{[leaf.name for leaf in analysed.structure.leaves]}".encode())
    _feed_program(digest, analysed.structure.program, analysed.values)
    return digest.hexdigest()


def digest_of_program(fn: Callable[..., Any], *arguments: Any) -> str | None:
    """Changes with any operation of `fn` on arguments of these shapes, and with any constant in it. Cost: one trace.

    None where it calls back to Python, for what happens there is not in the program.
    """
    program, values = trace(fn, *arguments)
    if calls_python(program):
        return None
    digest = hashlib.sha256()
    _feed_program(digest, program, values)
    return digest.hexdigest()


def digest_of_params(params: Any) -> str:
    """Changes with the name, type, shape or any number of any leaf, chosen or not."""
    digest = hashlib.sha256()
    for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True):
        digest.update(f"{name} ".encode())
        _feed_array(digest, leaf)
    return digest.hexdigest()


def digests_of_examples(x: Any, cotangents: np.ndarray) -> UInt8[np.ndarray, "n 16"]:
    """One digest per example, of its numbers and of its cotangents (n or 1, m, c)."""
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
