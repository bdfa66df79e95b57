"""How much memory does a call add to what the process holds already? Linux tells; elsewhere nothing does."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

PROCESS = Path("/proc/self")


def peak_added(run: Callable[[], Any]) -> int | None:
    """Bytes of host memory at the highest point of a call, beyond those before it; None where that cannot be known.

    Memory that was freed is first given back to the system, since it would not be counted when it is used again. None on
    accelerators, whose memory this is not; the call is then not made.
    """
    if jax.default_backend() != "cpu":
        return None
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")  # the high-water mark is now what is held
        before = _status("VmRSS")
    except (OSError, AttributeError, LookupError, ValueError):
        return None
    run()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    """A line of the process's status, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])
