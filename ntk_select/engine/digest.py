"""What tells one function, one set of parameters, one example from another? Digests that are the same in every process.

A function is known by the program of its outputs and of its gradients, walked operation by operation with the bytes of
every constant, so that derivative rules of its own count too. How JAX prints programs does not matter (it shortens
arrays, and colours what goes to a terminal); another version of JAX may write the same function in other operations.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.engine.program import run
from ntk_select.engine.selection import leaf_names
from ntk_select.engine.structure import Structure


def digest_of_function(structure: Structure) -> str:
    """Changes with any operation of fn or of its gradients in the chosen leaves, and with any constant in them.

    Not with the parameters, nor with names of functions. What a callback to Python does is not seen.

    Cost: one trace of the backward pass; nothing is compiled.
    """
    program, chosen = structure.program, [leaf.index for leaf in structure.leaves]

    def both_ways(arguments, cotangent):
        def outputs(picked):
            merged = list(arguments)
            for index, leaf in zip(chosen, picked, strict=True):
                merged[index] = leaf
            return run(program, program.values, merged)[program.outputs[0]]

        out, pull = jax.vjp(outputs, [arguments[index] for index in chosen])
        return out, pull(cotangent)

    digest = hashlib.sha256(f"{[leaf.name for leaf in structure.leaves]}".encode())
    _feed(digest, jax.make_jaxpr(both_ways)([program.shapes[slot] for slot in program.inputs], program.shapes[program.outputs[0]]))
    return digest.hexdigest()


def digest_of_program(fn: Callable[..., Any], *arguments: Any) -> str | None:
    """Changes with any operation of `fn` on arguments of these shapes, and with any constant in it. Cost: one trace.

    None where it calls back to Python, for what happens there is not in the program.
    """
    program = jax.make_jaxpr(fn)(*arguments)
    if _calls_python(program.jaxpr):
        return None
    digest = hashlib.sha256()
    _feed(digest, program)
    return digest.hexdigest()


def _calls_python(jaxpr) -> bool:
    inner = (getattr(part, "jaxpr", part) for eqn in jaxpr.eqns for part in jax.tree.leaves(list(eqn.params.values())))
    return any("callback" in eqn.primitive.name for eqn in jaxpr.eqns) or any(_calls_python(part) for part in inner if hasattr(part, "eqns"))


def digest_of_params(params: Any) -> str:
    """Changes with the name, type, shape or any number of any leaf, chosen or not."""
    digest = hashlib.sha256()
    for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True):
        digest.update(f"{name} ".encode())
        _feed_array(digest, leaf)
    return digest.hexdigest()


def digests_of_examples(x: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
    """(n, 16) bytes, one digest an example, of its numbers and of its cotangents (n or 1, m, c)."""
    shared, rows = len(cotangents) == 1, []
    for index, example in enumerate(x):
        digest = hashlib.sha256(example.tobytes())
        digest.update(cotangents[0 if shared else index].tobytes())
        rows.append(np.frombuffer(digest.digest()[:16], np.uint8))
    return np.stack(rows)


def _feed(digest, value) -> None:
    """Everything in a setting of an operation; programs inside it are walked, other objects stand for their text."""
    if hasattr(value, "jaxpr") and hasattr(value, "consts"):
        _feed(digest, [value.jaxpr, *value.consts])
    elif hasattr(value, "eqns"):
        _feed_program(digest, value)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(f"{key}=".encode())
            _feed(digest, value[key])
    elif isinstance(value, (set, frozenset)):
        _feed(digest, sorted(map(str, value)))
    elif isinstance(value, (tuple, list)):
        digest.update(f"({len(value)} ".encode())
        for part in value:
            _feed(digest, part)
    elif hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "__array__"):
        _feed_array(digest, value)
    elif callable(value) and not isinstance(value, type):
        digest.update(b"function ")  # of a rule that was not taken, for there is nothing to differentiate
    else:
        digest.update(f"{type(value).__name__} {re.sub('0x[0-9a-f]+', '', str(value))} ".encode())


def _feed_program(digest, jaxpr) -> None:
    numbers = {}

    def feed_atoms(atoms):
        for atom in atoms:
            if hasattr(atom, "val"):
                digest.update(b"literal ")
                _feed_array(digest, atom.val)
            else:
                digest.update(f"{numbers.setdefault(atom, len(numbers))}:{atom.aval} ".encode())

    feed_atoms((*jaxpr.constvars, *jaxpr.invars))
    for eqn in jaxpr.eqns:
        digest.update(f"\n{eqn.primitive.name} ".encode())
        feed_atoms(eqn.invars)
        _feed(digest, {key: value for key, value in eqn.params.items() if key != "name"})
        feed_atoms(eqn.outvars)
    digest.update(b"\n-> ")
    feed_atoms(jaxpr.outvars)


def _feed_array(digest, value) -> None:
    if jnp.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    digest.update(f"{array.dtype}{list(array.shape)} ".encode())
    digest.update(array.tobytes())
