"""What stands in a TOML file, as records whose types say what is allowed?"""

import inspect
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, get_args, get_origin

from ntk_select.errors import ConfigError, did_you_mean

NAME = re.compile(r"\w[\w.-]*")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises as `read_text` and `parse`."""
    return parse(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a config. Raises ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no path at all
        raise ConfigError(f"The config {path} cannot be read: {getattr(error, 'strerror', None) or error}. Give the path of a TOML file.") from error


def parse(text: str, path: Path) -> dict[str, Any]:
    """The tables in the text of a TOML file. Raises ConfigError where it is no TOML."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"The config {path} cannot be read: its lists or tables lie too deep within each other.") from error
    except ValueError as error:  # also numbers of thousands of digits
        raise ConfigError(f"The config {path} is no valid TOML: {error}.") from error


def table_of_tables(found: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """Tables by name, as in [sources.NAME]. Raises ConfigError for anything else there, or a name that cannot be one of a file."""
    table = found.get(key, {})
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ConfigError(f"{path}: {key} must be a table of tables, as in [{key}.NAME].")
    for name in table:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: [{key}.{name}]: a name consists of letters, digits, dots, dashes and underscores, and begins with neither dot nor dash."
            )
    return table


KINDS = {
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a whole number from 0"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf, "a number from 0"),
    "str": (lambda value: isinstance(value, str), "text"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "tuple": (lambda value: isinstance(value, list), "a list"),
    "Mapping": (lambda value: isinstance(value, dict), "a table"),
}
"""Types of fields: what is allowed, and how that is said."""


def record(kind: type, entry: Mapping[str, Any], where: str, given: Mapping[str, Any] = MappingProxyType({})):
    """The dataclass of a table. Names of types in its annotations say what is allowed, and "as" in the metadata of a field how that is written.

    Args:
      kind: the dataclass.
      entry: the table.
      where: its place, for error messages.
      given: fields that were made already, from tables within the table.

    Raises:
      ConfigError: fields are missing, unknown, or of another type: all of them in one message.
    """
    check_tables([(kind, entry, where)], given)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()} | dict(given))


def check_tables(tables: Iterable[tuple[type, Mapping[str, Any], str]], given: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Says all that keeps several tables from being records, in one message. Arguments and errors as those of `record`."""
    wrong = [sentence for kind, entry, where in tables for sentence in _wrong(kind, entry, where, given)]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _wrong(kind: type, entry: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> Iterator[str]:
    known = {each.name: each for each in fields(kind)}
    for key in entry:
        if key not in known:
            yield f"{where}: the field {key!r} is unknown.{did_you_mean(key, known)}"
    missing = [key for key, each in known.items() if key not in entry and each.default is MISSING and each.default_factory is MISSING]
    if missing:
        examples = ", ".join(f"{key} = {known[key].metadata['as']}" for key in missing if "as" in known[key].metadata)
        names = f"the field {missing[0]!r} is" if len(missing) == 1 else f"the fields {', '.join(map(repr, missing))} are"
        yield f"{where}: {names} missing.{f' Write {examples}' if examples else ''}"
    for key, each in known.items():
        if key in entry and key not in given:
            yield from _wrong_value(each, entry[key], f"{where}: {key}")


def _wrong_value(each: Field, value, where: str) -> Iterator[str]:
    allowed = [KINDS[name] for name in KINDS if re.search(rf"(?<!\[)\b{name}\b", re.sub(r"\[.*\]", "", inspect.formatannotation(each.type)))]
    if not any(check(value) for check, _ in allowed):
        example = f", as in {each.metadata['as']}" if "as" in each.metadata else ""
        yield f"{where} = {value!r} must be {' or '.join(words for _, words in allowed)}{example}."
        return
    for kind in get_args(each.type) if isinstance(each.type, UnionType) else [each.type]:
        yield from _wrong_inside(kind, value, where)


def _wrong_inside(kind, value, where: str) -> Iterator[str]:
    """What stands in a list or table, where its type says it. Negative means are left to `Preprocess`."""
    inner = {tuple: get_args(kind)[:1], Mapping: get_args(kind)[1:]}.get(get_origin(kind), ())
    if not isinstance(value, list | dict) or not inner or getattr(inner[0], "__name__", None) not in KINDS or kind == tuple[float, ...]:
        return
    check, words = KINDS[inner[0].__name__]
    for each in value.values() if isinstance(value, dict) else value:
        if not check(each):
            yield f"{where} holds {each!r}, which must be {words}."
