"""Tables 1 and 2 of the paper, for reference: nothing in them was measured here."""

from ntk_select.benchmark.report import paper
from ntk_select.benchmark.report.results import Results

from .record import Column, Content, Table

COLUMNS = (
    Column("source", "source"),
    *(
        Column(f"{architecture}_{start}", f"paper: {architecture}, {'scratch' if start == 'scratch' else 'from ImageNet'} (%)", 2)
        for architecture, start in paper.SINGLE_DOMAIN
    ),
    Column("reported", "reported by others (%)", 2),
    *(Column(kind, f"paper: all sources at once, {kind} (%)", 2) for kind in paper.MULTI_DOMAIN),
)


def _content(_results: Results) -> Content:
    columns = (*paper.SINGLE_DOMAIN.values(), paper.REPORTED, *paper.MULTI_DOMAIN.values())
    return Content(COLUMNS, [(source, *(column.get(source) for column in columns)) for source in paper.SOURCES])


TABLE = Table(
    "Reference: the paper's tables 1 and 2",
    "Nothing here was measured: top-1 test accuracies (%) as Deshpande et al. 2021 print them, of their 30 single-domain experts and of a ResNet-101 for "
    "all sources at once. Where an expert of the same source, architecture and start takes part, its number also stands beside the measured one in "
    "tables 1 and 2 above.",
    _content,
)
