"""Pages, READMEs and the API reference refer to what exists, name all that is public, and stay short."""

import importlib
import re
from pathlib import Path

import pytest

import ntk_select as ns

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
ROOMS = [*ROOT.glob("ntk_select/**/README.md"), ROOT / "models/README.md", ROOT / "data/README.md", ROOT / "tests/README.md"]
PAGES = [*DOCS, *ROOMS, *ROOT.glob("*.md"), *ROOT.glob("scripts/**/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(path):
    """Identifiers of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings():
    for page in PAGES:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target, _, anchor = link.partition("#")
            assert link.startswith("https://") or (page.parent / target).exists(), (page.name, link)
            assert not anchor or link.startswith("https://") or anchor in anchors(page.parent / target if target else page), (page.name, link)


def test_files_that_pages_name_exist():
    named = re.compile(r"\b((?:scripts|tests|models|data|ntk_select|docs)/[\w/]+\.(?:py|toml|png|md))\b")
    for page in PAGES:
        for place in named.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / place).exists() or (page.parent / place).exists(), (page.name, place)


def test_the_readmes_are_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100] == []
    assert len((ROOT / "scripts/README.md").read_text(encoding="utf-8").splitlines()) <= 40
    assert all(len(room.read_text(encoding="utf-8").splitlines()) <= 20 for room in ROOMS)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in DOCS if f": {page.relative_to(ROOT / 'docs').as_posix()}\n" not in navigation] == []
    assert len(DOCS) > 25


def test_every_script_is_in_the_readme_and_every_example_in_the_list():
    readme, listed = (ROOT / "scripts/README.md").read_text(encoding="utf-8"), (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    scripts = [*ROOT.glob("scripts/*.py"), *ROOT.glob("scripts/benchmarks/*.py"), *ROOT.glob("scripts/configs/*.toml")]
    examples = list(ROOT.glob("scripts/examples/*.py"))
    assert (len(scripts) > 20, len(examples)) == (True, 10)
    assert [file.name for file in scripts if f"{file.name}`" not in readme] == []
    assert [file.name for file in examples if f"examples/{file.name})" not in listed] == []


def test_the_reference_has_every_public_name_once():
    entries = re.findall(r"^::: ns\.(.+)$", "\n".join(page.read_text(encoding="utf-8") for page in DOCS), re.M)
    assert len(entries) == len(set(entries))
    modules = {"linearized", "scores", "evaluate", "errors"}
    public = {name for name in ns.__all__ if name not in modules}
    public |= {f"{module}.{name}" for module in ("linearized", "scores", "evaluate") for name in getattr(ns, module).__all__}
    public |= {f"errors.{name}" for name, value in vars(ns.errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert public - set(entries) == set()
    for name in set(entries) - public:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(f"ntk_select.{module}"), last), name


def test_messages_of_the_faq_are_those_of_the_code():
    """Each heading is a message with `...` for names and numbers; its pieces are in the source."""
    files = [file for folder in ("ntk_select", "models", "data") for file in (ROOT / folder).rglob("*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    text = re.sub(r'"\s*\n\s*f?"', "", source)  # literals over several lines
    messages = [heading for heading in re.findall(r"^## `(.+)`$", (ROOT / "docs/faq.md").read_text(encoding="utf-8"), re.M)]
    assert len(messages) > 8
    for message in messages:
        pieces = [piece.strip(" '") for piece in re.split(r"\.\.\.|ResNet|float64", message)]
        assert all(piece in text for piece in pieces), message


@pytest.mark.parametrize("place", ["docs/index.md", "README.md"])
def test_first_pages_name_the_two_commands(place):
    text = (ROOT / place).read_text(encoding="utf-8")
    assert "make demo" in text
    assert "ntk-select rank --task my_images" in text
