"""Selection of a network's weights in a checkpoint: the set of weights, the prefix of its names, and the head.

Training programs store the state dict under keys ("state_dict", "ema"), and wrappers add prefixes to its names ("module.", "_orig_mod.",
"backbone."). Neither is matched against a list: the names of the architecture are searched for after any prefix. Only wrappers of single
layers, which occur inside names ("features.module.0.weight"), are listed, in `WRAPPERS`.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ntk_select.errors import ModelError, few
from ntk_select.models.state_dict import IGNORED, StateDictLayout, current_name, state_dict_layout
from ntk_select.models.torch_file import StoredTensor, UnknownObject, as_mapping, is_mapping

TIMM_ORDER = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which timm searches for weights, in order of precedence."""

AVERAGE = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow|polyak)(?![a-z])")
"""Words in the label of weights that were averaged over training."""

HEAD_WORDS = re.compile(r"fc|head|classif|linear|logit|dense|cls|output")
TRAINING_ONLY = re.compile(
    r"\w*(criterion|loss|accuracy|confmat|queue)\w*|(\w*_)?metrics?(_\w*)?|(pixel_|image_)?(mean|std)|(\w*_)?(step|epoch|counter)s?"
)
"""Components of the names of tensors that are not used for the logits: of losses, metrics and input normalisation."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module")
"""Components that PyTorch inserts into names of layers that are parallel, compiled, sharded or checkpointed."""

STEMS = ("conv1.weight", "features.conv0.weight", "features.0.weight")
"""The first convolution of each family, which reveals a prefix if the architecture is unknown."""

DEEPEST, MOST_NAMES, LONGEST_NAME = 8, 8, 1000
"""Depth of nested containers that are searched, names of one container, and characters of the name of a tensor."""


@dataclass(frozen=True, eq=False)
class WeightSet:
    """One set of weights of a network.

    Args:
      keys: path to its mapping.
      prefix: common prefix of all its names there.
      tensors: tensors by name, without the prefix.
      outside: the other tensors of the mapping, by full name.
      wrappers: members of `WRAPPERS` that were removed from names.
      unknown: values with names of the network that are not tensors, with their types.
      no_tensors: names of all other values that are not tensors.
      complete: whether all tensors of the body of the architecture exist with the right shapes, and no others of the body.
    """

    keys: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, Any]
    outside: Mapping[str, Any]
    wrappers: tuple[str, ...]
    unknown: Mapping[str, str]
    no_tensors: tuple[str, ...]
    complete: bool

    @property
    def label(self) -> str:
        """Keys and prefix, as the argument `weights` accepts them: "state_dict.model"."""
        return ".".join([*self.keys, *filter(None, self.prefix.split("."))])


@dataclass(frozen=True, eq=False)
class NetworkState:
    """The selected state dict of a network, with the decisions made.

    Args:
      tensors: arrays by name.
      weights: label of the selected set; empty if the file contains only the state dict.
      notes: sentences on what was selected and dropped.
      hint: a remedy if the tensors do not fit the architecture; empty or a sentence.
    """

    tensors: dict[str, np.ndarray]
    weights: str = ""
    notes: tuple[str, ...] = ()
    hint: str = ""


def network_state(
    content: Any, architecture: str | StateDictLayout, where: str, *, weights: str | None = None, drop_head: bool = False
) -> NetworkState:
    """The state dict of a network of `architecture` in the content of a checkpoint.

    Args:
      content: nested containers with tensors.
      architecture: name in `ARCHITECTURES`, or the tensors of another network.
      where: name of the checkpoint in error messages.
      weights: part of the label of the set to select if there are several, as "ema".
      drop_head: take the network without its head.

    Raises:
      ModelError: there are no tensors, several different sets without a known precedence, or no set with the label `weights`.
    """
    network = architecture if isinstance(architecture, StateDictLayout) else state_dict_layout(architecture)
    sets = _weight_sets(content, network)
    if not sets:
        tensors = plain_state(content, where)
        if weights is not None:
            raise ModelError(f"{where} contains no weights of {architecture} under {weights!r}. Try: without weights= (--weights)")
        return NetworkState(tensors)
    taken, notes = _choose(sets, weights, where)
    if taken.unknown:
        raise ModelError(f"{where}: {few([f'{name} ({kind})' for name, kind in taken.unknown.items()])}, of a type that cannot be converted.")
    if taken.prefix:
        everywhere = "" if taken.outside else "all "
        notes.append(f"The prefix {taken.prefix!r} of {everywhere}names was dropped.")
    if taken.wrappers:
        notes.append(f"Dropped inside names: {', '.join(map(repr, taken.wrappers))}.")
    elsewhere = tuple(other.prefix for other in sets if other.keys == taken.keys and other is not taken)
    tensors, head_notes, hint = _with_head(taken, network, drop_head, elsewhere)
    notes += head_notes
    if taken.no_tensors:
        notes.append(f"Ignored, since they are not tensors: {few(taken.no_tensors)}.")
    others = [other for other in sets if other is not taken]
    if others and not taken.complete:
        hint += f" Other weights in the file: {', '.join(other.label for other in others)}. {_how_to_take(others[0])}"
    return NetworkState({name: _array(tensor, name, where) for name, tensor in tensors.items()}, taken.label, tuple(notes), hint)


def plain_state(content: Any, where: str) -> dict[str, np.ndarray]:
    """The largest set of tensors in the content of a checkpoint, of any network, without the prefix of its first layer.

    Raises:
      ModelError: there are no tensors.
    """
    found = [mapping for _, mapping in _mappings(content)]
    if not found:
        kind = content.kind if isinstance(content, UnknownObject) else type(content).__name__
        raise ModelError(f"{where} contains a {kind}, not a state dict, and nothing in it was run. Try: torch.save(model.state_dict(), 'model.pth')")
    tensors = max(map(_tensors, found), key=len)
    short = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
    tensors = short if len(short) == len(tensors) else tensors
    if not tensors:
        others = [f"{key if isinstance(key, str) else _kind(key)} ({_kind(value)})" for key, value in found[0].items()]
        raise ModelError(f"{where} contains no tensors{': ' if others else ''}{few(others)}. Allowed: a state dict, alone or under any key.")
    stems = sorted((key for key in tensors if key.endswith(STEMS)), key=len)
    prefix = stems[0].removesuffix(next(stem for stem in STEMS if stems[0].endswith(stem))) if stems else ""
    prefix = prefix if prefix.endswith(".") else ""
    return {name.removeprefix(prefix): _array(tensor, name, where) for name, tensor in tensors.items() if name.startswith(prefix)}


def _array(tensor, name: str, where: str) -> np.ndarray:
    array = tensor.array(f"{name} of {where[0].lower()}{where[1:]}") if isinstance(tensor, StoredTensor) else tensor
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, UnknownObject) else type(value).__name__


def _label(key: Any) -> str:
    """A key of a mapping as text; for keys other than strings and 64-bit integers, their type."""
    return key if isinstance(key, str) else str(key) if isinstance(key, int) and abs(key) < 2**63 else _kind(key)


def _tensors(mapping: Mapping) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, StoredTensor | np.ndarray)}


def _mappings(content: Any, keys: tuple[str, ...] = (), seen: Counter[int] | None = None) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """All nested mappings with their paths of keys: at most `MOST_NAMES` of each. A mapping may contain itself, so that each is entered once."""
    seen = Counter() if seen is None else seen
    if len(keys) > DEEPEST or seen[id(content)] == MOST_NAMES or (mapping := as_mapping(content)) is None:
        return
    seen[id(content)] += 1
    yield keys, mapping
    if seen[id(content)] == 1:
        for key, value in mapping.items():
            yield from _mappings(value, (*keys, _label(key)), seen)


def _weight_sets(content: Any, network: StateDictLayout) -> list[WeightSet]:
    """The sets of weights with names of the body of the architecture, possibly including other networks of its family."""
    found = []
    for keys, mapping in _mappings(content):
        counts = Counter()
        for key in (key for key in _tensors(mapping) if len(key) <= LONGEST_NAME):
            parts = key.split(".")
            starts = [i for i, part in enumerate(parts) if part not in WRAPPERS]  # leading wrappers belong to the prefix
            counts.update(".".join([*parts[:i], ""]) for i in starts if _own_name(".".join(parts[i:]), network) in network.body)
        found += [(count, keys, prefix, mapping) for prefix, count in counts.items()]
    most = max((count for count, *_ in found), default=0)
    return [_weight_set(*place, network) for count, *place in found if 2 * count >= most and 20 * count >= len(network.body)]


def _weight_set(keys: tuple[str, ...], prefix: str, mapping: Mapping, network: StateDictLayout) -> WeightSet:
    tensors = _tensors(mapping)
    inside, wrappers = _unwrapped({key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}, network)
    outside = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix) and not _is_ignored(key)}
    others = {_label(key): _kind(value) for key, value in mapping.items() if key not in tensors and not is_mapping(value)}
    names = {f"{prefix}{name}" for name in (*network.body, *network.head)}
    unknown = {key.removeprefix(prefix): kind for key, kind in others.items() if key in names}
    shapes = {current_name(name, network.network): tuple(tensor.shape) for name, tensor in inside.items()}
    complete = not unknown and all(shapes.get(name) == shape for name, shape in network.body.items())
    complete = complete and all(_is_droppable(name, network) for name in _extra(shapes, network))
    return WeightSet(keys, prefix, inside, outside, wrappers, unknown, tuple(key for key in others if key not in names), complete)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _own_name(name: str, network: StateDictLayout) -> str:
    return current_name(_without_wrappers(name), network.network)


def _unwrapped(tensors: Mapping[str, Any], network: StateDictLayout) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Tensors under the names of the architecture, and the wrappers removed. Names that exist without wrappers, and other names, stay."""
    renamed, wrappers = {}, set()
    for name, tensor in tensors.items():
        short = _without_wrappers(name)
        of_network = _own_name(name, network) in network.body or short.startswith(f"{network.head_layer}.") or _is_ignored(name)
        if short != name and of_network and short not in tensors and short not in renamed:
            wrappers.update(part for part in name.split(".") if part in WRAPPERS)
            name = short
        renamed[name] = tensor
    return renamed, tuple(sorted(wrappers))


def _choose(sets: list[WeightSet], wanted: str | None, where: str) -> tuple[WeightSet, list[str]]:
    """The selected set, and a sentence that names it."""
    labels = [one.label for one in sets]
    named = [one for one in sets if wanted is None or f".{wanted.strip('.')}." in f".{one.label}."]
    named = [one for one in named if one.label == wanted] or named
    if not named:
        raise ModelError(f"{where} contains no weights under {wanted!r}. Available: {', '.join(label or '(the file itself)' for label in labels)}.")
    likely = [one for one in named if one.complete] or named
    averages = [one for one in likely if AVERAGE.search(one.label.lower())]
    if not all(_same(likely[0], other, where) for other in likely[1:]):
        likely = averages or likely
        of_timm = sorted((one for one in likely if one.keys[:1] and one.keys[0] in TIMM_ORDER), key=lambda one: TIMM_ORDER.index(one.keys[0]))
        if averages or len(of_timm) == len(likely):
            likely = [one for one in of_timm if one.keys[0] == of_timm[0].keys[0]] or likely
        if len(likely) > 1:
            raise ModelError(
                f"{where} contains several different sets of weights without a known precedence: {', '.join(one.label for one in likely)}. "
                f"{_how_to_take(likely[0])}"
            )
    taken = likely[0]
    others = [one for one in sets if one is not taken]
    if not taken.keys and not others:
        return taken, []
    note = f"Weights selected: {taken.label or 'those of the file itself'}{' (an average over training)' if taken in averages else ''}."
    if others:
        same = all(one.complete and _same(taken, one, where) for one in others)
        note += f" Also in the file{', with equal values' if same else ''}: {', '.join(one.label or '(the file itself)' for one in others)}."
        note += "" if same else f" {_how_to_take(others[0])}"
    return taken, [note]


def _how_to_take(one: WeightSet) -> str:
    return f"To select {one.label or 'those of the file itself'}, try: weights={one.label!r} (--weights {shlex.quote(one.label)})"


def _same(one: WeightSet, other: WeightSet, where: str) -> bool:
    names = [{name for name in each.tensors if not _is_ignored(name)} for each in (one, other)]
    return names[0] == names[1] and all(
        one.tensors[name] is other.tensors[name] or np.array_equal(_array(one.tensors[name], name, where), _array(other.tensors[name], name, where))
        for name in names[0]
    )


def _is_ignored(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in IGNORED)


def _extra(names: Iterable[str], network: StateDictLayout) -> list[str]:
    """The names outside the body."""
    return [name for name in names if name not in network.body and not _is_ignored(name)]


def _is_droppable(name: str, network: StateDictLayout) -> bool:
    """Whether a tensor outside the body has the prefix of the head, or one that the body does not use: "fc.3.weight", "projector.weight"."""
    return name.startswith(f"{network.head_layer}.") or name.partition(".")[0] not in {other.partition(".")[0] for other in network.body}


def _heads(tensors: Mapping[str, Any], network: StateDictLayout) -> list[str]:
    """Linear layers with the input width of the head of the architecture and a name typical of heads."""
    (_, width), found = next(iter(network.head.values())), []
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition(".")
        bias = tensors.get(f"{layer}.bias")
        if last == "weight" and bias is not None and len(tensor.shape) == 2 and tuple(bias.shape) == (tensor.shape[0],):
            found += [layer] * (tensor.shape[1] == width and bool(HEAD_WORDS.search(layer.lower())))
    return found


def _with_head(taken: WeightSet, network: StateDictLayout, drop: bool, elsewhere: tuple[str, ...]) -> tuple[dict[str, Any], list[str], str]:
    """The tensors of a set with the head renamed to that of the architecture or removed, notes, and a hint if the head does not fit.

    Names with one of the prefixes `elsewhere` belong to other sets.
    """
    tensors, layer, notes = dict(taken.tensors), network.head_layer, []
    outside = {name: tensor for name, tensor in taken.outside.items() if not name.startswith(elsewhere)}
    extra = {name: tensor for name, tensor in tensors.items() if _extra([current_name(name, network.network)], network)} if taken.complete else {}
    if drop and extra:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}
        notes.append(f"The head was dropped: {few(sorted(extra))}.")
    elif taken.complete and not drop:
        among = extra or outside
        heads = _heads(among, network)
        own = [f"{heads[0]}.weight", f"{heads[0]}.bias"] if len(heads) == 1 else []
        between = [] if extra else sorted(name for name in outside if name not in own and not any(map(TRAINING_ONLY.fullmatch, name.split("."))))
        if own and between:
            notes.append(
                f"The linear layer {heads[0]!r} was not used as the head, since {few(between)} may precede it. The network was converted without a head."
            )
        elif own and not extra.keys() - own and not extra.keys() >= network.head.keys():
            for name, found in zip(network.head, own, strict=True):
                tensors.pop(found, None)
                tensors[name] = among.pop(found)
            before = " Layers without tensors before it are assumed to be dropout."
            notes.append(f"The linear layer {heads[0]!r} was used as the head {layer!r}.{before}")
    if outside:
        notes.append(f"Ignored, since they are outside the network: {few(sorted(outside))}.")
    if drop or not extra or extra.keys() >= network.head.keys():
        return tensors, notes, ""
    sentence = (
        f" The head is not one linear layer {layer!r}: {few(sorted(extra))}. To convert the network without it, try: drop_head=True (--drop-head)"
    )
    return tensors, notes, sentence
