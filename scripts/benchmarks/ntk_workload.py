"""The network on which kernels are timed: ResNet-18 for 32-pixel images, in plain JAX, for any version of JAX.

3 x 3 stem, no pooling, four stages of two blocks, batch norm in evaluation mode, which is a scale and a shift.
"""

import jax
import numpy as np
from jax import lax


def weights(width: int = 32, outputs: int = 10, seed: int = 0) -> dict:
    """Random weights; 2.8 million parameters at width 32."""
    rng = np.random.default_rng(seed)

    def conv(window, channels, features):
        return (rng.normal(size=(window, window, channels, features)) * np.sqrt(2 / (window**2 * channels))).astype(np.float32)

    def norm(channels):
        return {"scale": rng.normal(1, 0.1, channels).astype(np.float32), "bias": rng.normal(0, 0.1, channels).astype(np.float32)}

    params, channels = {"stem": conv(3, 3, width), "norm": norm(width)}, width
    for stage in range(4):
        for block in range(2):
            features = width * 2**stage
            inner = {"conv1": conv(3, channels, features), "norm1": norm(features), "conv2": conv(3, features, features), "norm2": norm(features)}
            if channels != features:
                inner |= {"conv0": conv(1, channels, features), "norm0": norm(features)}
            params[f"block{stage}{block}"], channels = inner, features
    head = (rng.normal(size=(channels, outputs)) / np.sqrt(channels)).astype(np.float32)
    return {**params, "head": {"kernel": head, "bias": np.zeros(outputs, np.float32)}}


def network(params, x):
    """Logits (n, outputs) of images (n, h, w, 3)."""
    x = jax.nn.relu(_norm(_conv(x, params["stem"]), params["norm"]))
    for stage in range(4):
        for block in range(2):
            inner, stride = params[f"block{stage}{block}"], 2 if stage and not block else 1
            y = jax.nn.relu(_norm(_conv(x, inner["conv1"], stride), inner["norm1"]))
            y = _norm(_conv(y, inner["conv2"]), inner["norm2"])
            if "conv0" in inner:
                x = _norm(_conv(x, inner["conv0"], stride), inner["norm0"])
            x = jax.nn.relu(x + y)
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def images(n: int, size: int = 32, seed: int = 1) -> np.ndarray:
    """Noise."""
    return np.random.default_rng(seed).normal(size=(n, size, size, 3)).astype(np.float32)


def _conv(x, kernel, stride=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _norm(x, p):
    return x * p["scale"] + p["bias"]
