"""Compares exact and sketched kernels of the embedded zoo.

    python scripts/benchmarks/compare_kernels.py                          # the embedded experts, six kinds; about half a minute for each on two cores
    python scripts/benchmarks/compare_kernels.py --only neu_steel-resnet_small --kinds countsketch gaussian --seeds 10
    python scripts/benchmarks/compare_kernels.py --layers all --per-class 5      # the whole network; the exact kernels take minutes

For each kind and dimension k: relative Frobenius error of the kernel, measured and by the law sqrt((1 + r) / k); error of
LGC; whether its interval contains the exact score; change of the order of the experts; time and memory. Writes into --out:
a figure (compare_kernels.png), all numbers (compare_kernels.json) and one file per expert in experts/. Resumable: existing
files are not computed again. Only ratios of times carry over to another machine.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import ntk_select as ns
from ntk_select._runtime.files import write_atomically
from ntk_select.cli.console import progress_bar
from ntk_select.cli.options import split
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, DataError, MissingDependencyError, did_you_mean
from ntk_select.kernels.compare import compare
from ntk_select.kernels.comparison import Comparison, merged
from ntk_select.kernels.comparison_plot import comparison_figure
from ntk_select.kernels.sketches.hashing import SCHEME
from ntk_select.kernels.sketches.projection import ALL_KINDS
from ntk_select.models import ZOO

CONSOLE = Console(width=190, highlight=False)


def main(
    task: str = "digits",
    only: tuple[str, ...] = (),
    kinds: tuple[str, ...] = ALL_KINDS,
    dims: tuple[int, ...] = (256, 1024, 4096, 16384),
    seeds: int = 3,
    per_class: int = 25,
    layers: str = "last_conv",
    dense_most: int = 4096,
    jvp_most: int = 1024,
    out: Path = Path("runs/compare_kernels"),
) -> Comparison:
    """Compares, prints a table and writes the files.

    Args:
      task: a task URI.
      only: names of experts; all by default.
      kinds: kinds of sketches.
      dims: numbers of columns.
      seeds: number of seeds, 0, 1, ...
      per_class: images per class.
      layers: last_conv, all, or a regular expression over parameter paths.
      dense_most: largest dimension for rademacher and gaussian, whose time grows with it.
      jvp_most: largest dimension for jvp, whose time grows with it most.
      out: folder for the figure and the numbers.
    """
    names = split(only) or list(ZOO)
    for name in names:
        if name not in ZOO:
            raise ConfigError(f"--only: there is no expert {name!r} in the zoo.{did_you_mean(name, ZOO)}")
    sample = ns.probe_sample(load_task(task), per_class=per_class)
    most = {"rademacher": dense_most, "gaussian": dense_most, "jvp": jvp_most}
    question = {
        "kinds": split(kinds),
        "dims": list(dims),
        "seeds": list(range(seeds)),
        "most_dim": most,
        "layers": layers,
    }
    parts = []
    with progress_bar("comparing") as progress:
        for place, name in enumerate(names):
            expert = ZOO[name]()
            x = np.asarray(expert.preprocess(sample.images))
            request = question | {"scheme": SCHEME, "weights": expert.card.sha256, "images": _digest(x, sample.labels)}
            file = out / "experts" / f"{name}.json"
            part = _stored(file, request)
            if part is None:

                def within(done: int, steps: int, what: str, place=place) -> None:
                    progress(place * steps + done, len(names) * steps, what)

                part = compare({name: expert}, x, sample.labels, **question, progress=within)
                write_atomically(file, _json({"asked": request, "comparison": part.to_dict()}))
            parts.append(part)
    comparison = merged(parts)
    what = f"{task}, {len(sample)} images, layers {layers}, experts: {len(names)}, seeds: {seeds}"
    _print(comparison, what)
    write_atomically(out / "compare_kernels.json", _json({"task": task, "per_class": per_class, **comparison.to_dict()}))
    print(f"wrote {out / 'compare_kernels.json'}")
    try:
        write_atomically(out / "compare_kernels.png", comparison_figure(comparison, title=f"Sketched and exact gradient kernels: {what}"))
        print(f"wrote {out / 'compare_kernels.png'}")
    except MissingDependencyError as error:
        print(f"No figure was written. {error}")
    return comparison


def _stored(file: Path, request: dict) -> Comparison | None:
    """The stored comparison of an equal request; None if there is none."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return Comparison.from_dict(record["comparison"]) if record["asked"] == request else None
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _json(value) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _print(comparison: Comparison, title: str) -> None:
    columns, rows = comparison.table()
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "kind" else "right")
    for row in rows:
        table.add_row(*row, end_section=row[0] != rows[min(len(rows) - 1, rows.index(row) + 1)][0])
    CONSOLE.print(table)
    exact = comparison.exact
    ranks = [cell.effective_rank for cell in exact]
    peaks = [cell.peak_bytes for cell in exact if cell.peak_bytes is not None]
    CONSOLE.print(
        f"exact: {np.median([cell.seconds for cell in exact]):.3f} seconds, kernel {np.mean([cell.bytes for cell in exact]) / 1e6:.3g} MB"
        + (f", peak {np.mean(peaks) / 1e6:.3g} MB" if peaks else "")
        + f"; r = (tr K)^2 / |K|^2 from {min(ranks):.2f} to {max(ranks):.2f}"
    )
    if comparison.slopes():
        CONSOLE.print("error falls with k to the power " + ", ".join(f"{slope:.2f} ({kind})" for kind, slope in comparison.slopes().items()))
    reasons = {}
    for cell in comparison.left_out:
        reasons.setdefault((cell.kind, cell.dim, cell.reason), []).append(cell.expert)
    for (kind, dim, reason), experts in reasons.items():
        CONSOLE.print(f"{kind}, {dim}: not for {', '.join(experts)}. {reason}", markup=False)


if __name__ == "__main__":
    tyro.cli(main)
