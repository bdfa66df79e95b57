"""Kernels of examples spread over eight devices are those of one device. The devices are simulated, in a separate process."""

import functools
import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import ntk_select as ns

chosen = sys.argv[1].split(";")
jax.config.update("jax_enable_x64", True)
warnings.simplefilter("error")
draw = np.random.default_rng(0).normal


def network(p, x):
    h = jax.lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jnp.tanh(h * p["scale"]).mean((1, 2))
    return jnp.tanh(h @ (2 * p["derived"])) @ p["head"]


def table(p, x):
    return jnp.asarray(p["table"])[:, x].T @ p["w"]


params = {"conv": draw(size=(3, 3, 1, 2)), "derived": draw(size=(2, 3)), "head": draw(size=(3, 3)), "scale": draw(size=2)}
x1, x2 = draw(size=(64, 6, 6, 1)), draw(size=(40, 6, 6, 1))
own, other = draw(size=(13, 3)), draw(size=(5, 3))
devices = np.array(jax.devices())
line = Mesh(devices, ("examples",))
assert line.size == 8


def compare(name, expected, left, right=None, mesh=line, **options):
    if name not in chosen:
        return
    try:
        kernel = ns.ntk(network, params, left, right, mesh=mesh, **options)
        kernel = sum(kernel.values()) if isinstance(kernel, dict) else kernel
        kernel = np.asarray(kernel)
        assert kernel.shape == expected.shape
        found = float(np.abs(kernel - expected).max() / np.abs(expected).max())
    except Exception as error:
        found = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps([name, found]), flush=True)


some, few = x1[:13], x2[:5]
sixteen = ns.ntk(network, params, x1[:16], outputs="full", method="jacobian")
square, rectangle = sixteen[:13, :13], ns.ntk(network, params, some, few, outputs="full", method="jacobian")
trace = np.einsum("ijaa->ij", square) / 3
for space in ("parameter", "sample"):
    compare(f"{space}, trace", trace, some, space=space)
    compare(f"{space}, full", square, some, outputs="full", space=space)
    compare(f"{space}, diagonal", np.einsum("ijaa->ija", square), some, outputs="diagonal", space=space)
    compare(f"{space}, full, rectangle", rectangle, some, few, outputs="full", space=space)
    both = np.einsum("ia,ijab,jb->ij", own, rectangle, other)
    compare(f"{space}, own cotangents, rectangle", both, some, few, outputs=(own, other), space=space)
    compare(f"{space}, fewer examples than devices", trace[:3, :3], some[:3], space=space)
compare("own cotangents, small batches", np.einsum("ia,ijab,jb->ij", own, square, own), some, outputs=own, batch_size=3)
compare("each leaf", trace, some, by_layer=True)
compare("sums in float64", trace, some, accumulate="float64")
compare("a small budget", trace, some, memory_gb=2e-5)
compare("two axes of devices", trace, some, mesh=Mesh(devices.reshape(2, 4), ("a", "b")))
compare("three devices", trace, some, mesh=Mesh(devices[:3], ("examples",)))
compare("one device", trace, some, mesh=Mesh(devices[5:6], ("examples",)))
compare("jax.make_mesh", trace, some, mesh=jax.make_mesh((8,), ("examples",)))
blocks = ns.ntk(network, params, x1, np.concatenate([x1, x2]), layers="conv") if "several blocks, square" in chosen else np.zeros((64, 104))
compare("several blocks, square", blocks[:, :64], x1, space="sample", layers="conv")
compare("several blocks, rectangle", blocks[:, 64:], x1, x2, space="sample", layers="conv")
explicit = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(explicit):
    there = (jax.device_put(given, NamedSharding(explicit, spec)) for given, spec in ((params, PartitionSpec()), (x1[:16], PartitionSpec("i"))))
    found = ns.ntk_fn(network, params, x1[:16], outputs="full")(*there)
    assert len(found.sharding.device_set) == 8
    print(json.dumps(["ntk_fn, explicit axes", float(np.abs(np.asarray(found) - sixteen).max() / np.abs(sixteen).max())]), flush=True)
warnings.simplefilter("ignore")
params, network = {"table": draw(size=(3, 4)), "w": draw(size=(3, 2))}, table
if "general route" in chosen:
    compare("general route", ns.ntk(table, params, np.arange(13) % 4), np.arange(13) % 4)
params["table"][:, 1] = np.nan
try:
    ns.ntk(table, params, np.array([0, 0, 2, 0, 3, 0, 2, 1, 0, 1, 3, 0, 0]), mesh=line)
except Exception as error:
    print(json.dumps(["not finite", str(error)]))
"""

REQUESTED = ("trace", "full", "diagonal", "full, rectangle", "own cotangents, rectangle", "fewer examples than devices")
CASES = [f"{space}, {requested}" for space in ("parameter", "sample") for requested in REQUESTED]
CASES += ["own cotangents, small batches", "each leaf", "sums in float64", "a small budget", "two axes of devices", "three devices", "one device"]
CASES += ["jax.make_mesh", "several blocks, square", "several blocks, rectangle", "general route"]
QUICK = (
    "parameter, trace",
    "sample, full, rectangle",
    "sample, own cotangents, rectangle",
    "parameter, fewer examples than devices",
    "a small budget",
)


@functools.cache
def differences(cases: tuple[str, ...]) -> dict[str, float | str]:
    """Largest difference, relative to the largest entry, or what was raised, by name."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM, ";".join(cases)], capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(row) for row in done.stdout.splitlines())


@pytest.mark.parametrize("name", [*QUICK, "ntk_fn, explicit axes"])
def test_eight_devices_give_the_kernel_of_one(name):
    found = differences(QUICK)[name]
    assert isinstance(found, float), found
    assert found <= 1e-12


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in CASES if name not in QUICK])
def test_eight_devices_give_the_kernel_of_one_in_every_way(name):
    found = differences(tuple(CASES))[name]
    assert isinstance(found, float), found
    assert found <= 1e-12


def test_what_is_not_finite_is_found_on_any_device():
    assert "contains NaN or infinity at example 7" in differences(QUICK)["not finite"]
