"""Fine-tuning of an expert on a task: the ground truth that the scores predict."""

import warnings

from ntk_select.training.finetuning.finetune import finetune as finetune
from ntk_select.training.finetuning.recipe import Recipe as Recipe
from ntk_select.training.finetuning.result import FinetuneResult as FinetuneResult
from ntk_select.training.finetuning.result import Trial as Trial
from ntk_select.training.finetuning.result import save_expert as save_expert
from ntk_select.training.finetuning.result import saved_name as saved_name

_RENAMED = {"keep": "save_expert", "kept_name": "saved_name"}


def __getattr__(name: str):
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is deprecated. Try: {__name__}.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]
