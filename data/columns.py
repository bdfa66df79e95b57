"""Tables of images: options of their URIs, the columns of image, label and split, and classes from the values of a label column."""

import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ntk_select.data.layout import TEST, TRAIN, natural
from ntk_select.errors import DataError, TaskError, did_you_mean, few, near

IMAGE = ["path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path", "image_file", "image_name", "image_id"]
LABEL = ["label", "labels", "class", "class_name", "class_label", "classname", "target", "category"]
SPLIT = ["split", "set", "subset", "partition"]
"""Names of columns, in lower case, where spaces and hyphens count as underscores."""
INTEGER = re.compile(r"[+-]?\d{1,400}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ABSENT = ("nan", "na", "n/a", "<na>", "null")
"""Words that programs write for a missing number, in lower case."""


def options_of(kind: str, argument: str, allowed: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The part of a URI's argument before "?", and the options after it, as in `photos.csv?image=photo&label=species`.

    Args:
      kind: kind of the task, for error messages.
      argument: the text after the kind and its colon. The whole text is a path if there is one of this name.
      allowed: names of options.

    Raises:
      TaskError: an option is unknown, twice there or without a value.
    """
    rest, mark, query = argument.partition("?")
    if not mark or os.path.exists(os.path.expanduser(argument)):
        return argument, {}
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise TaskError(
                f"Task '{kind}:{argument}': option {name!r} is unknown.{did_you_mean(name, allowed)} Try: {example(kind, rest, allowed[:1])}"
            )
        if not value or name in found:
            raise TaskError(f"Task '{kind}:{argument}': option {name!r} needs one value. Try: {example(kind, rest, [name])}")
        found[name] = value
    return rest, found


def example(kind: str, rest: str, names: Iterable[str]) -> str:
    """A URI with options, quoted for the shell: 'csv:photos.csv?image=COLUMN'."""
    return shlex.quote(f"{kind}:{rest}?" + "&".join(f"{name}={'SPLIT' if name in ('train', 'test') else 'COLUMN'}" for name in names))


def column(where: str, what: str, columns: Sequence[str], given: str | None, names: Sequence[str], hint: Callable[[str], str]) -> int | None:
    """The index of a column: the given one, else the only one that has one of the names; None if there is none.

    Args:
      where: the table, for error messages.
      what: the option that names the column: "image", "label" or "split".
      columns: names of all columns.
      given: name of the column, if the user gave one; else its name is one of `names`.
      hint: hint(what) -> the URI with that option.

    Raises:
      DataError: there is no column of the given name, or several columns are possible.
    """
    wanted = [_normal(given)] if given else list(names)
    found = [place for place, name in enumerate(columns) if name == given] or [place for place, name in enumerate(columns) if _normal(name) in wanted]
    if len(found) > 1:
        shown = few([repr(columns[place]) for place in found])
        raise DataError(f"{where}: several columns could be the {what}: {shown}. Choose one. Try: {hint(what)}")
    if given and not found:
        raise DataError(f"{where}: there is no column {given!r}.{near(given, columns)} Columns: {listed(columns)}. Try: {hint(what)}")
    return found[0] if found else None


def listed(columns: Iterable[Any]) -> str:
    """Names of columns or splits, for error messages."""
    return few([str(name) for name in columns], 12) or "(none)"


def _normal(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def roles(where: str, names: Iterable[str]) -> tuple[list[str], str | None]:
    """Names of the training split, and that of the test set: the first of the names in `layout.TEST` that occurs, or None.

    Upper and lower case are alike.

    Raises:
      DataError: several names of one test split, such as "test" and "Test".
    """
    names = list(names)
    tests = [[name for name in names if name.strip().lower() == role] for role in TEST]
    first = next((found for found in tests if found), [])
    if len(first) > 1:
        raise DataError(f"{where}: {listed(first)} are several names of one split. Try: one of them")
    return [name for name in names if name.strip().lower() in TRAIN], first[0] if first else None


def classes_of(where: str, values: Sequence[Any], hint: str) -> tuple[list[str], Callable[[str], Any]]:
    """The class name of each label, and the sort key of class names.

    Integers, also those written as 1.0, become their usual spelling and are sorted as numbers, unless leading zeros make
    different names; other labels are names, in natural order.

    Raises:
      DataError: numbers with fractions, which are no classes, or numbers of which some are missing.
    """
    named = {value: unicodedata.normalize("NFC", str(value).strip()) for value in dict.fromkeys(values)}
    texts = set(named.values())
    absent = {text for text in texts if text.lower() in ABSENT}
    if absent and absent < texts and all(map(NUMBER.fullmatch, texts - absent)):
        number = sum(named[value] in absent for value in values)
        raise DataError(
            f"{where}: labels are numbers, and {number:,} of {len(values):,} are missing ({min(absent)!r}). "
            "Try: leave these rows out, or give their class another name"
        )
    if not texts or not all(map(NUMBER.fullmatch, texts)):
        return [named[value] for value in values], natural
    whole = {text: int(text) if INTEGER.fullmatch(text) else _whole(text) for text in texts}
    fractions = [text for text, number in whole.items() if number is None]
    if fractions:
        raise DataError(
            f"{where}: labels are numbers with fractions, as {min(fractions)!r}: measurements, not classes. Try: {hint}, or ranges as classes"
        )
    padded = any(re.match(r"[+-]?0\d", text) for text in texts) and len(set(whole.values())) == len(texts)
    shown = {value: text if padded else str(whole[text]) for value, text in named.items()}
    return [shown[value] for value in values], int


def _whole(text: str) -> int | None:
    number = float(text)
    return int(number) if np.isfinite(number) and number.is_integer() else None


def by_class(names: Iterable[str], keys: Iterable[Any]) -> Mapping[str, list[Any]]:
    """Keys of images by class, in the given order."""
    found: dict[str, list[Any]] = {}
    for name, key in zip(names, keys, strict=True):
        found.setdefault(name, []).append(key)
    return found
