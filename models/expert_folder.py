"""Experts on disk: a folder with `model.safetensors` and `card.json`.

Tensor names are the paths of the Flax variables joined by "/": "params/layer1_0/conv1/kernel", "batch_stats/bn1/mean".
Statistics of the source data (class means of the pre-logits) are stored under "source/". A multi-domain expert has one card
per domain, `card@DOMAIN.json`, and its tensors are under "common/" and "domains/DOMAIN/". Nothing is ever unpickled.
"""

import codecs
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ntk_select._runtime.files import describe_placeholder, write_atomically
from ntk_select.errors import ModelError
from ntk_select.experts.card import Card

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
DEEPEST = 100
"""Maximum number of groups in the name of a tensor. Networks have fewer than ten."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with "/"-joined names; leaves are unchanged."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`. Raises ModelError if a name is that of a tensor and of a group."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        if len(parents) > DEEPEST:
            raise ModelError(f"The name {name[:40]!r}... has {len(parents):,} groups; allowed are {DEEPEST}.")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ModelError(f"The name {name!r} is inside the tensor {key!r}.")
        if leaf in node:
            raise ModelError(f"The name {name!r} is that of a tensor and of a group of tensors.")
        node[leaf] = value
    return tree


def sha256_of(content: bytes) -> str:
    """Hexadecimal SHA-256 digest."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 digest of a file of weights, which is not read as a whole. Raises ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"The weights {path} cannot be read: {error.strerror}. Try: another file") from error


def serialise(variables: Mapping[str, Any]) -> bytes:
    """Variables as the bytes of a safetensors file, names sorted: equal weights give equal bytes."""
    flat = flatten(variables)
    return save({name: np.ascontiguousarray(flat[name]) for name in sorted(flat)})


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """Reads a safetensors file of this project as nested variables.

    Raises:
      ModelError: the file is missing, has another `sha256`, is not a valid safetensors file, or contains values
        that are not finite or not floating point, or negative variances.
    """
    content = read_whole(path, f"Weights {path}")
    if problem := describe_non_weights(content[:1024]):
        raise ModelError(f"Weights {path}: the file {problem}.")
    if sha256 is not None and (found := sha256_of(content)) != sha256:
        raise ModelError(f"Weights {path} have sha256 {found[:12]}..., the card says {sha256[:12]}...; one of the two was modified or truncated.")
    try:
        flat = load(content)
    except (SafetensorError, ValueError) as error:  # ValueError: shapes that NumPy does not support
        raise ModelError(f"Weights {path} are not a valid safetensors file ({error}). Try: download or convert them again") from error
    except KeyError as error:
        raise ModelError(f"Weights {path} contain tensors of type {error}; params of an expert are float32. Try: convert them again") from error
    broken = [name for name, value in sorted(flat.items()) if not np.isfinite(value).all()]
    if broken:
        raise ModelError(f"Weights {path} contain NaN or infinity in {', '.join(broken[:5])}{' ...' if len(broken) > 5 else ''}.")
    integers = [f"{name} ({value.dtype})" for name, value in sorted(flat.items()) if value.dtype.kind != "f"]
    if integers:
        raise ModelError(
            f"Weights {path} contain tensors that are not floating point: {', '.join(integers[:5])}. Params of an expert are float32. Try: convert them again"
        )
    negative = [name for name, value in sorted(flat.items()) if "batch_stats/" in name and name.endswith("/var") and (value < 0).any()]
    if negative:
        raise ModelError(f"Weights {path} contain negative variances in {', '.join(negative[:5])}. Try: convert them again")
    try:
        return unflatten(flat)
    except ModelError as error:
        raise ModelError(f"Weights {path}: {error}") from error


def describe_non_weights(start: bytes) -> str | None:
    """The rest of an error sentence for a Git LFS pointer, a web page, JSON text or an empty file, by its first bytes; else None."""
    if placeholder := describe_placeholder(start):
        return placeholder
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith((b"{", b"[")) and b"\0" not in start[:8]:  # safetensors begin with an 8-byte length
        return "is JSON text, not weights. Try: the file of the weights"
    return "is empty. Try: download it again" if not start else None


def read_whole(path: Path, what: str) -> bytes:
    """The bytes of a file; `what` names it in error messages.

    Raises:
      ModelError: it is missing, not a regular file, not readable, or larger than the memory.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe could wait forever
            raise ModelError(f"{what} cannot be read: it is not a regular file.")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{what} cannot be read: {error.strerror}.") from error
    except MemoryError as error:
        raise ModelError(f"{what} cannot be read: its {path.stat().st_size:,} bytes do not fit into memory. Is it the right file?") from error


def domain_card_file(domain: str) -> str:
    """File name of the card of one domain."""
    return f"card@{domain}.json"


def write_expert(folder: Path, variables: Mapping[str, Any], card: Card, *, replace_existing: bool = False) -> Card:
    """Writes weights and card atomically into a new folder. Returns the card with its sha256.

    Raises:
      ModelError: `folder` exists and `replace_existing` is not set, or it is not an expert.
    """
    return _write(folder, variables, {CARD_FILE: card}, replace_existing)[CARD_FILE]


def write_multi_expert(folder: Path, variables: Mapping[str, Any], cards: Mapping[str, Card]) -> dict[str, Card]:
    """As `write_expert`, for a multi-domain expert and a folder that does not exist.

    Args:
      variables: {"common": {"params": ..., "batch_stats": ...}, "domains": {domain: the same, and "source"}}, as split by
        `ntk_select.experts.multi_domain`.
      cards: card of each domain, with the names FOLDER@DOMAIN.
    """
    written = _write(folder, variables, {domain_card_file(domain): card for domain, card in cards.items()}, replace_existing=False)
    return {domain: written[domain_card_file(domain)] for domain in cards}


def _write(folder: Path, variables: Mapping[str, Any], cards: Mapping[str, Card], replace_existing: bool) -> dict[str, Card]:
    check_free(folder, replace_existing)
    if os.path.lexists(folder):
        folder = folder.resolve()  # the target of a link is replaced
    content = serialise(variables)
    cards = {file: replace(card, sha256=sha256_of(content)) for file, card in cards.items()}
    fresh, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        write_atomically(fresh / WEIGHTS_FILE, content)
        for file, card in cards.items():
            write_atomically(fresh / file, card.to_json().encode())
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return cards


def check_free(folder: Path, replace_existing: bool) -> None:
    """Raises ModelError if the folder exists, unless `replace_existing` is set and it contains an expert and nothing else."""
    if not os.path.lexists(folder):
        return
    if not replace_existing:
        raise ModelError(f"{folder} already exists. Try: another name, or replace_existing=True (--replace)")
    if not folder.is_dir():
        raise ModelError(f"{folder} is not an expert and is not replaced. Try: another name, or delete it")
    ours = {WEIGHTS_FILE, CARD_FILE, *(card.name for card in folder.glob(domain_card_file("*")))}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours and not _is_left_behind(entry.name))
    if others:
        raise ModelError(
            f"{folder} contains other files than an expert ({', '.join(map(repr, others[:5]))}{' ...' if len(others) > 5 else ''}), which would be lost, "
            "and is not replaced. Try: another name, or move these files"
        )


def _is_left_behind(name: str) -> bool:
    """Whether a file was left behind by the system or by an interrupted write."""
    return name.lower() in (".ds_store", "thumbs.db", "desktop.ini") or (name.startswith((f".{WEIGHTS_FILE}.", ".card")) and name.endswith(".tmp"))
