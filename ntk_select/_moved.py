"""Old names of version 0.1 of modules, and of objects in modules, with a `DeprecationWarning`."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "augment": "training.augment",
    "cache": "_runtime.cache",
    "card": "experts.card",
    "checkpoints": "training.checkpoints",
    "copies": "tasks.copies",
    "engine": "kernels.engine",
    "expert": "experts.expert",
    "feeding": "training.feeding",
    "figure": "_runtime.figures",
    "files": "_runtime.files",
    "finetuning": "training.finetuning",
    "flops": "kernels.flops",
    "gradients": "kernels.gradients",
    "kernel_file": "kernels.file",
    "kernel_plot": "kernels.plot",
    "last_conv": "kernels.last_conv",
    "multi_domain": "experts.multi_domain",
    "network_inputs": "experts.network_inputs",
    "neural_tangents_bridge": "kernels.engine.neural_tangents",
    "new_head": "experts.new_head",
    "plugins": "resolve",
    "preprocess": "experts.preprocess",
    "probe": "experts.probe",
    "progress": "_runtime.progress",
    "reference": "training.reference",
    "resampling": "evaluate.resampling",
    "resize": "experts.resize",
    "sketches": "kernels.sketches",
    "task": "tasks.task",
    "zoo_training": "training.zoo",
}
"""Old name -> new name, both below `ntk_select`."""


class Finder:
    """Meta path finder that imports a moved module, or a module below a moved package, from its new place."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of an old name; None for all other names."""
        package, _, rest = name.partition(".")
        old, _, below = rest.partition(".")
        if package != "ntk_select" or old not in MOVED:
            return None
        new = ".".join(part for part in (package, MOVED[old], below) if part)
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
    """A `__getattr__` for a module that returns its objects by their old names, given as old name -> new name."""

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is deprecated. Try: {module}.{names[name]}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return __getattr__
