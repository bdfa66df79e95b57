"""Scores of experts for a task: their definitions, the table of all of them, and their results."""

from ntk_select.scores.cka import kernel_alignment
from ntk_select.scores.feature_metrics import sparsity_weights
from ntk_select.scores.features import Features
from ntk_select.scores.score import INPUTS, Input, Score, ScoreResult, Terms, Unavailable
from ntk_select.scores.table import SCORES

__all__ = ["INPUTS", "SCORES", "Features", "Input", "Score", "ScoreResult", "Terms", "Unavailable", "kernel_alignment", "sparsity_weights"]
