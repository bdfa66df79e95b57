"""`ntk-select demo`: the main job on the embedded experts and data, offline, and the measured truth beside it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from ntk_select._runtime.files import file_name
from ntk_select.cli.console import Flag, check_writable, command, out, print_json, print_line, print_table, progress_bar, remark
from ntk_select.cli.finetune import REFERENCE
from ntk_select.cli.rank import print_ranking
from ntk_select.errors import ConfigError

SHOTS = 20
"""Images of each digit to fine-tune on; the scores look at the same ones."""
TOP = 3


def _saved(what: str, record, folder: Path) -> bool:
    """Whether it could be saved; if not it is still there to be printed, and a line says why."""
    try:
        record.save(folder)
    except ConfigError as error:
        remark(f"{what} could not be saved: {error}", "red")
        return False
    return True


@dataclass(frozen=True)
class Demo:
    """Rank the embedded experts for handwritten digits and fine-tune some of them, offline."""

    out: Path = Path("runs/demo")
    """Folder for the ranking, its figure and the fine-tunings."""
    no_finetune: Flag = field(default=False)
    """Only rank, which takes seconds."""
    json: Flag = field(default=False)
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Ranks the built-in zoo for the built-in task, then fine-tunes the first three, the reference and the last."""
        from ntk_select.data import load_task
        from ntk_select.models import open_zoo
        from ntk_select.ranking import rank

        check_writable(self.out)
        remark(f"Which of the embedded experts would you fine-tune to read handwritten digits? Judged from {SHOTS} images of each digit.")
        experts, task = open_zoo(["builtin"]), load_task("digits")
        with progress_bar("ranking") as progress:
            ranking = rank(experts, task, per_class=SHOTS, progress=progress)
        if not self.json:
            print_ranking(ranking, sum(ranking.shared_seconds.values()) + sum(row.total_seconds for row in ranking.experts))
        saved = _saved("The ranking", ranking, self.out)
        results = {}
        for name, result in () if self.no_finetune else self._finetuned(experts, task, [row.name for row in ranking.experts]):
            results[name] = result
            saved &= _saved(f"The fine-tuning of {name}", result, self.out / file_name(name))
            remark(f"{name}: {100 * result.accuracy:.1f} %")
        if self.json:
            print_json({**ranking.to_dict(), "fine_tuned": [result.to_dict() for result in results.values()]})
        else:
            self._print(ranking, results)
            print_line(f"Tables and figures are in {self.out}. For your own images, in folders named by class:")
            print_line(command("rank", "--task", "folder:my_images"))
        return 0 if saved and not ranking.failures else 1

    def _finetuned(self, experts, task, order: list[str]) -> Iterator[tuple]:
        """One after another, with its name: what is done can be kept before the next begins."""
        from ntk_select.training.finetuning import Recipe, finetune

        reference = experts[REFERENCE]()
        if REFERENCE not in order:  # it failed to be ranked, and with it there would be nothing to compare with
            return
        chosen = list(dict.fromkeys([*order[:TOP], REFERENCE, order[-1]]))
        for number, name in enumerate(chosen, start=1):
            with progress_bar(f"fine-tuning {number} of {len(chosen)}") as progress:
                options = {"shots": SHOTS, "recipe": Recipe(augment="crop"), "extend": False, "reference": reference}
                result = finetune(experts[name](), task, progress=progress, **options)
            yield name, result

    def _print(self, ranking, results) -> None:
        if not results:
            return
        places, base = {row.name: row.rank for row in ranking.experts}, results[REFERENCE].accuracy
        found = {row.name: row.scores.get("forecast") for row in ranking.experts}
        expected = {name: outcome.value for name, outcome in found.items() if hasattr(outcome, "value")}
        rows = [
            [
                str(places[name]),
                name + (" (reference)" if name == REFERENCE else ""),
                f"{100 * expected[name]:.1f} %" if name in expected else "-",
                f"{100 * result.accuracy:.1f} %",
                f"{100 * (result.accuracy - base):+.1f}",
                f"{result.learning_rate:g}",
                f"{result.cost:.2f}",
                f"{sum(result.seconds.values()):.0f}",
            ]
            for name, result in sorted(results.items(), key=lambda item: places[item[0]])
        ]
        title = (
            f"Fine-tuned on {SHOTS} images of each digit, 30 epochs, best of three learning rates by validation; {len(ranking.experts)} were ranked"
        )
        columns = ["rank", "expert", "forecast", "test accuracy", "gain", "learning rate", "cost", "seconds"]
        print_table(title, columns, rows, right=("rank", *columns[2:]), optional=("seconds", "learning rate", "cost"))
        ends = sum(result.edge is not None for result in results.values())
        if ends:
            print_line(f"Of {ends} of these {len(results)} the best rate is an end of the three: ntk-select finetune goes on past it.")
        first = results[min(results, key=lambda name: places[name])]
        best = max(results, key=lambda name: results[name].accuracy)
        out().print(
            Text(
                f"The first of the ranking reaches {100 * first.accuracy:.1f} %, the reference {100 * base:.1f} %; "
                f"the best of these {len(results)} is {best}. Cost is in units of one fine-tuning of the reference with one learning rate.",
                style="bold",
            )
        )
