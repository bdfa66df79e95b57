"""Fine-tuning of an expert on a task: the ground truth that the scores predict."""

from ntk_select._moved import renamed
from ntk_select.training.finetuning.finetune import finetune as finetune
from ntk_select.training.finetuning.recipe import LEARNING_RATES as LEARNING_RATES
from ntk_select.training.finetuning.recipe import Recipe as Recipe
from ntk_select.training.finetuning.result import FinetuneResult as FinetuneResult
from ntk_select.training.finetuning.result import Trial as Trial
from ntk_select.training.finetuning.result import save_expert as save_expert
from ntk_select.training.finetuning.result import saved_name as saved_name

__getattr__ = renamed(__name__, {"keep": "save_expert", "kept_name": "saved_name"})
