"""Figure 6: trials until each score finds the best expert, and agreement of its order with the accuracies."""

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.summary import BEST
from ntk_select.benchmark.report.words import single_domain

from .look import caption
from .selection import INTERVALS, Wanted, draw_selection, few, in_order, selected

TITLE = "Finding the best expert, and ordering all of them"
TRIALS = Wanted("trials_to_best", "experts tried until\nthe best is found")
SPEARMAN = Wanted("spearman", "Spearman correlation of\nscore and accuracy")
BESIDE = (Wanted("kendall", "Kendall"), Wanted("weighted_tau", "weighted tau"))
DRAWN = (TRIALS, SPEARMAN)


def data(results: Results) -> list[dict]:
    """One row a number of shots, measure and score; Kendall's and the weighted tau are here and not in the figure.

    A perfect score has 1 in all of them.
    """
    return [row for row in selected(results, (*DRAWN, *BESIDE), single_domain) if row["score"] != BEST]


def nothing(results: Results) -> str:
    """Why there is no figure."""
    if not results.of_role("truth"):
        return "No fine-tuning was measured yet."
    return "No target has three single-domain experts that were fine-tuned."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        "Among single-domain experts: how many are fine-tuned in the order of a score until the best one is among them, and Spearman's correlation "
        "of scores and "
        f"accuracies. {few(data(results))} The dashed line is a random order, exactly. The paper's scores come first, the others by Spearman's "
        "correlation. In the paper's figure 6, means over its targets, LFC, LGC and LEEP find the best of 30 experts in fewer than 7 trials, and of 8 "
        "domains in fewer than 3 (a random order: 15.5 and 4.5); LFC has the highest Spearman correlation.",
        shared=[INTERVALS],
    )


def draw(results: Results):
    """A line a score."""
    rows = data(results)
    return draw_selection(results, rows, DRAWN, in_order(rows, SPEARMAN), TITLE)
