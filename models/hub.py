"""Models of the Hugging Face Hub: what their configuration says, and where their files lie once downloaded.

A name is `hf-hub:org/name` or `hf-hub:org/name@revision`. Its `config.json` is read as timm writes it.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntk_select.errors import ConfigError, ModelError, first_line, missing
from ntk_select.experts.preprocess import Preprocess

from .architectures import ARCHITECTURES, build

PREFIX = "hf-hub:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What the weights may be called, the preferred name first."""

UNCHANGED = {
    "global_pool": ("avg",),
    "in_chans": (3,),
    "output_stride": (32,),
    "stem_type": ("",),
    "stem_width": (64,),
    "act_layer": ("relu",),
    "norm_layer": ("batchnorm", "batchnorm2d", "syncbn", "syncbatchnorm", "frozenbatchnorm", "frozenbatchnorm2d"),
    "bn_eps": (1e-5,),
    "norm_eps": (1e-5,),
    "attn_layer": ("",),
    "features_only": (False,),
    "channels": ([64, 128, 256, 512],),
    "aa_layer": ("",),
    "avg_down": (False,),
    "block_reduce_first": (1,),
    "cardinality": (1,),
    "down_kernel_size": (1,),
    "replace_stem_pool": (False,),
}
"""Settings of timm, and the values that leave an architecture as it was published. Others may change it while the weights' names stay."""

NOT_OF_EVALUATION = re.compile(
    r"num_classes|\w*drop\w*(rate|path|prob)\w*|\w*dropout|stochastic_depth_prob|(zero|weight)_init\w*|pretrained\w*|cache_dir|"
    r"checkpoint_path|use_checkpoint|\w*checkpointing|memory_efficient|scriptable|(bn|norm)_momentum"
)
"""Settings, with any value, that do not change what the network computes in evaluation: dropout, initial values, ways to compute the same."""

FIELDS = {
    "layers": "stage_sizes",
    "block_config": "block_sizes",
    "base_width": "base_width",
    "growth_rate": "growth",
    "bn_size": "bottleneck",
    "num_init_features": "initial",
}
"""Settings of timm that differ from architecture to architecture, and the fields of the networks here that have their published values."""


@dataclass(frozen=True)
class HubModel:
    """A model of the hub whose `config.json`, if it has one, has been read.

    Args:
      repo: "org/name".
      revision: branch, tag or commit; None for the newest.
      config: the whole `config.json`, empty when there is none.
    """

    repo: str
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The configuration's name in error messages."""
        return f"config.json of {PREFIX}{self.repo}"

    @property
    def pretrained(self) -> Mapping[str, Any]:
        """What is said of the weights; older files say it beside the architecture."""
        return self.config.get("pretrained_cfg") or self.config

    @property
    def says_architecture(self) -> bool:
        """Whether the configuration names the architecture, as timm's do."""
        return bool(self.config.get("architecture"))

    @property
    def architecture(self) -> str:
        """timm's architecture without the tag of the weights: "resnet50" for "resnet50.a1_in1k"; the model's own name where the configuration has none.

        Raises:
          ModelError: the configuration changes the architecture in a way that the names and shapes of the weights do not show.
        """
        named = str(self.config.get("architecture") or self.repo.rpartition("/")[2]).split(".")[0]
        published = build(named, num_classes=1) if named in ARCHITECTURES else None
        settings = {"global_pool": self.config.get("global_pool"), **(self.config.get("model_args") or {})}
        changes = {key: value for key, value in settings.items() if not _leaves_unchanged(key, value, published)}
        if changes:
            raise ModelError(f"{self.where}: the architecture is changed by {changes}; only architectures as they were published can be converted.")
        return named

    @property
    def licence(self) -> str | None:
        """Terms of the weights, if the configuration says them; several, or whatever else it says, as text."""
        said = self.pretrained.get("license") or self.config.get("license")
        return ", ".join(map(str, said)) if isinstance(said, list) else str(said) if said else None

    def preprocess(self) -> Preprocess:
        """How the model's input is made, with timm's defaults for what the configuration leaves out.

        Raises:
          ModelError: the input is not square and coloured, or is cropped or resized in a way that `Preprocess` has not.
        """
        said = {key: value for key, value in self.pretrained.items() if value is not None}
        try:
            channels, height, width = said.get("input_size", (3, 224, 224))
            if channels != 3 or height != width:
                raise ValueError(f"the input size {channels} x {height} x {width} is not 3 x size x size")
            if said.get("crop_mode", "center") != "center":
                raise ValueError(f"the crop mode {said['crop_mode']!r} is unknown; allowed: 'center'")
            return Preprocess(
                size=int(height),
                resize=math.floor(height / said.get("crop_pct", 0.875)),
                mean=tuple(said.get("mean", (0.485, 0.456, 0.406))),
                std=tuple(said.get("std", (0.229, 0.224, 0.225))),
                interpolation=said.get("interpolation", "bicubic"),
            )
        except (TypeError, ValueError, ArithmeticError, ConfigError) as error:
            raise ModelError(
                f"{self.where}: {str(error).rstrip('.')}. Say how the input is made: --size 224 --resize 256 --interpolation bicubic, or preprocess=Preprocess(...) in Python"
            ) from error

    def weights(self) -> Path:
        """Downloads the weights, unless they are in the hub's cache, and returns their file.

        Raises:
          ModelError: the model has none under a known name, or they cannot be fetched.
        """
        for name in WEIGHTS:
            if path := _download(self.repo, self.revision, name):
                return path
        raise ModelError(f"{PREFIX}{self.repo} holds neither {' nor '.join(WEIGHTS)}.")


def find_model(name: str) -> HubModel:
    """The hub's model of the name `hf-hub:org/name[@revision]`; its configuration is downloaded, its weights are not.

    Raises:
      ModelError: the name is malformed, the model does not exist or cannot be fetched, or its configuration is not an object in JSON.
      MissingDependencyError: huggingface_hub is not installed.
    """
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ModelError(f"{name!r} is not a name of the hub. Type: {PREFIX}ORG/NAME, for example {PREFIX}timm/resnet50.a1_in1k")
    path = _download(repo, revision or None, "config.json")
    if path is None:
        return HubModel(repo, revision or None)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"config.json of {name} is not valid JSON ({error}).") from error
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("pretrained_cfg") or {}, dict)
        or not isinstance(config.get("model_args") or {}, dict)
    ):
        raise ModelError(f"config.json of {name} is not laid out as timm writes it: an object with the objects pretrained_cfg and model_args.")
    return HubModel(repo, revision or None, config)


def _leaves_unchanged(setting: str, value: Any, published: Any) -> bool:
    """Whether a setting leaves the network as it was `published`; where that is not known, shapes of tensors tell for `FIELDS`."""
    if value is None or NOT_OF_EVALUATION.fullmatch(setting):
        return True
    if setting in FIELDS:
        return getattr(published, FIELDS[setting], None) in (None, tuple(value) if isinstance(value, list) else value)
    if isinstance(value, Mapping):
        return all(_leaves_unchanged(*pair, published) for pair in value.items())
    return (value.lower() if isinstance(value, str) else value) in UNCHANGED.get(setting, ())


def _download(repo: str, revision: str | None, file: str) -> Path | None:
    """The file in the hub's cache; None when the model has no such file."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise missing("huggingface-hub", f"Fetching {PREFIX}{repo}") from error
    name = f"{PREFIX}{repo}{f'@{revision}' if revision else ''}"
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ModelError(f"{file} of {name} is not in the cache, and the hub cannot be reached: {first_line(error)}") from error
    except EntryNotFoundError:
        return None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"{name} does not exist on the hub, or it asks for a login: {first_line(error)}") from error
    except Exception as error:  # The client lets through errors of its several transports, which share no base class.
        raise ModelError(f"{file} of {name} cannot be fetched ({type(error).__name__}): {first_line(error)}") from error
