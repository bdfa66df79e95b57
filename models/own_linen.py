"""A linen module of one's own as an expert."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert, as_path

from .layers import key_of_batch
from .own_errors import check_linen
from .own_module import Path, Watch, as_expert, as_taps, try_training


@dataclass(frozen=True)
class _OfModule:
    """A module whose head and last convolution are seen at work. Equal modules are equal, so that compilations are shared."""

    module: nn.Module
    head: Path
    conv: Path | None
    arguments: tuple[tuple[str, Any], ...]
    called_with = "evaluate"

    def __call__(self, variables, x):
        return self.module.apply(variables, x, **dict(self.arguments))

    def watch(self, variables, x, perturbation=None, **apply):
        """What was seen, what `module.apply` gave, and the last convolution."""
        watch = Watch(self.head, self.conv, perturbation)

        def intercept(fn, args, kwargs, context):
            return watch.call(context.module.path, context.module, fn, args, kwargs) if context.method_name == "__call__" else fn(*args, **kwargs)

        with nn.intercept_methods(intercept):
            result = self.module.apply(variables, x, **apply, **dict(self.arguments))
        return watch.seen(result[0] if apply else result), result, watch.layer


class _Train(_OfModule):
    called_with = "train"

    def __call__(self, variables, x):
        collections = [key for key in variables if key != "params"]
        key = key_of_batch(x)  # Flax takes that of "params" for whatever else draws, as stochastic depth
        seen, (_, changed), _ = self.watch(variables, x, mutable=collections, rngs={"dropout": key, "params": key})
        return as_taps(seen), dict(changed)


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

    One input passes through it, watched. What enters the head are the pre-logits; strides and padding of the last convolution are
    read off.

    Args:
      name: unique in its zoo.
      module: module.apply(variables, x, **evaluate) -> logits (n, c).
      variables: {"params": ..., "batch_stats": ..., ...}, as `module.init` gives them or training has left them.
      x: one network input (1, ...), of any values.
      head: path of the linear layer that comes last, as in `variables["params"]`: "Dense_0", "classifier/out".
      last_conv: path of the last convolution; LGC needs it unless it is asked for other layers.
      preprocess: images (uint8, of any sizes) -> network inputs; usually an `ns.Preprocess`.
      card: where the expert comes from.
      pooled: say True where nothing on the way from the last convolution to the head mixes channels (batch norm, ReLU, pooling over
        positions, concatenation, as in ResNet and DenseNet; not squeeze-and-excitation): LGC's cost then does not grow with the number
        of classes. It is checked at four inputs, where a gate that happens to be shut may escape.
      evaluate: arguments of the module in evaluation mode, hashable: {"train": False}.
      train: the same in training mode: {"train": True}. Without, only `ns.finetune` with `batch_norm="frozen"` works. Dropout draws
        anew for every batch.

    Returns:
      An `Expert` with these variables as they are.

    Raises:
      ModelError: the module cannot be called with these variables and arguments, as in training mode; a layer is not called once in a forward
        pass or cannot be watched (below `nn.remat`); the head is not the linear layer that comes last; channels are not only pooled; or an
        argument has no hash.

    Cost: the forward pass is compiled once, with `pooled` twice, and once backwards.
    """
    check_linen(name, module, variables)
    variables = nn.meta.unbox(variables)
    head, conv = as_path(head), None if last_conv is None else as_path(last_conv)
    training = None if train is None else _Train(module, head, conv, _arguments("train", train))
    network = _OfModule(module, head, conv, _arguments("evaluate", evaluate))
    expert = as_expert(name, network, variables, x, pooled=pooled, preprocess=preprocess, card=card, train_fn=training)
    if training is not None:
        try_training(name, training, variables, x)
    return expert


def _arguments(name: str, given: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    if not isinstance(given, Mapping | None) or not all(isinstance(key, str) for key in given or {}):
        raise ModelError(f"{name}={given!r} is no dictionary of arguments by name, as in {{'train': False}}.")
    pairs = tuple((given or {}).items())
    try:
        hash(pairs)
    except TypeError as error:
        raise ModelError(f"{name}={given} holds what has no hash ({error}). Give plain values, as in {{'train': True}}.") from error
    return pairs
