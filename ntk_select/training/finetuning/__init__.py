"""How well does an expert do on a task once it is fine-tuned? What the scores are meant to predict."""

from .finetune import finetune as finetune
from .keep import keep as keep
from .keep import kept_name as kept_name
from .recipe import Recipe as Recipe
from .result import FinetuneResult as FinetuneResult
from .result import Trial as Trial
