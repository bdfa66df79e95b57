"""Tables of TOML files become dataclasses, and every mistake is reported, in words, with its place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ntk_select._runtime.configs import Count, Number, Positive, Rate, Share, ShareBelowOne, checked, parse, read_text, record
from ntk_select.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    uri: str
    shots: tuple[Count, ...] = ()


@dataclass(frozen=True)
class Outer:
    size: Positive = field(metadata={"example": "32"})
    name: str | None = None
    rates: tuple[Rate, ...] = ()
    speed: Number | Mapping[str, Number] = field(default=1, metadata={"example": "1 or { up = 1, down = 2 }"})
    share: Share = 0.5
    below: ShareBelowOne = 0.5
    flag: bool = False
    anything: Mapping[str, Any] = field(default_factory=dict)
    listed: tuple[Any, ...] = ()
    inner: Inner | None = field(default=None, metadata={"example": "[inner]"})
    many: Mapping[str, Inner] = field(default_factory=dict, metadata={"example": "[many.NAME]"})
    renamed: str = field(default="", metadata={"formerly": "old"})


def test_values_are_taken_as_written_with_tuples_for_lists():
    table = {
        "size": 1,
        "rates": [1, 0.5],
        "speed": {"up": 2},
        "share": 1,
        "below": 0,
        "listed": [1, "full"],
        "many": {"a.b": {"uri": "x", "shots": [0]}},
    }
    found = record(Outer, table | {"inner": {"uri": "y"}, "anything": {"k": [1], "n": {"m": 1}}, "old": "z"}, "f.toml")
    assert (found.size, found.rates, found.speed, found.listed, found.renamed) == (1, (1, 0.5), {"up": 2}, (1, "full"), "z")
    assert [type(value) for value in (found.rates[0], found.speed["up"], found.share, found.below)] == [int] * 4
    assert found.anything == {"k": (1,), "n": {"m": 1}}
    assert (found.inner, found.many) == (Inner("y"), {"a.b": Inner("x", (0,))})
    assert record(Outer, {"size": 1}, "f.toml") == Outer(1)


WRONG = {
    "no table": ({"many": 3}, "f.toml: many = 3 must be a table, as in [many.NAME]."),
    "no table in a table": ({"many": {"a": 3}}, "f.toml: many.a = 3 must be a table, as in [many.a]."),
    "no table or nothing": ({"inner": "x"}, "f.toml: inner = 'x' must be a table, as in [inner]."),
    "a name": (
        {"many": {"a/b": {"uri": ""}}},
        "f.toml, [many.a/b]: a name consists of letters, digits, dots, dashes and underscores, and begins with",
    ),
    "missing": ({"inner": {}}, "f.toml, [inner]: the field 'uri' is missing."),
    "unknown": ({"shaer": 1}, "f.toml: the field 'shaer' is unknown. Did you mean 'share'? Allowed: anything, "),
    "old and new": ({"old": "a", "renamed": "b"}, "f.toml: the field 'old' is unknown."),
    "a text": ({"name": 1}, "f.toml: name = 1 must be text."),
    "a whole number": ({"size": 1.0}, "f.toml: size = 1.0 must be a whole number, as in 32."),
    "a bound": ({"size": 0}, "f.toml: size = 0 must be a whole number from 1, as in 32."),
    "a truth value for a number": ({"share": True}, "f.toml: share = True must be a number."),
    "above a share": ({"share": 2}, "f.toml: share = 2 must be a number up to 1."),
    "one where only less is allowed": ({"below": 1}, "f.toml: below = 1 must be a number below 1."),
    "NaN": ({"share": math.nan}, "f.toml: share = nan must be a number from 0."),
    "infinity": ({"speed": math.inf}, "f.toml: speed = inf must be a finite number, as in 1 or {"),
    "beyond floats": ({"rates": [10**400]}, f"f.toml: rates contains {10**400}, which must be a finite number."),
    "in a list": ({"rates": [1, 0]}, "f.toml: rates contains 0, which must be a number above 0."),
    "in a table": ({"speed": {"up": "x"}}, "f.toml: speed.up = 'x' must be a number."),
    "one of two": ({"speed": "x"}, "f.toml: speed = 'x' must be a number or a table, as in 1 or { up = 1, down = 2 }."),
    "no list": ({"listed": 1}, "f.toml: listed = 1 must be a list."),
    "no truth value": ({"flag": 1}, "f.toml: flag = 1 must be true or false."),
}


def test_every_mistake_is_said_in_words():
    for name, (table, sentence) in WRONG.items():
        with pytest.raises(ConfigError) as caught:
            record(Outer, {"size": 1} | table, "f.toml")
        assert str(caught.value).startswith(sentence), name
        assert "\n" not in str(caught.value), name


def test_all_mistakes_are_in_one_message_values_before_tables():
    with pytest.raises(ConfigError) as caught:
        record(Outer, {"many": {"a": {"uir": 1}, "b": {"uri": 1}}, "name": 1, "x": 0}, "f.toml")
    assert [line.partition(" Allowed")[0] for line in str(caught.value).splitlines()] == [
        "f.toml: the field 'x' is unknown.",
        "f.toml: the field 'size' is missing. Write size = 32",
        "f.toml: name = 1 must be text.",
        "f.toml, [many.a]: the field 'uir' is unknown. Did you mean 'uri'?",
        "f.toml, [many.a]: the field 'uri' is missing.",
        "f.toml, [many.b]: uri = 1 must be text.",
    ]


def test_a_single_value_is_checked_alike_and_an_unfamiliar_reason_is_passed_on():
    assert checked(tuple[Count, ...], [1, 2], "x") == (1, 2)
    with pytest.raises(ConfigError, match=r"^here: x = 1.5 must be a whole number\.$"):
        checked(Count, 1.5, "here: x")
    with pytest.raises(ConfigError, match="^x = 'c' is not allowed: Invalid enum value 'c'.$"):
        checked(Literal["a", "b"], "c", "x")


def test_files_that_are_not_toml_are_refused(tmp_path):
    for text, sentence in (
        ("a = ", "f is not valid TOML: "),
        ("a = " + "[" * 5000, "nested too deeply"),
        (f"a = {'9' * 5000}", "f is not valid TOML: "),
    ):
        with pytest.raises(ConfigError, match=sentence):
            parse(text, "f")
    assert parse("a = 1", "f") == {"a": 1}
    with pytest.raises(ConfigError, match="No such file or directory. Try: the path of a TOML file"):
        read_text(tmp_path / "none.toml")
