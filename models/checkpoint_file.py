"""Reading of checkpoint files, recognised by content instead of suffix: safetensors, and files written by `torch.save`.

Nothing in a file is executed, and PyTorch is not needed.
"""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from ntk_select.errors import ModelError, few, first_line
from ntk_select.models.expert_folder import describe_non_weights, read_whole
from ntk_select.models.torch_file import DAMAGED, read_archive, read_pickle

SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

OTHER_FORMATS = (
    (b"\x1f\x8b", "is compressed with gzip. Try: gunzip FILE"),
    (b"BZh", "is compressed with bzip2. Try: bunzip2 FILE"),
    (b"\xfd7zXZ\0", "is compressed with xz. Try: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd. Try: unzstd FILE"),
    (b"7z\xbc\xaf", "is a 7z archive. Try: 7z x FILE"),
    (b"\x89HDF", "is an HDF5 file, as written by Keras and TensorFlow. Try: a PyTorch checkpoint of the same network"),
    (b"\x93NUMPY", "is a NumPy array. Try: a PyTorch checkpoint of the network"),
    (b"GGUF", "is a GGUF file of a language model. Try: a PyTorch checkpoint of a network of images"),
)
"""Magic numbers of other formats, and their error messages."""

ALLOWED = "Allowed: .safetensors files and files written by torch.save (.pth, .pt, .bin, .ckpt, .th, .tar)."


@contextmanager
def opened_checkpoint(path: Path) -> Iterator[Any]:
    """The content of a file: nested containers with arrays (safetensors) or `StoredTensor`, which can be read inside the context.

    Raises:
      ModelError: the file does not exist, is damaged, or has another format.
    """
    where = f"Checkpoint {path}"
    if not os.path.isfile(path):
        exists = "\0" not in str(path) and os.path.exists(path)
        what = " but a folder" if exists and os.path.isdir(path) else " that can be read" if exists else ": there is no such file"
        raise ModelError(f"{where} is not a file{what}. Try: the path of a .safetensors or .pth file")
    start = _beginning(path, where)
    if problem := describe_non_weights(start) or next((message for magic, message in OTHER_FORMATS if start.startswith(magic)), None):
        raise ModelError(f"{where} {problem}.")
    if _is_safetensors(start, path):
        yield _read_safetensors(path, where)
    elif start.startswith(b"PK"):
        with _archive(path, where) as archive:
            yield _rebuilt(where, read_archive, archive)
    elif start[:1] == b"\x80" or start[:1] in b"(}]c":  # pickles of protocol 2 and above, and of protocols 0 and 1
        yield _rebuilt(where, read_pickle, read_whole(path, where))
    elif start[257:262] == b"ustar":
        raise ModelError(f"{where} is a tar archive. Try: tar xf FILE")
    else:
        raise ModelError(f"{where} has an unknown format. {ALLOWED}")


def _beginning(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise ModelError(f"{where} cannot be read: {error.strerror}.") from error


def _is_safetensors(start: bytes, path: Path) -> bool:
    """By the header (length in 8 bytes, then JSON); if no format is recognised, by the suffix, for a better error message."""
    if start[8:9] == b"{":
        return True
    return path.suffix.lower() == ".safetensors" and not start.startswith((b"PK\3\4", b"\x80\2"))


def _archive(path: Path, where: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"{where} is truncated or damaged: it begins as a zip archive and does not end as one ({error}). Try: download it again"
        ) from error


def _rebuilt(where: str, read, source) -> Any:
    try:
        return read(source)
    except ModelError as error:
        raise ModelError(f"{where} {error}.") from error
    except DAMAGED as error:
        raise ModelError(
            f"{where} is damaged or was not written by torch.save ({type(error).__name__}: {first_line(error)[:100]}), and nothing in it was run. "
            f"{ALLOWED} Try: download it again"
        ) from error


def _read_safetensors(path: Path, where: str) -> dict[str, np.ndarray]:
    try:
        tensors = deserialize(read_whole(path, where))
    except SafetensorError as error:
        raise ModelError(f"{where} is not a valid safetensors file ({error}). Try: download it again") from error
    strange = [f"{name} ({tensor['dtype']})" for name, tensor in tensors if tensor["dtype"] not in SAFETENSORS_DTYPES]
    if strange:
        raise ModelError(
            f"{where} contains types that cannot be converted: {few(strange)}. Allowed: {', '.join(SAFETENSORS_DTYPES)}. Try: tensor.float() before saving"
        )
    try:
        return {name: np.frombuffer(tensor["data"], SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(tensor["shape"]) for name, tensor in tensors}
    except ValueError as error:  # a shape that NumPy does not support
        raise ModelError(f"{where} is not a valid safetensors file ({error}). Try: download it again") from error
