"""Hooks of the documentation build: repository files as pages, notebooks, and public names as API entries.

Pages link to files of the repository by relative paths, so that the links also work where the repository is browsed. The site
contains those files under the same paths; a link that leaves docs/ is rewritten accordingly.
"""

import importlib
import inspect
import posixpath
import re
import runpy
import shutil
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "build" / "docs_package" / "ntk_select"
FROM_THE_REPOSITORY = (
    "scripts/results/*.md",
    "scripts/figures/*.png",
    "scripts/configs/*.toml",
    "scripts/*.py",
    "scripts/benchmarks/*.py",
    "scripts/README.md",
    "models/README.md",
    "data/README.md",
    "tests/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
)
LINK = re.compile(r"(\]\()([^)#\s:]+)([)#])")
ENTRY = re.compile(r"^::: ns\.([\w.]+)$", re.MULTILINE)


def on_startup(**_):
    """Copies the source into one package tree, for griffe, which reads files and imports nothing, and ignores paths that are created later."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for folder, place in (("ntk_select", "."), ("models", "models"), ("data", "data")):
        for file in (ROOT / folder).rglob("*.py"):
            copy = PACKAGE / place / file.relative_to(ROOT / folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def on_files(files, config):
    """Adds files of the repository, and each example as a page and as a notebook."""
    for pattern in FROM_THE_REPOSITORY:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls))
    notebooks = runpy.run_path(str(ROOT / "scripts" / "make_notebooks.py"))
    for path in notebooks["examples"]():
        place = path.relative_to(ROOT).with_suffix("").as_posix()
        page = f"[This page as a notebook]({path.stem}.ipynb)\n\n{notebooks['converted'](path, 'md')}"
        files.append(File.generated(config, f"{place}.ipynb", content=notebooks["converted"](path, "ipynb")))
        files.append(File.generated(config, f"{place}.md", content=page))
    return files


def on_page_markdown(markdown, page, **_):
    """Rewrites links that leave docs/, and writes entries of the API reference under the names that users import."""
    return ENTRY.sub(_entry, LINK.sub(lambda match: match[1] + _target(match[2], page.file.src_uri) + match[3], markdown))


def _target(link: str, page: str) -> str:
    """A relative link of a page, in the site."""
    here = posixpath.dirname(page)
    in_docs = not page.startswith(("scripts/", "models/", "data/", "tests/", "C"))
    target = posixpath.normpath(posixpath.join("docs" if in_docs else "", here, link))
    target = target.removeprefix("docs/")
    if target.startswith("scripts/examples/") and target.endswith(".py"):
        target = target.removesuffix(".py") + ".md"
    return posixpath.relpath(target, here or ".")


def _entry(match: re.Match) -> str:
    """The directive of mkdocstrings for a public name: its defining module, the public name as heading."""
    name = match[1]
    found = importlib.import_module("ntk_select")
    for part in name.split("."):
        found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    defined = f"{found.__module__}.{found.__qualname__}" if inspect.isclass(found) or inspect.isfunction(found) else f"ntk_select.{name}"
    return f'::: {defined}\n    options:\n      heading: "ns.{name}"\n      toc_label: "{name.rpartition(".")[2]}"'
