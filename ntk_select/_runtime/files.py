"""Atomic writing of files, safe file names, and detection of placeholders (Git LFS pointers, web pages)."""

import codecs
import os
import re
import secrets
from pathlib import Path

from ntk_select.errors import ConfigError

POINTER = re.compile(r"version https://(git-lfs|hawser)\.github\.com/spec/")
PAGE = re.compile(r"(<!--((?!-->).)*-->\s*)*<(!doctype\s+html|html|head|body|title|meta|script|\?xml(?!.*<svg))\b", re.DOTALL)
"""Beginnings of Git LFS pointers, and of web pages or XML error documents other than SVG."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary file next to `path`, then renames it: an interruption leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # machines that share the folder may have equal process ids
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> Path:
    """Writes a file atomically. Raises ConfigError if it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Try: another folder (--out)") from error
    return path


def file_name(text: str) -> str:
    """A safe name of a file or folder: all but letters, digits and -_@. become underscores, and so does a leading dot."""
    name = "".join(letter if letter.isalnum() or letter in "-_@." else "_" for letter in text)
    return f"_{name[1:]}" if name.startswith(".") else name or "_"


def describe_placeholder(content: bytes) -> str | None:
    """Describes a Git LFS pointer or a web page in place of a file.

    Args:
      content: the first kilobyte of the file, or more.

    Returns:
      The rest of an error sentence that begins with the file name, without its full stop: "is a Git LFS pointer, not the file itself. Try, in its
      repository: git lfs pull". None if the file is neither.
    """
    coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content[:1024].decode(coding, errors="replace").lstrip().lower()
    if POINTER.match(text):
        return "is a Git LFS pointer, not the file itself. Try, in its repository: git lfs pull"
    if PAGE.match(text):
        return "is a web page, as servers return for a missing file or a required login. Try: download the file itself"
    return None
