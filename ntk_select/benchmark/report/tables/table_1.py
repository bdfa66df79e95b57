"""How good are the experts on the test sets of their own sources?"""

from ntk_select.benchmark.cells import ExpertFacts
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import single_domain

from .record import Column, Content, Table


def _content(results: Results) -> Content:
    single = [facts for facts in results.taking_part.values() if single_domain(facts.name) and facts.source]
    sources = list(dict.fromkeys(facts.source for facts in single))
    kinds = sorted({(facts.architecture, start(facts, results)) for facts in single}, key=lambda kind: (kind[0], kind[1] != "scratch", kind[1]))
    found = {(facts.architecture, start(facts, results), facts.source): facts.source_accuracy for facts in single}
    rows = [(*kind, *(_percent(found.get((*kind, source))) for source in sources)) for kind in kinds]
    columns = [Column("architecture", "architecture"), Column("start", "trained from"), *(Column(name, f"{name} (%)", 2) for name in sources)]
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
    "As the paper's table 1, whose experts are larger and have other sources.",
    _content,
)
