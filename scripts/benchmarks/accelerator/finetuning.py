"""Fine-tuning: single steps, with full and with the device's usual precision of products, and a short training."""

from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

import ntk_select as ns
from accelerator.check import Check, Values
from accelerator.setting import Setting
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd

FULL = {"first loss": (1e-5, 1e-10), "change of the weights": (1e-4, 1e-9), "three losses": (1e-4, 1e-9), "losses": (5e-3, 1e-6)}
USUAL = {"first loss": (3e-3, 1e-10), "change of the weights": (3e-2, 1e-9), "three losses": (1e-2, 1e-9), "losses": (5e-2, 1e-6)}
"""Errors of a step grow with the steps after it; with JAX's default precision a GPU rounds products to TF32."""
SHORT = {"losses": (5e-2, 1e-6), "accuracy": (5e-2, 1e-2)}


def checks(setting: Setting) -> Iterator[Check]:
    """Ten steps by each precision, then `ns.finetune`."""
    for precision, allowed in {"highest": FULL, "default": USUAL}.items():
        yield Check(f"steps, {precision} precision of products", _with(precision, _steps(setting)), allowed)
    task, epochs = setting.digits, 1 if setting.tiny else 3

    def short() -> Values:
        expert = setting.expert("fashion_mnist-resnet_small")
        few = replace(task, test_images=task.test_images[:64], test_labels=task.test_labels[:64]) if setting.tiny else task
        found = ns.finetune(expert, few, shots=4 if setting.tiny else 25, learning_rates=0.01, recipe=ns.Recipe(epochs=epochs), progress=False)
        return {"losses": np.array(found.losses), "accuracy": np.array(found.accuracy)}

    yield Check(f"ns.finetune, {epochs} epoch{'s' * (epochs > 1)}", short, SHORT, drawn=True)


def _steps(setting: Setting):
    def run() -> Values:
        expert = setting.expert("fashion_mnist-resnet_small", classes=10)
        x, labels = setting.images(expert, 8 if setting.tiny else 32)
        optimizer = sgd()
        step, state, key = make_step(cross_entropy(expert.train_fn), optimizer), begin(expert.variables, optimizer), jax.random.key(0)
        before, losses, change = _flat(state), [], None
        for _ in range(3 if setting.tiny else 10):
            state, loss = step(state, (x, labels), key, 0.01)
            losses.append(float(loss))
            change = _flat(state) - before if change is None else change
        return {"first loss": np.array(losses[0]), "change of the weights": change, "three losses": np.array(losses[:3]), "losses": np.array(losses)}

    return run


def _with(precision: str, run):
    def within() -> Values:
        with jax.default_matmul_precision(precision):
            return run()

    return within


def _flat(state) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(state.variables["params"])])
