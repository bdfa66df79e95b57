"""Files: written whole or not at all, named safely, and recognised where something else lies in their place."""

import codecs
import os
import re
import secrets
from pathlib import Path

from ntk_select.errors import ConfigError

POINTER = re.compile(r"version https://(git-lfs|hawser)\.github\.com/spec/")
PAGE = re.compile(r"(<!--((?!-->).)*-->\s*)*<(!doctype\s+html|html|head|body|title|meta|script|\?xml(?!.*<svg))\b", re.DOTALL)
"""How a pointer of Git LFS begins, today's and the first, and how a web page or a store's refusal in XML begins. A drawing in SVG is none."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary file beside `path`, then renames it. A cut leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # two machines may share folder and number
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all. Raises ConfigError for a place that cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Give another folder with --out.") from error
    return path


def file_name(text: str) -> str:
    """A text as the name of one file or folder: what is neither letter, digit nor one of -_@. becomes an underscore, and it begins with no dot."""
    name = "".join(letter if letter.isalnum() or letter in "-_@." else "_" for letter in text)
    return f"_{name[1:]}" if name.startswith(".") else name or "_"


def what_instead(content: bytes) -> str | None:
    """What lies in the place of a file: a pointer of Git LFS or a web page.

    Args:
      content: the first kilobyte of the file, or more.

    Returns:
      What goes between the file's name and a full stop: "is a Git LFS pointer, not the file that it stands for. Type, in its repository: git lfs pull".
      None where the file is neither.
    """
    coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content[:1024].decode(coding, errors="replace").lstrip().lower()
    if POINTER.match(text):
        return "is a Git LFS pointer, not the file that it stands for. Type, in its repository: git lfs pull"
    if PAGE.match(text):
        return "is a web page, as a server sends in place of a file that is not there or needs a login. Fetch the file itself"
    return None
