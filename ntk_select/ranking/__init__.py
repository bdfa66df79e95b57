"""Rank a zoo of experts for a task: the main job."""

from ntk_select.ranking.agreement import Agreement, agreement
from ntk_select.ranking.rank import rank
from ntk_select.ranking.record import ExpertScores, Failure, Ranking

__all__ = ["Agreement", "ExpertScores", "Failure", "Ranking", "agreement", "rank"]
