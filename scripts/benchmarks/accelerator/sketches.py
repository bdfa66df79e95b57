"""Sketches: the same numbers on every device, and near the kernel they estimate."""

from collections.abc import Iterator

import numpy as np

import ntk_select as ns
from accelerator.check import Check, Values
from accelerator.setting import Setting

ALLOWED = (2e-5, 1e-10)
GAUSSIAN = (2e-5, 1e-6)
"""Normal numbers are computed in float32, by each device's own inverse error function."""
DEVIATIONS = {"kronecker": 10.0}
OTHERWISE = 3.0
"""Allowed error of the estimated kernel, in units of the standard error of a Gaussian sketch."""


def checks(setting: Setting) -> Iterator[Check]:
    """Every kind of sketch of all gradients of the embedded ResNet."""
    expert = setting.expert("cifar10-resnet_small")
    count, dim = (4, 64) if setting.tiny else (16, 1024)
    x = setting.noise(count, 32, 32, 3)
    options = {"layers": "^params/", "outputs": "sum"}
    exact = []

    def law(values: Values, kind: str) -> dict[str, tuple[float, float]]:
        if not exact:
            exact.append(np.asarray(ns.ntk(expert.apply_fn, expert.variables, x, **options), np.float64))
        (kernel,), z = exact, np.asarray(values["sketch"], np.float64)
        error = np.sqrt((np.linalg.norm(kernel) ** 2 + np.trace(kernel) ** 2) / dim)
        return {"error of the kernel / standard error": (float(np.linalg.norm(z @ z.T - kernel) / error), DEVIATIONS.get(kind, OTHERWISE))}

    for kind in ("countsketch", "srht") if setting.tiny else ("countsketch", "srht", "kronecker", "rademacher", "gaussian", "jvp"):
        yield Check(
            f"{kind}, {dim} columns",
            lambda kind=kind: {"sketch": ns.sketch(expert.apply_fn, expert.variables, x, dim=dim, kind=kind, **options)},
            {"sketch": GAUSSIAN if kind == "gaussian" else ALLOWED},
            lambda values, kind=kind: law(values, kind),
        )
