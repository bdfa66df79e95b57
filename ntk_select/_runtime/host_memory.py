"""How much memory of the host is free, within the limits that this process is under?"""

import os
import sys
from pathlib import Path

UNLIMITED = 2**60
"""Bytes from which a limit is none: control groups write a huge number for it."""
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Bytes: what the machine has left, or what the control groups and resource limits of this process leave, if that is less."""
    return max(0, min([_of_machine(proc), *_of_groups(proc, groups), *_of_limits(proc)]))


def _of_machine(proc: Path) -> int:
    """What is available, files in memory that can be forgotten included; elsewhere than on Linux the pages that are free."""
    kilobytes = _table(proc / "meminfo", ":").get("MemAvailable", "").removesuffix("kB").strip()
    if kilobytes.isdecimal():
        return int(kilobytes) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**32


def _of_groups(proc: Path, groups: Path) -> list[int]:
    """For each control group around this process what its limit leaves; version 2, and version 1 with its folder for memory."""
    found = []
    for line in _lines(proc / "self" / "cgroup"):
        number, controllers, place = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            root, limit, used, forgettable = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used, forgettable = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        parts = [part for part in place.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):  # a container sees its own group at the root, and a path that is not there
            folder = root.joinpath(*parts[:depth])
            bound, now = _number(folder / limit), _number(folder / used)
            if bound is not None and now is not None and bound < UNLIMITED:
                spare = _table(folder / "memory.stat", " ").get(forgettable, "0").strip()
                found.append(bound - now + (int(spare) if spare.isdecimal() else 0))
    return found


def _of_limits(proc: Path) -> list[int]:
    """What `ulimit -v` and `ulimit -d` leave."""
    if sys.platform == "win32":
        return []
    import resource  # not everywhere

    pages = next(iter(_lines(proc / "self" / "statm")), "").split()
    used = {resource.RLIMIT_AS: 0, resource.RLIMIT_DATA: 5}  # columns: all of the address space, data and stack
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
