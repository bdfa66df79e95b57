"""An nnx module of one's own as an expert."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert, as_path

from .own_errors import OF_MODULES, check_nnx, not_trainable
from .own_module import Path, Watch, as_expert, as_taps

_PARTS = (nnx.Param, nnx.RngKey, ...)


@dataclass(frozen=True)
class _OfModule:
    """The graph of a module whose head and last convolution are seen at work. Equal graphs are equal, so that compilations are shared."""

    graph: Any
    head: Path
    conv: Path | None
    name: str = field(default="", compare=False)
    module, arguments, called_with = None, (), ""

    def __call__(self, variables, x):
        return _module(self.graph, variables)(x)

    def watch(self, variables, x, perturbation=None):
        """What was seen, the module afterwards, and the last convolution."""
        module, watch = _module(self.graph, variables), Watch(self.head, self.conv, perturbation)
        for path in filter(None, (self.head, self.conv)):
            _put(module, path, lambda layer, path=path: _StandIn(watch, path, layer))
        logits = module(x)
        for path in filter(None, (self.head, self.conv)):
            _put(module, path, lambda seen: seen.layer)
        return watch.seen(logits), module, watch.layer


class _StandIn:
    """Stands where the layer was, and calls it."""

    def __init__(self, watch: Watch, path: Path, layer):
        self.watch, self.path, self.layer = watch, path, layer

    def __call__(self, *args, **kwargs):
        return self.watch.call(self.path, self.layer, self.layer, args, kwargs)

    def __getattr__(self, name):
        return getattr(self.layer, name)


class _Train(_OfModule):
    def __call__(self, variables, x):
        try:
            seen, module, _ = self.watch(variables, x)
        except (ModelError, jax.errors.UnexpectedTracerError):
            raise
        except OF_MODULES as error:
            raise not_trainable(self.name, error) from error
        return as_taps(seen), {key: value for key, value in _variables(module).items() if key != "params"}


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

    The module is copied; a later change of it changes nothing here. The copy is in evaluation mode (`module.eval()`) but while it
    is fine-tuned. One input passes through it, watched. What enters the head are the pre-logits; strides and padding of the last
    convolution are read off.

    Args:
      name: unique in its zoo.
      module: module(x) -> logits (n, c).
      x: one network input (1, ...), of any values.
      head: path of the `nnx.Linear` that comes last, by attributes and places in lists: "head", "classifier/layers/2".
      last_conv: path of the last `nnx.Conv`; LGC needs it unless it is asked for other layers.
      preprocess: images (uint8, of any sizes) -> network inputs; usually an `ns.Preprocess`.
      card: where the expert comes from.
      pooled: as for `linen_expert`.

    Returns:
      An `Expert` whose params are nested dictionaries with the attributes' names as keys.

    A module that cannot be called in training mode, as one whose `nnx.Dropout` has no `rngs`, can be ranked; `ns.finetune` refuses it.

    Raises:
      ModelError: the module cannot be called with x; a layer is not called once in a forward pass or cannot be watched (below
        `nnx.remat`); the head is not the linear layer that comes last; or channels are not only pooled.

    Cost: the forward pass is compiled once, with `pooled` twice, and once backwards.
    """
    check_nnx(name, module)
    head, conv, module = as_path(head), None if last_conv is None else as_path(last_conv), nnx.clone(module)
    module.train()
    training = nnx.graphdef(module)
    module.eval()
    network = _OfModule(nnx.graphdef(module), head, conv)
    known = {"preprocess": preprocess, "card": card, "train_fn": _Train(training, head, conv, name)}
    return as_expert(name, network, _variables(module), x, pooled=pooled, **known)


def _variables(module: nnx.Module) -> dict[str, Any]:
    """The module's arrays as nested dictionaries: what is trained, the keys of its random numbers, the rest."""
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
    """Places in lists are numbers in nnx."""
    return int(name) if name.isdecimal() else name


def _put(module: nnx.Module, path: Path, change) -> None:
    """change(layer) in the place of the layer at `path`; nothing happens where there is none."""
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
