"""Cards of experts: provenance and preprocessing, as stored in `card.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from ntk_select.errors import ModelError, did_you_mean
from ntk_select.experts.preprocess import Preprocess


@dataclass(frozen=True)
class Card:
    """The record stored with the weights of an expert (`card.json`).

    Args:
      name: name of the expert.
      architecture: name in the architecture table, e.g. "resnet50".
      source: name of the data set that it was trained on.
      preprocess: preprocessing of the input.
      sha256: Digest of the weights file, hexadecimal.
      num_classes: outputs of the head; 0 without a head.
      config: keyword arguments of the architecture beyond `num_classes`.
      class_names, class_counts: Classes of the source data set and their numbers of images, in the order of the head.
      num_images: training images of the source.
      test_accuracy: top-1 accuracy on the test set of the source, 0 .. 1.
      initialised_from: name of the expert whose weights were the initial ones; None if trained from scratch.
      licence: terms of the weights.
      num_parameters: without batch statistics.
      origin: converted file or name on the hub.
      training: recipe, seed, epochs and further settings for reproduction.
    """

    name: str
    architecture: str
    source: str
    preprocess: Preprocess
    sha256: str
    num_classes: int
    config: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    num_images: int | None = None
    test_accuracy: float | None = None
    initialised_from: str | None = None
    licence: str | None = None
    num_parameters: int | None = None
    origin: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of the data sets that it was trained on: its source, and the other domains of a multi-domain expert. Those of `initialised_from` are
        not included."""
        domains = self.training.get("domains", ())
        return tuple(dict.fromkeys([self.source, *map(str, domains if isinstance(domains, list | tuple) else ())]))

    def to_json(self) -> str:
        """The text of `card.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Card":
        """Reads a card. `where` is the file's name, for error messages.

        Raises:
          ModelError: the text is not JSON, or a field is missing, unknown or of the wrong type.
        """
        try:
            record = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
            json.dumps(record, ensure_ascii=False).encode()  # rejects "\ud800", which cannot be encoded
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"{where} is not valid JSON ({error}). To make the card again, try: ntk-select zoo convert CHECKPOINT --arch NAME"
            ) from error
        if not isinstance(record, dict):
            raise ModelError(
                f"{where} contains a {type(record).__name__}; a card is an object with the fields {', '.join(f.name for f in fields(cls))}."
            )
        known = {f.name for f in fields(cls)}
        required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        for key in record:
            if key not in known:
                raise ModelError(f"{where} has the unknown field {key!r}.{did_you_mean(key, known)}")
        try:
            for key, (check, what) in _FIELDS.items():
                if (key in record or key in required) and not check(record[key]):
                    raise TypeError(f"{key} must {what}, not {record[key]!r}")
            record["preprocess"] = Preprocess(**record["preprocess"])
            for key in ("class_names", "class_counts"):
                record[key] = tuple(record.get(key, ()))
            return cls(**record)
        except KeyError as error:
            raise ModelError(f"{where} lacks the field {error}.") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{where}: {error}") from error


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text)


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list_of(check):
    return lambda value: isinstance(value, list) and all(map(check, value))


def _or_null(check):
    return lambda value: value is None or check(value)


_FIELDS = {
    **{key: (_is_text, "be text") for key in ("name", "architecture", "source", "sha256")},
    **{key: (_or_null(_is_text), "be text or null") for key in ("initialised_from", "licence", "origin")},
    "num_classes": (_is_count, "be an integer, 0 without a head"),
    **{key: (_or_null(_is_count), "be an integer or null") for key in ("num_images", "num_parameters")},
    "test_accuracy": (_or_null(lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1), "lie in 0..1"),
    "preprocess": (lambda value: isinstance(value, dict), "be an object"),
    "config": (lambda value: isinstance(value, dict) and "num_classes" not in value, "be an object without num_classes"),
    "training": (lambda value: isinstance(value, dict), "be an object"),
    "class_names": (_list_of(_is_text), "be a list of texts"),
    "class_counts": (_list_of(_is_count), "be a list of integers"),
}
"""Check of each field of a card, and its description in error messages."""
