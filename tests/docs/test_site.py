"""The documentation builds without warnings, and examples become notebooks."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_examples_become_notebooks(tmp_path):
    pytest.importorskip("jupytext")
    script = runpy.run_path(str(ROOT / "scripts/make_notebooks.py"))
    script["main"](tmp_path)
    files = sorted(tmp_path.glob("*.ipynb"))
    assert [file.stem for file in files] == sorted(path.stem for path in (ROOT / "scripts/examples").glob("*.py"))
    for file in files:
        cells = json.loads(file.read_text())["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert cells[0]["cell_type"] == "markdown"
        assert "".join(cells[0]["source"]).startswith("# ")
        assert "assert" in source
        assert all(cell["metadata"] == {} for cell in cells), "a title with = is read as metadata"
        compile(source, file.name, "exec")


@pytest.mark.nightly
def test_the_documentation_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ns.rank" in (tmp_path / "api/ranking.html").read_text()
    assert (tmp_path / "scripts/examples/01_rank_your_own_model.ipynb").exists()
    assert (tmp_path / "scripts/results/benchmark.html").exists()
