"""Did memory run out, on the host or on a device?"""

import re

import jax

from ntk_select.errors import first_line

_SAID = re.compile(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)


class MemoryShrunkWarning(UserWarning):
    """Memory ran out, and the work goes on in smaller portions."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy or JAX says so."""
    return isinstance(error, MemoryError) or (isinstance(error, jax.errors.JaxRuntimeError) and _SAID.search(str(error)) is not None)


def in_words(error: BaseException) -> str:
    """What such an exception says, for the middle of a sentence."""
    return first_line(error).rstrip(".") or type(error).__name__
