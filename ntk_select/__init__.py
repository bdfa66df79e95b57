"""Which pre-trained image models are worth fine-tuning on your task: model selection by linearised fine-tuning."""

import importlib
from importlib.metadata import PackageNotFoundError, version

from ntk_select import errors, scores
from ntk_select.card import Card
from ntk_select.engine import certify, ntk, ntk_plan, ntk_vector_product
from ntk_select.expert import Expert, LastConv, SourceStatistics, Taps
from ntk_select.gradients import gradient_kernel, gradient_sketch
from ntk_select.kernels import feature_kernel, kernel_label_correlation, label_kernel
from ntk_select.new_head import with_new_head
from ntk_select.preprocess import Preprocess
from ntk_select.ranking import Agreement, Ranking, agreement, rank
from ntk_select.scores.lfc import lfc
from ntk_select.scores.lgc import lgc
from ntk_select.selfcheck import selfcheck
from ntk_select.sketches import Sketch, SketchedKernel, SketchedScore, sketch, sketched_correlation
from ntk_select.task import ProbeSample, Task, further_sample, probe_sample

try:
    __version__ = version("ntk-select")
except PackageNotFoundError:
    __version__ = "0+unknown"

_LATER = {
    "FinetuneResult": "ntk_select.finetuning",
    "Recipe": "ntk_select.finetuning",
    "finetune": "ntk_select.finetuning",
    "trained_reference": "ntk_select.reference",
}

__all__ = [
    "Agreement",
    "Card",
    "Expert",
    "FinetuneResult",
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
    "further_sample",
    "gradient_kernel",
    "gradient_sketch",
    "kernel_label_correlation",
    "label_kernel",
    "lfc",
    "lgc",
    "linearized",
    "ntk",
    "ntk_plan",
    "ntk_vector_product",
    "probe_sample",
    "rank",
    "scores",
    "selfcheck",
    "sketch",
    "sketched_correlation",
    "trained_reference",
    "with_new_head",
]


def __getattr__(name: str):
    """Loaded when they are asked for: they need Optax, or solvers of SciPy, which ranking does not."""
    if name in ("evaluate", "linearized"):
        return importlib.import_module(f"ntk_select.{name}")
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'ntk_select' has no attribute {name!r}")
