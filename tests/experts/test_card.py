"""Cards survive a round trip through JSON; invalid ones are rejected with an error message."""

import json

import pytest

from ntk_select import Card, Preprocess
from ntk_select.errors import ModelError

FULL = Card(
    name="flowers-resnet18",
    architecture="resnet18",
    source="flowers",
    preprocess=Preprocess(size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize=36, interpolation="bicubic"),
    sha256="ab" * 32,
    num_classes=2,
    config={"stem": "small", "widths": [4, 8]},
    class_names=("Löwenzahn", "rose"),
    class_counts=(10, 20),
    num_images=30,
    test_accuracy=0.75,
    initialised_from="imagenet-resnet18",
    licence="CC BY 4.0",
    num_parameters=1234,
    origin="hf-hub:org/name",
    training={"epochs": 3, "recipe": {"lr": 0.1}},
)
LEAST = Card("a", "resnet18", "s", Preprocess(size=8), "00", 2)


def changed(**changes):
    return json.dumps({**json.loads(FULL.to_json()), **changes})


def without(field):
    return json.dumps({key: value for key, value in json.loads(FULL.to_json()).items() if key != field})


@pytest.mark.parametrize("card", [FULL, LEAST])
def test_reading_what_was_written_gives_the_same_card(card):
    assert Card.from_json(card.to_json(), "card.json") == card


def test_the_text_is_plain_json_that_a_person_can_read():
    text = FULL.to_json()
    assert json.loads(text)["preprocess"]["resize"] == 36
    assert "Löwenzahn" in text
    assert text.endswith("}\n")


def test_optional_fields_may_be_left_out():
    required = {
        key: value
        for key, value in json.loads(LEAST.to_json()).items()
        if key in ("name", "architecture", "source", "preprocess", "sha256", "num_classes")
    }
    assert Card.from_json(json.dumps(required), "card.json") == LEAST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "z/card.json is not valid JSON .*zoo convert"),
        ("[1]", "contains a list; a card is an object with the fields name, architecture"),
        (changed(lisence="MIT"), "unknown field 'lisence'. Did you mean 'licence'"),
        *((without(field), f"lacks the field '{field}'") for field in ("name", "architecture", "source", "sha256", "num_classes", "preprocess")),
        (changed(name=3), "name must be text, not 3"),
        (changed(sha256=None), "sha256 must be text, not None"),
        (changed(num_classes="2"), "num_classes must be an integer, 0 without a head, not '2'"),
        (changed(num_classes=-1), "num_classes must be an integer, 0 without a head, not -1"),
        (changed(num_classes=2.5), "num_classes must be an integer"),
        (changed(test_accuracy=75), "test_accuracy must lie in 0..1, not 75"),
        (changed(test_accuracy=float("nan")), "test_accuracy must lie in 0..1|JSON"),
        (changed(test_accuracy="good"), "z/card.json: "),
        (changed(preprocess={"size": 8, "rezise": 9}), "z/card.json: .*rezise"),
        (changed(preprocess={"size": 8, "resize": 4}), "z/card.json: Preprocess: size=8, resize=4"),
        (changed(preprocess={"size": "8"}), "z/card.json: "),
        (changed(preprocess={}), "z/card.json: .*size"),
        (changed(preprocess=8), "z/card.json: "),
        (changed(class_names=None), "z/card.json: "),
        pytest.param(changed(config=5), "config"),
        pytest.param(changed(class_names="rose"), "class_names"),
        pytest.param(changed(num_parameters="many"), "num_parameters"),
        pytest.param(changed(num_classes=True), "num_classes"),
        pytest.param(changed(training={"loss": float("nan")}), "JSON"),
    ],
)
def test_a_wrong_card_is_refused_with_its_file_and_field(text, message):
    with pytest.raises(ModelError, match=message):
        Card.from_json(text, "z/card.json")
