"""Table 2: multi-domain experts against single-domain ones, beside the paper's."""

from ntk_select.benchmark.cells import ExpertFacts
from ntk_select.benchmark.report import paper
from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import single_domain

from .record import Column, Content, Table

COLUMNS = (
    Column("source", "source"),
    Column("multi_domain", "multi-domain expert"),
    Column("multi_domain_accuracy", "its accuracy (%)", 2),
    Column("single_domain", "single-domain expert"),
    Column("single_domain_accuracy", "its accuracy (%)", 2),
    Column("difference_points", "difference (points)", 2),
    Column("paper_multi_domain", "paper: multi-domain (%)", 2),
    Column("paper_single_domain", "paper: single-domain (%)", 2),
)


def _content(results: Results) -> Content:
    rows, alone = [], []
    for facts in results.taking_part.values():
        if single_domain(facts.name):
            continue
        single = _single(facts, results)
        if single is None:
            alone.append(facts.name)
        ours, theirs = facts.source_accuracy, None if single is None else single.source_accuracy
        difference = None if ours is None or theirs is None else 100 * (ours - theirs)
        cells = (None if accuracy is None else 100 * accuracy for accuracy in (ours, theirs))
        rows.append((facts.source, facts.name, next(cells), None if single is None else single.name, next(cells), difference, *_printed(facts)))
    missing = [] if rows else ["No multi-domain expert takes part."]
    return Content(
        COLUMNS, rows, [*missing, *([f"There is no single-domain expert of the same architecture for {', '.join(alone)}."] if alone else [])]
    )


def _printed(multi: ExpertFacts) -> tuple[float | None, float | None]:
    """The paper's accuracies of a multi-domain expert of this kind and of the single-domain one of its table 2."""
    kind = multi.name.partition("-")[0]
    if multi.architecture != paper.MULTI_DOMAIN_ARCHITECTURE or kind not in paper.MULTI_DOMAIN:
        return None, None
    start = "scratch" if multi.source == "imagenet" else "imagenet"
    return paper.MULTI_DOMAIN[kind].get(multi.source), paper.SINGLE_DOMAIN[multi.architecture, start].get(multi.source)


def _single(multi: ExpertFacts, results: Results) -> ExpertFacts | None:
    """The single-domain expert of the same source and architecture: from the same start if there is one, else itself that start, else any."""
    fitting = [
        facts
        for facts in results.experts.values()
        if single_domain(facts.name) and (facts.source, facts.architecture) == (multi.source, multi.architecture)
    ]
    fitting.sort(key=lambda facts: (facts.initialised_from != multi.initialised_from, facts.name != multi.initialised_from))
    return fitting[0] if fitting else None


TABLE = Table(
    "Table 2. Multi-domain against single-domain experts",
    "Accuracy (%) on the source's own test set. The single-domain expert has the same architecture and started from the same expert; the initial "
    "source has none such, and the initial expert itself stands there. The paper's table 2 found little loss on small sources and 8.5 points on "
    'ImageNet. Columns that begin with "paper" are printed there for the same source and kind of ResNet-101, and were not measured; all of the table '
    "stands below as reference.",
    _content,
)
