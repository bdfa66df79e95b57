"""How does a PyTorch checkpoint become an expert?

Checkpoints are those of torchvision and timm, as a file or as `hf-hub:org/name`. Weights become float32:
float16 and bfloat16 exactly, float64 rounded. Nothing in a checkpoint is ever run: `.safetensors` cannot hold code,
and of a `.pth`, which can, only tensors in plain containers are accepted.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from ntk_select.card import Card
from ntk_select.errors import ModelError, missing
from ntk_select.preprocess import Preprocess

from .architectures import ARCHITECTURES, build
from .guess import fitting, num_classes
from .hub import PREFIX, find_model
from .mapping import convert_state_dict, to_state_dict
from .weights import flatten, read_whole, write_expert

__all__ = ["convert_checkpoint", "convert_state_dict", "read_checkpoint", "to_state_dict"]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Entries under which training programs put the state dict."""

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

IMAGENET = Preprocess(size=224, resize=256)


def convert_checkpoint(
    checkpoint: str | Path,
    *,
    architecture: str | None = None,
    name: str | None = None,
    out: str | Path,
    source: str = "unknown",
    preprocess: Preprocess | None = None,
    licence: str | None = None,
    replace_existing: bool = False,
) -> Card:
    """Writes a checkpoint as an expert, `model.safetensors` and `card.json`, into the folder `out`; returns its card.

    A checkpoint without a head, as self-supervised training leaves it, becomes an expert without one, of 0 classes.

    Args:
      checkpoint: a `.safetensors`, `.pth`, `.pt`, `.bin` or `.tar` file, or `hf-hub:org/name[@revision]`.
      architecture: name in `ARCHITECTURES`; timm's tag after the dot is dropped. A model of the hub says its own.
      name: of the expert; that of the file or of the hub's model when None.
      out: the expert's own folder.
      source: data set that the network was trained on.
      preprocess: how the input is made. None: as the hub's configuration says, or ImageNet's usual 224 pixels from 256.
      licence: terms of the weights. None: as the hub's configuration says.
      replace_existing: write over what is at `out`.

    Raises:
      ModelError: the checkpoint cannot be read, does not fit the architecture, or the folder cannot be written or is there already.
      MissingDependencyError: torch (for a `.pth`) or huggingface_hub (for `hf-hub:`) is not installed.
    """
    checkpoint = str(checkpoint)
    architecture = architecture.split(".")[0] if architecture else None
    model = find_model(checkpoint) if checkpoint.startswith(PREFIX) else None
    if model:
        if architecture not in (None, model.architecture):
            raise ModelError(
                f"{checkpoint} says that it is a {model.architecture!r}, not a {architecture!r}. Leave the architecture out, or convert the downloaded file."
            )
        architecture = model.architecture
        licence = licence or model.licence
        preprocess = preprocess or (model.preprocess() if model.config else None)
        name = name or model.repo.rpartition("/")[2]
    if architecture is None:
        raise ModelError(f"Checkpoint {checkpoint} does not say its architecture. Give one of {', '.join(ARCHITECTURES)}.")
    build(architecture, num_classes=1)  # refuses a name that is unknown before anything is read
    path = model.weights() if model else Path(checkpoint)
    name = name or path.stem
    if _as_utf8(name) != name:
        raise ModelError(f"The name {name!r} is not UTF-8, and no expert can have it. Give another: --name NAME")
    state = read_checkpoint(path)
    network = build(architecture, num_classes=num_classes(state, architecture))
    try:
        variables = convert_state_dict(state, network)
    except ModelError as error:
        others = [other for other in fitting(state) if other != architecture]
        hint = f"It looks like a {' or '.join(others)}. Type: --arch {others[0]}. " if others else ""
        raise ModelError(f"{checkpoint} as {architecture}: {hint}{error}") from error
    card = Card(
        name=name,
        architecture=architecture,
        source=source,
        preprocess=preprocess or IMAGENET,
        sha256="",
        num_classes=network.num_classes,
        licence=licence,
        num_parameters=sum(leaf.size for leaf in flatten(variables["params"]).values()),
        origin=_as_utf8(checkpoint),
        training={"converted_from": {"file": _as_utf8(path.name), "sha256": _sha256(path)}},
    )
    try:
        return write_expert(Path(out), variables, card, replace_existing=replace_existing)
    except OSError as error:
        raise ModelError(f"The expert cannot be written to {out}: {error.strerror}.") from error


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a file, without the wrappers of training programs and without the "module." of DataParallel.

    Raises:
      ModelError: the file is missing, has another suffix, is damaged, or holds anything but tensors.
      MissingDependencyError: the file is a `.pth` and torch is not installed.
    """
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise ModelError(
            f"Checkpoint {path} has the suffix {path.suffix!r}; allowed: .safetensors, {', '.join(TORCH_SUFFIXES)}, or a name {PREFIX}ORG/NAME."
        )
    if not os.path.isfile(path):
        raise ModelError(f"Checkpoint {path} is not a file.")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not state:
        raise ModelError(f"Checkpoint {path} holds no tensors.")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors = deserialize(read_whole(path, f"Checkpoint {path}"))
    except SafetensorError as error:
        raise ModelError(f"Checkpoint {path} is not a sound safetensors file ({error}). Fetch it again.") from error
    strange = [f"{name} ({tensor['dtype']})" for name, tensor in tensors if tensor["dtype"] not in SAFETENSORS_DTYPES]
    if strange:
        raise ModelError(f"Checkpoint {path} holds types that cannot be converted: {', '.join(strange)}. Allowed: {', '.join(SAFETENSORS_DTYPES)}.")
    try:
        return {name: np.frombuffer(tensor["data"], SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(tensor["shape"]) for name, tensor in tensors}
    except ValueError as error:  # a shape that NumPy does not have
        raise ModelError(f"Checkpoint {path} is not a sound safetensors file ({error}). Fetch it again.") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise missing("torch", f"Reading {path.name}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged or hostile file makes torch.load raise nearly anything.
        raise ModelError(
            f"Checkpoint {path} is damaged or holds more than tensors in plain containers, and nothing in it was run ({type(error).__name__}). "
            "If you trust it, load it in PyTorch and save the tensors alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from error
    return {str(key): _as_array(value, f"{key} of checkpoint {path}") for key, value in _unwrapped(content, path, torch.Tensor).items()}


def _unwrapped(content: Any, path: Path, tensor: type) -> Mapping[str, Any]:
    """The mapping that holds the tensors: `content`, or what lies under one of the `WRAPPERS`."""
    for _ in WRAPPERS:  # Bounded, because a hostile file may hold itself.
        if isinstance(content, Mapping):
            content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"Checkpoint {path} holds a {type(content).__name__}, not a state dict. Save it with: torch.save(model.state_dict(), 'model.pth')"
        )
    others = [f"{key} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, tensor)]
    if others:
        raise ModelError(
            f"Checkpoint {path} is no state dict: {', '.join(others[:5])} are no tensors. Allowed is a state dict, alone or under {', '.join(WRAPPERS)}."
        )
    return content


def _as_array(tensor, where: str) -> np.ndarray:
    import torch

    if tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ModelError(
            f"{where} cannot be converted: its shape {tuple(tensor.shape)} has more values than the file holds. Save it anew: tensor.clone()"
        )
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"{where} cannot be converted: it is {tensor.layout}, {tensor.dtype}.") from error


def _as_utf8(text: str) -> str:
    """A path in which bytes that are not UTF-8 are question marks."""
    return text.encode(errors="replace").decode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
