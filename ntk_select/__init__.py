"""Which pre-trained image models are worth fine-tuning on your task: model selection by linearised fine-tuning."""

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ntk_select import _moved

if TYPE_CHECKING:
    from ntk_select import errors, evaluate, linearized, scores
    from ntk_select.data import load_task
    from ntk_select.experts.card import Card
    from ntk_select.experts.expert import Expert, LastConv, SourceStatistics, Taps
    from ntk_select.experts.feature_expert import FeatureExpert
    from ntk_select.experts.new_head import with_new_head
    from ntk_select.experts.preprocess import Preprocess
    from ntk_select.forecasting import Forecast, forecast
    from ntk_select.kernels.alignment import feature_kernel, kernel_label_correlation, label_kernel
    from ntk_select.kernels.engine import certify, ntk, ntk_fn, ntk_plan, ntk_vector_product
    from ntk_select.kernels.gradients import gradient_kernel, gradient_sketch
    from ntk_select.kernels.selfcheck import selfcheck
    from ntk_select.kernels.sketches import Sketch, SketchedKernel, SketchedScore, sketch, sketch_fn, sketched_correlation
    from ntk_select.models import linen_expert, nnx_expert, open_zoo, timm_expert, torch_expert
    from ntk_select.ranking import Agreement, Ranking, agreement, rank
    from ntk_select.scores.lfc import lfc
    from ntk_select.scores.lgc import lgc
    from ntk_select.tasks.probe_sample import ProbeSample, further_sample, probe_sample
    from ntk_select.tasks.task import Task
    from ntk_select.training.finetuning import FinetuneResult, Recipe, finetune
    from ntk_select.training.reference import trained_reference

sys.meta_path.insert(0, _moved.Finder)  # before the finder of paths, which would load a module below a moved package a second time

try:
    __version__ = version("ntk-select")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    "Agreement",
    "Card",
    "Expert",
    "FeatureExpert",
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
    "timm_expert",
    "torch_expert",
    "trained_reference",
    "with_new_head",
]

# What is imported when it is asked for: `ntk-select --help` needs neither JAX nor SciPy.
_HOMES = {
    "ntk_select.data": ("load_task",),
    "ntk_select.models": ("linen_expert", "nnx_expert", "open_zoo", "timm_expert", "torch_expert"),
    "ntk_select.experts.card": ("Card",),
    "ntk_select.kernels.engine": ("certify", "ntk", "ntk_fn", "ntk_plan", "ntk_vector_product"),
    "ntk_select.experts.expert": ("Expert", "LastConv", "SourceStatistics", "Taps"),
    "ntk_select.experts.feature_expert": ("FeatureExpert",),
    "ntk_select.kernels.gradients": ("gradient_kernel", "gradient_sketch"),
    "ntk_select.kernels.alignment": ("feature_kernel", "kernel_label_correlation", "label_kernel"),
    "ntk_select.experts.new_head": ("with_new_head",),
    "ntk_select.experts.preprocess": ("Preprocess",),
    "ntk_select.ranking": ("Agreement", "Ranking", "agreement", "rank"),
    "ntk_select.scores.lfc": ("lfc",),
    "ntk_select.scores.lgc": ("lgc",),
    "ntk_select.kernels.selfcheck": ("selfcheck",),
    "ntk_select.kernels.sketches": ("Sketch", "SketchedKernel", "SketchedScore", "sketch", "sketch_fn", "sketched_correlation"),
    "ntk_select.tasks.probe_sample": ("ProbeSample", "further_sample", "probe_sample"),
    "ntk_select.tasks.task": ("Task",),
    "ntk_select.training.finetuning": ("FinetuneResult", "Recipe", "finetune"),
    "ntk_select.forecasting": ("Forecast", "forecast"),
    "ntk_select.training.reference": ("trained_reference",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
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
