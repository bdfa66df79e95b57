"""Models of the Hugging Face Hub: their configuration, and download of their files.

A name is `hf-hub:org/name` or `hf-hub:org/name@revision`. Its `config.json` is read as timm writes it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntk_select.errors import ModelError, first_line, missing
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.architectures import ARCHITECTURES, build
from ntk_select.models.timm_preprocess import preprocess_of_timm

PREFIX = "hf-hub:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""File names of the weights, the preferred one first."""

NAME = re.compile(r"(?=[^/]{1,96}/[^/]{1,96}$)(?!.*(?:--|\.\.|\.git$))\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)
"""ORG/NAME as the hub allows it."""
REVISION = re.compile(r"(?=.{1,200}$)(?!.*\.\.)\w[\w.+-]*(?:/\w[\w.+-]*)*")
"""Branch, tag or commit; it is part of a path in the cache."""

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
"""Settings of timm, and their values for the published architecture. Other values may change it without changing the names of the weights."""

NOT_OF_EVALUATION = re.compile(
    r"num_classes|\w*drop\w*(rate|path|prob)\w*|\w*dropout|stochastic_depth_prob|(zero|weight)_init\w*|pretrained\w*|cache_dir|"
    r"checkpoint_path|use_checkpoint|\w*checkpointing|memory_efficient|scriptable|(bn|norm)_momentum"
)
"""Settings that do not affect the outputs in evaluation mode: dropout, initialisation, implementation options."""

FIELDS = {
    "layers": "stage_sizes",
    "block_config": "block_sizes",
    "base_width": "base_width",
    "growth_rate": "growth",
    "bn_size": "bottleneck",
    "num_init_features": "initial",
}
"""Settings of timm that depend on the architecture, and the fields of our networks with their published values."""


@dataclass(frozen=True)
class HubModel:
    """A model of the hub with its `config.json`.

    Args:
      repo: "org/name".
      revision: branch, tag or commit; None for the newest.
      config: content of `config.json`, empty if there is none.
    """

    repo: str
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Name of the configuration in error messages."""
        return f"config.json of {PREFIX}{self.repo}"

    @property
    def pretrained(self) -> Mapping[str, Any]:
        """The section on the weights; in older files it is at the top level."""
        return self.config.get("pretrained_cfg") or self.config

    @property
    def declares_architecture(self) -> bool:
        """Whether the configuration names the architecture, as timm's do."""
        return bool(self.config.get("architecture"))

    @property
    def architecture(self) -> str:
        """timm's architecture without the tag of the weights: "resnet50" for "resnet50.a1_in1k"; the name of the model if the configuration has none.

        Raises:
          ModelError: the configuration changes the architecture without changing names and shapes of the weights.
        """
        named = str(self.config.get("architecture") or self.repo.rpartition("/")[2]).split(".")[0]
        published = build(named, num_classes=1) if named in ARCHITECTURES else None
        settings = {"global_pool": self.config.get("global_pool"), **(self.config.get("model_args") or {})}
        changes = {key: value for key, value in settings.items() if not _leaves_unchanged(key, value, published)}
        if changes:
            raise ModelError(f"{self.where}: the architecture is changed by {changes}; only published architectures can be converted.")
        return named

    @property
    def licence(self) -> str | None:
        """Terms of the weights according to the configuration, as text; None if it has none."""
        return licence_text(self.pretrained.get("license") or self.config.get("license"))

    def preprocess(self) -> Preprocess:
        """Preprocessing of the input, with timm's defaults for missing settings.

        Raises:
          ModelError: the input is not square RGB, or `Preprocess` does not support the cropping or resizing.
        """
        return preprocess_of_timm(self.pretrained, self.where)

    def weights(self) -> Path:
        """Downloads the weights, unless they are in the cache of the hub, and returns their path.

        Raises:
          ModelError: the model has no weights with a known name, or they cannot be downloaded.
        """
        for name in WEIGHTS:
            if path := _download(self.repo, self.revision, name):
                return path
        raise ModelError(f"{PREFIX}{self.repo} contains neither {' nor '.join(WEIGHTS)}.")


def licence_text(given: Any) -> str | None:
    """The licence or list of licences in a configuration of timm as text; None if it is not known."""
    return ", ".join(map(str, given)) if isinstance(given, list) else str(given) if given and given != "unknown" else None


def repo_and_revision(name: str) -> tuple[str, str | None]:
    """ "org/name" and the revision, or None, of `hf-hub:org/name[@revision]`. Raises ModelError if the name is malformed."""
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    if not NAME.fullmatch(repo):
        raise ModelError(f"{name!r} is not a name of the hub. Try: {PREFIX}ORG/NAME, for example {PREFIX}timm/resnet50.a1_in1k")
    if revision and not REVISION.fullmatch(revision):
        raise ModelError(f"{name!r} has the revision {revision!r}; allowed is a branch, tag or commit. Try: {PREFIX}{repo}@main")
    return repo, revision or None


def find_model(name: str) -> HubModel:
    """The model `hf-hub:org/name[@revision]`. Downloads its configuration, but not its weights.

    Raises:
      ModelError: the name is malformed, the model does not exist or cannot be downloaded, or its configuration is not a JSON object.
      MissingDependencyError: huggingface_hub is not installed.
    """
    repo, revision = repo_and_revision(name)
    path = _download(repo, revision, "config.json")
    if path is None:
        return HubModel(repo, revision)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"config.json of {name} is not valid JSON ({error}).") from error
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("pretrained_cfg") or {}, dict)
        or not isinstance(config.get("model_args") or {}, dict)
    ):
        raise ModelError(f"config.json of {name} does not have timm's structure: an object with the objects pretrained_cfg and model_args.")
    return HubModel(repo, revision, config)


def _leaves_unchanged(setting: str, value: Any, published: Any) -> bool:
    """Whether a setting leaves the `published` network unchanged. If unknown, settings in `FIELDS` are checked later by tensor shapes."""
    if value is None or NOT_OF_EVALUATION.fullmatch(setting):
        return True
    if setting in FIELDS:
        return getattr(published, FIELDS[setting], None) in (None, tuple(value) if isinstance(value, list) else value)
    if isinstance(value, Mapping):
        return all(_leaves_unchanged(*pair, published) for pair in value.items())
    return (value.lower() if isinstance(value, str) else value) in UNCHANGED.get(setting, ())


def _download(repo: str, revision: str | None, file: str) -> Path | None:
    """The path of a file in the cache of the hub; None if the model has no such file."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise missing("huggingface-hub", f"Downloading {PREFIX}{repo}") from error
    name = f"{PREFIX}{repo}{f'@{revision}' if revision else ''}"
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ModelError(f"{file} of {name} is not in the cache, and the hub cannot be reached: {first_line(error)}") from error
    except EntryNotFoundError:
        return None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"{name} does not exist on the hub, or requires a login: {first_line(error)}") from error
    except Exception as error:  # errors of the client's transports have no common base class
        raise ModelError(f"{file} of {name} cannot be downloaded ({type(error).__name__}): {first_line(error)}") from error
