"""Cores and decoding threads of this machine."""

import os


def cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Number of threads that decode images: two per core, at most sixteen."""
    return min(2 * (os.cpu_count() or 1), 16)
