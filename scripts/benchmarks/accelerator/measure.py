"""Runs the checks of one part in this process: values, laws, repeatability, time, compilation, memory."""

import json
import time
from pathlib import Path

import jax
import numpy as np

from accelerator import dynamics, finetuning, forecast, kernels, ranking, sketches, speed
from accelerator.check import Check, distance
from accelerator.setting import Setting
from ntk_select.errors import MissingDependencyError, first_line

PARTS = {
    "kernels": kernels.checks,
    "sketches": sketches.checks,
    "ranking": ranking.checks,
    "forecast": forecast.checks,
    "dynamics": dynamics.checks,
    "fine-tuning": finetuning.checks,
    "speed": speed.checks,
}
COMPILED = "/jax/core/compile/backend_compile_duration"


def measure(part: str, setting: Setting, folder: Path) -> None:
    """Writes rows.json, with one row per check, and the values of the checks to `folder`."""
    rows, values = [], {}
    compiled = _compilations()
    try:
        for check in PARTS[part](setting):
            row, found = _measured(check, setting, compiled)
            values |= {f"{len(rows)}/{name}": value for name, value in found.items()}
            rows.append({"name": check.name, **row})
    except MissingDependencyError as error:
        rows.append({"name": part, "skipped": first_line(error)})
    np.savez(folder / "values.npz", **values)
    device = jax.local_devices()[0]
    facts = {"device": device.device_kind, "platform": device.platform, "devices": jax.local_device_count()}
    (folder / "rows.json").write_text(json.dumps({**facts, "peak_bytes": setting.peak, "memory_bytes": setting.memory, "rows": rows}))


def _measured(check: Check, setting: Setting, compiled: list[float]) -> tuple[dict, dict[str, np.ndarray]]:
    if check.bytes > setting.memory:
        return {"skipped": f"needs {check.bytes / 1e9:.1f} GB, the device has {setting.memory / 1e9:.1f}"}, {}
    before, began = sum(compiled), time.perf_counter()
    try:
        found = {name: np.asarray(value) for name, value in check.run().items()}
        first, compiling, again = time.perf_counter() - began, sum(compiled) - before, []
        for _ in range(check.repeats):
            began = time.perf_counter()
            repeated = check.run()
            again.append(time.perf_counter() - began)
        laws = check.laws(found)
    except MissingDependencyError as error:
        return {"skipped": first_line(error)}, {}
    except Exception as error:  # one check that fails leaves the others
        return {"failed": f"{type(error).__name__}: {first_line(error)}"}, {}
    row = {
        "first": first,
        "compiling": compiling,
        "again": min(again),
        "repeat": {name: distance(repeated[name], value) for name, value in found.items()},
        "laws": laws,
        "allowed": check.allowed,
        "order": check.order,
        "drawn": check.drawn,
    }
    if check.flops:
        row |= {"flops": check.flops, "tflops": check.flops / min(again) / 1e12, "peak": check.peak}
    return row, found


def _compilations() -> list[float]:
    """Seconds of every compilation from now on."""
    found: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: found.append(seconds) if event == COMPILED else None)
    return found
