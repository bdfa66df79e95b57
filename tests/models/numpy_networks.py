"""Forward passes of torchvision's networks in NumPy, from a PyTorch state dict: an oracle for small networks of each family."""

from collections.abc import Mapping

import numpy as np

State = Mapping[str, np.ndarray]


def conv(x: np.ndarray, state: State, name: str, stride: int = 1, padding: int = 0) -> np.ndarray:
    """A convolution of (n, c, h, w), with a bias if the state dict has one."""
    weight = state[f"{name}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    out = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return out + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else out


def norm(x: np.ndarray, state: State, name: str) -> np.ndarray:
    """Batch norm in evaluation mode."""
    mean, var, weight, bias = (state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def max_pool(x: np.ndarray, padding: int = 0) -> np.ndarray:
    """3 x 3 windows with stride 2."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max((4, 5))


def linear(x: np.ndarray, state: State, name: str) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def blocks(state: State, pattern: str) -> list[int]:
    """The numbers n for which the state dict has `pattern.format(n)` as a prefix, in order, from 0 or 1 on."""
    first = 0 if any(key.startswith(pattern.format(0)) for key in state) else 1
    found = []
    while any(key.startswith(pattern.format(first + len(found))) for key in state):
        found.append(first + len(found))
    return found


def resnet(x: np.ndarray, state: State) -> np.ndarray:
    x = max_pool(relu(norm(conv(x, state, "conv1", 2, 3), state, "bn1")), 1)
    for stage in blocks(state, "layer{}."):
        for block in blocks(state, f"layer{stage}.{{}}."):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            if f"{at}.conv3.weight" in state:
                out = relu(norm(conv(x, state, f"{at}.conv1"), state, f"{at}.bn1"))
                out = relu(norm(conv(out, state, f"{at}.conv2", stride, 1), state, f"{at}.bn2"))
                out = norm(conv(out, state, f"{at}.conv3"), state, f"{at}.bn3")
            else:
                out = relu(norm(conv(x, state, f"{at}.conv1", stride, 1), state, f"{at}.bn1"))
                out = norm(conv(out, state, f"{at}.conv2", 1, 1), state, f"{at}.bn2")
            if f"{at}.downsample.0.weight" in state:
                x = norm(conv(x, state, f"{at}.downsample.0", stride), state, f"{at}.downsample.1")
            x = relu(out + x)
    return linear(x.mean((2, 3)), state, "fc")


def densenet(x: np.ndarray, state: State) -> np.ndarray:
    x = max_pool(relu(norm(conv(x, state, "features.conv0", 2, 3), state, "features.norm0")), 1)
    for block in blocks(state, "features.denseblock{}."):
        if block > 1:
            at = f"features.transition{block - 1}"
            x = conv(relu(norm(x, state, f"{at}.norm")), state, f"{at}.conv")
            height, width = x.shape[2] // 2, x.shape[3] // 2  # an odd last row or column is dropped
            x = x[:, :, : 2 * height, : 2 * width].reshape(*x.shape[:2], height, 2, width, 2).mean((3, 5))
        for layer in blocks(state, f"features.denseblock{block}.denselayer{{}}."):
            at = f"features.denseblock{block}.denselayer{layer}"
            out = conv(relu(norm(x, state, f"{at}.norm1")), state, f"{at}.conv1")
            x = np.concatenate([x, conv(relu(norm(out, state, f"{at}.norm2")), state, f"{at}.conv2", 1, 1)], axis=1)
    return linear(relu(norm(x, state, "features.norm5")).mean((2, 3)), state, "classifier")


def alexnet(x: np.ndarray, state: State) -> np.ndarray:
    x = max_pool(relu(conv(x, state, "features.0", 4, 2)))
    x = max_pool(relu(conv(x, state, "features.3", 1, 2)))
    for name in ("features.6", "features.8", "features.10"):
        x = relu(conv(x, state, name, 1, 1))
    x, bins = max_pool(x), 6
    rows, columns = ([slice(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)] for size in x.shape[2:])
    x = np.array([[x[:, :, row, column].mean((2, 3)) for column in columns] for row in rows]).transpose(2, 3, 0, 1).reshape(len(x), -1)
    return linear(relu(linear(relu(linear(x, state, "classifier.1")), state, "classifier.4")), state, "classifier.6")
