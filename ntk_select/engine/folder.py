"""How does a folder hold one growing array, with all that says what it is of?

Beside the array lie a description (JSON) and done/, an empty file for each part that is there. What is marked but lost
counts for nothing; what belongs to another question is refused.
"""

import errno
import json
import os
from pathlib import Path

import numpy as np

from ntk_select.errors import ConfigError, DataError, first_line
from ntk_select.files import write_atomically

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def begin(folder: Path, described: dict, what: str) -> None:
    """Checks what the folder is of, or writes it down. A folder without marks is begun anew.

    Args:
      folder: is made if it is not there.
      described: the question, as plain values.
      what: name of the array: `what`.npy, `what`.json.

    Raises:
      ConfigError: the folder holds something else.
      DataError: the description cannot be read.
    """
    card, marks = folder / f"{what}.json", folder / "done"
    marks.mkdir(parents=True, exist_ok=True)
    some = any(marks.iterdir())
    if card.exists():
        written = _read(card, what)
        if written == described:
            return
        if some:
            raise ConfigError(
                f"{str(folder)!r} holds a {what} of something else (different: {_different(written, described)}). Type: out= another folder."
            )
    elif some or (folder / f"{what}.npy").exists():
        raise ConfigError(f"{str(folder)!r} holds files but no {what}.json. Type: out= another folder, or empty this one.")
    write_atomically(card, json.dumps(described, indent=1).encode())


def check_examples(known: np.ndarray, side: np.ndarray, end: int, name: str, folder: Path, what: str) -> None:
    """Raises ConfigError unless the first `end` examples, whose digests are `known`, are those of `side`."""
    common = min(end, len(side))
    differing = np.flatnonzero((known[:common] != side[:common]).any(axis=1))
    if len(differing):
        raise ConfigError(
            f"Example {differing[0]} of {name}, or its cotangents, is not the one whose {what} is in {str(folder)!r}; "
            "more examples may only follow the same ones. Type: out= another folder."
        )


def loaded(path: Path) -> np.ndarray | None:
    """A memory map of the array, or None if there is none that can be read."""
    try:
        return np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None


def enlarge(path: Path, before: np.ndarray | None, keep: tuple[slice, ...] | None, shape: tuple[int, ...], dtype) -> None:
    """A larger array that begins with what there is of the old one (at `keep`), put in its place at once."""
    part = path.with_name(f"{path.stem}.part.npy")
    try:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is said here; a memory map would end the process
            with part.open("r+b") as file:
                _reserve(file.fileno(), part.stat().st_size)
        if keep is not None:
            array[keep] = before[keep]
        array.flush()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _reserve(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise


def _read(card: Path, what: str) -> dict:
    try:
        return dict(json.loads(card.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{str(card)!r} is not a description of a {what}: {first_line(error)}. Type: out= another folder.") from error


def _different(written: dict, described: dict) -> str:
    """What differs, and how where that can be said in few words."""
    names = [name for name in described if written.get(name) != described[name]]
    if {"layers", "x1", "precision"}.intersection(names) and "fn" in names:
        names.remove("fn")  # its digest belongs to these layers, examples and precision
    short = {name: (written.get(name), described[name]) for name in names if name not in ("fn", "params", "layers")}
    return ", ".join(f"{name} ({short[name][0]!r} there, {short[name][1]!r} now)" if name in short else name for name in names)
