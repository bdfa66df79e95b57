"""Tasks from data sets of the package Hugging Face datasets: folders on disk, and names on the hub through its cache."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ntk_select.data.columns import IMAGE, LABEL, by_class, classes_of, column, example, listed, options_of
from ntk_select.data.image_folder import FileSource, is_plain_path
from ntk_select.data.layout import TEST, TRAIN, layout_of
from ntk_select.data.tfds import CHARACTER_SETS
from ntk_select.errors import DataError, TaskError, explained, few, missing
from ntk_select.tasks.task import Task

OPTIONS = ("image", "label", "train", "test", "revision")
NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<config>[\w .-]+))?")
READERS = ("parquet", "arrow", "imagefolder", "webdataset", "cache")
"""Formats of the package that contain images and run no code of others."""
MAX_VALUES = 100_000
"""Largest number of values in the description of a folder: aliases of YAML can make billions of a kilobyte."""


def load_hf(argument: str) -> Task:
    """The task in a data set of Hugging Face datasets with one label per image. No code of the data set is run.

    The image is in the column of type Image, the label in that of type ClassLabel, or a text, integer or truth value in a column with a usual
    name (`columns.LABEL`). The training split is `train`; the test split is `test`, else `validation`, if it has labels. Images are
    decoded on access.

    Args:
      argument: NAME[:CONFIG] or PATH[:CONFIG], with ?image=COLUMN&label=COLUMN&train=SPLIT&test=SPLIT&revision=REVISION where needed. PATH is a
        folder written by `save_to_disk`, or one with Parquet files, images or both that `load_dataset` reads; it takes precedence over a name.
        A set of the hub is downloaded into the hub's cache unless it is there.

    Raises:
      MissingDependencyError: the package datasets is not installed.
      TaskError: the argument is malformed, or there are fewer than two classes.
      DataError: there is no such set, configuration, column or split; the hub cannot be reached; the files are damaged or outside the folder; or
        images have no label.
    """
    rest, options = options_of("hf", argument, OPTIONS)
    path, config = _path_and_config(rest)
    if path is None:
        parts = NAME.fullmatch(rest)
        if rest.startswith(("/", ".", "~")) or rest.count("/") > 1:
            raise DataError(f"There is no folder {rest!r}. Try: hf:PATH, for example hf:photos, written by save_to_disk or with Parquet files")
        if not parts:
            raise TaskError(f"Task 'hf:{argument}': allowed are hf:NAME[:CONFIG] and hf:PATH[:CONFIG]. Example: hf:uoft-cs/cifar10")
        name, config = parts["name"], parts["config"]
    try:
        import datasets
    except ImportError as error:
        raise missing("datasets", f"The task hf:{rest}") from error
    where = path or f"hf:{rest}"
    splits = (
        _saved(datasets, path) if path and not config and _is_saved(path) else _built(datasets, path or name, config, options.get("revision"), rest)
    )
    places = [path] if path else []
    places += [os.path.expanduser(str(place)) for place in (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)]
    label = "-".join(filter(None, (os.path.basename(os.path.abspath(path or name)), config)))
    return _task(datasets, where, partial(_hint, rest), label or "root", splits, options, places)


def _hint(rest: str, what: str) -> str:
    return example("hf", rest, [what])


def _path_and_config(rest: str) -> tuple[str | None, str | None]:
    """The folder of this name and the configuration, or None and None."""
    path = os.path.expanduser(rest)
    if os.path.isdir(path):
        return os.path.abspath(path), None
    path, _, config = path.rpartition(":")
    return (os.path.abspath(path), config) if config and os.path.isdir(path) else (None, None)


def _is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def _saved(datasets: Any, path: str) -> dict[str, Any]:
    """The splits that `save_to_disk` wrote, after a check that all of its files are in the folder."""
    try:
        parts = [""]
        if os.path.isfile(os.path.join(path, "dataset_dict.json")):
            parts = json.loads(Path(path, "dataset_dict.json").read_bytes())["splits"]
        _check_names(path, [part for part in parts if part])
        for part in parts:
            state = json.loads(Path(path, part, "state.json").read_bytes())
            _check_names(path, [part] * bool(part) + [file["filename"] for file in state["_data_files"]])
        with _without_bars(datasets):
            found = datasets.load_from_disk(path)
    except DataError:
        raise
    except Exception as error:  # JSON, Arrow and datasets raise many types on damaged files
        raise DataError(f"{path}: cannot be read as a folder of save_to_disk ({explained(error)}). Try: save it again") from error
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}


def _check_names(path: str, names: Sequence[str]) -> None:
    if not all(map(is_plain_path, names)):
        raise DataError(f"{path}: names files outside the folder: {few(names)}. Try: another copy of the data set")


def _built(datasets: Any, name: str, config: str | None, revision: str | None, rest: str) -> dict[str, Any]:
    """The splits of a folder or of a name on the hub."""
    local = os.path.isabs(name)
    try:
        with _without_bars(datasets, local):
            if local:
                _check_card(name)
            builder = datasets.load_dataset_builder(name, config, revision=revision)
            _check_builder(builder, name, local)
            builder.download_and_prepare()
            found = builder.as_dataset()
    except DataError:
        raise
    except Exception as error:  # hub, HTTP, Arrow and datasets raise many types
        raise _failed(datasets, error, name, local, rest) from error
    return dict(found)


def _check_card(folder: str) -> None:
    """Raises DataError if a folder's description names files by address: the package would send requests."""
    from huggingface_hub import DatasetCard

    texts = [
        form.format(Path(folder, name).read_text(encoding="utf-8"))
        for name, form in (("README.md", "{}"), (".huggingface.yaml", "---\n{}\n---\n"))
        if os.path.isfile(os.path.join(folder, name))
    ]
    found = [DatasetCard(text, ignore_metadata_errors=True).data.to_dict() for text in texts]
    if sum(1 for _ in islice(_texts(found), MAX_VALUES + 1)) > MAX_VALUES:
        raise DataError(f"{folder}: its description has more than {MAX_VALUES:,} values. Try: delete README.md, or another copy of the data set")
    configs = [each for card in found for each in card.get("configs") or () if isinstance(each, dict)]
    addresses = [text for text in _texts([each.get("data_files") for each in configs]) if "://" in text]
    if addresses:
        raise DataError(f"{folder}: names files outside the data set: {few(addresses)}. Try: another copy of the data set")


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested lists and dictionaries, and "" for each of these and for each other value."""
    pending = [value]
    while pending:
        value = pending.pop()
        yield value if isinstance(value, str) else ""
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_builder(builder: Any, name: str, local: bool) -> None:
    """Raises DataError for formats without images and for files outside the data set."""
    if builder.name not in READERS:
        raise DataError(f"{name}: has files of the format {builder.name}; allowed are Parquet and Arrow files, and images. Try: save it as Parquet")
    start = os.path.join(os.path.realpath(name), "") if local else ("hf://", "https://")
    files = [str(file) for files in (getattr(builder.config, "data_files", None) or {}).values() for file in files]
    outside = [file for file in files if not (os.path.realpath(file) if local else file).startswith(start)]
    if outside:
        raise DataError(f"{name}: names files outside the data set: {few(outside)}. Try: another copy of the data set")


def _failed(datasets: Any, error: Exception, name: str, local: bool, rest: str) -> DataError:
    """The error of this package for one of loading."""
    text = str(error)
    if "scripts are no longer supported" in text:
        return DataError(f"{name}: is made by a script; code of a data set is never run. Try: a data set in Parquet files")
    if isinstance(error, ValueError) and (configs := re.search(r"\[('[^\]]*)\]", text)):
        first = re.split(r"', '", configs[1].strip("'"))[0]
        return DataError(f"{name}: choose one of its configurations: {configs[1]}. Try: hf:{rest.partition(':')[0]}:{first}")
    if local:
        return DataError(f"{name}: Hugging Face datasets cannot read it ({explained(error)}). Try: Parquet files, or images in train/CLASS/")
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return DataError(
            f"There is no data set {name!r} on the hub that you may read. Try: the name as on its page; for a private one, hf auth login"
        )
    if isinstance(error, ConnectionError):
        cache = datasets.config.HF_CACHE_HOME
        return DataError(f"The hub cannot be reached, and {name!r} is not in its cache {cache}. Try, with a network: ntk-select tasks show hf:{rest}")
    return DataError(f"hf:{rest}: cannot be loaded ({explained(error)}). Try: another name, or a folder: hf:PATH")


@contextmanager
def _without_bars(datasets: Any, without: bool = True) -> Iterator[None]:
    """Without the package's own progress bars, which would be mixed with ours."""
    shown = without and not datasets.utils.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _task(datasets: Any, where: str, hint: Callable[[str], str], name: str, splits: Mapping[str, Any], options: dict, places: Sequence[str]) -> Task:
    train, tests, warnings = _train_and_tests(where, hint, splits, options)
    features = splits[train].features
    image, label = _columns(datasets, where, hint, features, options)
    values = {train: _values(where, splits[train], label)}
    if None in values[train]:
        raise DataError(
            f"{where}: {values[train].count(None):,} of {len(values[train]):,} images of the split {train!r} have no label. Try: {hint('train')}"
        )
    used = [train]
    for split in tests:
        same = image in splits[split].features and str(splits[split].features.get(label)) == str(features[label])
        values[split] = _values(where, splits[split], label) if same else [None]
        if values[split] and None not in values[split]:
            used.append(split)
            break
        warnings.append(f"Ignored, because it has images without a label: the split {split!r}.")
    if isinstance(features[label], datasets.ClassLabel):
        known = list(features[label].names)
        names, key = [known[value] for split in used for value in values[split]], {name: place for place, name in enumerate(known)}.__getitem__
    else:
        known, (names, key) = [], classes_of(where, [value for split in used for value in values[split]], hint("label"))
    rows = [(split, row) for split in used for row in range(len(values[split]))]
    first = len(values[train])
    source = RowSource(where, image, *_images(where, image, {split: splits[split] for split in used}, places))
    in_train = {name: [] for name in known} | by_class(names[:first], rows[:first])
    layout = layout_of(in_train, by_class(names[first:], rows[first:]) if len(used) > 1 else None, warnings, key)
    task = layout.task(name, source)
    flips = False if re.sub(r"\W", "_", name.lower()) in (*CHARACTER_SETS, "svhn") else None
    return replace(task, licence=getattr(splits[train].info, "license", None) or None, flips_keep_class=flips)


def _train_and_tests(where: str, hint: Callable[[str], str], splits: Mapping[str, Any], options: dict) -> tuple[str, list[str], list[str]]:
    """The training split, the splits that could be the test set, the best first, and warnings."""
    for what in ("train", "test"):
        if what in options and options[what] not in splits:
            raise DataError(f"{where}: there is no split {options[what]!r}. Splits: {listed(splits)}. Try: {hint(what)}")
    warnings = []
    found = [options["train"]] if "train" in options else [name for name in splits if str(name).lower() in TRAIN]
    if not found and len(splits) == 1:
        found = list(splits)
        warnings.append(f"The only split, {found[0]!r}, is for training.")
    if not found:
        raise DataError(f"{where}: there is no split 'train'. Splits: {listed(splits)}. Try: {hint('train')}")
    if not len(splits[found[0]]):
        raise DataError(f"{where}: the split {found[0]!r} has no images. Try: {hint('train')}")
    if options.get("test") == found[0]:
        raise DataError(
            f"{where}: the split {found[0]!r} is for training, and cannot be the test set too. Splits: {listed(splits)}. Try: {hint('test')}"
        )
    tests = [options["test"]] if "test" in options else [name for role in TEST for name in splits if str(name).lower() == role]
    return found[0], [name for name in tests if name != found[0]], warnings


def _columns(datasets: Any, where: str, hint: Callable[[str], str], features: Mapping[str, Any], options: dict) -> tuple[str, str]:
    """Names of the image column and of the label column."""

    def is_picture(feature) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature and feature.keys() <= {"bytes", "path"}
        return isinstance(feature, datasets.Image) or encoded or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary"))

    def is_value(feature) -> bool:
        return isinstance(feature, datasets.Value) and re.fullmatch(r"u?int\d+|(large_)?string|bool|float\d+", feature.dtype) is not None

    def chosen(what: str, fits: Callable[[Any], bool], usual: Sequence[str]) -> str | None:
        given = options.get(what)
        if given:
            name = list(features)[column(where, what, list(features), given, (), hint)]
            return name if fits(features[name]) else None
        candidates = [name for name, feature in features.items() if fits(feature)]
        place = column(where, what, candidates, None, usual, hint) if len(candidates) != 1 else 0
        if place is None and candidates:
            raise DataError(f"{where}: several columns could be the {what}: {listed(candidates)}. Choose one. Try: {hint(what)}")
        return candidates[place] if candidates else None

    image = chosen("image", is_picture, IMAGE)
    if options.get("label"):
        label = chosen("label", lambda feature: isinstance(feature, datasets.ClassLabel) or is_value(feature), LABEL)
    else:
        label = chosen("label", lambda feature: isinstance(feature, datasets.ClassLabel), LABEL)
        usual = [name for name, feature in features.items() if is_value(feature)]
        place = column(where, "label", usual, None, LABEL, hint) if label is None else None
        label = usual[place] if place is not None else label
    for what, name, kind in (("image", image, "of type Image"), ("label", label, "of type ClassLabel, text or integer")):
        if name is None:
            several = [name for name, feature in features.items() if isinstance(getattr(feature, "feature", None), datasets.ClassLabel)]
            more = f" {listed(several)} has several labels per image (multi-label), which is not supported." if what == "label" and several else ""
            shown = listed(f"{name} ({type(feature).__name__})" for name, feature in features.items())
            raise DataError(f"{where}: found no column of the {what}, {kind}. Columns: {shown}.{more} Try: {hint(what)}")
    return image, label


def _values(where: str, split: Any, label: str) -> list[Any]:
    """The label of each row; None where there is none: null, NaN, -1 of a ClassLabel, or an empty text."""
    try:
        table = split.select_columns([label]).with_format("arrow")[:]
        table.validate(full=True)
        values = table.column(label).to_pylist()
    except Exception as error:  # damaged files
        raise DataError(f"{where}: the labels cannot be read ({explained(error)}). Try: download or save the data set again") from error
    classes = len(getattr(split.features[label], "names", None) or ())
    if classes:
        return [value if value is not None and 0 <= value < classes else None for value in values]
    return [None if value is None or value != value or (isinstance(value, str) and not value.strip()) else value for value in values]


def _images(where: str, image: str, splits: Mapping[str, Any], places: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str | None] | None]]:
    """The image column of each split, and where images are not embedded the path of each.

    Raises:
      DataError: the column is damaged, or a path is in none of the `places`.
    """
    columns, paths = {}, {}
    fences = tuple(os.path.join(each, "") for place in places for each in (os.path.abspath(place), os.path.realpath(place)))
    for name, split in splits.items():
        columns[name], paths[name] = split.select_columns([image]).with_format("arrow"), None
        try:
            table = columns[name][:]
            table.validate(full=True)
            chunks = [chunk for chunk in table.column(image).chunks if hasattr(chunk.type, "num_fields") and chunk.type.num_fields]
            fields = {field.name for chunk in chunks for field in chunk.type}
            if "path" in fields and ("bytes" not in fields or any(chunk.field("bytes").null_count for chunk in chunks)):
                stored = [row for chunk in chunks for row in zip(_absent(chunk, "bytes"), chunk.field("path").to_pylist(), strict=True)]
                paths[name] = [path if absent else None for absent, path in stored]
        except Exception as error:  # damaged files
            raise DataError(f"{where}: the images cannot be read ({explained(error)}). Try: download or save the data set again") from error
        outside = [path for path in paths[name] or () if path is not None and not os.path.normpath(path).startswith(fences)]
        if outside:
            raise DataError(f"{where}: images are stored outside the data set: {few(outside, 3)}. Try: save_to_disk or to_parquet, which embed them")
    return columns, paths


def _absent(chunk: Any, field: str) -> list[bool]:
    """Whether each value of a field of a struct is null."""
    return chunk.field(field).is_null().to_pylist() if chunk.type.get_field_index(field) >= 0 else [True] * len(chunk)


@dataclass(frozen=True)
class RowSource:
    """Encoded images by split and row.

    Attributes:
      where: the data set, for error messages.
      column: name of the image column.
      splits: by name, as data sets of Arrow format with that column.
      paths: by split, the file of each image that is not embedded; None where all are.
    """

    where: str
    column: str
    splits: Mapping[str, Any]
    paths: Mapping[str, list[str | None] | None]

    def open(self, key: tuple[str, int]) -> BinaryIO:
        """The encoded image, as an opened file."""
        return BytesIO(self.content(key))

    def content(self, key: tuple[str, int]) -> bytes:
        """The encoded image."""
        path = self._path(key)
        if path is not None:
            return FileSource("").content(path)
        split, row = key
        try:
            value = self.splits[split][row].column(self.column)[0].as_py()
            value = value["bytes"] if isinstance(value, dict) else value
        except Exception as error:  # damaged files
            raise DataError(f"{self.name(key)}: cannot be read ({explained(error)}). Try: download or save the data set again") from error
        if not value:
            raise DataError(f"{self.name(key)}: has no image. Try: remove rows without an image, as with Dataset.filter")
        return value

    def name(self, key: tuple[str, int]) -> str:
        """The file of the image; or data set, split and row."""
        return self._path(key) or "{}, split {}, row {}".format(self.where, *key)

    def origin(self, key: tuple[str, int]) -> tuple[tuple[str, ...], str] | None:
        """The file of the image, or the files of the split, with split and row; None if it is only in memory."""
        path = self._path(key)
        if path is not None:
            return (os.path.abspath(path),), ""
        files = tuple(sorted(os.path.abspath(file["filename"]) for file in self.splits[key[0]].cache_files))
        return (files, "{} {}".format(*key)) if files else None

    def _path(self, key: tuple[str, int]) -> str | None:
        split, row = key
        paths = self.paths[split]
        return None if paths is None else paths[row]
