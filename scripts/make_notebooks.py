"""Writes the examples as Jupyter notebooks. Needs jupytext, of the dependency group `docs`.

    python scripts/make_notebooks.py                       # into runs/notebooks, not executed
    python scripts/make_notebooks.py --out FOLDER

`make docs` puts the same notebooks next to the pages of the examples.
"""

from pathlib import Path

import jupytext
import nbformat
import tyro

EXAMPLES = Path(__file__).parent / "examples"


def examples() -> list[Path]:
    """The example scripts, in order."""
    return sorted(EXAMPLES.glob("[0-9]*.py"))


def converted(path: Path, format: str) -> str:
    """An example in another format of jupytext: "ipynb" or "md". The docstring becomes the title and text of the first cell."""
    notebook = jupytext.read(path, fmt="py:percent")
    first = notebook.cells[0]
    title, _, text = first.source.strip().strip('"').strip().partition("\n")
    first.cell_type = "markdown"
    first.source = f"# {title.rstrip('.')}\n{text}".rstrip()
    for key in ("execution_count", "outputs"):
        first.pop(key, None)
    cells = []
    for cell in notebook.cells:
        if heading := cell.metadata.pop("title", None):
            sentence, _, text = heading.partition(". ")
            cells.append(nbformat.v4.new_markdown_cell(f"## {sentence.rstrip('.')}\n\n{text}".rstrip()))
        cells.append(cell)
    for index, cell in enumerate(cells):
        cell.id = f"cell-{index}"  # not random: the same example gives the same notebook
    notebook.cells = cells
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return jupytext.writes(notebook, fmt=format if format == "ipynb" else "markdown")


def main(out: Path = Path("runs/notebooks")) -> None:
    """Writes all notebooks.

    Args:
      out: folder for the notebooks.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in examples():
        file = out / f"{path.stem}.ipynb"
        file.write_text(converted(path, "ipynb"), encoding="utf-8")
        print(f"wrote {file}")


if __name__ == "__main__":
    tyro.cli(main)
