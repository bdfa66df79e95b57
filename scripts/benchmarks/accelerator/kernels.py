"""Kernels: of every kind of layer, by either algorithm and by explicit Jacobians; of two networks; with rounded products."""

from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

import ntk_select as ns
from accelerator.check import Check, Values, distance
from accelerator.setting import Setting

ALLOWED = (2e-5, 1e-10)
ROUNDED = 3e-2
"""Allowed in float32 where the device may round products as it does by default."""
OUTPUTS = 3

Layer = tuple[Callable, tuple[int, ...], tuple[int, ...]]
"""op(x, weight), shape of the weight, shape of an input."""


def checks(setting: Setting) -> Iterator[Check]:
    """Every layer, then networks."""
    for name, layer in (tiny_layers() if setting.tiny else layers()).items():
        yield _of_layer(setting, name, *layer)
    count = 4 if setting.tiny else 16
    for architecture in ("resnet",) if setting.tiny else ("resnet", "densenet"):
        expert = setting.expert(f"cifar10-{architecture}_small")
        x = setting.noise(count, 32, 32, 3)
        kernel = partial(ns.ntk, expert.apply_fn, expert.variables, x, layers="^params/")
        for outputs in ("trace",) if setting.tiny or architecture == "densenet" else ("trace", "full"):
            yield Check(f"{architecture}, {outputs}", _one("kernel", partial(kernel, outputs=outputs)), {"kernel": ALLOWED})
        if architecture == "resnet" and not setting.tiny:
            v = setting.noise(count, 10, seed=1)
            product = partial(ns.ntk_vector_product, expert.apply_fn, expert.variables, x, v, layers="^params/")
            yield Check("resnet, Theta v", _one("product", product), {"product": ALLOWED})
            yield Check("resnet, rounded products allowed", _one("kernel", partial(kernel, precision="default")), {"kernel": (ROUNDED, ALLOWED[1])})


def layers() -> dict[str, Layer]:
    """Layers of the sizes they have in ResNets, DenseNets and ViTs."""
    return {
        "conv 7 x 7, stride 2, 3 to 64": (_conv(2), (7, 7, 3, 64), (64, 64, 3)),
        "conv 3 x 3, 64 to 64": (_conv(), (3, 3, 64, 64), (28, 28, 64)),
        "conv 3 x 3, stride 2, 128 to 256": (_conv(2), (3, 3, 128, 256), (14, 14, 128)),
        "conv 1 x 1, 256 to 512": (_conv(), (1, 1, 256, 512), (7, 7, 256)),
        "conv 3 x 3, depthwise, 128": (_conv(groups=128), (3, 3, 1, 128), (14, 14, 128)),
        "conv 3 x 3, 4 groups, 128 to 128": (_conv(groups=4), (3, 3, 32, 128), (14, 14, 128)),
        "dense, 512 to 100": (jnp.dot, (512, 100), (512,)),
        "dense of 50 tokens, 192 to 384": (jnp.dot, (192, 384), (50, 192)),
        "scale of 64 channels": (jnp.multiply, (64,), (28, 28, 64)),
        "bias of 64 channels": (jnp.add, (64,), (28, 28, 64)),
    }


def tiny_layers() -> dict[str, Layer]:
    """One of each algorithm."""
    return {"conv 3 x 3, 4 to 6": (_conv(), (3, 3, 4, 6), (5, 5, 4)), "bias of 4 channels": (jnp.add, (4,), (5, 5, 4))}


def _conv(stride: int = 1, groups: int = 1) -> Callable:
    options = {"window_strides": (stride, stride), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lambda x, weight: lax.conv_general_dilated(x, weight, feature_group_count=groups, **options)


def _of_layer(setting: Setting, name: str, op: Callable, weight: tuple[int, ...], example: tuple[int, ...]) -> Check:
    fan_in = int(np.prod(weight[:-1])) if len(weight) > 1 else 1
    x, width = setting.noise(4 if setting.tiny else 8, *example), weight[-1]
    scale = np.asarray(fan_in**-0.5, setting.dtype)
    params = {"layer": setting.noise(*weight, seed=1) * scale, "readout": setting.noise(width, OUTPUTS, seed=2)}

    def fn(params, x):
        y = jnp.tanh(op(x, params["layer"]))
        return y.mean(tuple(range(1, y.ndim - 1))) @ params["readout"]

    def run() -> Values:
        kernel = partial(ns.ntk, fn, params, x, outputs="full", layers="^layer$")
        found = {f"{space} space": kernel(space=space) for space in ("parameter", "sample")} if len(weight) > 1 else {"kernel": kernel()}
        return {**found, "Jacobians": kernel(method="jacobian")}

    def laws(values: Values) -> dict[str, tuple[float, float]]:
        allowed = ALLOWED[setting.dtype == "float64"]
        return {f"{key} = explicit Jacobians": (distance(value, values["Jacobians"]), allowed) for key, value in values.items() if key != "Jacobians"}

    compared = ("parameter space", "sample space") if len(weight) > 1 else ("kernel",)
    return Check(name, run, dict.fromkeys((*compared, "Jacobians"), ALLOWED), laws)


def _one(name: str, run: Callable) -> Callable[[], Values]:
    return lambda: {name: run()}
