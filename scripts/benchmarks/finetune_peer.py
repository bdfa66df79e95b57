"""The embedded small ResNet trained by PyTorch: the peer of finetune.py."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, named as in torchvision."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class SmallResNet(nn.Module):
    """`resnet_small` of ntk_select.models, with these weights."""

    def __init__(self, state_dict: Mapping[str, np.ndarray]):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 64, 2))
        self.layer3 = nn.Sequential(Block(64, 48, 2), Block(48, 48, 1))
        self.fc = nn.Linear(48, len(state_dict["fc.bias"]))
        self.load_state_dict({**self.state_dict(), **{name: torch.tensor(np.array(value)) for name, value in state_dict.items()}})

    def forward(self, x):
        """Logits."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Logits of images (n, h, w, 3) in evaluation mode."""
        with torch.inference_mode():
            return self.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def train(state_dict: Mapping[str, np.ndarray], batches: Sequence, rates: Sequence[float], layout: str) -> None:
    """One pass over the batches for each learning rate, one after the other, with all threads."""
    layout = getattr(torch, layout)
    for rate in rates:
        network = SmallResNet(state_dict).to(memory_format=layout).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
        for images, labels in batches:
            x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(network(x), torch.from_numpy(labels)).backward()
            optimizer.step()


def train_together(state_dict: Mapping[str, np.ndarray], batches: Sequence, rates: Sequence[float], layout: str) -> None:
    """The same with all rates at once, one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(rates)) as pool:
            list(pool.map(lambda rate: train(state_dict, batches, [rate], layout), rates))
    finally:
        torch.set_num_threads(before)
