"""Typed configuration files: TOML tables become dataclasses, and all mistakes are reported in one message.

msgspec converts and checks the values. On top of it, this module reports every mistake instead of the first, suggests close
names for unknown fields, gives examples, and reads nested tables with their place in the file.

Metadata of a dataclass field (`dataclasses.field(metadata=...)`):
  example: how the field is written, for error messages.
  formerly: an old name of the field, which files may still use.
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ntk_select.errors import ConfigError, did_you_mean

Record = TypeVar("Record")

_NAME = re.compile(r"\w[\w.-]*")
_NAME_RULE = "a name consists of letters, digits, dots, dashes and underscores, and begins with neither dot nor dash."
_LARGEST = sys.float_info.max

Count = Annotated[int, Meta(ge=0)]
"""Whole number from 0."""
Positive = Annotated[int, Meta(ge=1)]
"""Whole number from 1."""
Number = Annotated[float, Meta(ge=0, le=_LARGEST)]
"""Finite number from 0."""
Rate = Annotated[float, Meta(gt=0, le=_LARGEST)]
"""Finite number above 0."""
Share = Annotated[float, Meta(ge=0, le=1)]
"""Number from 0 to 1."""
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]
"""Number from 0 to below 1."""

_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list", "object": "a table"}
_BOUNDS = {">=": "from", ">": "above", "<=": "up to", "<": "below"}


def read_text(path: Path) -> str:
    """The text of a config. Raises ConfigError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not a path at all
        raise ConfigError(f"The config {path} cannot be read: {getattr(error, 'strerror', None) or error}. Try: the path of a TOML file") from error


def parse(text: str, path: Path) -> dict[str, Any]:
    """The tables in the text of a TOML file. Raises ConfigError if it is not valid TOML."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"The config {path} cannot be read: its lists or tables are nested too deeply.") from error
    except ValueError as error:  # also for numbers with thousands of digits
        raise ConfigError(f"The config {path} is not valid TOML: {error}.") from error


def record(kind: type[Record], table: Mapping[str, Any], where: str) -> Record:
    """The dataclass `kind` made from a table. Its annotations decide what is allowed.

    Args:
      kind: a dataclass. Fields may be dataclasses or mappings to dataclasses themselves: tables in the file.
      table: values by name, as tomllib gives them.
      where: place of the table, for error messages.

    Raises:
      ConfigError: fields are missing, unknown, or not of the annotated type. The message lists all of them, one per line.
    """
    wrong: list[str] = []
    made = _record(kind, table, where, wrong)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return made


def checked(kind: Any, value: Any, name: str) -> Any:
    """The value, with a tuple for a list. Raises ConfigError, with `name`, if it does not fit the annotation `kind`."""
    wrong: list[str] = []
    found = _value(kind, value, name, None, wrong)
    if wrong:
        raise ConfigError(wrong[0])
    return found


_hints = cache(lambda kind: get_type_hints(kind, include_extras=True))


def _record(kind: type, table: Mapping[str, Any], where: str, wrong: list[str]) -> Any:
    known = {each.name: each for each in fields(kind)}
    current = {each.metadata["formerly"]: name for name, each in known.items() if "formerly" in each.metadata}
    table = {current[key] if current.get(key, key) not in table else key: value for key, value in table.items()}
    wrong += [f"{where}: the field {key!r} is unknown.{did_you_mean(key, known)}" for key in table if key not in known]
    missing = [each for name, each in known.items() if name not in table and each.default is MISSING and each.default_factory is MISSING]
    if missing:
        names = ", ".join(repr(each.name) for each in missing)
        examples = ", ".join(f"{each.name} = {each.metadata['example']}" for each in missing if "example" in each.metadata)
        sentence = f"{where}: the field {names} is missing." if len(missing) == 1 else f"{where}: the fields {names} are missing."
        wrong.append(sentence + (f" Write {examples}" if examples else ""))
    values = {}
    for name in sorted(table.keys() & known.keys(), key=lambda name: (isinstance(table[name], dict), list(known).index(name))):
        values[name] = _value(_hints(kind)[name], table[name], f"{where}: {name}", known[name].metadata.get("example"), wrong)
    return None if wrong else kind(**values)


def _value(kind: Any, value: Any, name: str, example: str | None, wrong: list[str]) -> Any:
    for one in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if isinstance(value, dict) and is_dataclass(one):
            return _record(one, value, _place(name), wrong)
        if isinstance(value, dict) and get_origin(one) is Mapping:
            inner = get_args(one)[1]
            if is_dataclass(inner) or get_origin(inner) is Mapping:
                wrong += [f"{_place(f'{name}.{key}')}: {_NAME_RULE}" for key in value if not _NAME.fullmatch(key)]
            return {key: _value(inner, each, f"{name}.{key}", None, wrong) for key, each in value.items()}
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        example = example or (f"[{name.rpartition(': ')[2]}]" if is_dataclass(kind) else None)
        wrong.append(_sentence(str(error), value, name, example))
    return tuple(value) if isinstance(value, list) else value  # not what msgspec made of it: whole numbers stay integers


def _place(name: str) -> str:
    """The place of a table: "bench.toml, [tasks.birds]" for "bench.toml: tasks.birds"."""
    where, _, key = name.rpartition(": ")
    return f"{where}, [{key}]"


_MESSAGE = re.compile(r"(?:Expected `(.+?)`(?: ([<>]=?) ([\d.e+]+))?(?:, got .*?)?|Number out of range)(?: - at `\$\[(\d+)\]`)?")


def _sentence(error: str, value: Any, name: str, example: str | None) -> str:
    """A message of msgspec, as in "Expected `int` >= 0 - at `$[1]`", in our words."""
    if (found := _MESSAGE.fullmatch(error)) is None:
        return f"{name} = {value!r} is not allowed: {error}."
    kinds, sign, bound, place = found.groups()
    if kinds is None or float(bound or 0) == _LARGEST:
        words = "a finite number"
    else:
        words = " or ".join(_WORDS[kind] for kind in kinds.split(" | ") if kind != "null") + (f" {_BOUNDS[sign]} {float(bound):g}" if sign else "")
    what = f"{name} = {value!r} must be" if place is None else f"{name} contains {value[int(place)]!r}, which must be"
    return f"{what} {words}{f', as in {example}' if example else ''}."
