"""Networks of timm with their weights: construction, files in the cache of the hub or on the hub, and loading of state dicts.

Files are read by `opened_checkpoint`, which executes nothing; timm then maps the tensors to its modules as it does for its own files.
"""

import json
import math
import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ntk_select.errors import MissingDependencyError, ModelError, explained, few, first_line, missing
from ntk_select.models.checkpoint_file import opened_checkpoint
from ntk_select.models.checkpoint_weights import TIMM_ORDER, NetworkState, network_state
from ntk_select.models.hub import PREFIX as HUB
from ntk_select.models.hub import WEIGHTS
from ntk_select.models.state_dict import IGNORED, StateDictLayout
from ntk_select.models.torch_file import StoredTensor, as_mapping

SETTINGS = ("input_size", "fixed_input_size", "pool_size", "first_conv", "classifier", "global_pool")
"""Settings of timm's configurations that determine the network and the names of its layers, apart from its number of classes."""

COUNTERS = tuple(pattern.removeprefix("*") for pattern in IGNORED)
"""Ends of the names of tensors that the outputs do not depend on."""

REAL = ("weight", "bias", "running_mean", "running_var")
"""Ends of the names of tensors that are real numbers in all layers."""

ELSEWHERE = ("checkpoint_path", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of `timm.create_model` that name files or addresses, which timm would read or download by itself."""

PATIENCE = 60.0
"""Seconds after a failed connection in which the same host is not asked again: each of many experts would wait for it."""


def import_timm(purpose: str) -> Any:
    """timm. Raises MissingDependencyError if it is not installed, or cannot be imported. `purpose` is a singular noun phrase."""
    try:
        import timm
    except ImportError as error:
        package = (error.name or "timm").partition(".")[0]
        raise missing(package if package in ("timm", "torch", "torchvision") else "timm", purpose) from error
    except Exception as error:  # torchvision raises RuntimeError if its operators were compiled for another PyTorch
        raise MissingDependencyError(
            f"timm cannot be imported ({explained(error)}). Try: pip install --upgrade timm torch torchvision, all three together"
        ) from error
    return timm


@dataclass(frozen=True)
class TimmNetwork:
    """An architecture of timm with the configuration of one set of weights.

    Args:
      uri: name of the expert, for error messages.
      architecture: timm's name without a tag, "resnet18".
      settings: fields of timm's `PretrainedCfg`, as its `pretrained_cfg`.
      arguments: further arguments of `timm.create_model`.
      repo, revision: the model on the hub with its weights; None without one.
      url: address of the weights; None without one.
    """

    uri: str
    architecture: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    repo: str | None = None
    revision: str | None = None
    url: str | None = None

    @property
    def num_classes(self) -> int:
        """Outputs of the head according to the configuration; 0 without a head."""
        return int(self.settings.get("num_classes", 1000))

    @property
    def origin(self) -> str | None:
        """Where its weights come from; None if nowhere."""
        return self.url if self.repo is None else f"{HUB}{self.repo}{f'@{self.revision}' if self.revision else ''}"

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments of `timm.create_model` beyond the number of classes, as a card stores them: they make the same network without weights."""
        given = {key: self.settings[key] for key in SETTINGS if self.settings.get(key) is not None}
        return {"pretrained_cfg": given, **self.arguments}

    @property
    def is_stored(self) -> bool:
        """Whether its weights are on this machine."""
        return self._stored() is not None

    def create(self, num_classes: int | None = None, tensors: Mapping[str, Any] | None = None) -> Any:
        """The PyTorch module, with the weights of a state dict, or untrained.

        Raises:
          ModelError: the arguments are not those of the architecture, or tensors are missing, unexpected or of the wrong shape.
        """
        timm = import_timm(f"The expert {self.uri!r}")
        if not re.fullmatch(r"\w+", self.architecture):  # "hf-hub:..." and "local-dir:..." would be read by timm
            raise ModelError(f"{self.uri}: the architecture {self.architecture[:80]!r} is not a name of timm. Try: one of timm.list_models()")
        if named := [name for name in ELSEWHERE if self.arguments.get(name)]:
            raise ModelError(
                f"{self.uri}: its configuration names other files ({few([f'{name}={self.arguments[name]!r}' for name in named])}), which are not read. "
                "Try: a configuration without them"
            )
        settings = {**self.settings, "num_classes": self.num_classes if num_classes is None else num_classes}
        settings |= {"hf_hub_id": None, "hf_hub_filename": None, "url": None, "file": None, "source": None, "state_dict": tensors}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = timm.create_model(self.architecture, pretrained=tensors is not None, pretrained_cfg=settings, **self.arguments)
            except Exception as error:  # timm checks neither arguments nor tensors before it uses them
                if tensors is None:
                    raise ModelError(f"The network of {self.uri} cannot be made: {explained(error)}.") from error
                raise ModelError(
                    f"The weights of {self.uri} do not fit {self.architecture}: {self._faults(tensors) or explained(error)}. "
                    "Try: timm:NAME@FILE with the architecture of the file"
                ) from error
        model.pretrained_cfg.pop("state_dict", None)
        return model

    def untrained(self, seed: int) -> Any:
        """The module with random weights of a seed. PyTorch's own random state is unchanged."""
        import_timm(f"The expert {self.uri!r}")
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.create()

    @property
    def num_parameters(self) -> int | None:
        """Number of parameters, without making the weights; None if the network cannot be made."""
        try:
            return _num_parameters(self.architecture, json.dumps(self.config, sort_keys=True, default=str), self.num_classes)
        except (ModelError, NotImplementedError):
            return None

    def trained(self, file: Path, *, own: bool) -> tuple[Any, tuple[str, ...]]:
        """The module with the weights of a file, and sentences on what was selected in it.

        Args:
          file: safetensors, or written by `torch.save`.
          own: whether it is timm's own file, with the tensors of this network and nothing else.

        Raises:
          ModelError: the file cannot be read, or does not fit.
        """
        where = f"Checkpoint {file}"
        with opened_checkpoint(file) as content:
            found = _plain(content, where) if own else self._selected(content, where)
        if not found.tensors:
            raise ModelError(f"{where} contains no tensors. Allowed: a state dict, alone or under one of the keys {', '.join(TIMM_ORDER)}.")
        if strange := [f"{name} ({array.dtype})" for name, array in found.tensors.items() if not _is_real(name, array)]:
            raise ModelError(
                f"{where} has weights that are not floating point: {few(strange)}. Try: the weights before quantisation, or tensor.float()"
            )
        import torch

        tensors = {name: torch.from_numpy(_supported(array)) for name, array in found.tensors.items()}
        return self.create(self._classes_of(tensors), tensors), found.notes

    def weights(self) -> Path:
        """The file of its weights: from the cache if it is there, otherwise downloaded.

        Raises:
          ModelError: there are no weights, they cannot be downloaded, or the hub cannot be reached.
          MissingDependencyError: huggingface_hub is not installed.
        """
        if found := self._stored():
            return found
        if self.repo is None and self.url is None:
            raise ModelError(f"There are no pre-trained weights of {self.uri}. Try: {self.uri}@FILE")
        return _downloaded_url(self) if self.repo is None else _downloaded(self)

    def unreachable(self, reason: str) -> ModelError:
        """The error for weights that are not in the cache while there is no network."""
        place = "the hub" if self.repo is not None else str(self.url)
        return ModelError(
            f"The weights of {self.uri} are not in the cache, and {place} cannot be reached ({reason.rstrip('.')}). "
            f"{self._remedy()}, or the variable HF_HUB_CACHE, the folder of a cache that has them"
        )

    @property
    def files(self) -> tuple[str, ...]:
        """Names that its weights may have on the hub, the preferred one first."""
        named = self.settings.get("hf_hub_filename")
        return (str(named),) if named else WEIGHTS

    def _stored(self) -> Path | None:
        if self.repo is None:
            path = None if self.url is None else _place_of(self.url)
            return path if path is not None and path.is_file() else None
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError as error:
            raise missing("huggingface-hub", f"The expert {self.uri!r}") from error
        found = (try_to_load_from_cache(self.repo, name, revision=self.revision) for name in self.files)
        return next((Path(path) for path in found if isinstance(path, str)), None)

    def _remedy(self) -> str:
        name = self.uri.removeprefix("timm:")
        if name == self.uri:
            return "Try: once with a network"
        return f"Try: once with a network, or timm_expert({name!r}, checkpoint=FILE) ({self.uri}@FILE)"

    def _layout(self, num_classes: int) -> StateDictLayout:
        """Names and shapes of the state dict; without a head if the head is not one linear layer."""
        shapes = _shapes(self.architecture, json.dumps(self.config, sort_keys=True, default=str), num_classes)
        body = {name: shape for name, shape in shapes.items() if not name.endswith(COUNTERS)}
        layer = self.settings.get("classifier")
        names = (f"{layer}.weight", f"{layer}.bias")
        if not isinstance(layer, str) or [len(body.get(name, ())) for name in names] != [2, 1]:
            return StateDictLayout(self.architecture, body, {})
        return StateDictLayout(
            self.architecture, {name: shape for name, shape in body.items() if name not in names}, {name: body[name] for name in names}
        )

    def _selected(self, content: Any, where: str) -> NetworkState:
        """The weights of this network in a file of any training program."""
        layout = self._layout(self.num_classes or 1)
        return network_state(content, layout, where) if layout.head else _plain(content, where)

    def _classes_of(self, tensors: Mapping[str, Any]) -> int:
        """Number of classes of a state dict, by its head; that of the configuration if its names are not timm's."""
        layer = self.settings.get("classifier")
        if not isinstance(layer, str):
            return self.num_classes
        if (weight := tensors.get(f"{layer}.weight")) is not None:
            return len(weight) if weight.ndim else self.num_classes
        return 0 if set(self._layout(self.num_classes or 1).body) <= set(tensors) else self.num_classes

    def _faults(self, tensors: Mapping[str, Any]) -> str:
        """Tensors that are missing, unexpected or of the wrong shape, as part of a sentence."""
        layout, found = self._layout(self._classes_of(tensors)), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expected = {**layout.body, **layout.head}
        extra = [name for name in found if name not in expected and not name.endswith(COUNTERS)]
        wrong = [f"{name} {found[name]}, expected {shape}" for name, shape in expected.items() if found.get(name, shape) != shape]
        faults = {"missing": [name for name in expected if name not in found], "unexpected": extra, "of the wrong shape": wrong}
        return "; ".join(
            f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {fault}: {few(names, 3)}" for fault, names in faults.items() if names
        )


def _on_meta(architecture: str, config: str, num_classes: int) -> Any:
    """The network without memory for its weights."""
    import_timm(f"The network {architecture!r}")
    import torch

    config = json.loads(config)
    network = TimmNetwork(f"timm:{architecture}", architecture, config.pop("pretrained_cfg"), config)
    with torch.device("meta"):
        return network.create(num_classes)


@lru_cache(maxsize=4096)
def _num_parameters(architecture: str, config: str, num_classes: int) -> int:
    return sum(parameter.numel() for parameter in _on_meta(architecture, config, num_classes).parameters())


@lru_cache(maxsize=16)
def _shapes(architecture: str, config: str, num_classes: int) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _on_meta(architecture, config, num_classes).state_dict().items()}


def _plain(content: Any, where: str) -> NetworkState:
    """The tensors of a file with one state dict, alone or under a key of timm's."""
    whole = as_mapping(content) or {}
    for inner in (*(as_mapping(whole.get(key)) or {} for key in TIMM_ORDER), whole):
        tensors = {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, StoredTensor | np.ndarray)}
        if tensors:
            return NetworkState({name: _array(value, f"{name} of {where}") for name, value in tensors.items()})
    return NetworkState({})


def _array(tensor: Any, where: str) -> np.ndarray:
    return tensor.array(where) if isinstance(tensor, StoredTensor) else tensor


def _is_real(name: str, array: np.ndarray) -> bool:
    """Whether it is not complex, and not integer or boolean where layers have real numbers, so that PyTorch copies its values."""
    return array.dtype.kind != "c" and (array.dtype.kind not in "biu" or not name.endswith(REAL))


def _supported(array: np.ndarray) -> np.ndarray:
    """A copy in a type that PyTorch takes from NumPy. bfloat16 and float8, which NumPy itself does not have, become float32 exactly."""
    return np.array(array, np.float32 if array.dtype.kind == "V" else array.dtype.newbyteorder("="))


_failures: dict[str, tuple[float, str]] = {}
"""Times and reasons of failed connections, by host."""


def _check_reachable(network: TimmNetwork, host: str) -> None:
    """Raises ModelError if a connection to the host failed a short time ago."""
    at, reason = _failures.get(host, (-math.inf, ""))
    if time.monotonic() < at + PATIENCE:
        raise network.unreachable(reason)


def _failed(network: TimmNetwork, host: str, error: Exception) -> ModelError:
    """The error for a failed connection, which is remembered."""
    _failures[host] = time.monotonic(), f"{type(error).__name__}: {first_line(error)}"
    return network.unreachable(_failures[host][1])


def _downloaded(network: TimmNetwork) -> Path:
    """Downloads the weights from the hub. The client repeats failed requests for a minute; one request without repetition is made before."""
    import huggingface_hub as client
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    _check_reachable(network, HUB)
    for name in network.files:
        try:
            client.get_hf_file_metadata(client.hf_hub_url(network.repo, name, revision=network.revision))
        except EntryNotFoundError:
            continue
        except RepositoryNotFoundError as error:
            raise ModelError(f"{network.origin} does not exist on the hub, or requires a login: {first_line(error)}") from error
        except HfHubHTTPError as error:
            raise ModelError(f"The weights of {network.uri} cannot be downloaded ({type(error).__name__}): {first_line(error)}") from error
        except Exception as error:  # errors of the client's transports have no common base class
            raise _failed(network, HUB, error) from error
        try:
            return Path(client.hf_hub_download(network.repo, name, revision=network.revision))
        except Exception as error:  # likewise
            raise ModelError(f"The weights of {network.uri} cannot be downloaded ({type(error).__name__}): {first_line(error)}") from error
    raise ModelError(f"{network.origin} contains neither {' nor '.join(network.files)}.")


def _place_of(url: str) -> Path:
    """The file in the cache of PyTorch in which a download is kept."""
    import_timm("The cache of PyTorch")
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2].partition("?")[0]


def _downloaded_url(network: TimmNetwork) -> Path:
    import torch

    host, path = str(network.url).split("/")[2], _place_of(str(network.url))
    _check_reachable(network, host)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(network.url, str(path), progress=False)
    except Exception as error:  # of urllib, of the network, and of the disk
        raise _failed(network, host, error) from error
    return path
