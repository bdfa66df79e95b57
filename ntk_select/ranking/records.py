"""Finished experts of a ranking on disk, from which it resumes: one file per expert, by the key of everything that determines its numbers."""

import hashlib
import inspect
import json
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType
from typing import Any, TypedDict

import jax
import msgspec
import numpy as np

from ntk_select._runtime.cache import key_of
from ntk_select._runtime.files import file_name, write_atomically
from ntk_select.errors import ConfigError, few
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert
from ntk_select.kernels.engine.digest import digest_of_params
from ntk_select.ranking.keys import Keys
from ntk_select.ranking.record import Details, ExpertScores
from ntk_select.ranking.scoring import Scored
from ntk_select.resolve import Loaded
from ntk_select.scores import SCORES, Score, ScoreResult, Terms, Unavailable
from ntk_select.scores.score import Measured
from ntk_select.scores.table import REVISIONS
from ntk_select.tasks.labels_only import has_images
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import Task

DIGESTED = ("params", "state", "preprocess", "source")
"""Fields of an expert that enter its identity as digests."""
NOTES = ("headless", "blocks", "estimated", "uncached", "extractors")
"""What `ScoreInputs` notes on an expert."""
FOLDER = "experts"
"""Folder of the records in the folder of a ranking."""


@dataclass(frozen=True)
class Outcome:
    """What a worker found out about an expert.

    Attributes:
      name: name of the expert.
      scored: its scores; None if it failed.
      error: why it failed.
      headless, blocks, estimated, uncached: as in `ScoreInputs`, for this expert alone.
      extractors: names of the extractors of source means that were used.
      trouble: what is wrong with the cache folder, if anything.
      shared_seconds: time spent for all experts of this worker, by step.
      device: the kind of device, "cpu" or "gpu".
      features: of the reference network, or the reason why there are none.
    """

    name: str
    scored: Scored | None = None
    error: str = ""
    headless: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
    uncached: tuple[str, ...] = ()
    extractors: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    shared_seconds: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    features: np.ndarray | str | None = field(default=None, compare=False)


class Records:
    """The records of a ranking: one file FOLDER/experts/NAME-KEY.json per expert.

    A record is used only under the same key. Records of other keys stay, so that a ranking with the former settings finds them again. Damaged
    files count as absent, and failures are not kept.

    Args:
      folder: folder of the ranking; None to keep nothing.
      key: key of what determines the numbers of all experts (`key_of_settings`); None if it is not known.
      loaders: functions that load one expert each, by name.
      sample: the probe sample.

    Raises:
      ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path | None, key: str | None, loaders: Mapping[str, Callable[[], Any]], sample: ProbeSample):
        self.folder = None if folder is None else Path(os.path.expanduser(folder)) / FOLDER
        self._key, self._loaders, self._sample = key, loaders, sample
        self._files: dict[str, Path | None] = {}
        if self.folder is not None and key is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._not_writable(error) from error

    def _file(self, name: str) -> Path | None:
        if self.folder is None or self._key is None:
            return None
        if name not in self._files:
            identity = identity_of(self._loaders[name], self._sample)
            key = None if identity is None else key_of("record of an expert", self._key, name, identity)
            self._files[name] = None if key is None else self.folder / f"{file_name(name)[:80]}-{key[:24]}.json"
        return self._files[name]

    def notes(self) -> list[str]:
        """A sentence on what is not kept."""
        if self.folder is None:
            return []
        unknown = [name for name, file in self._files.items() if file is None]
        what = "experts, because the code of a score or the reference network cannot be identified" if self._key is None else few(unknown)
        return [f"Not kept for another run: {what}."] if self._key is None or unknown else []

    def get(self, name: str) -> Outcome | None:
        """What an earlier run found out about the expert, or None."""
        file = self._file(name)
        if file is None:
            return None
        try:
            outcome = _outcome(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return outcome if outcome.name == name else None

    def put(self, outcome: Outcome) -> None:
        """Writes the record of an expert that was scored. Raises ConfigError if the folder cannot be written."""
        if outcome.scored is None or (file := self._file(outcome.name)) is None:
            return
        try:
            write_atomically(file, (json.dumps(_record(outcome), default=_plain) + "\n").encode())
        except OSError as error:
            raise self._not_writable(error) from error

    def _not_writable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"The ranking ended, because {self.folder} cannot be written: {error.strerror}. Try: the same command, once that is corrected, "
            "or another folder for resume (--out)"
        )


# The content of a record


def _record(outcome: Outcome) -> dict[str, Any]:
    row = outcome.scored.row
    facts = {name: getattr(row, name) for name in ("name", "source", "architecture", "num_params", "seconds", "score_seconds")}
    scores = {name: _of_measured(found) for name, found in row.scores.items()}
    halves = {name: [_on_half(found) for found in each] for name, each in outcome.scored.on_halves.items()}
    notes = {name: getattr(outcome, name) for name in ("name", *NOTES, "shared_seconds", "device")}
    return {**notes, "row": {**facts, "scores": scores}, "on_halves": halves}


class _Measured(TypedDict, total=False):
    value: float
    low: float | None
    high: float | None
    details: Details
    remark: str
    by_chance: dict[str, float]
    per_image: list[float] | None
    unavailable: str
    terms: bool


class _Row(TypedDict):
    name: str
    source: str | None
    architecture: str | None
    num_params: int | None
    seconds: dict[str, float]
    score_seconds: dict[str, float]
    scores: dict[str, _Measured]


class _Record(TypedDict):
    """What `_record` makes, apart from the notes."""

    name: str
    row: _Row
    on_halves: dict[str, list[float | dict[str, float] | None]]
    shared_seconds: dict[str, float]
    device: str


def _outcome(record: Mapping[str, Any]) -> Outcome:
    msgspec.convert(record, _Record)  # raises a ValueError for values of other types
    row = record["row"]
    scores = {name: _to_measured(found) for name, found in row["scores"].items()}
    halves = {name: [_to_half(found) for found in each] for name, each in record["on_halves"].items()}
    facts = {name: row[name] for name in ("name", "source", "architecture", "num_params", "seconds", "score_seconds")}
    notes = {name: tuple(record[name]) for name in NOTES}
    scored = Scored(ExpertScores(rank=0, scores=scores, **facts), halves)
    return Outcome(record["name"], scored, **notes, shared_seconds=record["shared_seconds"], device=record["device"])


def _of_measured(found: Measured) -> dict[str, Any]:
    if isinstance(found, Unavailable):
        return {"unavailable": found.reason}
    common = {"details": dict(found.details), "remark": found.remark, "by_chance": dict(found.by_chance)}
    if isinstance(found, Terms):
        return {"terms": True, **common}
    parts = None if found.per_image is None else np.asarray(found.per_image, np.float64).tolist()
    return {"value": found.value, "low": found.low, "high": found.high, **common, "per_image": parts}


def _to_measured(found: Mapping[str, Any]) -> Measured:
    if "unavailable" in found:
        return Unavailable(found["unavailable"])
    if "terms" in found:
        return Terms(**{name: found[name] for name in ("details", "remark", "by_chance")})
    parts = found["per_image"]
    return ScoreResult(**{**found, "per_image": None if parts is None else np.array(parts)})


def _on_half(found: Measured) -> float | dict[str, float] | None:
    """A score on a half-sample: its value, its terms, or None where it has none."""
    return None if isinstance(found, Unavailable) else dict(found.details) if isinstance(found, Terms) else found.value


def _to_half(found: float | dict[str, float] | None) -> Measured:
    return Unavailable("It has no value on this half-sample.") if found is None else Terms(found) if isinstance(found, dict) else ScoreResult(found)


def _plain(value: Any) -> Any:
    """A number of NumPy or JAX as one of Python."""
    return np.asarray(value).tolist()


# Keys


def key_of_settings(task: Task, sample: ProbeSample, scores: Mapping[str, Score], **settings: Any) -> str | None:
    """Key of everything that determines the numbers of every expert; None if a score of the user's own cannot be identified.

    It covers the pixels, labels and classes of the probe sample, the class counts of the task and, if a reference network is trained, its training
    images (of those that are decoded lazily, 64), the code of scores, all settings, versions, and the precision of JAX. It does not cover the kind of
    device, which every record names.

    Args:
      task, sample: the images.
      scores: scores by name.
      settings: everything else, in types whose `repr` is their content.
    """
    of_scores = {name: REVISIONS.get(name, "") if SCORES.get(name) is score else _code_of_score(score) for name, score in scores.items()}
    if None in of_scores.values():
        return None
    versions = {name: version(name) for name in ("jax", "numpy", "scipy")}
    precision = (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision)
    parts: list[str | np.ndarray] = [repr((of_scores, versions, precision, sample.class_names, sorted(settings.items())))]
    parts += [np.asarray(sample.labels), np.asarray(sample.indices)]
    parts += [task.name, np.asarray(task.labels)]
    if has_images(task):
        parts += [np.asarray(image) for image in sample.images]
        if any("reference_features" in score.takes for score in scores.values()):
            from ntk_select.training.checkpoints import fingerprint  # imported here because of Optax

            parts.append(fingerprint(task.images, task.labels))
    return key_of("settings of a ranking", *parts)


def _code_of_score(score: Score) -> str | None:
    functions = [score.fn, score.combine, score.saturation, *(given.compute for given in score.inputs.values())]
    found = [_code(fn) for fn in functions if fn is not None]
    options = (score.needs, score.optional, score.resampled, score.max_resamples, score.higher_is_better)
    return None if None in found else repr((found, options))


def _code(fn: Any) -> str | None:
    """Digest of what a function does: its code, defaults, and the simple values that it encloses. None if that is not known."""
    if isinstance(fn, partial):
        inner = _code(fn.func)
        return inner and _of_pickle((fn.args, fn.keywords), inner)
    if not inspect.isfunction(fn):
        return _of_pickle(fn)
    enclosed = [cell.cell_contents for cell in fn.__closure__ or ()]
    return _of_pickle((fn.__defaults__, fn.__kwdefaults__, enclosed), repr(_of_code(fn.__code__)))


def _of_code(code: CodeType) -> tuple:
    """The instructions, names and constants of a function, without its place in a file."""
    constants = tuple(_of_code(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, constants


def _of_pickle(value: Any, *parts: str) -> str | None:
    try:
        return hashlib.sha256(pickle.dumps(value, protocol=5) + repr(parts).encode()).hexdigest()
    except Exception:  # objects of other packages may raise anything
        return None


def identity_of(load: Callable[[], Any], sample: ProbeSample) -> str | None:
    """Key of an expert, without loading it if it is not in memory; None if it is not known.

    An expert with a card is identified by the card, which has the digest of the weights; one in memory by its variables, its functions and its other
    fields; any other by its function, with its arguments and constants, and by the state (size and time) of the files that these name.
    """
    try:
        card = getattr(load, "card", None)
    except Exception:  # foreign code; what is wrong is reported when the expert is loaded
        return None
    translated = _translation() if isinstance(card, Card) and card.architecture.startswith("timm:") else ""
    if isinstance(card, Card) and card.sha256:
        return card.to_json() + translated
    if isinstance(load, Loaded) and isinstance(load.expert, Expert):
        try:
            return _identity_in_memory(load.expert, sample)
        except Exception:  # foreign code, which the ranking reports
            return None
    identity = _code(load)
    return identity and identity + repr([_state(value) for value in _arguments(load)]) + translated


def _translation() -> str:
    """Versions of what a network of timm is computed by."""
    found = {}
    for name in ("timm", "torch", "torchax"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return repr(found)


def _arguments(load: Callable[[], Any]) -> list[Any]:
    """The values that a function of no arguments has in it."""
    if isinstance(load, partial):
        return [*load.args, *load.keywords.values()]
    if inspect.isfunction(load):
        return [*load.__code__.co_consts, *(cell.cell_contents for cell in load.__closure__ or ())]
    return list(vars(load).values()) if hasattr(load, "__dict__") else []


def _identity_in_memory(expert: Expert, sample: ProbeSample) -> str | None:
    keys, source = Keys(), expert.source
    x = np.asarray(expert.preprocess([sample.images[0]]))
    passes = keys.of_passes(expert, x)
    if passes is None:
        return None
    preprocess = _code(expert.preprocess)
    trained = keys.of_training_kernel(expert, x, passes, "", "", 0)
    facts = {name: getattr(source, name) for name in ("class_counts", "class_means", "reference_class_means")} if source is not None else {}
    means = digest_of_params({name: value for name, value in facts.items() if value is not None})
    known = (passes, preprocess, trained, means)
    plain = {each.name: getattr(expert, each.name) for each in fields(expert) if each.name not in DIGESTED and not each.name.endswith("_fn")}
    return None if None in known else repr((known, plain))


def _state(value: Any) -> Any:
    """Size and time of a file that an argument names."""
    if not isinstance(value, str | Path) or "\0" in str(value):
        return None
    try:
        found = os.stat(os.path.expanduser(value))
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
