"""Targets of the fuzzers: any bytes give a result or an error of this package, and nothing is written.

One function a surface: bytes and a folder of its own in, what was read out, or None where the input was refused. The properties
of this folder's tests call them, and so does `scripts/fuzz.py`.
"""

import io
import json
import os
import re
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - before the watch, since its import opens os.devnull
import numpy as np

from ntk_select import benchmark
from ntk_select.cli.rank import _selected, print_ranking
from ntk_select.data import TASKS, load_task
from ntk_select.data.builtin import read_idx
from ntk_select.data.csv_file import read_rows
from ntk_select.data.decode import decode_image
from ntk_select.data.image_folder import is_plain_path
from ntk_select.data.layout import read_layout
from ntk_select.data.uri import parse_uri
from ntk_select.errors import NtkSelectError
from ntk_select.experts.card import Card
from ntk_select.kernels.saved_kernel import load_kernel
from ntk_select.models.convert import read_checkpoint
from ntk_select.models.expert_folder import flatten, read_weights
from ntk_select.models.feature_files import StoredFeatures
from ntk_select.models.hub import repo_and_revision
from ntk_select.models.zoo import open_zoo
from ntk_select.ranking import Ranking
from ntk_select.ranking.records import Records
from ntk_select.tasks.classes import of_classes
from ntk_select.tasks.task import Task
from ntk_select.training import zoo as zoo_training

TRACES = re.compile(r"Traceback \(most recent|<class '| object at 0x|<function |<built-in ")
NAMES = ("cat", "dog", "cat-resnet18", "dog[1]", "Löwe", "a*b")
"""Names of classes and experts, for patterns."""
SLOW = ("digits", "fashion_mnist", "hf", "tfds")
"""Kinds of task that read something else than what is given, ask the network, or import TensorFlow Datasets."""


class BadSentence(AssertionError):
    """What a user was told is no sentence."""


def tried(call: Callable, *arguments) -> Any:
    """What call(*arguments) gives, or None where it refuses in a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged files, NumPy of numbers out of range
        try:
            return call(*arguments)
        except NtkSelectError as error:
            if not str(error).strip() or TRACES.search(str(error)):
                raise BadSentence(f"{type(error).__name__} says {str(error)!r}") from error
    return None


def text_of(data: bytes) -> str:
    """Any bytes as text; what is not UTF-8 becomes lone surrogates, as in names of files."""
    return data.decode("utf-8", "surrogateescape")


def written(folder: Path, name: str, data: bytes) -> Path:
    """A file that holds the bytes."""
    path = folder / name
    path.write_bytes(data)
    return path


def stays_inside(path: str) -> bool:
    """Whether a path is none of the machine's own folders, which have too many files to be read."""
    return "\0" in path or not (os.path.isabs(os.path.expanduser(path)) or ".." in path)


def task_uri(data: bytes, folder: Path):
    """The kind of task and its argument; what lies there is read if it is inside the folder."""
    text = text_of(data)
    kind = tried(parse_uri, text, TASKS)
    if kind is not None and (kind[0] not in TASKS or not isinstance(kind[1], str)):
        raise AssertionError(kind)
    if kind is not None and kind[0] not in SLOW and stays_inside(kind[1]):
        with chdir(folder):
            tried(load_task, text)
    return kind


def zoo_uri(data: bytes, folder: Path):
    """The experts of a zoo, none of which is loaded."""
    text = text_of(data)
    if not stays_inside(text.removeprefix("folder:").removeprefix("features:")):
        return None
    with chdir(folder):
        return tried(open_zoo, [text])


def bench_config(data: bytes, folder: Path):
    """The config of a benchmark, with what follows from it for each task."""
    config = tried(benchmark.read_config, written(folder, "config.toml", data))
    if config is not None and config.synthetic is None:
        for task in config.tasks:
            for shots in config.shots_of(task):
                config.shots_seen(task, config.probe_of(shots))
            config.recipe_of(task), config.finetune_seeds_of(task), config.probe_seeds_of(task)
    return config


def zoo_config(data: bytes, folder: Path):
    """The config of a zoo."""
    config = tried(zoo_training.read_config, written(folder, "config.toml", data))
    return None if config is None else (config, config.preprocess)


def card(data: bytes, folder: Path):
    """A card, which can be written and read again."""
    found = tried(Card.from_json, text_of(data), "card.json")
    if found is not None:
        text = found.to_json().encode().decode()
        if Card.from_json(text, "card.json") != found:
            raise AssertionError(f"{found} is written as {text}")
        str(found.seen)
    return found


def few_images(task, most: int = 4):
    """The labels, and the first pictures of both splits."""
    for images in (task.images, task.test_images):
        for index in range(min(most, 0 if images is None else len(images))):
            tried(lambda images=images, index=index: images[index])
    return task


def archive(data: bytes, folder: Path):
    """The task in a zip archive."""
    task = tried(load_task, f"zip:{written(folder, 'photos.zip', data)}")
    return None if task is None else few_images(task)


def npz(data: bytes, folder: Path):
    """The task in an .npz file."""
    task = tried(load_task, f"npz:{written(folder, 'photos.npz', data)}")
    return None if task is None else few_images(task)


def csv(data: bytes, folder: Path):
    """The rows of a CSV file, and the task, whose images are not there."""
    path = written(folder, "photos.csv", data)
    tried(load_task, f"csv:{path}")
    return tried(read_rows, str(path), str(path), {})


def hf(data: bytes, folder: Path):
    """The task in a folder of Hugging Face datasets with these bytes as its Arrow file."""
    place = folder / "set"
    place.mkdir()
    try:
        written(place, "a.arrow", data)
        state = {"_data_files": [{"filename": "a.arrow"}], "_fingerprint": "0", "_split": None, "_output_all_columns": False}
        state |= {f"_format_{name}": None for name in ("type", "columns")} | {"_format_kwargs": {}}
        written(place, "state.json", json.dumps(state).encode())
        written(place, "dataset_info.json", b"{}")
        task = tried(load_task, f"hf:{place}")
        return None if task is None else few_images(task)
    finally:
        for file in place.iterdir():  # rmtree names files relative to the folder, which the watch does not understand
            file.unlink()
        place.rmdir()


def idx(data: bytes, folder: Path):
    """The array in an IDX file; its first byte says whether images or labels are asked for."""
    path = written(folder, "images", data[1:])
    return tried(lambda: read_idx(path, ndim=3 if data[:1] < b"\x80" else 1))


def image(data: bytes, folder: Path):
    """The pixels of an encoded image."""
    pixels = tried(decode_image, io.BytesIO(data), "photo")
    if pixels is not None and (pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape):
        raise AssertionError((pixels.dtype, pixels.shape))
    return pixels


def layout(data: bytes, folder: Path):
    """The classes among paths, one a line; those that end in a slash are folders."""
    names = [name for name in text_of(data).split("\n") if is_plain_path(name)]  # as all that calls it makes sure
    files, folders = [name for name in names if not name.endswith("/")], [name.rstrip("/") for name in names if name.endswith("/")]
    found = tried(read_layout, "photos", files, folders)
    if found is not None and not {path for path, _ in found.train + (found.test or [])} <= set(files):
        raise AssertionError(found)
    return found


def safetensors(data: bytes, folder: Path):
    """The weights of an expert, and the tensors of a checkpoint."""
    path = written(folder, "model.safetensors", data)
    weights = tried(read_weights, path)
    if weights is not None and not all(np.isfinite(value).all() for value in flatten(weights).values()):
        raise AssertionError(weights)
    tried(read_checkpoint, path)
    return weights


def kernel(data: bytes, folder: Path):
    """A saved kernel and what it says."""
    saved = tried(load_kernel, written(folder, "kernel.npz", data))
    if saved is not None:
        repr(saved), tried(saved.summary)
    return saved


def features(data: bytes, folder: Path):
    """A file of features, .npz if it is a zip archive; what its card and labels say agrees with the whole."""
    stored = StoredFeatures(written(folder, "a.npz" if data[:2] == b"PK" else "a.safetensors", data))
    expert, shown, classes = tried(stored), tried(lambda: stored.card), tried(lambda: stored.classes)
    if expert is not None:
        whole = expert.card
        if shown is None or vars(shown) | {"given": set(shown.given)} != vars(whole) | {"given": set(whole.given)}:
            raise AssertionError((shown, whole))
        if (classes is None) != (expert.classes is None):
            raise AssertionError(classes)
    return expert


def hub_name(data: bytes, folder: Path):
    """The repository and revision of a name of the hub, which are below the folder of a cache."""
    found = tried(repo_and_revision, text_of(data))
    if found is not None:
        place = folder / ("models--" + found[0].replace("/", "--")) / "refs" / (found[1] or "main")
        if not os.path.normpath(place).startswith(f"{folder}{os.sep}models--") or "refs" not in Path(os.path.normpath(place)).parts:
            raise AssertionError(found)
    return found


def pattern(data: bytes, folder: Path):
    """The experts and classes that patterns choose, one a line."""
    words = text_of(data).split("\n")
    experts = tried(_selected, dict.fromkeys(NAMES), words, ("builtin",))
    images = np.zeros((2 * len(NAMES), 1, 1, 3), np.uint8)
    task = tried(of_classes, Task("t", images, np.arange(2 * len(NAMES)) % len(NAMES), NAMES), tuple(words))
    if not {*(experts or ())} <= {*NAMES} or (task is not None and not {*task.class_names} <= {*NAMES}):
        raise AssertionError((experts, task))
    return experts, task


def ranking(data: bytes, folder: Path):
    """A saved ranking, which can be shown in every form, and saved and loaded again."""
    found = tried(Ranking.load, written(folder, "ranking.json", data))
    if found is not None:
        repr(found), found._repr_html_(), found.to_pandas(), found.best
        with redirect_stdout(io.StringIO()):
            print_ranking(found, 1.0)
        text = json.dumps(found.to_dict(), allow_nan=False).encode()
        if Ranking.load(written(folder, "ranking.json", text)) != found:
            raise AssertionError(found)
        written(folder, "ranking.json", data)
    return found


def record(data: bytes, folder: Path):
    """The record of an expert in the folder of a ranking; a damaged one counts as absent."""
    records = Records(folder, "key", {"a": lambda: None}, None)
    records.folder.rmdir()
    records._files["a"] = written(folder, "a.json", data)
    found = records.get("a")
    if found is not None and (found.name != "a" or not all(map(np.isreal, found.scored.row.seconds.values()))):
        raise AssertionError(found)
    return found


TARGETS: dict[str, Callable[[bytes, Path], Any]] = {
    "uri": task_uri,
    "zoo": zoo_uri,
    "config": bench_config,
    "zoo_config": zoo_config,
    "card": card,
    "archive": archive,
    "image": image,
    "layout": layout,
    "npz": npz,
    "csv": csv,
    "hf": hf,
    "idx": idx,
    "safetensors": safetensors,
    "kernel": kernel,
    "features": features,
    "hub_name": hub_name,
    "pattern": pattern,
    "ranking": ranking,
    "record": record,
}
