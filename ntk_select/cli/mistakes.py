"""What was meant by words for which a command has no place?

Asked only after the command line was refused, so that a wrong guess costs nothing.
"""

import dataclasses
import difflib
import shlex
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import tyro

MANY = 10**6


class Option(NamedTuple):
    """How many words an option takes, at most, and whether it must be there."""

    takes: int
    required: bool


def hints(command: type, words: Sequence[str]) -> Iterator[str]:
    """Sentences such as "Did you mean --task?".

    Args:
      command: the class that reads the words; of a group, such as zoo, the class of the group.
      words: that were typed after its name.
    """
    parts = _subcommands(command)
    if parts:
        if words and words[0] in parts:
            yield from hints(parts[words[0]], words[1:])
        elif words:
            near = difflib.get_close_matches(words[0], parts, n=1)
            yield f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(parts)}."
        return
    options, positional = _options(command)
    unknown, stray = _without_place(options, positional, words)
    for word in unknown:
        near = difflib.get_close_matches(word, options, n=1)
        if near:
            yield f"Did you mean {near[0]} instead of {word}?"
    if len(stray) == 1 and not unknown:
        given = {_name(word) for word in words}
        free = [name for name, option in options.items() if option.required and name not in given]
        free += ["--zoo"] if "--zoo" in options and "--zoo" not in given else []
        if free:
            required = [name for name in free if options[name].required] or free[:1]
            yield f"Did you mean {' or '.join(shlex.join((name, stray[0])) for name in required)}?"


def _subcommands(command: type) -> dict[str, type]:
    """The commands of a group by name; none of an ordinary command."""
    hint = get_type_hints(command, include_extras=True).get("command")
    return {get_args(part)[1].name: get_args(part)[0] for part in get_args(hint)}


def _options(command: type) -> tuple[dict[str, Option], int]:
    """The options by name, and how many words need no name."""
    types, options, positional = get_type_hints(command, include_extras=True), {}, 0
    for field in dataclasses.fields(command):
        if tyro.conf.Positional in _marks(types[field.name]):
            positional += 1
        else:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            options["--" + field.name.replace("_", "-")] = Option(_arity(types[field.name]), required)
    return options, positional


def _marks(annotation: Any) -> tuple:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _name(word: str) -> str:
    """An option as it is declared: --per_class=3 is --per-class, and --no-linear is --linear's twin."""
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else word


def _without_place(options: dict[str, Option], positional: int, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options that do not exist, and the words that no option takes."""
    unknown, stray, takes = [], [], 0
    for word in words:
        if not word.startswith("--"):
            if takes == 0:
                stray.append(word)
            takes = max(takes - 1, 0)
            continue
        option = options.get(_name(word)) or options.get(_name(word).replace("--no-", "--", 1))
        if option is None and word != "--help":
            unknown.append(_name(word))
        takes = MANY if option is None else 0 if "=" in word else option.takes
    return unknown, stray[positional:]


def _arity(annotation: Any) -> int:
    """How many words an option takes, at most."""
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if kind is bool:
        return 0
    wanted = get_args(kind)
    for part in (kind, *wanted):
        if get_origin(part) is tuple:
            inside = get_args(part)
            return MANY if Ellipsis in inside else len(inside)
    return 1
