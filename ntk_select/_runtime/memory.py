"""Free memory of the host, and recognition of out-of-memory errors of Python, NumPy and JAX.

Four loops catch such an error, warn with `MemoryShrunkWarning` and continue in smaller portions: `kernels.engine.execute.compute_within_memory`
halves tiles, `kernels.sketches.execute` and `experts.forward` halve batches, `forecasting.kernel` takes the images in more portions.
"""

import os
import re
import sys
from pathlib import Path

from ntk_select.errors import MemoryShrunkWarning as MemoryShrunkWarning
from ntk_select.errors import first_line

UNLIMITED = 2**60
"""Limits of control groups from this number of bytes on mean "unlimited"."""
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Free memory in bytes: of the machine, or within the control groups and resource limits of this process if that is less."""
    return max(0, min([_of_machine(proc), *_of_groups(proc, groups), *_of_limits(proc)]))


def _of_machine(proc: Path) -> int:
    """Available memory including reclaimable page cache; on systems other than Linux, free pages."""
    kilobytes = _table(proc / "meminfo", ":").get("MemAvailable", "").removesuffix("kB").strip()
    if kilobytes.isdecimal():
        return int(kilobytes) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**32


def _of_groups(proc: Path, groups: Path) -> list[int]:
    """Free memory within the limit of each control group of this process, for versions 1 and 2."""
    found = []
    for line in _lines(proc / "self" / "cgroup"):
        number, controllers, place = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            root, limit, used, reclaimable = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used, reclaimable = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        parts = [part for part in place.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):  # a container sees its own group at the root, and a path that does not exist
            folder = root.joinpath(*parts[:depth])
            bound, now = _number(folder / limit), _number(folder / used)
            if bound is not None and now is not None and bound < UNLIMITED:
                spare = _table(folder / "memory.stat", " ").get(reclaimable, "0").strip()
                found.append(bound - now + (int(spare) if spare.isdecimal() else 0))
    return found


def _of_limits(proc: Path) -> list[int]:
    """Free memory within `ulimit -v` and `ulimit -d`."""
    if sys.platform == "win32":
        return []
    import resource  # not on Windows

    pages = next(iter(_lines(proc / "self" / "statm")), "").split()
    used = {resource.RLIMIT_AS: 0, resource.RLIMIT_DATA: 5}  # columns: address space; data and stack
    found = []
    for limit, column in used.items():
        bound = resource.getrlimit(limit)[0]
        if bound != resource.RLIM_INFINITY:
            found.append(bound - (int(pages[column]) * resource.getpagesize() if len(pages) > column else 0))
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    text = next(iter(_lines(file)), "").strip()
    return int(text) if text.isdecimal() else None


def _table(file: Path, between: str) -> dict[str, str]:
    return {name: value for name, found, value in (line.partition(between) for line in _lines(file)) if found}


_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy or JAX reports a lack of memory, on the host or on a device."""
    if isinstance(error, MemoryError):
        return True
    import jax  # here, so that measuring free memory does not need it

    return isinstance(error, jax.errors.JaxRuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def reason_of(error: BaseException) -> str:
    """The first line of an out-of-memory error without its full stop, for use within a sentence."""
    return first_line(error).rstrip(".") or type(error).__name__
