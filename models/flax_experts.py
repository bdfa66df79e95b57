"""Experts from the user's own Flax networks: `linen_expert` and `nnx_expert`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert, as_path
from ntk_select.models.flax_errors import MODULE_ERRORS, check_linen, check_nnx, not_trainable
from ntk_select.models.flax_module import check_training, expert_of_flax
from ntk_select.models.layers import key_of_batch
from ntk_select.models.recorded_layers import Path, Recorder, as_taps


@dataclass(frozen=True)
class _LinenNetwork:
    """A linen module whose head and last convolution can be recorded. Compared by value: equal modules share compilations."""

    module: nn.Module
    head: Path
    conv: Path | None
    arguments: tuple[tuple[str, Any], ...]
    called_with = "evaluate"

    def __call__(self, variables, x):
        return self.module.apply(variables, x, **dict(self.arguments))

    def record(self, variables, x, perturbation=None, **apply):
        """The records, the result of `module.apply`, and the layer of the last convolution."""
        recorder = Recorder(self.head, self.conv, perturbation)

        def intercept(fn, args, kwargs, context):
            return recorder.call(context.module.path, context.module, fn, args, kwargs) if context.method_name == "__call__" else fn(*args, **kwargs)

        with nn.intercept_methods(intercept):
            result = self.module.apply(variables, x, **apply, **dict(self.arguments))
        return recorder.result(result[0] if apply else result), result, recorder.layer


class _LinenTraining(_LinenNetwork):
    called_with = "train"

    def __call__(self, variables, x):
        collections = [key for key in variables if key != "params"]
        key = key_of_batch(x)  # Flax uses the key of "params" for all other random numbers, as of stochastic depth
        records, (_, changed), _ = self.record(variables, x, mutable=collections, rngs={"dropout": key, "params": key})
        return as_taps(records), dict(changed)


def linen_expert(
    name: str,
    module: nn.Module,
    variables: Mapping[str, Any],
    x,
    *,
    head: str | Path,
    last_conv: str | Path | None = None,
    preprocess=None,
    card: Card | None = None,
    pooled: bool = False,
    evaluate: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> Expert:
    """A Flax linen module as an expert: for `ns.rank`, LGC, `ns.linearized` and `ns.finetune`.

    The network is traced with one input. The inputs of the head are the pre-logits; strides and padding of the last convolution are
    taken from its layer.

    Args:
      name: unique in its zoo.
      module: module.apply(variables, x, **evaluate) -> logits (n, c).
      variables: {"params": ..., "batch_stats": ..., ...}, from `module.init` or from training.
      x: one network input (1, ...), of any values.
      head: path of the final linear layer, as in `variables["params"]`: "Dense_0", "classifier/out".
      last_conv: path of the last convolution; LGC needs it unless other layers are requested.
      preprocess: images (uint8, of any sizes) -> network inputs; usually an `ns.Preprocess`.
      card: provenance of the expert.
      pooled: True if no layer between the last convolution and the head mixes channels (batch norm, ReLU, pooling over positions and
        concatenation do not, as in ResNet and DenseNet; squeeze-and-excitation does): the cost of LGC is then independent of the
        number of classes. Checked at four inputs, which may miss a gate that is closed at all of them.
      evaluate: arguments of the module in evaluation mode, hashable: {"train": False}.
      train: the same in training mode: {"train": True}. Without it `ns.finetune` works only with `batch_norm="frozen"`. Dropout is
        resampled for each batch.

    Returns:
      An `Expert` with these variables, unchanged.

    Raises:
      ModelError: the module cannot be called with these variables and arguments, or not in evaluation mode; a layer is not called exactly once
        per forward pass or cannot be recorded (inside `nn.remat`); the head is not the final linear layer; channels are not only pooled; or an
        argument is not hashable.

    Cost: one compilation of the forward pass; with `pooled` two, and one of the backward pass.
    """
    check_linen(name, module, variables)
    variables = nn.meta.unbox(variables)
    head, conv = as_path(head), None if last_conv is None else as_path(last_conv)
    training = None if train is None else _LinenTraining(module, head, conv, _arguments("train", train))
    network = _LinenNetwork(module, head, conv, _arguments("evaluate", evaluate))
    expert = expert_of_flax(name, network, variables, x, pooled=pooled, preprocess=preprocess, card=card, train_fn=training)
    if training is not None:
        check_training(name, training, variables, x)
    return expert


def _arguments(name: str, given: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    if not isinstance(given, Mapping | None) or not all(isinstance(key, str) for key in given or {}):
        raise ModelError(f"{name}={given!r} must be a dictionary of arguments by name, as in {{'train': False}}.")
    pairs = tuple((given or {}).items())
    try:
        hash(pairs)
    except TypeError as error:
        raise ModelError(f"{name}={given} contains unhashable values ({error}). Try: plain values, as in {{'train': True}}") from error
    return pairs


_PARTS = (nnx.Param, nnx.RngKey, ...)


@dataclass(frozen=True)
class _NnxNetwork:
    """The graph of an nnx module whose head and last convolution can be recorded. Compared by value: equal graphs share compilations."""

    graph: Any
    head: Path
    conv: Path | None
    name: str = field(default="", compare=False)
    module, arguments, called_with = None, (), ""

    def __call__(self, variables, x):
        return _module(self.graph, variables)(x)

    def record(self, variables, x, perturbation=None):
        """The records, the module after the call, and the layer of the last convolution."""
        module, recorder = _module(self.graph, variables), Recorder(self.head, self.conv, perturbation)
        for path in filter(None, (self.head, self.conv)):
            _put(module, path, lambda layer, path=path: _RecordedLayer(recorder, path, layer))
        logits = module(x)
        for path in filter(None, (self.head, self.conv)):
            _put(module, path, lambda proxy: proxy.layer)
        return recorder.result(logits), module, recorder.layer


class _RecordedLayer:
    """Replaces a layer and records its calls."""

    def __init__(self, recorder: Recorder, path: Path, layer):
        self.recorder, self.path, self.layer = recorder, path, layer

    def __call__(self, *args, **kwargs):
        return self.recorder.call(self.path, self.layer, self.layer, args, kwargs)

    def __getattr__(self, name):
        return getattr(self.layer, name)


class _NnxTraining(_NnxNetwork):
    def __call__(self, variables, x):
        try:
            records, module, _ = self.record(variables, x)
        except (ModelError, jax.errors.UnexpectedTracerError):
            raise
        except MODULE_ERRORS as error:
            raise not_trainable(self.name, error) from error
        return as_taps(records), {key: value for key, value in _variables(module).items() if key != "params"}


def nnx_expert(
    name: str,
    module: nnx.Module,
    x,
    *,
    head: str | Path,
    last_conv: str | Path | None = None,
    preprocess=None,
    card: Card | None = None,
    pooled: bool = False,
) -> Expert:
    """A Flax nnx module as an expert: for `ns.rank`, LGC, `ns.linearized` and `ns.finetune`.

    The module is copied, so later changes of it have no effect. The copy is in evaluation mode (`module.eval()`), and in training
    mode only during fine-tuning. The network is traced with one input. The inputs of the head are the pre-logits; strides and
    padding of the last convolution are taken from its layer.

    Args:
      name: unique in its zoo.
      module: module(x) -> logits (n, c).
      x: one network input (1, ...), of any values.
      head: path of the final `nnx.Linear`, by attributes and list indices: "head", "classifier/layers/2".
      last_conv: path of the last `nnx.Conv`; LGC needs it unless other layers are requested.
      preprocess: images (uint8, of any sizes) -> network inputs; usually an `ns.Preprocess`.
      card: provenance of the expert.
      pooled: as for `linen_expert`.

    Returns:
      An `Expert` whose params are nested dictionaries with attribute names as keys. A module that cannot be called in training mode, for
      example because its `nnx.Dropout` has no `rngs`, can be ranked; `ns.finetune` rejects it.

    Raises:
      ModelError: the module cannot be called with x; a layer is not called exactly once per forward pass or cannot be recorded (inside
        `nnx.remat`); the head is not the final linear layer; or channels are not only pooled.

    Cost: one compilation of the forward pass; with `pooled` two, and one of the backward pass.
    """
    check_nnx(name, module)
    head, conv, module = as_path(head), None if last_conv is None else as_path(last_conv), nnx.clone(module)
    module.train()
    training = nnx.graphdef(module)
    module.eval()
    network = _NnxNetwork(nnx.graphdef(module), head, conv)
    known = {"preprocess": preprocess, "card": card, "train_fn": _NnxTraining(training, head, conv, name)}
    return expert_of_flax(name, network, _variables(module), x, pooled=pooled, **known)


def _variables(module: nnx.Module) -> dict[str, Any]:
    """The arrays of the module as nested dictionaries: trained parameters, random keys, and the rest."""
    _, params, keys, rest = nnx.split(module, *_PARTS)
    keys = jax.tree.map(jax.random.key_data, nnx.to_pure_dict(keys))
    return {"params": _renamed(nnx.to_pure_dict(params), str), "random_keys": _renamed(keys, str), "rest": _renamed(nnx.to_pure_dict(rest), str)}


def _module(graph, variables: Mapping[str, Any]) -> nnx.Module:
    """The module with these arrays."""
    params, keys, rest = (_renamed(variables[part], _key) for part in ("params", "random_keys", "rest"))
    return nnx.merge(graph, params, jax.tree.map(jax.random.wrap_key_data, keys), rest)


def _renamed(tree, key):
    return {key(name): _renamed(part, key) for name, part in tree.items()} if isinstance(tree, Mapping) else tree


def _key(name: str) -> str | int:
    """List indices are integers in nnx."""
    return int(name) if name.isdecimal() else name


def _put(module: nnx.Module, path: Path, change) -> None:
    """Replaces the layer at `path` by change(layer), if there is one."""
    *outer, last = map(_key, path)
    try:
        for key in outer:
            module = module[key] if isinstance(key, int) else getattr(module, key)
        layer = module[last] if isinstance(last, int) else getattr(module, last)
    except (AttributeError, IndexError, TypeError):
        return
    if isinstance(last, int):
        module[last] = change(layer)
    else:
        setattr(module, last, change(layer))
