"""Options of the XLA compiler for single programs."""

from collections.abc import Mapping
from functools import lru_cache

import jax


def known_options(options: Mapping[str, str]) -> dict[str, str]:
    """Those of the options that the installed XLA accepts, as `jax.jit(..., compiler_options=)` takes them."""
    return {name: value for name, value in options.items() if _is_known(name, value)}


@lru_cache
def _is_known(name: str, value: str) -> bool:
    """Whether a trivial program compiles with the option."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
