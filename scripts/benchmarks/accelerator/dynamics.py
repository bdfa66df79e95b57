"""The linearised dynamics: loss curves in closed form, and by training the linearised network step by step."""

from collections.abc import Iterator

import numpy as np
import optax

import ntk_select as ns
from accelerator.check import Check, Values, distance
from accelerator.setting import Setting

ALLOWED = (5e-5, 1e-9)
LEARNING_RATE = 0.005
LINEAR = ns.linearized


def checks(setting: Setting) -> Iterator[Check]:
    """Plain descent and Nesterov's on the mean squared error of all weights of the embedded ResNet."""
    expert = setting.expert("fashion_mnist-resnet_small", classes=10)
    x, labels = setting.images(expert, 4 if setting.tiny else 20)
    y, steps = setting.cast(LINEAR.targets(labels, 10)), 5 if setting.tiny else 100
    for optimizer, momentum in (("gd", 0.0),) if setting.tiny else (("gd", 0.0), ("nesterov", 0.9)):

        def run(optimizer=optimizer, momentum=momentum) -> Values:
            sgd = optax.sgd(LEARNING_RATE, momentum=momentum or None, nesterov=optimizer == "nesterov")
            trained = LINEAR.train(LINEAR.linearize(expert), x, y, sgd, steps=steps, loss="mean")
            residual = y - np.asarray(trained.train_outputs[0])
            kernel = LINEAR.network_kernel(expert, x, method="dense").kernel
            options = {"lr": LEARNING_RATE, "steps": steps, "optimizer": optimizer, "momentum": momentum, "loss": "mean"}
            return {"closed form": LINEAR.loss_curve(kernel, residual, **options), "integrated": trained.train_losses}

        def laws(values: Values) -> dict[str, tuple[float, float]]:
            return {"closed form = integrated": (distance(values["closed form"], values["integrated"]), ALLOWED[setting.dtype == "float64"])}

        yield Check(f"{optimizer}, {steps} steps", run, {"closed form": ALLOWED, "integrated": ALLOWED}, laws)
