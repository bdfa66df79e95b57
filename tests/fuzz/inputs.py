"""Strategies for nearly valid inputs: damaged bytes and modified documents."""

import copy
import datetime
import json
import math

from hypothesis import strategies as st

TEXTS = st.text(st.characters(), max_size=8)
NUMBERS = st.one_of(
    st.integers(-2, 40), st.integers(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, math.inf, -math.inf, math.nan, 0.0, -0.0]), st.floats()
)
DATES = [datetime.date(2020, 2, 29), datetime.time(1, 2, 3), datetime.datetime(1, 1, 1)]
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
TOML = st.recursive(
    st.booleans() | NUMBERS | st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(DATES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw, seeds: list[bytes], most: int = 4) -> bytes:
    """One of the seeds with some bytes changed, lost, doubled, put in, or taken from another."""
    data, edits = bytearray(seeds[draw(st.integers(0, len(seeds) - 1))]), draw(st.integers(1, most))
    for _ in range(edits):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        stop = min(len(data), start + draw(st.sampled_from([1, 1, 2, 4, 8, 64])))
        how = draw(st.sampled_from(["change", "change", "lose", "double", "put in", "cut", "graft"]))
        if how == "change":
            data[start:stop] = draw(st.binary(min_size=stop - start, max_size=stop - start))
        elif how == "lose":
            del data[start:stop]
        elif how == "double":
            data[start:start] = data[start:stop]
        elif how == "put in":
            data[start:start] = draw(st.binary(max_size=8) | st.sampled_from([b"\0" * 8, b"\xff" * 8, b"[" * 2000, b"{" * 2000, b"9" * 5000]))
        elif how == "cut":
            del data[start:]
        else:
            data[start:stop] = seeds[draw(st.integers(0, len(seeds) - 1))][start : start + 64]
    return bytes(data)


def places(tree, path=()):
    """The paths of everything in a document."""
    found = [path] if path else []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        found += places(value, (*path, key))
    return found


@st.composite
def changed(draw, trees: list[dict], values) -> dict:
    """One of the documents with some entries given another value or name, left out, or put in."""
    tree = copy.deepcopy(trees[draw(st.integers(0, len(trees) - 1))])
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        *path, key = draw(st.sampled_from(found))
        node = tree
        for step in path:
            node = node[step]
        how = draw(st.sampled_from(["value", "value", "value", "name", "lose", "put in"]))
        if how == "value":
            node[key] = draw(values)
        elif how == "lose":
            del node[key]
        elif isinstance(node, list):
            node.append(draw(values))
        elif how == "name":
            node[draw(st.text(st.characters(codec="utf-8"), max_size=8))] = node.pop(key)
        else:
            node[draw(st.text(st.characters(codec="utf-8"), max_size=8))] = draw(values)
    return tree


def toml(value, top: bool = True) -> str:
    """A document as TOML, every table within another in one line."""
    if isinstance(value, dict):
        lines = [f"{toml(key)} = {toml(inner, False)}" for key, inner in value.items()]
        return "\n".join(lines) if top else "{" + ", ".join(lines) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(inner, False) for inner in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
