"""Figure 5: gain over the reference that each score brings among the domains of a multi-domain expert."""

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import multi_domain

from .gains import nothing as no_gains
from .look import caption
from .selection import INTERVALS, TOP_1, TOP_3, draw_selection, few, in_order, selected

TITLE = "Selecting among the domains of a multi-domain expert"
WANTED = (TOP_1, TOP_3)


def data(results: Results) -> list[dict]:
    """One row a number of shots, target (None for their mean), measure and score; gains in percentage points."""
    return [] if results.config.reference is None else selected(results, WANTED, multi_domain)


def nothing(results: Results) -> str:
    """Why there is no figure."""
    if not any(map(multi_domain, results.taking_part)):
        return "No multi-domain expert takes part."
    if results.config.reference is None or not results.of_role("truth"):
        return no_gains(results)
    return "On no target that the multi-domain network is a stranger to were three of its domains, and the reference, fine-tuned."


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        f"As figure 4, among the domains of the multi-domain expert alone; the reference {results.config.reference} is none of them. Only targets "
        "whose data the network has "
        f"not seen. {few(data(results))} Scores that compare experts with each other compare the whole zoo. Gains of the paper's figure 5 are over the "
        "ImageNet domain of the same network: LFC and LEEP come close to the best, ahead of Feature Metrics and a random choice.",
        shared=[INTERVALS],
    )


def draw(results: Results):
    """A line a score."""
    rows = data(results)
    return draw_selection(results, rows, WANTED, in_order(rows, TOP_3), TITLE)
