"""`ntk-select bench`: scores and fine-tunes every expert on every task, on one machine or many."""

import sys
from dataclasses import asdict
from pathlib import Path

import tyro

from ntk_select.cli.console import duration, print_json, print_line, print_table, progress_bar, remark
from ntk_select.cli.options import (
    Address,
    Cpus,
    Executor,
    Flag,
    Gpus,
    Json,
    Track,
    TrackUri,
    Workers,
    check_writable,
    command_class,
    executor_options,
    group,
    split,
    tracker_of,
    typed,
)
from ntk_select.errors import ConfigError

MAX_SHOWN = 10
"""Failures that are printed one by one, at most."""


@command_class
class BenchRun:
    """Compute the cells that have no record yet. After an interruption the same command resumes."""

    config: tyro.conf.Positional[Path]
    """A TOML file, such as scripts/configs/smoke.toml."""
    out: Path
    """Folder of the records; all workers of a cluster must see it under this path."""
    executor: Executor = "local"
    workers: Workers = 0
    data: Path | None = None
    """Folder that replaces {data} in the config."""
    address: Address = None
    cpus: Cpus = 1
    gpus: Gpus = 0
    shard: str = "1/1"
    """i/n: this is the i-th of n runs on the same folder, as in a job array."""
    track: Track = None
    track_uri: TrackUri = None
    json: Json = False

    def run(self) -> int:
        """Runs the benchmark. Returns 1 if cells failed."""
        from ntk_select.benchmark import run

        shard, where = _shard(self.shard), executor_options(self)
        if self.data is not None and not self.data.expanduser().is_dir():
            raise ConfigError(f"--data {str(self.data)!r} is not a folder. Try: the folder that replaces {{data}} in the config")
        check_writable(self.out)
        options = {"data": self.data, "shard": shard, "track": tracker_of(self.track, self.track_uri), **where}
        with progress_bar("cells") as progress:
            found = run(self.config, self.out, progress=progress, **options)
        if self.json:
            print_json(asdict(found))
            return 1 if found.failed else 0
        rest = found.cells - found.before - found.now - len(found.failed)
        line = f"{found.cells:,} cells: {found.before:,} were done, {found.now:,} are new, {len(found.failed):,} failed"
        print_line(line + (f", {rest:,} belong to other shards" if rest else "") + f"; {found.seconds:,.0f} s.")
        for warning in found.warnings:
            remark(warning, "yellow")
        for error in list(dict.fromkeys(found.failed.values()))[:MAX_SHOWN]:
            remark(error, "red")
        print_line("Next: " + typed("bench", "status" if found.failed or rest else "report", str(self.out)))
        return 1 if found.failed else 0


def _shard(text: str) -> tuple[int, int]:
    try:
        number, count = map(int, text.split("/"))
    except ValueError as error:
        raise ConfigError(f"--shard {text!r} must be i/n. Try: --shard 1/4") from error
    return number, count


@command_class
class BenchPlan:
    """Estimate the cells, operations and hours of a benchmark before it is started."""

    config: tyro.conf.Positional[Path]
    """A TOML file."""
    data: Path | None = None
    """Folder that replaces {data} in the config."""
    measure: Flag = False
    """Time a few training steps of each architecture, which takes minutes for large networks, instead of one convolution."""
    json: Json = False

    def run(self) -> int:
        """Counts the operations of each architecture, measures the speed of this machine, and prints both."""
        from ntk_select.benchmark.plan import plan, total

        what = "measuring" if self.measure else "counting"

        def line(done: int, total: int, name: str) -> None:
            remark(f"{what} {name} ({done + 1} of {total})")

        with progress_bar(what) as progress:
            found = plan(self.config, data=self.data, measure=self.measure, progress=progress if sys.stderr.isatty() else line)
        if self.json:
            print_json({**asdict(found), "total": asdict(total(found))})
            return 0
        rows = [
            [
                " ".join(filter(None, (part.kind, part.role if part.role != part.kind else ""))),
                "" if part.kind == "all" else "all" if part.images is None else str(part.images),
                f"{part.cells:,}",
                f"{part.trained:.2e}",
                f"{part.passed:.2e}",
                f"{part.flops:.2e}",
                f"{part.hours:,.2f}",
            ]
            for part in (*found.parts, total(found))
        ]
        columns = ["cells", "images per class", "number", "images trained on", "passed forward", "FLOPs", "device-hours here, roughly"]
        speeds = ", ".join(f"{name} {speed.images_per_second:,.1f} images/s" for name, speed in found.speeds.items())
        skipped = f"; {found.skipped} pairs left out (source overlap)" if found.skipped else ""
        print_table(
            f"{found.experts} experts, {found.tasks} tasks{skipped}. Training on one device of this machine: {speeds}",
            columns,
            rows,
            right=columns[1:],
            optional=("images per class", "passed forward", "images trained on"),
        )
        for sentence in found.rough:
            print_line(sentence)
        return 0


@command_class
class BenchStatus:
    """Show the progress of a benchmark, its failures, and the time left."""

    folder: tyro.conf.Positional[Path]
    """The folder of bench run --out."""
    json: Json = False

    def run(self) -> int:
        """Reads the folder. Returns 1 if cells failed."""
        from ntk_select.benchmark.status import status

        found = status(self.folder)
        if self.json:
            rows = [
                {"kind": kind, "task": task, "cells": n, "done": done, "failed": failed} for (kind, task), (n, done, failed) in found.rows.items()
            ]
            print_json({**{name: value for name, value in asdict(found).items() if name != "rows"}, "rows": rows})
            return 1 if found.failed else 0
        rows = [[kind, task, f"{n:,}", f"{done:,}", f"{failed:,}"] for (kind, task), (n, done, failed) in found.rows.items()]
        rows.append(["all", "", f"{found.cells:,}", f"{found.done:,}", f"{found.failed:,}"])
        print_table(found.name, ["kind", "task", "cells", "done", "failed"], rows, right=("cells", "done", "failed"))
        for runner in found.runners:
            print_line(
                f"Running: {runner['executor']}, {runner['done']:,} of its {runner['wanted']:,} cells done, last heartbeat {runner['silent']:.0f} s ago."
            )
        if found.seconds_left is not None:
            print_line(f"About {duration(found.seconds_left)} left.")
        elif found.done + found.failed < found.cells:
            print_line("Not running. To resume, repeat the command that started it: " + typed("bench", "run", "CONFIG", "--out", str(self.folder)))
        for failure in found.failures[:MAX_SHOWN]:
            remark(f"{failure['task']}, {failure['expert']}, seed {failure['seed']}: {failure['error']}", "red")
        if len(found.failures) > MAX_SHOWN:
            remark(f"and {len(found.failures) - MAX_SHOWN} more, in {self.folder / 'failures'}")
        return 1 if found.failed else 0


@command_class
class BenchReport:
    """Write tables, figures and one HTML page of the results."""

    folder: tyro.conf.Positional[Path]
    """The folder of bench run --out."""
    out: Path | None = None
    """Folder of the report; by default FOLDER/report."""
    only: tuple[str, ...] = ()
    """Only these: figure_1 to figure_8, table_1 to table_4, scores, paired, ..."""
    json: Json = False

    def run(self) -> int:
        """Writes the report."""
        from ntk_select.benchmark.report.write import report

        with progress_bar("writing") as progress:
            paths = report(self.folder, self.out, only=split(self.only) or None, progress=progress)
        if self.json:
            print_json([str(path) for path in paths])
            return 0
        page = [path for path in paths if path.suffix == ".html"]
        print_line(f"wrote {len(paths)} files into {paths[0].parent}" + (f"; open {page[0]}" if page else ""))
        return 0


@command_class
class BenchPack:
    """Pack the records of a benchmark into a few small files, to archive or send."""

    folder: tyro.conf.Positional[Path]
    """The folder of bench run --out."""
    out: Path
    """Another folder; bench status and bench report read it like the first."""
    json: Json = False

    def run(self) -> int:
        """Packs the records."""
        from ntk_select.benchmark import Store

        store = Store(self.folder)
        store.manifest()
        check_writable(self.out)
        if self.out.expanduser().resolve() == store.folder.resolve():
            raise ConfigError(f"--out {str(self.out)!r} is the folder itself. Try: another folder")
        try:
            packed = store.pack(self.out)
        except OSError as error:
            raise ConfigError(f"--out {str(self.out)!r} cannot be written: {error.strerror}. Try: another folder") from error
        records, size = len(packed.done()), sum(file.stat().st_size for file in packed.folder.rglob("*") if file.is_file())
        if self.json:
            print_json({"folder": str(self.out), "records": records, "bytes": size})
            return 0
        print_line(f"{records:,} records in {self.out}, {size / 2**20:.1f} MB")
        return 0


Bench = group(
    "Bench",
    "Score and fine-tune every expert on every task: run, plan, status, report, pack.",
    run=BenchRun,
    plan=BenchPlan,
    status=BenchStatus,
    report=BenchReport,
    pack=BenchPack,
)
