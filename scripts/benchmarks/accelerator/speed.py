"""Speed: kernels of large networks, compared with the matrix products of the device."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from ntk import Ours
from ntk_workload import images

import ntk_select as ns
from accelerator.check import Check, Values
from accelerator.setting import Setting

PRECISIONS = ("highest", "default")


def checks(setting: Setting) -> Iterator[Check]:
    """A matrix product by each precision, then the class trace of each network and shape. Nothing is compared."""
    n = setting.dense
    for precision in PRECISIONS:
        product = jax.jit(partial(jnp.matmul, precision=precision))
        a = jnp.ones((n, n), jnp.float32)
        yield Check(_peak(precision), _done(partial(product, a, a)), flops=2 * n**3, repeats=3, bytes=3 * 4 * n**2)
    for name in setting.networks:
        for shape in setting.shapes:
            examples, outputs = map(int, shape.split("x"))
            fn, params, layers = Ours(examples, outputs, network=name, size=setting.size)._model()
            x1, x2 = (images(examples, setting.size, seed=seed) for seed in (1, 2))
            plan = ns.ntk_plan(fn, params, x1, x2, layers=layers)
            for precision in PRECISIONS:
                run = _done(partial(ns.ntk, fn, params, x1, x2, layers=layers, precision=precision))
                what = f"{name}, {examples} x {examples}, {outputs} outputs, {setting.size} px, {precision}"
                yield Check(what, run, flops=plan.flops, peak=_peak(precision), repeats=3, bytes=plan.peak_bytes)


def _peak(precision: str) -> str:
    return f"matrix product, {precision}"


def _done(run):
    def wait() -> Values:
        jax.block_until_ready(run())
        return {}

    return wait
