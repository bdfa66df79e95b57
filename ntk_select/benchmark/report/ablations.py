"""Order of the experts by some scores where each source, architecture and size of experts is left out: what a result hinges on."""

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report.columns import Column, Content, columns
from ntk_select.benchmark.report.results import CONSENSUS, STATIC, Results
from ntk_select.benchmark.report.summary import CEILING, Among, measured, of_targets, usable_targets
from ntk_select.benchmark.report.words import shots_shown

ABLATED = ("forecast", "lfc", "lgc", "leep", "logme", STATIC, CONSENSUS, CEILING)
"""Scores of the table of ablations, and the ceiling."""


def groups(results: Results) -> dict[tuple[str, str], frozenset[str]]:
    """Experts by what they share: ("source", name), ("architecture", name) and ("size", range of parameters).

    What all experts share, and experts of which it is unknown, are in none.
    """
    known = {name: results.experts[name] for name in results.measured_experts if name in results.experts}
    kinds = {
        "source": {name: facts.source for name, facts in known.items()},
        "architecture": {name: facts.architecture for name, facts in known.items()},
        "size": dict(sorted(results.sizes.items(), key=lambda each: known[each[0]].parameters)),
    }
    found = {}
    for kind, by_name in kinds.items():
        values = list(dict.fromkeys(filter(None, by_name.values())))
        for value in values if len(values) > 1 else ():
            found[kind, value] = frozenset(name for name, each in by_name.items() if each == value)
    return found


def ablations(results: Results) -> Content:
    """Mean Spearman correlation of each of `ABLATED` with all experts, and without each of `groups`."""
    left_out = {("", "nothing"): frozenset()} | groups(results)
    scores = [name for name in ABLATED if name in (*results.score_names, CEILING)]
    rows = []
    for shots in results.shots:
        for (kind, value), names in left_out.items():
            among = results.once(("left out", kind, value), lambda names=names: lambda expert: expert not in names)
            rows += _row(results, shots, f"{kind} {value}".strip(), among, scores)
    head = columns("left_out shots targets experts", Column("left_out", "left out"), Column("experts", "experts per target", 1))
    missing = [] if rows else ["No target has accuracies of three experts yet."]
    return Content([*head, *(Column(name, name, 2, interval=True) for name in scores)], rows, missing)


def _row(results: Results, shots: Images, left_out: str, among: Among, scores: list[str]) -> list[tuple]:
    """The row, or none without a target."""
    targets = usable_targets(results, None, "spearman", shots, among=among)
    if not targets:
        return []
    found = measured(results, "spearman", shots, among=among, scores=scores)
    cells = [of_targets(found.get(name), len(usable_targets(results, name, "spearman", shots, among=among))) for name in scores]
    return [(left_out, shots_shown(shots), len(targets), sum(each.scores.shape[1] for each in targets) / len(targets), *cells)]
