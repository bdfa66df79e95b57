"""Experts: pre-trained networks as plain callables and arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card

Variables = Mapping[str, Any]


@dataclass(frozen=True)
class LastConv:
    """The last convolution of a network, whose weights LGC differentiates by default.

    Args:
      path: keys from the root of `params` to the kernel (kh, kw, cin, cout); or as one string, "Conv_1/kernel".
      strides, padding: Strides and padding of the convolution, as for `jax.lax.conv_general_dilated`.
      pooled: slice (start, stop) of the pre-logits that the output channels become, if channel o of the convolution affects
        only pre-logit start + o, and the head is linear. None for all other networks (AlexNet). With it the cost of LGC
        is independent of the number of classes.
    """

    path: tuple[str, ...]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    pooled: tuple[int, int] | None = None

    def __post_init__(self):
        object.__setattr__(self, "path", as_path(self.path))
        object.__setattr__(self, "strides", tuple(self.strides))
        object.__setattr__(self, "padding", tuple(map(tuple, self.padding)))
        object.__setattr__(self, "pooled", None if self.pooled is None else tuple(self.pooled))


class Taps(NamedTuple):
    """Activations of one forward pass: logits (n, c), pre-logits (n, d), input of the last convolution (n, h, w, cin)."""

    logits: jax.Array
    features: jax.Array
    conv_inputs: jax.Array | None = None


@dataclass(frozen=True, eq=False)
class SourceStatistics:
    """Statistics of the source data of an expert, for scores that compare it with the task.

    Args:
      class_counts: (s,) numbers of training images per source class.
      class_means: (s, d) class means of the pre-logits of the expert; None if unknown.
      reference_class_means: (s, d') class means of the pre-logits of an extractor shared by the zoo; None if unknown.
      reference: loads that extractor; only experts with the same extractor are comparable.
      reference_name: name of the extractor.

    Raises:
      ModelError: means that are not (s, d), or not finite.
    """

    class_counts: np.ndarray
    class_means: np.ndarray | None = None
    reference_class_means: np.ndarray | None = None
    reference: "Callable[[], Expert] | None" = None
    reference_name: str = ""

    def __post_init__(self):
        object.__setattr__(self, "class_counts", np.asarray(self.class_counts))
        for name in ("class_means", "reference_class_means"):
            means = getattr(self, name)
            if means is not None and (np.ndim(means) != 2 or len(means) != len(self.class_counts) or not np.isfinite(means).all()):
                raise ModelError(
                    f"Source statistics: {name} of shape {np.shape(means)} for {len(self.class_counts)} class counts; "
                    "they must be finite, (classes, features), one row per class."
                )


@dataclass(frozen=True, eq=False)
class Expert:
    """A pre-trained network as plain callables and arrays, in evaluation mode.

    Args:
      name: unique in its zoo.
      apply_fn: apply_fn({"params": params, **state}, x) -> logits (n, c). Experts with the same hashable callable (a
        module-level function, or a frozen dataclass with `__call__`) share compilations.
      params: arrays that are differentiated, in nested dictionaries; for nnx, `nnx.to_pure_dict(nnx.state(module, nnx.Param))`.
      state: all other variables, e.g. {"batch_stats": ...}.
      features_fn: features_fn({"params": params, **state}, x) -> pre-logits (n, d), the input of the head.
      head: keys from the root of `params` to the linear head, a mapping with "kernel" (d, c) and, if any, "bias"; or as one string,
        "classifier/out".
      last_conv: the last convolution: a `LastConv`, or only the keys to its kernel, ("Conv_1", "kernel") or "Conv_1/kernel".
      last_block: for a network without a last convolution, keys to a group of parameters, ("blocks", "11") or "blocks/11": the weights that LGC
        differentiates by default.
      preprocess: images (uint8, of any sizes) -> network input (n, size, size, 3); usually a `Preprocess`.
      card: provenance of the expert.
      taps_fn: taps_fn({"params": params, **state}, x, perturbation) -> `Taps`, where `perturbation` (or None) is
        added to the output of the last convolution. Optional: with it one forward pass serves all scores, and
        LGC of the last convolution needs no per-example weight gradients.
        The four functions may have an attribute `headless`, see `experts.headless`.
      train_fn: train_fn({"params": params, **state}, x) -> (`Taps`, new state) in training mode (batch norm over the batch). Optional;
        needed only for training.
      source: statistics of the source data. Optional.

    Raises:
      ModelError: `params` contains nnx variables instead of arrays, `state` contains "params", or `head`, `last_conv` or `last_block` do not
        exist in `params`.
    """

    name: str
    apply_fn: Callable[[Variables, Any], Any]
    params: Any
    state: Variables = field(default_factory=dict)
    features_fn: Callable[[Variables, Any], Any] | None = None
    head: tuple[str, ...] | None = None
    last_conv: LastConv | tuple[str, ...] | None = None
    preprocess: Callable[[Any], np.ndarray] | None = None
    card: Card | None = None
    taps_fn: Callable[[Variables, Any, Any], Taps] | None = None
    train_fn: Callable[[Variables, Any], tuple[Taps, Variables]] | None = None
    source: SourceStatistics | None = None
    last_block: tuple[str, ...] | None = None

    def __post_init__(self):
        if "params" in self.state:
            raise ModelError(f"Expert {self.name!r}: state must not contain 'params'. Try: Expert(..., params=variables['params'], state=rest)")
        if (kind := _kind_of_nnx(self.params)) is not None:
            raise ModelError(
                f"Expert {self.name!r}: params contains nnx variables ({kind}), not arrays. Try: nnx.to_pure_dict(params), "
                "or ntk_select.nnx_expert(name, module, x, head=...), which takes the module itself"
            )
        if self.last_conv is not None and not isinstance(self.last_conv, LastConv):
            object.__setattr__(self, "last_conv", LastConv(self.last_conv))
        if self.head is not None:
            object.__setattr__(self, "head", as_path(self.head))
            leaf_at(self.params, (*self.head, "kernel"), f"head of expert {self.name!r}")
        if self.last_conv is not None:
            leaf_at(self.params, self.last_conv.path, f"last_conv of expert {self.name!r}")
        if self.last_block is not None:
            object.__setattr__(self, "last_block", as_path(self.last_block))
            node_at(self.params, self.last_block, f"last_block of expert {self.name!r}")

    @property
    def variables(self) -> dict[str, Any]:
        """{"params": params, **state}, the first argument of `apply_fn`."""
        return {"params": self.params, **self.state}

    def with_variables(self, variables: Variables) -> "Expert":
        """The same expert with other variables of the same structure."""
        return replace(self, params=variables["params"], state={key: value for key, value in variables.items() if key != "params"})

    @property
    def head_kernel(self) -> np.ndarray | None:
        """Weights (d, c) of the linear head, None without a head."""
        return None if self.head is None else leaf_at(self.params, (*self.head, "kernel"), "head")

    @property
    def num_params(self) -> int:
        """Number of parameters, without batch statistics."""
        return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.params))

    def __repr__(self):
        return f"Expert({self.name!r}, parameters={self.num_params:,})"


def as_path(keys: str | tuple[str, ...]) -> tuple[str, ...]:
    """A path as a tuple of keys: "stage/head" is ("stage", "head"). Raises ModelError for other types than strings, tuples and lists."""
    if not isinstance(keys, str | tuple | list):
        raise ModelError(
            f"{keys!r} is not a path of a layer. Allowed: keys from the root of params, as one string or a tuple: 'stage/head', ('stage', 'head')."
        )
    return tuple(keys.split("/")) if isinstance(keys, str) else tuple(keys)


def _kind_of_nnx(params) -> str | None:
    """The type of the first nnx object (State, Variable, Module) in nested params; None without any."""
    if any(kind.__module__.startswith("flax.nnx") for kind in type(params).__mro__):
        return type(params).__name__
    inner = params.values() if isinstance(params, Mapping) else params if isinstance(params, list | tuple) else ()
    return next(filter(None, map(_kind_of_nnx, inner)), None)


def leaf_at(params, path: tuple[str, ...], purpose: str):
    """The leaf of nested mappings at `path`. Raises ModelError with the existing keys."""
    node = node_at(params, path, purpose)
    if isinstance(node, Mapping):
        raise ModelError(f"The {purpose} is {'/'.join(path)!r}, a group of parameters. Name one of its arrays: {', '.join(map(str, node))}.")
    return node


def node_at(params, path: tuple[str, ...], purpose: str):
    """The part of nested mappings at `path`, a mapping or a leaf. Raises ModelError with the existing keys."""
    node = params
    for depth, key in enumerate(path):
        if not isinstance(node, Mapping) or key not in node:
            keys = ", ".join(map(str, node)) if isinstance(node, Mapping) else "(an array)"
            raise ModelError(f"The {purpose} is {'/'.join(path)!r}, but params has no {'/'.join(path[: depth + 1])!r}. Available: {keys}.")
        node = node[key]
    return node
