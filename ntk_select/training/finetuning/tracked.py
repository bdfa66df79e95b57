"""What a fine-tuning logs to a tracker: parameters, numbers by epoch and by learning rate, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ntk_select.training.finetuning.recipe import Recipe
from ntk_select.training.tracking import Log

NUMBERS = (
    *("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "test_loss", "learning_rate", "train_images", "test_images"),
    *("images", "images_per_second", "flops", "cost"),
)
"""Entries of `FinetuneResult.to_dict` that are logged under their own names."""
STEPS = ("read", "compile", "train", "evaluate")


def params_of(recipe: Recipe, learning_rates: Sequence[float], shots: int | str | None, **others: Any) -> dict[str, Any]:
    """The parameters of a run: the recipe field by field, with the epochs at which the learning rate decays, and `others`."""
    fields = asdict(recipe) | {"milestones": list(recipe.decays)}
    return {**others, "shots": "full" if shots is None else shots, "learning_rates": list(learning_rates), **fields}


def by_rate(metric: str, learning_rate: float) -> str:
    """Name of a metric of one learning rate, such as "training_loss_by_rate/0.01". Different rates have different names."""
    short = f"{learning_rate:g}"
    return f"{metric}_by_rate/{short if float(short) == learning_rate else repr(float(learning_rate))}".replace("e+", "e")


def log_trial(log: Log, trial: Mapping[str, Any], choose: str) -> None:
    """Logs a learning rate's accuracy and loss, on validation images or, with `choose="paper"`, on test images; or that it diverged."""
    judged, rate = "test" if choose == "paper" else "validation", trial["learning_rate"]
    found = {f"{judged}_accuracy": trial["accuracy"], f"{judged}_loss": trial["loss"], "diverged": 1 if trial["diverged"] else None}
    log({by_rate(metric, rate): value for metric, value in found.items()}, None)


def log_result(log: Log, record: Mapping[str, Any]) -> None:
    """Logs `FinetuneResult.to_dict`, or the record of a fine-tuning in a benchmark: `loss` by epoch, of the network that was tested, and `NUMBERS`."""
    for epoch, loss in enumerate(record["losses"], 1):
        log({"loss": loss}, epoch)
    log({name: record.get(name) for name in NUMBERS}, None)
    seconds = record.get("seconds", {})
    log({f"{step}_seconds": record.get(f"{step}_seconds", seconds.get(step)) for step in STEPS}, None)
