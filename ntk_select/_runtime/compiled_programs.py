"""Compiled programs are kept for the next process, in JAX's persistent compilation cache."""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

from ntk_select._runtime.cache import default_folder

LARGEST = 2**30
"""Bytes of compiled programs in the folder of one kind of processor; the least recently used ones are deleted first."""
SHORTEST = 0.1
"""Seconds of compilation from which a program is kept."""


def keep_compiled_programs() -> None:
    """Sets JAX's variables of the environment for this process, before JAX is imported, and those that it starts. Variables that are set stay as they are.

    The programs of CPUs contain instructions that other processors may lack, so that each kind of processor has its own folder. Nothing is kept where the
    cache folder cannot be written.
    """
    folder = default_folder()
    if folder is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = folder / "programs" / _kind_of_processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    settings = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_COMPILATION_CACHE_MAX_SIZE": LARGEST,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": SHORTEST,
    }
    for name, value in settings.items():
        os.environ.setdefault(name, str(value))


def _kind_of_processor() -> str:
    """A short digest of the processor's model and instructions, as far as the system tells them."""
    known = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        known += sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256(repr(known).encode()).hexdigest()[:12]
