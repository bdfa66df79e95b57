"""Old names of modules, and of objects in modules, with a `DeprecationWarning`."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "augment": "training.augment",
    "benchmark.executors": "executors",
    "benchmark.ray_executor": "executors.ray_cluster",
    "cache": "_runtime.cache",
    "card": "experts.card",
    "checkpoints": "training.checkpoints",
    "copies": "tasks.copies",
    "engine": "kernels.engine",
    "expert": "experts.expert",
    "feeding": "training.feeding",
    "file_states": "_runtime.cache",
    "figure": "_runtime.figures",
    "files": "_runtime.files",
    "finetuning": "training.finetuning",
    "flops": "kernels.flops",
    "gradients": "kernels.gradients",
    "host_memory": "_runtime.memory",
    "intervals": "evaluate.intervals",
    "kernel_file": "kernels.saved_kernel",
    "kernel_plot": "kernels.heat_map",
    "last_conv": "kernels.last_conv",
    "models.mapping": "models.state_dict",
    "models.weights": "models.expert_folder",
    "multi_domain": "experts.multi_domain",
    "network_inputs": "experts.network_inputs",
    "neural_tangents_bridge": "kernels.engine.neural_tangents",
    "new_head": "experts.new_head",
    "out_of_memory": "_runtime.memory",
    "plugins": "resolve",
    "preprocess": "experts.preprocess",
    "probe": "experts.forward",
    "progress": "_runtime.progress",
    "ranking.agree": "ranking.agreement",
    "reference": "training.reference",
    "resampling": "evaluate.intervals",
    "resize": "experts.resize",
    "scores.record": "scores.score",
    "sketches": "kernels.sketches",
    "sketches.estimate": "kernels.sketches.sketched_kernel",
    "sketches.score": "kernels.sketches.correlation",
    "task": "tasks.task",
    "timing": "_runtime.progress",
    "whole": "_runtime.checks",
    "zoo_training": "training.zoo",
}
"""Old name -> new name, both below `ntk_select`. A module below a moved package has an entry only if its own name changed too."""


class Finder:
    """Meta path finder that imports a moved module, or a module below a moved package, from its new place."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of an old name; None for all other names."""
        package, *parts = name.split(".")
        old = next((old for old in map(".".join, (parts[:2], parts[:1])) if old in MOVED), None)  # a renamed module before its package
        if package != "ntk_select" or old is None:
            return None
        new = f"ntk_select.{MOVED[old]}{name.removeprefix(f'ntk_select.{old}')}"
        if importlib.util.find_spec(new) is None:
            return None
        warnings.warn(f"{name} is now {new}. Try: import {new}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, _Alias(new))


class _Alias:
    """Loader that returns a module that has been imported under its new name."""

    def __init__(self, new: str):
        self.new = new

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has replaced the module's spec by that of the alias.
        module.__spec__, module.__loader__ = self.spec, self.spec.loader


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a module that returns its objects by their old names.

    Args:
      module: name of the module.
      names: old name -> new name; with the name of a module and a dot in front where the object has moved there.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = names[name].rpartition(".")
        warnings.warn(f"{module}.{name} is deprecated. Try: {home or module}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(home or module), new)

    return __getattr__
