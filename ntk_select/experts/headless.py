"""Networks up to their pre-logits: experts of one architecture share them, whatever the numbers of classes of their heads."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ntk_select.experts.expert import Expert

_FUNCTIONS = ("apply_fn", "features_fn", "taps_fn", "train_fn")


def without_head(expert: Expert) -> Expert:
    """The expert up to its pre-logits, which are then its logits.

    Its functions are the attributes `headless` of the expert's functions: the same network as a function of the variables without the head. Where the
    functions of two experts are equal, so are their programs, which are then traced and compiled once.

    Returns:
      An expert with the same name and without a head; the expert itself if it has no head, or a function without this attribute.
    """
    functions = {name: fn for name in _FUNCTIONS if (fn := getattr(expert, name)) is not None}
    headless = {name: getattr(fn, "headless", None) for name, fn in functions.items()}
    if expert.head is None or expert.features_fn is None or None in headless.values():
        return expert
    params, _ = without_part(expert.params, expert.head)
    return replace(expert, params=params, head=None, **headless)


def without_part(tree: Mapping[str, Any], path: tuple[str, ...] | None) -> tuple[Mapping[str, Any], Any]:
    """Nested mappings without the part at `path`, and that part; None without a path."""
    if not path:
        return tree, None
    if len(path) == 1:
        return {key: value for key, value in tree.items() if key != path[0]}, tree[path[0]]
    inner, part = without_part(tree[path[0]], path[1:])
    return {**tree, path[0]: inner}, part
