"""Shared by the tests of rankings on workers: experts in a folder, a task in a file, and loaders that count and kill."""

import importlib
import pickle
from functools import partial

import jax
import numpy as np
import pytest

from ntk_select import Card, Preprocess
from ntk_select.executors import EXECUTORS, local
from ntk_select.models import FolderZoo, build, initialise
from ntk_select.models.expert_folder import write_expert

SHAPE = {"stage_sizes": [1], "widths": [3], "stem": "small"}
LOADERS = """
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ntk_select.models import StoredExpert

@dataclass(frozen=True)
class Counted:
    '''Writes a line at every load. The first loads kill their process.'''
    stored: StoredExpert
    log: Path
    kills: int = 0

    @property
    def card(self):
        return self.stored.card

    def __call__(self):
        with open(self.log, "a") as file:
            file.write(f"{self.card.name}\\n")
        if self.log.read_text().split().count(self.card.name) <= self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.stored()
"""
"""A module that worker processes can import, as they cannot import a test."""


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """The URI of 24 dark and bright images."""
    place, labels = tmp_path_factory.mktemp("data"), np.repeat([0, 1], 12)
    images = np.random.default_rng(1).integers(0, 100, (24, 8, 8), dtype=np.uint8)
    images[labels == 1] += 60
    np.savez(place / "things.npz", images=images, labels=labels, class_names=np.array(["dark", "bright"]))
    return f"npz:{place / 'things.npz'}"


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """The loaders of four small experts in a folder."""
    place, rng = tmp_path_factory.mktemp("zoo"), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(initialise, build("resnet18", num_classes=2, **SHAPE), size=8), jax.random.key(0))
    for name in ("ash", "birch", "cedar", "elm"):
        variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
        write_expert(place / name, variables, Card(name, "resnet18", "trees", Preprocess(size=8), "", 2, config=SHAPE))
    return dict(FolderZoo(place))


@pytest.fixture
def counted(stored, tmp_path, monkeypatch):
    """counted(elm=1): the same loaders, which log their loads; that of `elm` kills its process once. And a function of the names in the log."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "counted_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(importlib.sys.modules, "counted_loaders", raising=False)
    log = tmp_path / "loads"
    log.touch()

    def make(**kills):
        module = importlib.import_module("counted_loaders")
        return {name: module.Counted(load, log, kills.get(name, 0)) for name, load in stored.items()}

    make.log = lambda: log.read_text().split()
    return make


@pytest.fixture
def shipped(monkeypatch):
    """The name of an executor of this process to which everything is sent as to another one."""

    def execute(work, groups, done, **_):
        sent = pickle.loads(pickle.dumps(work))
        local(lambda item: pickle.loads(pickle.dumps(sent(pickle.loads(pickle.dumps(item))))), groups, done)

    monkeypatch.setitem(EXECUTORS, "shipped", execute)
    return "shipped"
