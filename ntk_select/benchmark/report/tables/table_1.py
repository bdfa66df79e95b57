"""Table 1: accuracy of the experts on the test sets of their own sources, beside the paper's."""

from ntk_select.benchmark.cells import ExpertFacts
from ntk_select.benchmark.report import paper
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import single_domain

from .record import Column, Content, Table


def _content(results: Results) -> Content:
    single = [facts for facts in results.taking_part.values() if single_domain(facts.name) and facts.source]
    sources = list(dict.fromkeys(facts.source for facts in single))
    kinds = sorted({(facts.architecture, start(facts, results)) for facts in single}, key=lambda kind: (kind[0], kind[1] != "scratch", kind[1]))
    found = {(facts.architecture, start(facts, results), facts.source): facts.source_accuracy for facts in single}
    printed = [source for source in sources if any(source in paper.SINGLE_DOMAIN.get(kind, {}) for kind in kinds)]
    rows = [
        (
            *kind,
            *(_percent(found.get((*kind, source))) for source in sources),
            *(paper.SINGLE_DOMAIN.get(kind, {}).get(source) for source in printed),
        )
        for kind in kinds
    ]
    columns = [
        Column("architecture", "architecture"),
        Column("start", "trained from"),
        *(Column(name, f"{name} (%)", 2) for name in sources),
        *(Column(f"paper_{name}", f"paper: {name} (%)", 2) for name in printed),
    ]
    missing = [] if rows else ["Nothing is known of the sources of the experts."]
    unknown = sorted(facts.name for facts in single if facts.source_accuracy is None)
    return Content(columns, rows, [*missing, *([f"No test accuracy is on the cards of {', '.join(unknown)}."] if unknown else [])])


def start(facts: ExpertFacts, results: Results) -> str:
    """What an expert was trained from: "scratch", or the source of the expert that it started from."""
    if facts.initialised_from is None:
        return "scratch"
    known = results.experts.get(facts.initialised_from)
    return known.source if known is not None and known.source else facts.initialised_from


def _percent(accuracy: float | None) -> float | None:
    return None if accuracy is None else 100 * accuracy


TABLE = Table(
    "Table 1. The experts on their own sources",
    "Accuracy (%) on the source's own test set, one training an expert: a row an architecture and a start, a column a source. "
    'Columns that begin with "paper" are printed in the paper, for experts of the same source, architecture and start, and were not measured; all of '
    "its table 1 stands below as reference.",
    _content,
)
