"""`ntk-select kernel --kind sketch --compare exact`: errors, time and memory of sketches of one expert's kernel by kind and dimension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ntk_select._runtime.files import write_atomically
from ntk_select.cli.console import print_json, print_line, print_table, progress_bar, remark
from ntk_select.cli.kernel_sketch import dims_of, kinds_of
from ntk_select.cli.sketch_comparison import compare
from ntk_select.cli.sketch_comparison_plot import comparison_figure
from ntk_select.cli.sketch_comparison_record import MEANINGS, Comparison
from ntk_select.errors import ConfigError, MissingDependencyError
from ntk_select.experts.expert import Expert
from ntk_select.kernels.sketches.hashing import SCHEME

if TYPE_CHECKING:
    from ntk_select.cli.kernel import Kernel


def compare_with_exact(command: Kernel, expert: Expert, x: np.ndarray, labels: np.ndarray, provenance: dict[str, Any]) -> int:
    """Compares, prints a table or JSON, and writes the numbers and a figure. Returns 1 where some sketch could not be had."""
    seeds = range(command.sketch_seed, command.sketch_seed + command.repeats)
    question = {"kinds": kinds_of(command), "dims": dims_of(command), "seeds": list(seeds), "blocks": command.blocks}
    with progress_bar("comparing") as progress:
        found = compare({expert.name: expert}, x, labels, layers=command.layers, outputs=command.outputs, progress=progress, **question)
    made = provenance | {"layers": command.layers, "outputs": command.outputs, "sketch": question | {"scheme": SCHEME}}
    record = found.to_dict() | {"provenance": made}
    files = [] if command.out is None else _saved(command, found, record, made)
    if command.json:
        print_json(record | {"files": [str(path) for path in files]})
    else:
        _print(command, found, made)
    for path in files:
        remark(f"wrote {path}")
    return 1 if found.left_out else 0


def _saved(command: Kernel, found: Comparison, record: dict[str, Any], made: dict[str, Any]) -> list[Path]:
    path = command.out.expanduser()
    try:
        write_atomically(path, (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Give another place.") from error
    figure = path.with_suffix(".png")
    title = f"{command.expert} on {made['task']['name']}: sketched and exact kernel, layers {command.layers}"
    try:
        write_atomically(figure, comparison_figure(found, title=title))
    except (MissingDependencyError, ConfigError, OSError) as error:
        remark(f"No figure was written. {error}")
        return [path]
    return [path, figure]


def _print(command: Kernel, found: Comparison, made: dict[str, Any]) -> None:
    (exact,) = found.exact
    columns, rows = found.table()
    seeds = f"{command.repeats} seed{'s' if command.repeats > 1 else ''}"
    if rows:
        title = f"{exact.expert} on {made['task']['name']}: sketched and exact kernel of {exact.images} images, layers {command.layers}, {seeds}"
        print_table(title, columns, rows, right=columns[1:])
        known = [f"{column}: {MEANINGS[column]}" for column in columns if column in MEANINGS]
        print_line(f"Columns, errors as root mean squares over seeds. {'; '.join(known)}.")
    peak = "" if exact.peak_bytes is None else f", {exact.peak_bytes / 1e6:.3g} MB at most"
    score = "has no value" if exact.correlation is None else f"{exact.correlation:.4f}"
    print_line(f"Exact: LGC {score}, in {exact.seconds:.3f} s{peak}; the kernel takes {exact.bytes / 1e6:.3g} MB.")
    print_line(f"Law: sqrt((1 + r) / k), r = (tr K)^2 / |K|^2 = {exact.effective_rank:.2f} of at most {exact.images}.")
    if found.slopes():
        print_line("Error falls with k to the power: " + ", ".join(f"{slope:.2f} ({kind})" for kind, slope in found.slopes().items()) + ".")
    for cell in found.left_out:
        print_line(f"{cell.kind}, {cell.dim} columns: {cell.reason}", style="red")
    if command.out is None:
        print_line("Next, to keep it with a figure: " + command.again("--out", "comparison.json"))
        return
    best = ("--sketch", kinds_of(command)[0], "--dim", str(max(dims_of(command))), "--out", "kernel.npz")
    print_line("Next, one of these kernels itself: " + command.again(*best, without=("sketch", "dim", "compare", "repeats")))
