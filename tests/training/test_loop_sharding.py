"""Training on eight devices gives the results of one device. The devices are simulated in a process of their own."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import warnings

import jax
import numpy as np
from jax.sharding import Mesh
from ntk_select.models.architectures import build, initialise, make_expert

from ntk_select.errors import ConfigError
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd

jax.config.update("jax_enable_x64", True)
warnings.simplefilter("error")
rng = np.random.default_rng(0)
module = build("resnet18", num_classes=3, stage_sizes=(1, 1), widths=(3, 4), stem="small")
shapes = jax.eval_shape(lambda key: initialise(module, key, 6), jax.random.key(0))
expert = make_expert("tiny", module, jax.tree.map(lambda leaf: rng.uniform(-0.5, 1, leaf.shape), shapes))
batches = [(rng.normal(size=(16, 6, 6, 3)) + np.arange(16)[:, None, None, None], rng.integers(0, 3, 16)) for _ in range(3)]
devices = np.array(jax.devices())
assert devices.size == 8


def trained(mesh):
    step, state, losses = make_step(cross_entropy(expert.train_fn), sgd(), mesh), begin(expert.variables, sgd()), []
    for batch in batches:
        state, loss = step(state, batch, jax.random.key(0), 0.05)
        losses.append(float(loss))
    used = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state.variables)}
    return [np.array(losses), *map(np.asarray, jax.tree.leaves(state.variables))], used


expected, _ = trained(None)
for name, mesh in {"a line": Mesh(devices, ("batch",)), "two axes": Mesh(devices.reshape(2, 4), ("a", "b")), "one": Mesh(devices[3:4], ("x",))}.items():
    found, used = trained(mesh)
    error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))
    print(json.dumps([name, error, sorted(used) == [mesh.size]]))
try:
    step = make_step(cross_entropy(expert.train_fn), sgd(), Mesh(devices, ("batch",)))
    step(begin(expert.variables, sgd()), (batches[0][0][:12], batches[0][1][:12]), jax.random.key(0), 0.05)
except ConfigError as error:
    print(json.dumps(["uneven", str(error), True]))
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("mesh", ["a line", "two axes", "one"])
def test_losses_weights_and_batch_statistics_are_those_of_one_device(rows, mesh):
    error, on_all = rows[mesh]
    assert error < 1e-10
    assert on_all


def test_a_batch_that_cannot_be_shared_evenly_is_refused(rows):
    assert rows["uneven"][0] == "A batch of 12 examples cannot be shared evenly by 8 devices. Try: batch_size=8"
