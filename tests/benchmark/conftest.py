"""Shared by the tests of the benchmark: configs, synthetic cells, and a zoo of small experts with a task of a few images."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import pytest

from ntk_select import Card, Preprocess
from ntk_select.benchmark import Store
from ntk_select.models import build, initialise
from ntk_select.models.expert_folder import write_expert

SHAPE = {"stage_sizes": [1], "widths": [3], "stem": "small"}
CODE = """
import os
import signal
os.setsid()
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores, with all that it starts
os.environ.update(environment)
from ntk_select.benchmark import run
run(**options)
"""
CLOCKS = ("_seconds", "images_per_second")
"""Ends of names of columns that no two runs have in common."""


@pytest.fixture
def write(tmp_path):
    """write(text, "name") gives the path of a config."""

    def to_file(text: str, name: str = "bench") -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return path

    return to_file


@pytest.fixture
def synthetic(write):
    """synthetic(experts=2, seconds=0.1) gives the path of a config of synthetic cells."""

    def to_file(*, seeds=(0,), name: str = "synthetic", **fields) -> Path:
        lines = [f"{key} = {value}" for key, value in ({"experts": 4, "tasks": 3} | fields).items()]
        return write(f"finetune_seeds = {list(seeds)}\n[synthetic]\n" + "\n".join(lines), name)

    return to_file


@pytest.fixture(scope="session")
def numbers():
    """numbers(folder): everything that the records of a folder hold, by kind and key, but how long things took."""

    def read(folder) -> dict[tuple, dict]:
        store, found = Store(folder), {}
        for kind in ("score", "truth", "kernel", "synthetic"):
            for row in store.read(kind).to_pylist():
                where = (kind, row["key"], row.get("score", "") if kind == "score" else "")
                assert where not in found
                found[where] = {name: value for name, value in row.items() if not name.endswith(CLOCKS)}
        return found

    return read


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """The folder of three small experts: `ash` and `elm` of trees, `oak` of shapes, begun from `elm`."""
    place, rng = tmp_path_factory.mktemp("zoo"), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=2, **SHAPE), size=8), jax.random.key(0))
    for name, source, begun in (("ash", "trees", None), ("elm", "trees", None), ("oak", "shapes", "elm")):
        variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
        card = Card(name, "resnet18", source, Preprocess(size=8), "", 2, config=SHAPE, initialised_from=begun)
        write_expert(place / name, variables, card)
    return place


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of things.npz: 24 dark and bright images, and eight of them as a test set."""
    place, labels = tmp_path_factory.mktemp("data"), np.repeat([0, 1], 12)
    images = np.random.default_rng(1).integers(0, 100, (24, 8, 8), dtype=np.uint8)
    images[labels == 1] += 60
    names = np.array(["dark", "bright"])
    np.savez(place / "things.npz", images=images, labels=labels, class_names=names, test_images=images[::3], test_labels=labels[::3])
    return place


class Running:
    """A run in a process of its own, with its workers in its group, which can be killed as kill -9 does."""

    def __init__(self, config, out, executor: str = "local", data=None, environment: Mapping[str, str] = MappingProxyType({})):
        # forked from a process that has imported everything already: what is tested is not how fast Python begins
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["ntk_select.benchmark.run"])
        options = {"config_path": str(config), "out": str(out), "executor": executor, "workers": 2, "data": data and str(data)}
        self._process = forks.Process(target=exec, args=(CODE, {"options": options, "environment": dict(environment)}))
        self._process.start()
        self.pid, self._records = self._process.pid, Path(out) / "records"

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def count(self) -> int:
        """Records that are there."""
        return sum(1 for _ in self._records.glob("*/*/*.parquet"))

    def until(self, records: int) -> None:
        """Waits for so many records, or the end of the run."""
        while self.alive and self.count() < records:
            time.sleep(0.01)

    def ended(self) -> int:
        """Waits for its end, and gives the exit code."""
        self._process.join()
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Sends a signal to all of its processes at once, whether it still runs or not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends all of its processes at once."""
        self.signal(signal.SIGKILL)
        if self.alive:
            self._process.kill()  # before it had a group of its own
        self._process.join()

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        return [
            int(pid)
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]


@pytest.fixture
def begin():
    """begin(config, out, "processes") begins a run in another process; it is gone after the test."""
    begun = []

    def start(*arguments, **options) -> Running:
        begun.append(Running(*arguments, **options))
        return begun[-1]

    yield start
    for each in begun:
        each.kill()
