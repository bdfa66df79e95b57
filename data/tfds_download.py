"""Download and preparation of TensorFlow Datasets as ArrayRecord, without TensorFlow where their code needs only its file functions."""

import errno
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ntk_select.data.tfds import find, parsed, places, similar
from ntk_select.errors import DataError, explained, first_line


def download_tfds(argument: str, *, data_dir: str | Path | None = None) -> None:
    """Downloads and prepares a data set, unless it is prepared.

    Args:
      argument: NAME[/CONFIG][:VERSION][@DATA_DIR].
      data_dir: output folder without @DATA_DIR; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      TaskError: the argument is malformed.
      DataError: TensorFlow Datasets has no such set, configuration or version, or it cannot be downloaded or prepared here.
    """
    parts = parsed(argument)
    where = places(parts["folder"], data_dir)
    if find(parts["name"], parts["config"], parts["version"], where):
        return
    import tensorflow_datasets as tfds

    full = argument.partition("@")[0]
    try:
        builder = tfds.builder(full, data_dir=where[0], file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise DataError(f"TensorFlow Datasets has no set {parts['name']!r}.{similar(parts['name'], where)} Try: tfds:cifar10") from error
    except Exception as error:  # unknown configurations and versions raise different types
        raise DataError(f"tfds:{full}: cannot be built ({_reason(error)}). Try: tfds:{parts['name']}") from error
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise DataError(
            f"tfds:{full}: its files must be downloaded by hand: {' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())} Then try: {_command(full, where[0])}"
        )
    try:
        with redirect_stdout(sys.stderr), without_tensorflow(builder):
            builder.download_and_prepare()
    except Exception as error:  # code of the set, HTTP and disks raise many types
        if "tensorflow" in str(error).lower():
            raise DataError(
                f"tfds:{full}: its code needs TensorFlow ({_reason(error)}). Try, where TensorFlow is installed: {_command(full, where[0])}"
            ) from error
        raise DataError(
            f"tfds:{full}: cannot be downloaded and prepared ({_reason(error)}). Try: again, with a network and space in {where[0]}"
        ) from error


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return explained(error) if first_line(error) else type(error).__name__


def _command(name: str, data_dir: Path) -> str:
    """The shell command with which TensorFlow Datasets downloads and prepares a set."""
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{data_dir}', "
        f"file_format='array_record').download_and_prepare()\""
    )


def _open(name: Any, mode: str = "r"):
    coding = None if "b" in mode else "utf-8"
    try:
        return open(name, mode, encoding=coding)
    except OSError as error:  # large sets are shuffled in a thousand files at a time
        if error.errno != errno.EMFILE:
            raise
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return open(name, mode, encoding=coding)


class _NeverRaised(Exception):
    """An error of TensorFlow's file functions."""


class _FilesOnly:
    """Stands for the module tensorflow: its functions for files on disk, and no others."""

    io = SimpleNamespace(
        gfile=SimpleNamespace(
            GFile=_open,
            listdir=os.listdir,
            exists=os.path.exists,
            isdir=os.path.isdir,
            glob=glob.glob,
            walk=os.walk,
            remove=os.remove,
            makedirs=lambda path: os.makedirs(path, exist_ok=True),
            copy=lambda source, target, **_: shutil.copy(source, target),
        )
    )
    compat = SimpleNamespace(as_text=lambda text: text.decode() if isinstance(text, bytes) else text)
    errors = SimpleNamespace(UnimplementedError=_NeverRaised, ResourceExhaustedError=_NeverRaised)

    def __getattr__(self, name: str):
        raise ImportError(f"no module named tensorflow, for tensorflow.{name}")


def _encode_png(encoder: Any, pixels: Any) -> bytes:
    """An array as PNG, which is lossless, in place of TensorFlow's encoder."""
    from PIL import Image

    if encoder.encoding_format != "png" or pixels.dtype != "uint8" or pixels.shape[2] not in (1, 3, 4):
        raise ImportError(f"no module named tensorflow, to encode {pixels.dtype} {pixels.shape} as {encoder.encoding_format}")
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def without_tensorflow(builder: Any) -> Iterator[None]:
    """Replaces TensorFlow and importlib_resources, if not installed, where the code of a set and TensorFlow Datasets use them to prepare it.

    TensorFlow's file functions become those of Python, its encoder of PNG becomes Pillow's, and importlib_resources the module of the standard
    library that grew out of it.
    """
    import importlib.resources.abc

    from tensorflow_datasets.core import dataset_builder, shuffle
    from tensorflow_datasets.core.download import downloader, extractor
    from tensorflow_datasets.core.features import image_feature

    own = (sys.modules.get(kind.__module__) for kind in type(builder).__mro__ if not kind.__module__.startswith("tensorflow_datasets.core."))
    modules = dict.fromkeys([shuffle, downloader, extractor, *(module for module in own if hasattr(module, "tf"))])
    wanted = [(module, "tf", "tensorflow", _FilesOnly()) for module in modules]
    wanted.append((image_feature._ImageEncoder, "_encode_image", "tensorflow", _encode_png))
    wanted.append((dataset_builder, "importlib_resources", "importlib_resources", importlib.resources))
    absent = [(module, name, value) for module, name, package, value in wanted if importlib.util.find_spec(package) is None]
    before = [getattr(module, name) for module, name, _ in absent]
    for module, name, value in absent:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(absent, before, strict=True):
            setattr(module, name, value)
