"""PyTorch checkpoints as experts.

Checkpoints are those of torchvision and timm, as a file or as `hf-hub:org/name`. Weights become float32:
float16 and bfloat16 exactly, float64 rounded. Nothing in a checkpoint is ever run.

A file holds tensors by name, not what is computed with them. Networks of the same names and shapes that compute something else, such as
resnetblur50 (blurred before it strides), a ResNet of Caffe (strides in the 1x1 convolutions) or one of output stride 8 (dilated), convert
without an error and give other outputs. A few outputs of the original, as `check_logits`, find that out.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.preprocess import Preprocess

from .architectures import ARCHITECTURES, architecture_in, build, make_expert, tells_of_another
from .check_logits import as_outputs, check_logits_of
from .checkpoint_file import opened_checkpoint
from .guess import fitting, num_classes
from .hub import PREFIX, HubModel, find_model
from .mapping import convert_state_dict, to_state_dict
from .state_dict import network_state, plain_state
from .torch_file import as_mapping
from .weights import flatten, write_expert

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

    A checkpoint without a head, as self-supervised training leaves it, becomes an expert without one, of 0 classes. A prefix before the
    names of all layers is dropped. A single linear layer under the head's name, or called like a head, becomes the head. What was decided
    is said in the card, as `training["converted_from"]["notes"]`.

    Args:
      checkpoint: a safetensors file, a file that `torch.save` has written, whatever its suffix, or `hf-hub:org/name[@revision]`.
      architecture: name in `ARCHITECTURES`; timm's tag after the dot is dropped. A model of the hub mostly says its own, and so do training files
        with an entry "arch".
      name: of the expert; that of the file or of the hub's model when None.
      out: the expert's own folder.
      source: data set that the network was trained on.
      preprocess: how the input is made. None: as the hub's configuration says, or ImageNet's usual 224 pixels from 256.
      licence: terms of the weights. None: as the hub's configuration says.
      weights: which weights to take where the file holds several sets, by key or prefix: "state_dict", "ema". None: an average over
        training where there is one; of several averages, or where there is none, the one that comes first in timm's order (`TIMM_ORDER`).
      drop_head: take the network without its head, as is needed where the head is more than one linear layer.
      check_logits: outputs of the original network, which the expert must give as well: a .npz file or a mapping with `logits` (n, classes) and
        either `images` (uint8, n x height x width x 3, preprocessed here) or `inputs` (float32, n x height x width x 3 or n x 3 x height x width, as
        the network takes them). Allowed is a difference of 0.1 % of the largest logit with `inputs`, of 2 % with `images`, which libraries
        resize a little differently.
      replace_existing: write over what is at `out`.

    Raises:
      ModelError: the checkpoint cannot be read, does not fit the architecture, says that it is of another, holds several sets of weights that differ, gives other outputs than
        `check_logits`, or the folder cannot be written or is there already.
      MissingDependencyError: huggingface_hub (for `hf-hub:`) is not installed.
    """
    checkpoint = str(checkpoint)
    architecture = architecture.split(".")[0] if architecture else None
    model = find_model(checkpoint) if checkpoint.startswith(PREFIX) else None
    if model:
        architecture = _of_hub(model, architecture, checked=check_logits is not None)
        licence = licence or model.licence
        preprocess = preprocess or (model.preprocess() if model.config else None)
        name = name or model.repo.rpartition("/")[2]
    if architecture is not None:
        build(architecture, num_classes=1)  # refuses a name that is unknown before anything is fetched
    path = model.weights() if model else Path(checkpoint)
    name = name or path.stem
    if _as_utf8(name) != name:
        raise ModelError(f"The name {name!r} is not UTF-8, and no expert can have it. Give another: --name NAME")
    where = f"Checkpoint {checkpoint}"
    outputs = None if check_logits is None else as_outputs(check_logits)
    with opened_checkpoint(path) as content:
        said = _said_architecture(content)
        if outputs is None and tells_of_another(said, architecture):
            raise _of_another(f"{where} says that it is a {said!r}", said, architecture)
        if architecture is None and said in ARCHITECTURES:
            architecture = said
        if architecture is None:
            raise ModelError(f"{where} does not say its architecture. {_guess(plain_state(content, where))}Give one of {', '.join(ARCHITECTURES)}.")
        state = network_state(content, architecture, where, weights=weights, drop_head=drop_head)
    network = build(architecture, num_classes=num_classes(state.tensors, architecture))
    try:
        variables = convert_state_dict(state.tensors, network)
    except ModelError as error:
        raise ModelError(f"{checkpoint} as {architecture}: {_guess(state.tensors, architecture)}{error}{state.hint}") from error
    preprocess, notes = preprocess or IMAGENET, list(state.notes)
    if said not in ("", architecture):
        notes.append(f"The file says that it is a {said!r}.")
    if outputs is not None:
        notes.append(check_logits_of(make_expert(name, network, variables, preprocess=preprocess), outputs))
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
                "sha256": _sha256(path),
                "weights": _as_utf8(state.weights),
                "notes": [_as_utf8(note) for note in notes],
            }
        },
    )
    try:
        return write_expert(Path(out), variables, card, replace_existing=replace_existing)
    except OSError as error:
        raise ModelError(f"The expert cannot be written to {out}: {error.strerror}.") from error


def _said_architecture(content: Any) -> str:
    """The architecture that a training program wrote beside the weights, as timm and PyTorch's examples do; empty without."""
    content = as_mapping(content) or {}
    arguments = as_mapping(content.get("args")) or {}
    said = next((text for text in (content.get("arch"), arguments.get("arch"), arguments.get("model")) if isinstance(text, str)), "")
    return said.split(".")[0].lower()


def _of_another(sentence: str, name: str, architecture: str | None) -> ModelError:
    """The error for weights whose name is that of another network. `sentence` says whose name it is."""
    if architecture is None and (known := architecture_in(name)):
        return ModelError(
            f"{sentence}, which is none of the architectures here. If it is a {known} that was trained in another way, type: --arch {known}"
        )
    other = f"another network than {architecture!r}" if architecture else "none of the architectures here"
    return ModelError(
        f"{sentence}, which is {other}, even where the tensors have the same names and shapes. "
        "To convert it, give --arch NAME and show that they compute the same: --check-logits FILE, from Python check_logits="
    )


def _of_hub(model: HubModel, said: str | None, *, checked: bool = False) -> str:
    """The architecture of a model of the hub: what its configuration says, or what the caller `said`, or its own name.

    `checked`: whether the conversion compares outputs, so that the name need not tell the architecture.
    """
    named = model.architecture  # refuses settings that change it, whatever the caller said
    if model.says_architecture and said not in (None, named):
        raise ModelError(
            f"{PREFIX}{model.repo} says that it is a {named!r}, not a {said!r}. Leave the architecture out, or convert the downloaded file."
        )
    name, wanted = model.repo.rpartition("/")[2], said or (named if named in ARCHITECTURES else None)
    if not model.says_architecture and not checked and tells_of_another(name, wanted):
        raise _of_another(f"{PREFIX}{model.repo} is called {name!r}", name, wanted)
    if not model.says_architecture and said is None and named not in ARCHITECTURES:
        raise ModelError(f"{PREFIX}{model.repo} does not say its architecture. Give one: --arch NAME, one of {', '.join(ARCHITECTURES)}.")
    return named if model.says_architecture or said is None else said


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The largest state dict in a file, of whatever network, without a prefix before the name of its first layer.

    Raises:
      ModelError: there is no such file, it is of another format or damaged, or holds no tensors.
    """
    with opened_checkpoint(path) as content:
        return plain_state(content, f"Checkpoint {path}")


def _guess(state: Mapping[str, np.ndarray], *said: str) -> str:
    """A sentence that names other architectures that have these tensors; empty without any."""
    others = [other for other in fitting(state) if other not in said]
    return f"It looks like a {' or '.join(others)}. Try: --arch {others[0]}. " if others else ""


def _as_utf8(text: str) -> str:
    """A path in which bytes that are not UTF-8 are question marks."""
    return text.encode(errors="replace").decode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
