"""One ResNet as a Flax expert and as a PyTorch module through `torch_expert`, with the same weights, in the same run.

    python scripts/benchmarks/torch_expert.py                                    the embedded small ResNet, 32 pixels
    python scripts/benchmarks/torch_expert.py --network resnet18 --size 224 --images 16 --rounds 3

Rounds alternate; medians are printed, in units of Flax. "first call" includes tracing and compilation. PyTorch's own speed is measured by finetune.py.
"""

import statistics
import time
from functools import partial
from typing import Literal

import jax
import numpy as np
import torch
import tyro
from finetune_peer import Block, SmallResNet
from rich.console import Console
from rich.table import Table
from torch import nn

import ntk_select as ns
from ntk_select.kernels.gradients import gradient_kernel
from ntk_select.models import fresh_expert
from ntk_select.models.state_dict import to_state_dict
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd


class ResNet18(SmallResNet):
    """ResNet-18, named as in torchvision."""

    def __init__(self, state_dict):
        nn.Module.__init__(self)
        self.conv1, self.bn1, self.maxpool = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
        widths = (64, 64, 128, 256, 512)
        for index in range(4):
            inputs, outputs = widths[index], widths[index + 1]
            setattr(self, f"layer{index + 1}", nn.Sequential(Block(inputs, outputs, 1 + (index > 0)), Block(outputs, outputs, 1)))
        self.fc = nn.Linear(512, len(state_dict["fc.bias"]))
        self.load_state_dict({**self.state_dict(), **{name: torch.tensor(np.array(value)) for name, value in state_dict.items()}})

    def forward(self, x):
        """Logits."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


def train(step, variables, batch, steps: int) -> None:
    """Training steps on one batch."""
    state, key = begin(variables, sgd()), jax.random.key(0)
    for _ in range(steps):
        state, _ = step(state, batch, key, 0.001)
    jax.block_until_ready(state)


def main(*, network: Literal["resnet_small", "resnet18"] = "resnet_small", size: int = 32, images: int = 32, rounds: int = 5, steps: int = 5) -> None:
    """Prints the ratios.

    Args:
      network: its architecture.
      size: input size in pixels.
      images: images per call.
      rounds: repetitions of all measurements.
      steps: training steps per measurement.
    """
    flax = fresh_expert("flax", network, num_classes=10, preprocess=ns.Preprocess(size))
    state_dict = to_state_dict(jax.tree.map(np.asarray, flax.variables), flax.apply_fn.module)
    module = (SmallResNet if network == "resnet_small" else ResNet18)(state_dict)
    began = time.perf_counter()
    experts = {"Flax": flax, "torch_expert": ns.torch_expert("torch", module, preprocess=ns.Preprocess(size))}
    print(f"torch_expert: {time.perf_counter() - began:.1f} s")
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(images, size, size, 3)).astype(np.float32), rng.integers(0, 10, images)
    logits = {name: np.asarray(expert.apply_fn(expert.variables, x)) for name, expert in experts.items()}
    print(f"largest difference of the logits: {np.abs(logits['Flax'] - logits['torch_expert']).max():.1e}")

    ways: dict[str, dict] = {"logits": {}, "gradients": {}, "kernel of the last convolution": {}, "training": {}}
    for name, expert in experts.items():
        loss = cross_entropy(lambda variables, x, expert=expert: (ns.Taps(expert.apply_fn(variables, x), None), {}))
        forward = jax.jit(expert.apply_fn)
        gradient = jax.jit(jax.grad(lambda params, expert=expert, loss=loss: loss({**expert.variables, "params": params}, (x, labels), None)[0]))
        step = make_step(cross_entropy(expert.train_fn), sgd())
        ways["logits"][name] = lambda forward=forward, expert=expert: jax.block_until_ready(forward(expert.variables, x))
        ways["gradients"][name] = lambda gradient=gradient, expert=expert: jax.block_until_ready(gradient(expert.params))
        ways["kernel of the last convolution"][name] = partial(gradient_kernel, expert, x)
        ways["training"][name] = partial(train, step, expert.variables, (x, labels), steps)

    table = Table("", "torch_expert, in units of Flax", "Flax, s", "first call: torch_expert, Flax, s")
    for what, by_name in ways.items():
        spent: dict[str, list[float]] = {name: [] for name in by_name}
        for _ in range(rounds + 1):
            for name, work in by_name.items():
                began = time.perf_counter()
                work()
                spent[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(times[1:]) for name, times in spent.items()}
        ratio = medians["torch_expert"] / medians["Flax"]
        table.add_row(what, f"{ratio:.2f}", f"{medians['Flax']:.3f}", f"{spent['torch_expert'][0]:.1f}, {spent['Flax'][0]:.1f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    tyro.cli(main)
