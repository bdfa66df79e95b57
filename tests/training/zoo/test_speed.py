"""The estimated speed is that of the operations of the network, and no network is initialised for it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from ntk_select.models.architectures import fresh_expert

from ntk_select import Preprocess
from ntk_select.kernels.flops import forward_flops
from ntk_select.training.zoo import speed
from ntk_select.training.zoo.speed import abstract_network, estimated_speed, measured_speed, network_of, training_rate

TINY = {"stage_sizes": (1,), "widths": (4,), "stem": "small"}


def tiny():
    return fresh_expert("tiny", "resnet18", num_classes=5, preprocess=Preprocess(8), config=TINY)


def test_an_abstract_network_has_the_shapes_and_operations_of_the_real_one_and_no_numbers():
    abstract, real = abstract_network(tiny), network_of(tiny())
    leaves = jax.tree.leaves(abstract.variables)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert [leaf.shape for leaf in leaves] == [np.shape(leaf) for leaf in jax.tree.leaves(real.variables)]
    assert abstract.head == real.head == (4, 5)
    assert estimated_speed(abstract, 8, 16, 1e9) == estimated_speed(real, 8, 16, 1e9)


def test_an_estimated_speed_is_the_rate_divided_by_three_passes_of_the_whole_network():
    expert = tiny()
    whole = forward_flops(expert.apply_fn, expert.variables, np.zeros((1, 8, 8, 3), np.float32))
    found = estimated_speed(network_of(expert), 8, 16, 6e8)
    assert found.images_per_second == pytest.approx(6e8 / (3 * whole))
    assert (found.width, found.batch, found.measured) == (4, 16, False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rate_is_operations_by_time(monkeypatch, precision):
    """By a clock that gives each step a second."""
    monkeypatch.setattr(speed, "_timed", lambda step, longest: (jax.block_until_ready(step()), (7.0, 7))[1])
    pixels, channels, kernels = 16, 32, 2
    assert training_rate(32, 4, precision=precision) == 3 * kernels * 2 * 4 * pixels**2 * 9 * channels**2


def test_steps_of_a_real_network_are_timed(monkeypatch):
    monkeypatch.setattr(speed, "LONGEST", 0.01)
    found = measured_speed(tiny(), 4, 5)
    assert found.measured
    assert found.images_per_second > 0
    assert found.flops == estimated_speed(network_of(tiny()), 8, 4, 1.0).flops


def test_an_expert_without_a_head_has_a_speed_too():
    expert = replace(tiny(), head=None)
    found, usual = (estimated_speed(network_of(each), 8, 4, 1e9) for each in (expert, tiny()))
    assert found.flops == usual.flops
    assert found.width == 0
    assert found.images_per_second == pytest.approx(1e9 / (3 * found.flops))


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (0.5, False), (0.9, True), (4.0, True)])
def test_a_machine_on_which_others_work_is_busy(monkeypatch, load, busy):
    monkeypatch.setattr(speed.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (8 * load, 0.0, 0.0))
    assert bool(speed.busy()) == busy
    assert not busy or f"(load {8 * load:.1f} on 8 cores)" in speed.busy()


def test_where_the_load_is_not_known_nothing_is_said(monkeypatch):
    def unknown():
        raise OSError("not known")

    monkeypatch.setattr(speed.os, "getloadavg", unknown)
    assert speed.busy() == ""
