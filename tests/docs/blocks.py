"""Fenced code blocks of README.md and docs/, with their markers.

A comment in front of a block says how it is tested: `<!-- test: nightly -->` runs it in nightly tests only, `<!-- test: parse -->` never.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- test: (?P<marker>\w+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
GROUPS = ("bench", "zoo", "tasks", "scores")
"""Commands of `ntk-select` that have commands of their own."""


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    page: str
    line: int
    language: str
    marker: str | None
    code: str


def blocks(*languages: str) -> list[Block]:
    """All blocks in one of these languages."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(Block(str(path.relative_to(ROOT)), line, match["language"], match["marker"], match["code"]))
    return [block for block in found if block.language in languages]


def commands() -> list[tuple[str, list[str]]]:
    """Each `ntk-select` command line as (where it is, its words without the program's name)."""
    found = []
    for block in blocks("console", "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ ").removesuffix("&"), comments=True)
            if "ntk-select" in words:
                found.append((f"{block.page}:{block.line}", words[words.index("ntk-select") + 1 :]))
    return found
