"""The tables of the report."""

from . import budget, experts, failures, paired, paper, scores, table_1, table_2, table_3, table_4, truth, unavailable
from .record import Column, Content, Table, csv_bytes

TABLES: dict[str, Table] = {
    "scores": scores.TABLE,
    "table_1": table_1.TABLE,
    "table_2": table_2.TABLE,
    "table_3": table_3.TABLE,
    "table_4": table_4.TABLE,
    "paper": paper.TABLE,
    "budget": budget.TABLE,
    "paired": paired.TABLE,
    "truth": truth.TABLE,
    "experts": experts.TABLE,
    "unavailable": unavailable.TABLE,
    "failures": failures.TABLE,
}

__all__ = ["TABLES", "Column", "Content", "Table", "csv_bytes"]
