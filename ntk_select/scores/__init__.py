"""Which scores are there, what does each need, and what comes back?"""

from ntk_select.scores.cka import kernel_alignment
from ntk_select.scores.feature_metrics import sparsity_weights
from ntk_select.scores.features import Features
from ntk_select.scores.record import INPUTS, Score, ScoreResult, Unavailable
from ntk_select.scores.table import SCORES

__all__ = ["INPUTS", "SCORES", "Features", "Score", "ScoreResult", "Unavailable", "kernel_alignment", "sparsity_weights"]
