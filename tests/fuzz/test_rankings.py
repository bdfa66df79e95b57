"""Arbitrary names, patterns, and records of rankings are read, or rejected with an error message."""

import json
import math

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
PARTS = st.lists(st.sampled_from(["a", "org", "/", "@", ".", "..", "-", "--", "~", ":", "\0", "\\", " ", "\ud800", "é", ".git", "main", "v1"])).map(
    "".join
)
PATTERNS = st.lists(st.sampled_from([*"*?[]!-^\\.", "cat", "a", "\n", ",", "\0", "\ud800"])).map("".join)


def encoded(text: str) -> bytes:
    """As the targets read it."""
    return text.encode("utf-8", "surrogatepass")


@settings(QUICK, max_examples=200)
@given(st.builds("hf-hub:{}".format, PARTS | st.text(st.characters(), max_size=12)))
@example("hf-hub:../..")
@example("hf-hub:a/b@../../../etc/passwd")
@example("hf-hub:a/b@/etc/passwd")
@example("hf-hub:a/b@main/..")
@example("hf-hub:a/b@main/../../../..")
@example("hf-hub:" + "a" * 200 + "/b")
@example("hf-hub:a/b@" + "a" * 5000)
def test_any_name_of_the_hub_leads_into_its_cache_or_is_refused(safely, text):
    safely("hub_name", encoded(text))


@settings(QUICK, max_examples=150)
@given(PATTERNS)
@example("*" * 500 + "b")
@example("[" + "a" * 2000)
@example("*a" * 12 + "b")
def test_any_pattern_chooses_some_of_the_names_or_is_refused(safely, text):
    safely("pattern", encoded(text))


@pytest.mark.parametrize("surface", ["ranking", "record"])
def test_a_record_with_other_entries_can_be_shown_or_is_refused(safely, seeds, inputs, surface):
    trees = [json.loads(seed) for seed in seeds[surface]]

    @settings(QUICK, max_examples=150)
    @given(inputs.changed(trees, inputs.JSON))
    def each(tree):
        safely(surface, json.dumps(tree).encode("utf-8", "surrogatepass"))

    each()


VALUES = (None, 5, "x", [], {}, [1], {"a": 1}, ["x"], True, -1, 2**70, 1e308, math.inf, math.nan)


@pytest.mark.parametrize("surface", ["ranking", "record"])
def test_every_entry_with_a_value_of_another_type_can_be_shown_or_is_refused(safely, seeds, inputs, surface):
    (seed,) = seeds[surface]
    refused = 0
    for number, path in enumerate(inputs.places(json.loads(seed))):
        for value in VALUES[number % 3 :: 3]:
            tree = json.loads(seed)
            *steps, key = path
            node = tree
            for step in steps:
                node = node[step]
            node[key] = value
            refused += safely(surface, json.dumps(tree).encode()) is None
    assert refused > 100
