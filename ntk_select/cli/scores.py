"""`ntk-select scores`: which scores are there, what does each ask, and what does it need?"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from ntk_select.cli.console import Flag, command, print_json, print_line, print_table, remark
from ntk_select.errors import ConfigError, did_you_mean

QUESTIONS = {
    "What accuracy will fine-tuning reach (the recipe, simulated from the kernel)?": ("forecast",),
    "Does a kernel correlate with the labels?": (
        *("lfc", "lfc_off_diagonal", "lfc_centered", "lfc_cosine", "cka"),
        *("lgc", "lgc_off_diagonal", "lgc_centered", "lgc_cosine", "cka_gradient"),
    ),
    "How well do simple classifiers do, one image left out at a time?": ("knn", "knn5", "linear_probe"),
    "Are the classes apart, by a model of the features?": (
        *("hscore", "hscore_shrinkage", "logme", "sfda", "pactran", "transrate", "gbc", "parc", "nleep", "etran", "ncti"),
    ),
    "How do spread, sparsity and such of the features compare with the other experts'?": ("feature_metrics",),
    "Do the expert's own predictions tell the labels?": ("leep", "nce"),
    "Does it find the same images alike as a small network trained on the task?": ("rsa", "dds"),
    "How near is its source data to the task?": ("domain_similarity", "domain_similarity_own"),
    "How little must training move the weights to fit the labels (equation 4)?": ("generalization", "generalization_features"),
    "Do features and gradients find the same images alike, so that LFC can stand for LGC?": ("cka_features_gradient",),
    "What is known without looking, which a score must beat?": ("best_elsewhere", "source_accuracy", "source_size", "num_params", "random"),
}


@dataclass(frozen=True)
class ScoresList:
    """List the scores that `ntk-select rank --scores` takes, those of installed packages included."""

    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints one line a score."""
        from ntk_select.scores.installed import known_scores

        known = known_scores()
        for name, trouble in known.broken.items():
            remark(f"The score {name} of an installed package cannot be loaded: {trouble}", "yellow")
        facts = [_facts(name, score) for name, score in known.scores.items()]
        if self.json:
            print_json(facts)
            return 0
        places = [name for names in QUESTIONS.values() for name in names]
        facts.sort(key=lambda one: places.index(one["name"]) if one["name"] in places else len(places))
        above = ["", *(one["question"] for one in facts)]
        asked = ["" if one["question"] == last else one["question"] for one, last in zip(facts, above, strict=False)]
        rows = [
            [one["name"], question, ", ".join(one["needs"]) or "nothing", _better(one), one["range"]]
            for one, question in zip(facts, asked, strict=True)
        ]
        columns = ["score", "what it asks", "what it needs", "better", "range"]
        print_table(f"{len(rows)} scores", columns, rows, optional=("range", "better"), sentences=("what it asks", "what it needs"))
        print_line("Next: " + command("scores", "show", rows[0][0]))
        return 0


@dataclass(frozen=True)
class ScoresShow:
    """Show what one score asks and needs, where it is defined, and what values it takes."""

    name: tyro.conf.Positional[str]
    """The score."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the score."""
        from ntk_select.scores import INPUTS
        from ntk_select.scores.installed import known_scores

        scores, broken = known_scores()
        if self.name in broken:
            raise ConfigError(f"Score {self.name!r} of an installed package cannot be loaded: {broken[self.name]}")
        if self.name not in scores:
            raise ConfigError(f"Score {self.name!r} is unknown.{did_you_mean(self.name, scores)} Type: ntk-select scores list")
        facts = _facts(self.name, scores[self.name])
        if self.json:
            print_json(facts | {"inputs": {name: INPUTS[name].meaning for name in (*facts["needs"], *facts["optional"])}})
            return 0
        rows = [["question", facts["question"]]]
        rows += [["needs", f"{name}: {INPUTS[name].meaning}"] for name in facts["needs"]]
        rows += [["uses if there", f"{name}: {INPUTS[name].meaning}"] for name in facts["optional"]]
        rows += [[name, facts[name]] for name in ("range", "reference", "cost")] + [["better", _better(facts)]]
        rows += [["compares", "with the other experts of the zoo; alone it has no value"]] if facts["relative_to_the_zoo"] else []
        print_table(self.name, ["field", "value"], [row for row in rows if row[1]], sentences=("value",))
        print_line("Next: " + command("rank", "--task", "digits", "--scores", self.name))
        return 0


def _facts(name: str, score: Any) -> dict[str, Any]:
    question = next((asked for asked, names in QUESTIONS.items() if name in names), "")
    return {
        "name": name,
        "question": question or (score.fn.__doc__ or "").strip().partition("\n")[0],
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


@dataclass(frozen=True)
class Scores:
    """Which scores are there, what does each ask, and what does it need?"""

    command: (
        Annotated[ScoresList, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[ScoresShow, tyro.conf.subcommand("show", prefix_name=False)]
    )

    def run(self) -> int:
        """Runs the sub-command."""
        return self.command.run()
