"""How is a file written whole or not at all?"""

import os
import secrets
from pathlib import Path


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


def file_name(text: str) -> str:
    """A text as the name of one file or folder: what is neither letter, digit nor one of -_@. becomes an underscore, and it begins with no dot."""
    name = "".join(letter if letter.isalnum() or letter in "-_@." else "_" for letter in text)
    return f"_{name[1:]}" if name.startswith(".") else name or "_"
