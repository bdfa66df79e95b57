"""Arbitrary text is a card that survives a round trip, or an error message."""

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])


@settings(QUICK, max_examples=120)
@given(st.data())
def test_a_card_with_other_entries_is_a_card_or_an_error_in_a_sentence(safely, seeds, inputs, data):
    tree = data.draw(inputs.changed([json.loads(seed) for seed in seeds["card"]], inputs.JSON))
    safely("card", json.dumps(tree, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"))


@settings(QUICK, max_examples=40)
@given(st.data())
def test_any_json_is_a_card_or_an_error_in_a_sentence(safely, inputs, data):
    safely("card", json.dumps(data.draw(inputs.JSON)).encode("utf-8", "surrogatepass"))


def preprocessed(**changes):
    return {"preprocess": {"size": 8, **changes}}


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"loss": 1e999}},
        {"config": {"a": [1e999]}},
        {"name": "\ud800"},
        {"training": {"\udfff": 1}},
        preprocessed(mean=[10**400, 0, 0]),
        preprocessed(std=[10**400, 1, 1]),
        preprocessed(size=True),
        preprocessed(interpolation=[]),
        preprocessed(interpolation=None),
        preprocessed(mean={"a": 1}),
        {"test_accuracy": True},
        {"config": None},
        {"training": None},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_what_a_card_cannot_hold_is_an_error_in_a_sentence(safely, seeds, changes):
    text = json.dumps({**json.loads(seeds["card"][0]), **changes}).replace("Infinity", "1e999")
    assert safely("card", text.encode()) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"num_classes": ' + "9" * 5000 + "}"], ids=["lists", "objects", "digits"])
def test_what_a_reader_of_json_stumbles_over_is_an_error_in_a_sentence(safely, text):
    assert safely("card", text.encode()) is None
