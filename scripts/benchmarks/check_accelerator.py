"""Checks an accelerator against the CPU of the same machine: kernels, sketches, ranking, forecast, dynamics, fine-tuning; and times it.

    python scripts/benchmarks/check_accelerator.py                              # some minutes on a GPU or TPU
    python scripts/benchmarks/check_accelerator.py --out check.json             # writes check.json and check.md as well
    python scripts/benchmarks/check_accelerator.py --only ranking fine-tuning
    python scripts/benchmarks/check_accelerator.py --tiny --control             # must exit with 1: the CPU, rounded, plays the accelerator

Each part runs in a process of its own, in float32 and, except on a TPU, in float64, on the accelerator and on the CPU. Compared are the
accelerator with the CPU in each type, float32 with float64 on the CPU, two ways to the same number on one device, and a second call with the
first. Without an accelerator only the comparisons of the CPU alone are made, and the output says so. Exits with status 1 if a result is further
off than its tolerance or a check fails. Needs no network; the images are noise and scikit-learn's digits, the experts embedded ones.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from accelerator.compare import Name, Row, Run, rows_of
from accelerator.report import markdown, record, right, sentences, show
from accelerator.setting import Setting

HERE = Path(__file__).parent
Part = Literal["kernels", "sketches", "ranking", "forecast", "dynamics", "fine-tuning", "speed"]
PARTS: tuple[Part, ...] = ("kernels", "sketches", "ranking", "forecast", "dynamics", "fine-tuning", "speed")
ONLY_CPU = "there is only a CPU, which would be compared with itself"
PROBE = "import jax, json; d = jax.local_devices()[0]; print(json.dumps([d.device_kind, d.platform, jax.local_device_count()]))"


@dataclass(frozen=True)
class Accelerator:
    """All checks, one after the other."""

    only: tuple[Part, ...] = ()
    """Parts; all by default, on a CPU all but speed."""
    float64: bool = True
    """Whether float64 is compared as well."""
    tiny: bool = False
    """The smallest sizes that still compute everything, to try the script."""
    control: bool = False
    """Negative control: the CPU with weights and inputs rounded to TF32 plays the accelerator. Must exit with status 1."""
    size: int = 224
    """Pixels of the timed networks."""
    networks: tuple[str, ...] = ("resnet18", "resnet50")
    """The timed networks."""
    shapes: tuple[str, ...] = ("8x8", "1x128")
    """Examples x outputs of the timed kernels."""
    dense: int = 8192
    """Size of the matrix product that measures the peak."""
    limit: float = 600.0
    """Seconds after which a part in one setting has failed."""
    out: Path | None = None
    """A JSON file for the results, and a page in Markdown of the same name; both are written again after each part."""

    def run(self) -> bool:
        """Prints the tables. Returns whether nothing is off."""
        began = time.perf_counter()
        kind, platform, count = json.loads(_output([sys.executable, "-c", PROBE], _environment(), 300.0).splitlines()[-1])
        device = "the CPU, rounded to TF32: a negative control" if self.control else f"{kind} ({platform}, {count} of them; one is used)"
        alone = ONLY_CPU if platform == "cpu" and not self.control else ""
        devices = ({} if alone else {"Accelerator": device}) | {"CPU": f"{os.cpu_count()} cores of this machine"}
        print("; ".join(f"{role}: {name}" for role, name in devices.items()), flush=True)
        rows: list[Row] = []
        runs: dict[str, dict[Name, Run]] = {}
        for part in self.only or tuple(part for part in PARTS if not (part == "speed" and (alone or self.control))):
            runs[part] = self._part(part, alone, platform)
            rows += rows_of(part, runs[part])
            facts = {"devices": devices, "jax": version("jax"), "ntk-select": version("ntk-select"), "seconds": round(time.perf_counter() - began, 1)}
            lines = [*sentences(rows, devices, alone), f"jax {facts['jax']}, ntk-select {facts['ntk-select']}; {facts['seconds']:.0f} s in all."]
            if self.out is not None:  # after every part: a machine that is lent for minutes may be gone before the last
                self.out.write_text(json.dumps(record(rows, runs, lines, facts), indent=1))
                self.out.with_suffix(".md").write_text(markdown(rows, runs, lines, f"Checks on {device if not alone else 'a CPU alone'}"))
        show(rows, runs, lines)
        return right(rows)

    def _part(self, part: Part, alone: str, platform: str) -> dict[Name, Run]:
        """The four runs of a part, or why they were not made."""
        runs = {}
        for dtype in ("float32", "float64"):
            for role in ("accelerator", "CPU"):
                why = alone if role == "accelerator" else ""
                if not why and dtype == "float64":
                    why = self._without_float64(part, role, platform)
                if not why and part == "speed" and role == "CPU" and not alone:
                    why = "speed is measured on the accelerator alone"
                runs[role, dtype] = Run(missing=why) if why else self._run(part, role, dtype)
        return runs

    def _without_float64(self, part: Part, role: str, platform: str) -> str:
        if not self.float64:
            return "--no-float64"
        if part == "speed":
            return "speed is measured in float32"
        if role == "accelerator" and self.control:
            return "the control is in float32"
        return f"no float64 on this device ({platform})" if role == "accelerator" and platform != "gpu" else ""

    def _run(self, part: Part, role: str, dtype: str) -> Run:
        accelerator = role == "accelerator" and not self.control
        options = {"size": self.size, "networks": self.networks, "shapes": self.shapes, "dense": self.dense}
        setting = Setting(accelerator, dtype, self.tiny, role == "accelerator" and self.control, **options)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            try:
                in_process_of_its_own(part, setting, Path(name), self.limit)
            except ChildError as error:
                run = Run(missing=str(error), failed=True)
            else:
                facts = json.loads((Path(name) / "rows.json").read_text())
                with np.load(Path(name) / "values.npz") as values:
                    run = Run(tuple(facts.pop("rows")), dict(values), facts)
        print(f"  {part}, {role} {dtype}: {time.perf_counter() - began:.1f} s{', ' + run.missing if run.failed else ''}", flush=True)
        return run


class ChildError(RuntimeError):
    """A process of a part ended with an error."""


def in_process_of_its_own(part: Part, setting: Setting, folder: Path, limit: float) -> None:
    """Runs a part in a process that sees only its device and caches nothing.

    Raises:
      ChildError: it failed or took longer than `limit` seconds.
    """
    words = [sys.executable, "-m", "accelerator", part, json.dumps(asdict(setting)), str(folder)]
    environment = _environment() | {"JAX_ENABLE_X64": str(int(setting.dtype == "float64")), "NTK_SELECT_CACHE": str(folder / "cache")}
    _output(words, environment if setting.accelerator else environment | {"JAX_PLATFORMS": "cpu"}, limit)


def _environment() -> dict[str, str]:
    """Precision, cached programs and preallocated memory are those of nobody's shell."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_DEFAULT_MATMUL_PRECISION"}
    return kept | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def _output(words: list[str], environment: dict[str, str], limit: float) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, cwd=HERE, env=environment, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"took longer than {limit:g} s. Try: --limit {2 * limit:g}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildError(f"ended with status {done.returncode}: {last}. Try: --only one part, to see whether it fails alone")
    return done.stdout


def main(words: list[str] | None = None) -> int:
    """The exit status of the command."""
    return 0 if tyro.cli(Accelerator, args=words).run() else 1


if __name__ == "__main__":
    sys.exit(main())
