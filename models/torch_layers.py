"""Head, last convolution and last block of a PyTorch module, by the order in which its layers are called and the names of classes in timm and torchvision."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from ntk_select.models.recorded_layers import Path
from ntk_select.models.torch_errors import check_head, is_head, no_head
from ntk_select.models.torch_module import Layer, tensors_of

BLOCK = re.compile(r"Block|Bottleneck|Residual|DepthwiseSeparable|EncoderLayer|(Basic|Layer)$")
"""Names of classes of blocks."""
GATE = re.compile(r"(SE|SELayer|SEWithNorm|(SE|Ese|Eca|EffectiveSE|Cbam|LightCbam)Module|\w*Excit\w*|GlobalContext)")
"""Names of classes that compute scales of channels."""
SHORTCUTS, HIDDEN = {"downsample", "shortcut"}, {"pre_logits", "pre_classifier"}
"""Names of shortcuts of blocks, and of hidden layers of heads."""


def find_head(name: str, model, given: str | None, layers: Sequence[Layer]) -> str | None:
    """Path of the head; None for a model of timm without one, or with another than one linear layer.

    Args:
      name: name of the expert, for messages.
      model: the module.
      given: path of the head, if it is known.
      layers: as of `called_layers`.

    Raises:
      ModelError: there is no linear layer whose output the module returns.
    """
    found, last = given, layers[-1] if layers else None
    if found is None:
        is_timm = hasattr(model, "get_classifier") and hasattr(model, "reset_classifier")
        if is_timm and not getattr(model, "num_classes", 1):
            return None
        classifier = model.get_classifier() if is_timm else None
        if last is not None and ((last.final and last.kind == "linear") or (is_head(classifier) and classifier is model.get_submodule(last.path))):
            found = last.path
        elif is_timm:
            return None
        else:
            raise no_head(name, "no layer with weights is called" if last is None else f"the last layer with weights is {last.path!r} ({last.kind})")
    check_head(name, model, found)
    return found


def without_head(model) -> Any:
    """A copy of a model of timm that returns pre-logits. Tensors are shared."""
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors_of(model)})
    copied.reset_classifier(0)
    return copied


def with_weights(module, layers: Sequence[Layer]) -> list[Layer]:
    """The layers that the module still has."""
    modules = dict(module.named_modules())
    return [layer for layer in layers if hasattr(modules.get(layer.path), "weight")]


def find_conv(module, head: str | None, layers: Sequence[Layer]) -> str | None:
    """Path of the last convolution, if it is an ungrouped one and only the head follows; gates, shortcuts and hidden layers of the head are passed over."""
    body = _body(module, head, layers)
    return body[-1].path if body and body[-1].kind == "conv" else None


def find_block(module, head: str | None, layers: Sequence[Layer]) -> Path | None:
    """Path of the last block.

    That is the innermost block around the last layer that is in one; preferably one with a number in its name, since parts of blocks may be blocks, too.
    Without blocks, the innermost numbered module around the last layer, or the layer.
    """
    body = _body(module, head, layers)
    for layer in reversed(body):
        parents = _parents(layer.path)
        blocks = [parent for parent in parents if BLOCK.search(_class(module, parent))]
        if blocks:
            return next((block for block in blocks if block[-1][-1].isdecimal()), blocks[0])
    if not body:
        return None
    return next((parent for parent in _parents(body[-1].path) if parent[-1].isdecimal()), tuple(body[-1].path.split(".")))


def _body(module, head: str | None, layers: Sequence[Layer]) -> list[Layer]:
    """The layers before the head; without the last ones that no person would call the last layer."""
    body = [layer for layer in layers if layer.path != head]
    end = len(body)
    while end and _is_passed_over(module, body[end - 1], head or ""):
        end -= 1
    return body[:end] or body


def _is_passed_over(module, layer: Layer, head: str) -> bool:
    parents, names = _parents(layer.path), set(layer.path.split("."))
    beside_head = layer.kind == "linear" and parents and parents[0] == tuple(head.split("."))[:-1]
    return bool(beside_head or names & (SHORTCUTS | HIDDEN)) or any(GATE.fullmatch(_class(module, parent)) for parent in parents)


def _parents(path: str) -> list[Path]:
    """The modules around a layer, from the innermost one; without the network itself."""
    names = tuple(path.split("."))
    return [names[:depth] for depth in range(len(names) - 1, 0, -1)]


def _class(module, path: Path) -> str:
    return type(module.get_submodule(".".join(path))).__name__
