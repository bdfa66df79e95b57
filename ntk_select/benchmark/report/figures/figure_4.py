"""Figure 4: gain over the reference that each score brings among single-domain experts."""

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import single_domain

from .gains import nothing as no_gains
from .look import caption
from .selection import INTERVALS, TOP_1, TOP_3, draw_selection, few, in_order, selected

TITLE = "Selecting among single-domain experts"
WANTED = (TOP_1, TOP_3)


def data(results: Results) -> list[dict]:
    """One row a number of shots, measure and score; gains in percentage points."""
    return [] if results.config.reference is None else selected(results, WANTED, single_domain)


def nothing(results: Results) -> str:
    """Why there is no figure."""
    if results.config.reference is None or not results.of_role("truth"):
        return no_gains(results)
    return "No target has three single-domain experts, the reference among them, that were fine-tuned."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        "Test accuracy of the first expert by a score (hollow), and of the best of its first three (filled), minus that of the reference "
        f"{results.config.reference}, in percentage points. "
        f"{few(data(results))} The dotted and the dashed line are a random order, exactly. The best of three is picked on test "
        "accuracies, as in the paper: an optimistic number, by about as much for every score. The static leaderboard ranks by accuracy on the "
        "other targets. The paper's scores come first, the others by the best of three. The paper's figure 4 is the best of three "
        "for every target, with all and with 20 images per class, beside the best and the worst possible: LFC, LGC and LEEP are ahead of Domain Similarity "
        "and RSA on average; Feature Metrics is ahead of LFC and LEEP with all images, and behind with 20.",
        shared=[INTERVALS],
    )


def draw(results: Results):
    """A line a score."""
    rows = data(results)
    return draw_selection(results, rows, WANTED, in_order(rows, TOP_3), TITLE)
