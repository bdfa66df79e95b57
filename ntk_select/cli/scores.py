"""`ntk-select scores`: lists the scores, and shows what one measures and needs."""

from typing import Any

import tyro

from ntk_select.cli.console import print_json, print_line, print_table, remark
from ntk_select.cli.options import Json, command_class, group, typed
from ntk_select.errors import ConfigError, did_you_mean

SUBJECTS = {
    "Accuracy after fine-tuning, forecast by simulating the recipe from the kernel": ("forecast",),
    "Evidence of the labels under the Gaussian process of the linearised network": ("ntk_evidence",),
    "Correlation of a kernel with the labels": (
        *("lfc", "lfc_off_diagonal", "lfc_centered", "lfc_cosine", "cka"),
        *("lgc", "lgc_off_diagonal", "lgc_centered", "lgc_cosine", "cka_gradient"),
    ),
    "Leave-one-out accuracy of simple classifiers on the features": ("knn", "knn5", "linear_probe"),
    "Separability of the classes by a model of the features": (
        *("hscore", "hscore_shrinkage", "logme", "sfda", "pactran", "transrate", "gbc", "parc", "nleep", "etran", "ncti"),
    ),
    "Spread, sparsity and other statistics of the features, relative to the other experts'": ("feature_metrics",),
    "Information about the labels in the expert's own predictions": ("leep", "nce"),
    "Similarity to a small network trained on the task": ("rsa", "dds"),
    "Similarity of the source data to the task": ("domain_similarity", "domain_similarity_own"),
    "Distance that the weights must move to fit the labels (equation 4)": ("generalization", "generalization_features"),
    "Agreement of features and gradients: whether LFC can replace LGC": ("cka_features_gradient",),
    "Baselines without features, which a score must beat": ("best_elsewhere", "source_accuracy", "source_size", "num_params", "random"),
}
"""What the scores of this package measure, in the order of the list."""


@command_class
class ScoresList:
    """List the scores that `ntk-select rank --scores` takes, including those of installed packages."""

    json: Json = False

    def run(self) -> int:
        """Prints one line per score."""
        from ntk_select.scores.table import known_scores

        known = known_scores()
        for name, trouble in known.broken.items():
            remark(f"The score {name} of an installed package cannot be loaded: {trouble}", "yellow")
        facts = [_facts(name, score) for name, score in known.scores.items()]
        if self.json:
            print_json(facts)
            return 0
        order = [name for names in SUBJECTS.values() for name in names]
        facts.sort(key=lambda one: order.index(one["name"]) if one["name"] in order else len(order))
        above = ["", *(one["question"] for one in facts)]
        rows = [
            [
                one["name"],
                "" if one["question"] == last else one["question"],
                ", ".join(one["needs"]) or "nothing",
                one["group"],
                _better(one),
                one["range"],
            ]
            for one, last in zip(facts, above, strict=False)
        ]
        columns = ["score", "what it measures", "what it needs", "group", "better", "range"]
        print_table(f"{len(rows)} scores", columns, rows, optional=("range", "better", columns[2]), sentences=columns[1:3])
        print_line("Next: " + typed("scores", "show", rows[0][0]))
        return 0


@command_class
class ScoresShow:
    """Show what one score measures and needs, where it is defined, and its range."""

    name: tyro.conf.Positional[str]
    """The score."""
    json: Json = False

    def run(self) -> int:
        """Prints the score."""
        from ntk_select.scores.table import known_scores

        scores, broken = known_scores()
        if self.name in broken:
            raise ConfigError(f"Score {self.name!r} of an installed package cannot be loaded: {broken[self.name]}")
        if self.name not in scores:
            raise ConfigError(f"Score {self.name!r} is unknown.{did_you_mean(self.name, scores)} Try: ntk-select scores list")
        facts = _facts(self.name, scores[self.name])
        if self.json:
            print_json(facts | {"inputs": {name: scores[self.name].input(name).meaning for name in (*facts["needs"], *facts["optional"])}})
            return 0
        rows = [["measures", facts["question"]]]
        rows += [["needs", f"{name}: {scores[self.name].input(name).meaning}"] for name in facts["needs"]]
        rows += [["uses if available", f"{name}: {scores[self.name].input(name).meaning}"] for name in facts["optional"]]
        rows += [[name, facts[name]] for name in ("range", "reference", "cost", "group")] + [["better", _better(facts)]]
        rows += [["relative", "to the other experts of the zoo; a single expert has no value"]] if facts["relative_to_the_zoo"] else []
        print_table(self.name, ["field", "value"], [row for row in rows if row[1]], sentences=("value",))
        print_line("Next: " + typed("rank", "--task", "digits", "--scores", self.name))
        return 0


def _facts(name: str, score: Any) -> dict[str, Any]:
    from ntk_select.scores.table import GROUPS

    subject = next((subject for subject, names in SUBJECTS.items() if name in names), "")
    return {
        "name": name,
        "group": next(name for name, group in GROUPS.items() if group == score.group),
        "question": subject or (score.fn.__doc__ or "").strip().partition("\n")[0],
        "needs": list(score.needs),
        "optional": list(score.optional),
        "range": score.range,
        "higher_is_better": score.higher_is_better,
        "reference": score.reference,
        "cost": score.cost,
        "relative_to_the_zoo": score.combine is not None,
    }


def _better(facts: dict[str, Any]) -> str:
    return "higher" if facts["higher_is_better"] else "lower"


Scores = group("Scores", "List the scores, or show what one measures and needs.", list=ScoresList, show=ScoresShow)
