"""`ntk-select demo`: ranks the embedded experts for an embedded task, offline, and compares the ranking with measured accuracies."""

from collections.abc import Iterator
from pathlib import Path

from ntk_select._runtime.files import file_name
from ntk_select.cli.console import percent, print_json, print_line, print_table, print_text, progress_bar, remark, saving
from ntk_select.cli.finetune import REFERENCE
from ntk_select.cli.options import Flag, Json, check_writable, command_class, typed
from ntk_select.cli.rank import print_ranking

SHOTS = 20
"""Images per digit for the scores and for fine-tuning, the same ones."""
TOP = 3
"""Experts that are fine-tuned, in addition to the reference and the last."""


@command_class
class Demo:
    """Rank the embedded experts for handwritten digits and fine-tune some of them, offline."""

    out: Path = Path("runs/demo")
    """Folder for the ranking, its figure and the fine-tunings."""
    no_finetune: Flag = False
    """Only rank."""
    json: Json = False

    def run(self) -> int:
        """Ranks the built-in zoo for the built-in task, then fine-tunes the first three, the reference and the last."""
        from ntk_select.data import load_task
        from ntk_select.models import open_zoo
        from ntk_select.ranking import rank

        check_writable(self.out)
        remark(f"Which of the embedded experts would you fine-tune to read handwritten digits? Judged from {SHOTS} images per digit.")
        experts, task = open_zoo(["builtin"]), load_task("digits")
        with progress_bar("ranking") as progress:
            ranking = rank(experts, task, per_class=SHOTS, progress=progress)
        if not self.json:
            print_ranking(ranking, sum(ranking.shared_seconds.values()) + sum(row.total_seconds for row in ranking.experts))
        saved = saving("The ranking", lambda: ranking.save(self.out)) is not None
        results = {}
        for name, result in () if self.no_finetune else _finetuned(experts, task, [row.name for row in ranking.experts]):
            results[name] = result
            folder = self.out / file_name(name)
            saved &= saving(f"The fine-tuning of {name}", lambda result=result, folder=folder: result.save(folder)) is not None
            remark(f"{name}: {percent(result.accuracy)}")
        if self.json:
            print_json({**ranking.to_dict(), "fine_tuned": [result.to_dict() for result in results.values()]})
        else:
            if results:
                _print(ranking, results)
            print_line(f"Tables and figures are in {self.out}. For your own images, in folders named by class:")
            print_line(typed("rank", "--task", "folder:my_images"))
        return 0 if saved and not ranking.failures else 1


def _finetuned(experts, task, order: list[str]) -> Iterator[tuple]:
    """Name and result of each fine-tuning, as soon as it is finished, to be saved before the next begins."""
    from ntk_select.training.finetuning import Recipe, finetune

    reference = experts[REFERENCE]()
    if REFERENCE not in order:  # it could not be ranked, and gains are relative to it
        return
    chosen = list(dict.fromkeys([*order[:TOP], REFERENCE, order[-1]]))
    for number, name in enumerate(chosen, start=1):
        with progress_bar(f"fine-tuning {number} of {len(chosen)}") as progress:
            options = {"shots": SHOTS, "recipe": Recipe(augment="crop"), "extend": False, "reference": reference}
            result = finetune(experts[name](), task, progress=progress, **options)
        yield name, result


def _print(ranking, results: dict) -> None:
    ranks, base = {row.name: row.rank for row in ranking.experts}, results[REFERENCE].accuracy
    forecasts = {row.name: getattr(row.scores.get("forecast"), "details", {}).get("accuracy") for row in ranking.experts}
    order = sorted(results, key=ranks.get)
    rows = [
        [
            str(ranks[name]),
            name + (" (reference)" if name == REFERENCE else ""),
            "-" if forecasts[name] is None else percent(forecasts[name]),
            percent(results[name].accuracy),
            f"{100 * (results[name].accuracy - base):+.1f}",
            f"{results[name].learning_rate:g}",
            f"{results[name].cost:.2f}",
            f"{sum(results[name].seconds.values()):.0f}",
        ]
        for name in order
    ]
    title = f"Fine-tuned on {SHOTS} images per digit, 30 epochs, best of three learning rates by validation; {len(ranking.experts)} were ranked"
    columns = ["rank", "expert", "forecast", "test accuracy", "gain", "learning rate", "cost", "seconds"]
    print_table(title, columns, rows, right=("rank", *columns[2:]), optional=("seconds", "learning rate", "cost"))
    ends = sum(result.edge is not None for result in results.values())
    if ends:
        print_line(
            f"For {ends} of these {len(results)} the best rate is the largest or smallest of the three: ntk-select finetune also tries rates beyond."
        )
    best = max(results, key=lambda name: results[name].accuracy)
    print_text(
        f"The first of the ranking reaches {percent(results[order[0]].accuracy)}, the reference {percent(base)}; "
        f"the best of these {len(results)} is {best}. Cost is in units of one fine-tuning of the reference with one learning rate.",
        style="bold",
    )
