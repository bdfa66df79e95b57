"""Which scores are there, what does each need, and what comes back?"""

from ntk_select.scores.record import Score, ScoreResult, Unavailable
from ntk_select.scores.table import SCORES

__all__ = ["SCORES", "Score", "ScoreResult", "Unavailable"]
