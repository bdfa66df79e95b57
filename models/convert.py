"""Conversion of PyTorch checkpoints to experts, optionally verified against outputs of the original network.

Checkpoints are those of torchvision and timm, as a file or as `hf-hub:org/name`. Weights become float32: float16 and
bfloat16 exactly, float64 rounded. Nothing in a checkpoint is ever executed.

A file contains tensors by name, not the computation. Networks with the same names and shapes but another computation, such as
resnetblur50 (blurred strides), a Caffe ResNet (strides in the 1x1 convolutions) or one of output stride 8 (dilated), convert
without an error and give other outputs. `check_logits` detects this from a few outputs of the original.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select.errors import DataError, ModelError, first_line
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.architectures import ARCHITECTURES, architecture_in, build, make_expert, names_another
from ntk_select.models.checkpoint_file import opened_checkpoint
from ntk_select.models.checkpoint_weights import network_state, plain_state
from ntk_select.models.expert_folder import check_free, describe_non_weights, flatten, read_whole, sha256_of_file, write_expert
from ntk_select.models.hub import PREFIX, HubModel, find_model
from ntk_select.models.state_dict import convert_state_dict, fitting, num_classes, to_state_dict
from ntk_select.models.torch_file import as_mapping

__all__ = ["convert_checkpoint", "convert_state_dict", "read_checkpoint", "to_state_dict"]

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
    weights: str | None = None,
    drop_head: bool = False,
    check_logits: str | Path | Mapping[str, Any] | None = None,
    replace_existing: bool = False,
) -> Card:
    """Writes a checkpoint as an expert, `model.safetensors` and `card.json`, into the folder `out`; returns its card.

    A checkpoint without a head, as from self-supervised training, becomes an expert without one, with 0 classes. A common prefix of the
    names is removed. A single linear layer with the name of the head, or a name typical of heads, becomes the head. The card lists these
    decisions in `training["converted_from"]["notes"]`.

    Args:
      checkpoint: a safetensors file, a file written by `torch.save` (any suffix), or `hf-hub:org/name[@revision]`.
      architecture: name in `ARCHITECTURES`; timm's tag after the dot is ignored. Not needed for most models of the hub, and for training files with
        an entry "arch".
      name: name of the expert; by default that of the file or of the model on the hub.
      out: folder of the expert.
      source: data set that the network was trained on.
      preprocess: preprocessing of the input. None: from the configuration on the hub, or ImageNet's usual 224-pixel crop of 256 pixels.
      licence: terms of the weights. None: from the configuration on the hub.
      weights: key or prefix of the weights to select if the file contains several sets: "state_dict", "ema". None: an average over
        training if there is one; of several averages, or without one, the first in timm's order (`TIMM_ORDER`).
      drop_head: convert the network without its head, as needed if the head is more than one linear layer.
      check_logits: outputs of the original network that the expert must reproduce: a .npz file or a mapping with `logits` (n, classes) and
        either `images` (uint8, n x height x width x 3, preprocessed here) or `inputs` (float32, n x height x width x 3 or n x 3 x height x width, as
        the network takes them). The tolerance is 0.1 % of the largest logit for `inputs`, and 2 % for `images`, since libraries resize
        images slightly differently.
      replace_existing: overwrite the expert at `out`.

    Raises:
      ModelError: the checkpoint cannot be read, does not fit the architecture, declares another one, contains several different sets of
        weights, or has other outputs than `check_logits`; or the folder exists or cannot be written.
      MissingDependencyError: huggingface_hub (for `hf-hub:`) is not installed.
    """
    with _written(out):
        check_free(Path(out), replace_existing)
    checkpoint = str(checkpoint)
    architecture = architecture.split(".")[0] if architecture else None
    model = find_model(checkpoint) if checkpoint.startswith(PREFIX) else None
    if model:
        architecture = _hub_architecture(model, architecture, checked=check_logits is not None)
        licence = licence or model.licence
        preprocess = preprocess or (model.preprocess() if model.config else None)
        name = name or model.repo.rpartition("/")[2]
    if architecture is not None:
        build(architecture, num_classes=1)  # rejects an unknown name before anything is downloaded
    name = name or Path(checkpoint).stem
    if _as_utf8(name) != name:
        raise ModelError(f"The name {name!r} is not UTF-8. Try: name=NAME (--name NAME)")
    path = model.weights() if model else Path(checkpoint)
    where = f"Checkpoint {checkpoint}"
    outputs = None if check_logits is None else load_outputs(check_logits)
    with opened_checkpoint(path) as content:
        declared = _declared_architecture(content)
        if outputs is None and names_another(declared, architecture):
            raise _mismatch(f"{where} declares the architecture {declared!r}", declared, architecture)
        if architecture is None and declared in ARCHITECTURES:
            architecture = declared
        if architecture is None:
            raise ModelError(f"{where} does not declare its architecture. {_guess(plain_state(content, where))}Allowed: {', '.join(ARCHITECTURES)}.")
        state = network_state(content, architecture, where, weights=weights, drop_head=drop_head)
    network = build(architecture, num_classes=num_classes(state.tensors, architecture))
    try:
        variables = convert_state_dict(state.tensors, network)
    except ModelError as error:
        guess = _guess(state.tensors, architecture)
        remedy = "" if guess or state.hint else f" Try: another architecture (--arch NAME), or the zoo timm:NAME@{path}, which has more networks"
        raise ModelError(f"{checkpoint} as {architecture}: {guess}{error}{state.hint}{remedy}") from error
    preprocess, notes = preprocess or IMAGENET, list(state.notes)
    if declared not in ("", architecture):
        notes.append(f"The file declares the architecture {declared!r}.")
    if outputs is not None:
        notes.append(compare_outputs(make_expert(name, network, variables, preprocess=preprocess), outputs))
    card = Card(
        name=name,
        architecture=architecture,
        source=source,
        preprocess=preprocess,
        sha256="",
        num_classes=network.num_classes,
        licence=licence,
        num_parameters=sum(leaf.size for leaf in flatten(variables["params"]).values()),
        origin=_as_utf8(checkpoint),
        training={
            "converted_from": {
                "file": _as_utf8(path.name),
                "sha256": sha256_of_file(path),
                "weights": _as_utf8(state.weights),
                "notes": [_as_utf8(note) for note in notes],
            }
        },
    )
    with _written(out):
        return write_expert(Path(out), variables, card, replace_existing=replace_existing)


@contextmanager
def _written(out: str | Path) -> Iterator[None]:
    """Names the folder in the error for one that cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"The expert cannot be written to {out}: {error.strerror}. Try: another folder") from error


def _declared_architecture(content: Any) -> str:
    """The architecture that a training program stored with the weights, as timm and PyTorch's examples do; empty without one."""
    content = as_mapping(content) or {}
    arguments = as_mapping(content.get("args")) or {}
    declared = next((text for text in (content.get("arch"), arguments.get("arch"), arguments.get("model")) if isinstance(text, str)), "")
    return declared.split(".")[0].lower()


def _mismatch(sentence: str, name: str, architecture: str | None) -> ModelError:
    """The error for weights with the name of another network, which `sentence` states."""
    if architecture is None and (known := architecture_in(name)):
        return ModelError(
            f"{sentence}, which is not one of the architectures here. "
            f"If it is a {known} that was trained in another way, try: architecture={known!r} (--arch {known})"
        )
    other = f"another network than {architecture!r}" if architecture else "not one of the architectures here"
    return ModelError(
        f"{sentence}, which is {other}, even if the tensors have the same names and shapes. "
        "If it computes the same, try: architecture=NAME and check_logits=FILE (--arch NAME --check-logits FILE)"
    )


def _hub_architecture(model: HubModel, given: str | None, *, checked: bool = False) -> str:
    """The architecture of a model of the hub: from its configuration, else `given` by the caller, else from its name.

    `checked`: whether the conversion compares outputs; the name may then be that of another architecture.
    """
    named = model.architecture  # rejects settings that change it, even if the caller names the architecture
    if model.declares_architecture and given not in (None, named):
        raise ModelError(
            f"{PREFIX}{model.repo} declares the architecture {named!r}, not {given!r}. Try: without architecture= (--arch), or converting the downloaded file"
        )
    name, wanted = model.repo.rpartition("/")[2], given or (named if named in ARCHITECTURES else None)
    if not model.declares_architecture and not checked and names_another(name, wanted):
        raise _mismatch(f"{PREFIX}{model.repo} is called {name!r}", name, wanted)
    if not model.declares_architecture and given is None and named not in ARCHITECTURES:
        raise ModelError(
            f"{PREFIX}{model.repo} does not declare its architecture. Try: architecture=NAME (--arch NAME), one of {', '.join(ARCHITECTURES)}"
        )
    return named if model.declares_architecture or given is None else given


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The largest state dict in a file, of any network, without the prefix of its first layer.

    Raises:
      ModelError: the file does not exist, has another format, is damaged, or contains no tensors.
    """
    with opened_checkpoint(path) as content:
        return plain_state(content, f"Checkpoint {path}")


def _guess(state: Mapping[str, np.ndarray], *tried: str) -> str:
    """A sentence that lists other architectures with these tensors; empty without any."""
    others = [other for other in fitting(state) if other not in tried]
    return f"It looks like a {' or '.join(others)}. Try: architecture={others[0]!r} (--arch {others[0]}). " if others else ""


def _as_utf8(text: str) -> str:
    """A path with question marks for bytes that are not UTF-8."""
    return text.encode(errors="replace").decode()


TOLERANCES = {"inputs": 1e-3, "images": 2e-2}
"""Maximum difference relative to the largest logit. Libraries resize images slightly differently."""

BATCH = 16


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of the original network.

    Args:
      kind: "inputs" or "images".
      given: images (n, height, width, 3) in uint8, or network inputs in float32.
      logits: (n, classes).
    """

    kind: str
    given: np.ndarray
    logits: np.ndarray


def load_outputs(given: str | Path | Mapping[str, Any]) -> Outputs:
    """Outputs from a `.npz` file or a mapping with `logits` and either `images` or `inputs`.

    Raises:
      ModelError: the file cannot be read, or the arrays have other names, types or shapes.
    """
    where = "check_logits" if isinstance(given, Mapping) else f"The file of logits {given}"
    arrays = dict(given) if isinstance(given, Mapping) else _read(Path(given), where)
    kinds = [kind for kind in TOLERANCES if kind in arrays]
    if "logits" not in arrays or len(kinds) != 1:
        raise ModelError(
            f"{where} contains {', '.join(map(str, arrays)) or 'nothing'}; expected logits (n, classes), and either images (uint8, n x height x width x 3) "
            "or inputs (float32, as the network takes them). Try: np.savez('logits.npz', inputs=x, logits=y)"
        )
    (kind,) = kinds
    try:
        images, logits = np.asarray(arrays[kind]), np.asarray(arrays["logits"], np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: {kind} and logits must be arrays of numbers ({first_line(error)}).") from error
    if kind == "inputs" and images.ndim == 4 and images.shape[1] == 3 != images.shape[3]:
        images = images.transpose(0, 2, 3, 1)
    typed = images.dtype == np.uint8 if kind == "images" else images.dtype.kind == "f"
    if not typed or images.ndim != 4 or images.shape[3] != 3 or logits.ndim != 2 or len(logits) != len(images) or not logits.size:
        raise ModelError(
            f"{where}: {kind} is {images.dtype} {images.shape} and logits {logits.shape}; allowed: images in uint8 (n, height, width, 3), or inputs in "
            "float32 (n, height, width, 3) or (n, 3, height, width), and logits (n, classes)."
        )
    if not np.isfinite(logits).all() or not np.abs(logits).max() > 0 or not np.isfinite(images).all():
        raise ModelError(f"{where}: {kind} and logits must be finite, and logits not all zero.")
    return Outputs(kind, images if kind == "images" else images.astype(np.float32), logits)


def _read(path: Path, where: str) -> dict[str, np.ndarray]:
    content = read_whole(path, where)
    if problem := describe_non_weights(content[:1024]):
        raise ModelError(f"{where} {problem}.")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(
            f"{where} cannot be read as an .npz file of numbers ({first_line(error)}). Try: np.savez('logits.npz', inputs=x, logits=y)"
        ) from error


def compare_outputs(expert: Expert, outputs: Outputs) -> str:
    """A sentence with the largest difference between the logits of the expert and those of the original.

    Raises:
      ModelError: the difference exceeds `TOLERANCES`, or the shapes differ.
    """
    try:
        inputs = np.asarray(expert.preprocess(outputs.given)) if outputs.kind == "images" else outputs.given
    except DataError as error:
        raise ModelError(f"The images of check_logits cannot be used: {error}") from error
    forward = jax.jit(expert.apply_fn)
    try:
        found = np.concatenate([forward(expert.variables, inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]).astype(
            np.float64
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"The network does not accept the inputs {inputs.shape} of check_logits: {first_line(error)}") from error
    if found.shape != outputs.logits.shape:
        raise ModelError(
            f"The logits of check_logits have shape {outputs.logits.shape}, those of the converted network {found.shape}. Nothing was written."
        )
    share = np.abs(found - outputs.logits).max() / np.abs(outputs.logits).max()
    allowed = TOLERANCES[outputs.kind]
    if not share <= allowed:
        raise ModelError(
            f"The converted network does not reproduce the logits: the largest difference is {100 * share:.2g} % of the largest logit, "
            f"allowed: {100 * allowed:g} %. The original has the same tensors but another computation (strides, dilation, blurring, activation), "
            "or another preprocessing. Nothing was written."
        )
    return f"Compared with {len(inputs)} outputs of the original: the largest difference is {100 * share:.2g} % of the largest logit."
