"""A Hypothesis strategy for small networks of any mixture of layers, depths, strides, groups, norms, and shared leaves.

A network is a list of layers, each drawn for the shape that the last one left. A layer may take a leaf that an earlier one
made, where the shapes fit.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")
BENDS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh, "softplus": jax.nn.softplus, "leaky": jax.nn.leaky_relu}


class Network:
    """A function of parameters and examples, the leaves, the examples, and the names of its layers."""

    def __init__(self):
        self.params, self.layers, self.steps, self.examples = {}, [], [], None

    def __repr__(self):
        leaves = {name: leaf.shape for name, leaf in self.params.items()}
        return f"Network({' > '.join(self.layers)}; {leaves}; examples {self.examples.shape})"

    def fn(self, p, x):
        """(n, c)."""
        for step in self.steps:
            x = step(p, x)
        return x


class Drawing:
    """A network in the making: draws choices from hypothesis, and numbers from a seed."""

    def __init__(self, draw):
        self.draw, self.network = draw, Network()
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.sharing = draw(st.booleans())

    def of(self, *values):
        """One of these."""
        return self.draw(st.sampled_from(values))

    def leaf(self, *shape, positive=False) -> str:
        """The name of a leaf: a new one, or one of this shape that is there."""
        known = [name for name, leaf in self.network.params.items() if leaf.shape == shape]
        if known and self.sharing and self.draw(st.booleans()):
            return self.of(*known)
        name = f"leaf{len(self.network.params)}"
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 4
        value = self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.normal(size=shape) / np.sqrt(fan_in)
        self.network.params[name] = value
        return name

    def constant(self, *shape, positive=False) -> np.ndarray:
        """Numbers that are no parameters."""
        return self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.normal(size=shape)

    def add(self, name: str, step: Callable) -> None:
        self.network.layers.append(name)
        self.network.steps.append(step)


# Layers of maps (n, h, w, c). Each returns its name and step, for the shape (h, w, c).


def weight_of(d: Drawing, *shape):
    """weight(p): a leaf, or something computed from leaves."""
    leaf = d.leaf(*shape)
    way = d.of("plain", "plain", "plain", "standardised", "masked", "gained", "low rank", "scaled by a scalar")
    if way == "standardised":
        axes = tuple(range(len(shape) - 1))
        return way, lambda p: (p[leaf] - p[leaf].mean(axes)) / jnp.sqrt(p[leaf].var(axes) + 0.1)
    if way == "masked":
        mask = (d.constant(*shape) > 0).astype(float)
        return way, lambda p: p[leaf] * mask
    if way == "gained":
        gain = d.leaf(shape[-1], positive=True)
        return way, lambda p: p[leaf] * p[gain]
    if way == "low rank":
        left, right = d.leaf(*shape[:-1], 1), d.leaf(1, shape[-1])
        return way, lambda p: p[leaf] + p[left] @ p[right]
    if way == "scaled by a scalar":
        scalar = d.leaf(positive=True)
        return way, lambda p: p[leaf] * p[scalar]
    return way, lambda p: p[leaf]


def convolution(d: Drawing, h, w, c):
    groups = d.of(1, 1, 2, c) if c % 2 == 0 else d.of(1, 1, c)
    window, stride, dilation = (d.of(1, 2, 3), d.of(1, 3)), (d.of(1, 1, 2), d.of(1, 2)), d.of((1, 1), (1, 1), (2, 1), (1, 2))
    seen = [(size - 1) * space + 1 for size, space in zip(window, dilation, strict=True)]
    padding = d.of("SAME", "SAME", "VALID", ((1, 2), (0, 1))) if h >= seen[0] and w >= seen[1] else "SAME"
    out = groups * d.of(1, 2, 3)
    way, weight = weight_of(d, *window, c // groups, out)
    bias = d.leaf(out) if d.of(True, False) else None
    options = {"rhs_dilation": dilation, "feature_group_count": groups, "dimension_numbers": NHWC}

    def step(p, x):
        y = lax.conv_general_dilated(x, weight(p), stride, padding, **options)
        return y if bias is None else y + p[bias]

    return f"conv {window} /{stride} {padding} dilated {dilation} groups {groups} {way}", step


def transposed_convolution(d: Drawing, h, w, c):
    leaf = d.leaf(2, 2, c, 2)
    return "conv transposed", lambda p, x: lax.conv_transpose(x, p[leaf], (2, 2), "SAME", dimension_numbers=NHWC) if h * w <= 16 else x[..., :1]


def batch_norm(d: Drawing, h, w, c):
    scale, shift = d.leaf(c, positive=True), d.leaf(c)
    mean, variance = d.constant(c), d.constant(c, positive=True)
    return "batch norm", lambda p, x: (x - mean) * lax.rsqrt(variance + 1e-5) * p[scale] + p[shift]


def group_norm(d: Drawing, h, w, c):
    groups = d.of(1, 2, c) if c % 2 == 0 else d.of(1, c)
    scale, shift = d.leaf(c, positive=True), d.leaf(c)

    def step(p, x):
        y = x.reshape(len(x), h, w, groups, c // groups)
        y = (y - y.mean((1, 2, 4), keepdims=True)) * lax.rsqrt(y.var((1, 2, 4), keepdims=True) + 0.1)
        return y.reshape(x.shape) * p[scale] + p[shift]

    return f"group norm {groups}", step


def pooling(d: Drawing, h, w, c):
    window = (min(h, d.of(1, 2, 3)), min(w, 2))
    stride, padding = d.of((1, 1), (2, 2), (2, 1)), d.of("SAME", "VALID")
    if d.of("max", "mean") == "max":
        return "max pool", lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), padding)
    return "mean pool", lambda p, x: lax.reduce_window(x, 0.0, lax.add, (1, *window, 1), (1, *stride, 1), padding) / 4


def residual(d: Drawing, h, w, c):
    a, b = d.leaf(3, 3, c, c), d.leaf(d.of(1, 3), 3, c, c)
    bend = BENDS[d.of(*BENDS)]
    same = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)
    return "residual", lambda p, x: x + same(bend(same(x, p[a])), p[b])


def dense_block(d: Drawing, h, w, c):
    a = d.leaf(3, 3, c, 2)
    b = d.leaf(1, 1, c + 2, 1)
    same = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)

    def step(p, x):
        x = jnp.concatenate([x, same(jnp.tanh(x), p[a])], -1)
        return jnp.concatenate([x, same(x, p[b])], -1)

    return "dense block", step


def squeeze_and_excite(d: Drawing, h, w, c):
    a, b = d.leaf(c, 2), d.leaf(2, c)
    return "squeeze", lambda p, x: x * jax.nn.sigmoid(jnp.tanh(x.mean((1, 2)) @ p[a]) @ p[b])[:, None, None]


def scan_of_convolutions(d: Drawing, h, w, c):
    stack = d.leaf(2, 1, 3, c, c)
    same = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)
    return "scan", lambda p, x: lax.scan(lambda h, weight: (jnp.tanh(same(h, weight)), None), x, p[stack])[0]


def positions_mixed(d: Drawing, h, w, c):
    leaf = d.leaf(h * w, h * w)
    return "positions", lambda p, x: jnp.einsum("st,ntc->nsc", p[leaf], x.reshape(len(x), h * w, c)).reshape(x.shape)


def bend(d: Drawing, *shape):
    name = d.of(*BENDS)
    return name, lambda p, x: BENDS[name](x)


def scalar(d: Drawing, *shape):
    leaf = d.leaf(positive=True)
    return "scalar", lambda p, x: x * p[leaf]


def rearranged(d: Drawing, h, w, c):
    way = d.of("flipped", "turned", "padded", "checkpointed")
    leaf = d.leaf(1, 1, c, c)
    one = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)
    return way, {
        "flipped": lambda p, x: one(x, p[leaf]) + one(x, p[leaf][..., ::-1]),
        "turned": lambda p, x: one(x, p[leaf]).swapaxes(1, 2),
        "padded": lambda p, x: jnp.pad(one(x, p[leaf]), ((0, 0), (1, 0), (0, 1), (0, 0))),
        "checkpointed": lambda p, x: jax.checkpoint(jax.jit(lambda q, x: jnp.sin(one(x, q))))(p[leaf], x),
    }[way]


# Layers of features (n, c).


def dense(d: Drawing, c):
    out = d.of(2, 3, c)
    way, weight = weight_of(d, c, out)
    bias = d.leaf(out) if d.of(True, False) else None
    return f"dense {way}", lambda p, x: x @ weight(p) if bias is None else x @ weight(p) + p[bias]


def tied(d: Drawing, c):
    leaf = d.leaf(c, 3)
    return "tied", lambda p, x: jnp.tanh(x @ p[leaf]) @ p[leaf].T


def layer_norm(d: Drawing, c):
    scale, shift = d.leaf(c, positive=True), d.leaf(c)
    return "layer norm", lambda p, x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 0.1) * p[scale] + p[shift]


def heads(d: Drawing, c):
    leaf = d.leaf(c, 2, 2)
    return "heads", lambda p, x: jnp.einsum("nc,chd->nhd", x, p[leaf]).reshape(len(x), 4)


def embedding(d: Drawing, c):
    table = d.leaf(3, c)
    return "embedding", lambda p, x: x + jnp.take(p[table], jnp.argmax(x[:, : min(c, 3)], -1), axis=0)


def prototypes(d: Drawing, c):
    leaf = d.leaf(3, c)
    return "prototypes", lambda p, x: -jnp.square(x[:, None] - p[leaf]).sum(-1)


def cosine(d: Drawing, c):
    leaf = d.leaf(c, 3)
    return "cosine", lambda p, x: x @ (p[leaf] * lax.rsqrt(jnp.square(p[leaf]).sum(0) + 1e-2))


def bilinear(d: Drawing, c):
    leaf = d.leaf(2, c, c)
    return "bilinear", lambda p, x: jnp.tanh(jnp.einsum("na,kab,nb->nk", x, p[leaf], x))


def branch(d: Drawing, c):
    leaf = d.leaf(c, c)
    return "branch", lambda p, x: lax.cond(True, lambda q, x: x @ q, lambda q, x: x @ q.T, p[leaf], x)


OF_MAPS = (convolution,) * 5 + (
    transposed_convolution, batch_norm, group_norm, pooling, residual, dense_block, squeeze_and_excite, scan_of_convolutions, positions_mixed,
    bend, bend, scalar, rearranged,
)  # fmt: skip
OF_FEATURES = (dense,) * 3 + (tied, layer_norm, heads, embedding, prototypes, cosine, bilinear, branch, bend, scalar)
TO_FEATURES = {
    "mean": lambda p, x: x.mean((1, 2)),
    # Not x.max((1, 2)): its gradient looks for the maximum again, which XLA without optimisations may have rounded otherwise the second time.
    "max": lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, *x.shape[1:3], 1), (1, 1, 1, 1), "VALID")[:, 0, 0],
    "flat": lambda p, x: x[:, :2, :2].reshape(len(x), -1),
}


def head(d: Drawing, c):
    out = d.of(1, 2, 3)
    way, weight = weight_of(d, c, out)
    bias = d.leaf(out) if d.of(True, False) else None
    return f"head {way}", lambda p, x: x @ weight(p) if bias is None else x @ weight(p) + p[bias]


@st.composite
def networks(draw, depth: int = 4) -> Network:
    """A network of at most `depth` layers of maps and two of features, in float64, and two to four examples."""
    d = Drawing(draw)
    network = d.network
    network.examples = d.constant(d.of(2, 3, 4), d.of(4, 5), d.of(4, 6), d.of(1, 2, 4))

    def shape():
        leaves = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), network.params)
        one = jax.ShapeDtypeStruct((1, *network.examples.shape[1:]), network.examples.dtype)
        return jax.eval_shape(network.fn, leaves, one).shape[1:]

    for _ in range(draw(st.integers(1, depth))):
        d.add(*d.of(*OF_MAPS)(d, *shape()))
    way = d.of(*TO_FEATURES)
    d.add(way, TO_FEATURES[way])
    for _ in range(draw(st.integers(0, 2))):
        d.add(*d.of(*OF_FEATURES)(d, *shape()))
    d.add(*head(d, *shape()))
    return network
