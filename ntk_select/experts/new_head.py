"""Experts with a new linear head for another task, on the pre-logits of the original expert."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.checks import check_count
from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.experts.headless import without_part

HEADS = ("random", "zero")
_OLD = "source_head"


@dataclass(frozen=True)
class _OfBackbone:
    """A function of the original expert, called with the variables of the new one. The old head is passed as a constant."""

    fn: Callable
    head: tuple[str, ...]
    old: str

    def original(self, variables):
        """The variables in the structure of the original expert."""
        state = {key: value for key, value in variables.items() if key not in ("params", self.old)}
        backbone = variables["params"]["backbone"]
        return {"params": _with(backbone, self.head, variables[self.old]) if self.old in variables else backbone, **state}


class _Features(_OfBackbone):
    def __call__(self, variables, x):
        return self.fn(self.original(variables), x)


class _Logits(_Features):
    def __call__(self, variables, x):
        return _linear(variables, super().__call__(variables, x))


class _Taps(_OfBackbone):
    def __call__(self, variables, x, perturbation=None):
        taps = self.fn(self.original(variables), x, perturbation)
        return taps._replace(logits=_linear(variables, taps.features))


class _Train(_OfBackbone):
    def __call__(self, variables, x):
        taps, changed = self.fn(self.original(variables), x)
        return taps._replace(logits=_linear(variables, taps.features)), changed


def with_new_head(expert: Expert, num_classes: int, *, head: str = "random", seed: int = 0, x: Any = None) -> Expert:
    """The expert with a linear head of `num_classes` outputs on its pre-logits, ready to be fine-tuned.

    Args:
      expert: Expert with `features_fn`.
      num_classes: Classes of the new task, at least 1 (one output for two classes of -1 and +1).
      head: "random": weights uniform in [-1 / sqrt(d), 1 / sqrt(d)] as in PyTorch, zero bias; "zero": all zero, so that the
        initial gradient of the backbone is zero, the kernel is the feature kernel and LGC is undefined.
      seed: Seed of the random head.
      x: one network input (1, ...), to determine the number of pre-logits of an expert without a head, and to check it otherwise.

    Returns:
      An `Expert` of the same name with params {"backbone": ..., "head": {"kernel", "bias"}}; the old head is in its state.

    Raises:
      ConfigError: `head` is unknown, or a number is out of range.
      ModelError: the expert has no `features_fn`, or neither a head nor `x`, or its pre-logits are not (n, d) or do not fit its head.
    """
    if head not in HEADS:
        raise ConfigError(f"head={head!r} is unknown.{did_you_mean(str(head), HEADS)}")
    check_count("num_classes", num_classes, 1)
    check_count("seed", seed, 0)
    if expert.features_fn is None:
        raise ModelError(f"Expert {expert.name!r} has no features_fn, which a new head needs. Try: Expert(..., features_fn=...)")
    if expert.head_kernel is None and x is None:
        raise ModelError(f"Expert {expert.name!r} has no head from which the number of pre-logits is known. Try: with_new_head(..., x=one input)")
    shape = None if x is None else jax.eval_shape(expert.features_fn, expert.variables, x[:1])
    if shape is not None and len(shape.shape) != 2:
        raise ModelError(f"features_fn of expert {expert.name!r} returns {shape.shape} for one input; pre-logits must be (1, d).")
    width, dtype = (shape.shape[1], shape.dtype) if expert.head_kernel is None else (expert.head_kernel.shape[0], expert.head_kernel.dtype)
    if shape is not None and shape.shape[1] != width:
        raise ModelError(f"features_fn of expert {expert.name!r} returns {shape.shape[1]} pre-logits, but its head takes {width}.")
    end = width**-0.5 if head == "random" else 0.0
    weights = np.random.default_rng(seed).uniform(-end, end, (width, num_classes))
    backbone, old = without_part(expert.params, expert.head)
    path, key = expert.head or (), _OLD
    while key in expert.state:  # an expert that already had a new head
        key += "_before"
    state = dict(expert.state) | ({} if old is None else {key: old})
    last_conv = expert.last_conv and replace(expert.last_conv, path=("backbone", *expert.last_conv.path))
    if last_conv is not None and expert.taps_fn is None:
        last_conv = replace(last_conv, pooled=None)
    return Expert(
        expert.name,
        _Logits(expert.features_fn, path, key),
        {"backbone": backbone, "head": {"kernel": weights.astype(dtype), "bias": np.zeros(num_classes, dtype)}},
        state,
        features_fn=_Features(expert.features_fn, path, key),
        head=("head",),
        last_conv=last_conv,
        last_block=expert.last_block and ("backbone", *expert.last_block),
        preprocess=expert.preprocess,
        card=expert.card,
        taps_fn=None if expert.taps_fn is None else _Taps(expert.taps_fn, path, key),
        train_fn=None if expert.train_fn is None else _Train(expert.train_fn, path, key),
    )


def _linear(variables, features):
    head = variables["params"]["head"]
    return features @ head["kernel"] + head["bias"]


def _with(tree: Mapping, path: tuple[str, ...], part):
    return {**tree, path[0]: part if len(path) == 1 else _with(tree.get(path[0], {}), path[1:], part)}


def has_new_head(expert: Expert) -> bool:
    """Whether the expert comes from `with_new_head`, so its params no longer have the structure of its architecture."""
    return isinstance(expert.apply_fn, _Logits)


def in_place(tuned: Expert, original: Expert) -> dict[str, Any]:
    """The variables of an expert from `with_new_head` in the structure of the original one, with the new head in place of its head.

    Raises:
      ModelError: the original has no head.
    """
    if original.head is None:
        raise ModelError(f"Expert {original.name!r} has no head that the new one could replace.")
    params = _with(tuned.params["backbone"], original.head, dict(tuned.params["head"]))
    return {"params": params, **{key: tuned.state[key] for key in original.state}}
