"""Which pre-trained image models are worth fine-tuning on your task: model selection by linearised fine-tuning."""

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntk_select import errors, evaluate, linearized, scores
    from ntk_select.card import Card
    from ntk_select.engine import certify, ntk, ntk_fn, ntk_plan, ntk_vector_product
    from ntk_select.expert import Expert, LastConv, SourceStatistics, Taps
    from ntk_select.finetuning import FinetuneResult, Recipe, finetune
    from ntk_select.forecasting import Forecast, forecast
    from ntk_select.gradients import gradient_kernel, gradient_sketch
    from ntk_select.kernels import feature_kernel, kernel_label_correlation, label_kernel
    from ntk_select.new_head import with_new_head
    from ntk_select.preprocess import Preprocess
    from ntk_select.ranking import Agreement, Ranking, agreement, rank
    from ntk_select.reference import trained_reference
    from ntk_select.scores.lfc import lfc
    from ntk_select.scores.lgc import lgc
    from ntk_select.selfcheck import selfcheck
    from ntk_select.sketches import Sketch, SketchedKernel, SketchedScore, sketch, sketch_fn, sketched_correlation
    from ntk_select.task import ProbeSample, Task, further_sample, probe_sample

try:
    __version__ = version("ntk-select")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    "Agreement",
    "Card",
    "Expert",
    "FinetuneResult",
    "Forecast",
    "LastConv",
    "Preprocess",
    "ProbeSample",
    "Ranking",
    "Recipe",
    "Sketch",
    "SketchedKernel",
    "SketchedScore",
    "SourceStatistics",
    "Taps",
    "Task",
    "agreement",
    "certify",
    "errors",
    "evaluate",
    "feature_kernel",
    "finetune",
    "forecast",
    "further_sample",
    "gradient_kernel",
    "gradient_sketch",
    "kernel_label_correlation",
    "label_kernel",
    "lfc",
    "lgc",
    "linearized",
    "linen_expert",
    "load_task",
    "nnx_expert",
    "ntk",
    "ntk_fn",
    "ntk_plan",
    "ntk_vector_product",
    "open_zoo",
    "probe_sample",
    "rank",
    "scores",
    "selfcheck",
    "sketch",
    "sketch_fn",
    "sketched_correlation",
    "trained_reference",
    "with_new_head",
]

# What is imported when it is asked for: `ntk-select --help` needs neither JAX nor SciPy.
_HOMES = {
    "ntk_select.card": ("Card",),
    "ntk_select.engine": ("certify", "ntk", "ntk_fn", "ntk_plan", "ntk_vector_product"),
    "ntk_select.expert": ("Expert", "LastConv", "SourceStatistics", "Taps"),
    "ntk_select.gradients": ("gradient_kernel", "gradient_sketch"),
    "ntk_select.kernels": ("feature_kernel", "kernel_label_correlation", "label_kernel"),
    "ntk_select.new_head": ("with_new_head",),
    "ntk_select.preprocess": ("Preprocess",),
    "ntk_select.ranking": ("Agreement", "Ranking", "agreement", "rank"),
    "ntk_select.scores.lfc": ("lfc",),
    "ntk_select.scores.lgc": ("lgc",),
    "ntk_select.selfcheck": ("selfcheck",),
    "ntk_select.sketches": ("Sketch", "SketchedKernel", "SketchedScore", "sketch", "sketch_fn", "sketched_correlation"),
    "ntk_select.task": ("ProbeSample", "Task", "further_sample", "probe_sample"),
    "ntk_select.finetuning": ("FinetuneResult", "Recipe", "finetune"),
    "ntk_select.forecasting": ("Forecast", "forecast"),
    "ntk_select.reference": ("trained_reference",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
# Of models/ and data/, which are never imported here but reached through entry points.
_BUILTIN = ("linen_expert", "load_task", "nnx_expert", "open_zoo")


def __getattr__(name: str) -> Any:
    if name in _BUILTIN:
        value = importlib.import_module("ntk_select.plugins").builtin(name)
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name.isidentifier() and not name.startswith("_") and importlib.util.find_spec(f"ntk_select.{name}") is not None:
        return importlib.import_module(f"ntk_select.{name}")
    else:
        raise AttributeError(f"module 'ntk_select' has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    """What is meant for users, whether it is loaded yet or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


class _Package(ModuleType):
    """An imported submodule does not replace the function of the same name: `ns.selfcheck` stays callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
