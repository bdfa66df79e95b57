"""Inner products of the examples' gradients with respect to some layers: what LGC correlates with the labels.

Three exact routes, from the special to the general:
  * a pooled last convolution (ResNet, DenseNet): one backward pass through the tail serves any number of classes;
  * any last convolution that the expert exposes (AlexNet): one backward pass through the tail per output;
  * any layers of any function: per-example gradients by `vmap` of `vjp`, streamed over groups of leaves.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.expert import Expert
from ntk_select.gram import symmetric_gram
from ntk_select.last_conv import cotangents_of, pooled_kernel, tail_kernel
from ntk_select.probe import forward, has_pooled_last_conv, in_batches

OUTPUTS = ("trace", "sum", "features")
GROUP_BYTES = 2**30


def gradient_kernel(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Float[np.ndarray, "n ..."],
    *,
    params: Any = None,
    layers: str = "last_conv",
    outputs: str | Float[Array, "..."] = "trace",
    batch_size: int = 32,
) -> Float[np.ndarray, "n n"]:
    """Theta_ij, the inner product of the gradients of the outputs at examples i and j, exact.

    Args:
      expert_or_fn: an `Expert`, or fn(params, x) -> (n, c) in which no example influences another.
      x: n network inputs, already preprocessed.
      params: the parameters, when a function was given.
      layers: "last_conv" (the expert's last convolution), "all", or a regular expression that is searched in
        the "/"-joined paths of the parameters.
      outputs: which gradients. "trace": mean over the outputs of the kernels of the single outputs.
        "sum": gradient of the sum of the outputs. "features": as "trace", over the pre-logits instead of the
        logits, which needs no head. An array (c,) or (n, c): gradient of this combination of the outputs.
      batch_size: examples per forward pass.

    Returns:
      Symmetric and positive semi-definite, float64 (summed in float64 over blocks computed in the type of x).

    Raises:
      ConfigError: `layers` matches nothing or `outputs` is unknown or has the wrong shape.
      ModelError: the expert lacks what is asked for.

    Reference: Deshpande et al. 2021, section 3.2.  Cost: for a pooled last convolution the forward passes plus
    O(n^2 p) with p its number of weights; otherwise c times as much; for other layers c backward passes of
    every example as well.
    """
    if isinstance(outputs, str) and outputs not in OUTPUTS:
        raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(outputs, OUTPUTS)} Or give an array (c,) or (n, c).")
    if isinstance(expert_or_fn, Expert):
        expert = expert_or_fn
        if layers == "last_conv" and expert.last_conv is None:
            raise ModelError(f"Expert {expert.name!r} does not say which its last convolution is. Type: layers='all', or a regular expression.")
        if layers == "last_conv" and has_pooled_last_conv(expert):
            return pooled_kernel(expert, forward(expert, x, last_conv=True, batch_size=batch_size), outputs)
        if layers == "last_conv" and expert.taps_fn is not None:
            return tail_kernel(expert, x, outputs, batch_size=batch_size)
        if isinstance(outputs, str) and outputs == "features":
            if expert.features_fn is None:
                raise ModelError(f"Expert {expert.name!r} has no features_fn, which outputs='features' needs. Type: outputs='trace'")
            inner, outputs = expert.features_fn, "trace"
        else:
            inner = expert.apply_fn
        fn, params = partial(_stateful, inner, expert.state), expert.params
        path = expert.last_conv.path if layers == "last_conv" else None
    else:
        fn, path = expert_or_fn, None
        if params is None:
            raise ConfigError("A function needs its parameters. Type: gradient_kernel(fn, x, params=params, layers='all')")
        if layers == "last_conv":
            raise ConfigError(
                "A function does not say which its last convolution is. Type: layers='all', or a regular expression over parameter paths."
            )
        if isinstance(outputs, str) and outputs == "features":
            raise ConfigError("A function has no features of its own. Give the function of the features, with outputs='trace'.")
    return _general(fn, params, x, _select(params, layers, path), outputs, batch_size)


def _stateful(fn, state, params, x):
    return fn({"params": params, **state}, x)


def _path_name(path) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _select(params, layers: str, path: tuple[str, ...] | None) -> list[bool]:
    names = [_path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    if path is not None:
        chosen = [name == "/".join(path) for name in names]
    elif layers == "all":
        chosen = [True] * len(names)
    else:
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise ConfigError(f"layers={layers!r} is not a regular expression: {error}.") from error
        chosen = [pattern.search(name) is not None for name in names]
    if not any(chosen):
        raise ConfigError(f"layers={layers!r} matches no parameter.{did_you_mean(layers, names)}")
    return chosen


def _general(fn, params, x, chosen: list[bool], outputs, batch_size: int) -> np.ndarray:
    """Groups of leaves, outputs and batches in turn: at most `GROUP_BYTES` of gradients, or one leaf's, at a time."""
    leaves, treedef = jax.tree.flatten(jax.device_put(params))
    shape = jax.eval_shape(fn, params, x[:1]).shape
    n, cotangents = len(x), cotangents_of(outputs, len(x), shape[-1])
    rows_of = jax.jit(partial(_gradient_rows, fn, treedef), static_argnums=0)
    kernel = np.zeros((n, n))
    for group in _groups([leaf.size * n * leaf.dtype.itemsize if use else 0 for leaf, use in zip(leaves, chosen, strict=True)]):
        for cotangent in cotangents:
            for leaf_rows in in_batches(partial(rows_of, group, leaves), batch_size, x, cotangent):
                kernel += symmetric_gram(leaf_rows)
    return kernel / len(cotangents)


def _groups(sizes: list[int]) -> list[tuple[int, ...]]:
    groups, room = [], 0
    for index, size in enumerate(sizes):
        if size and (not groups or size > room):
            groups.append([])
            room = GROUP_BYTES
        if size:
            groups[-1].append(index)
            room -= size
    return [tuple(group) for group in groups]


def _gradient_rows(fn, treedef, group, leaves, x, cotangents):
    """Per-example gradients of the leaves in `group`, each (n, size)."""

    def one(example, cotangent):
        def scalar(chosen):
            merged = list(leaves)
            for index, leaf in zip(group, chosen, strict=True):
                merged[index] = leaf
            return fn(jax.tree.unflatten(treedef, merged), example[None])[0] @ cotangent

        return jax.grad(scalar)([leaves[index] for index in group])

    return [gradient.reshape(len(x), -1) for gradient in jax.vmap(one)(x, cotangents)]
