"""Accuracies that the forecast predicts, next to those that fine-tuning on the same images gave, and the table of both."""

import json

import numpy as np
import pandas as pd

from ntk_select.benchmark.report.columns import Content, columns
from ntk_select.benchmark.report.results import Results, shots_of
from ntk_select.benchmark.report.words import shots_shown
from ntk_select.evaluate import spearman

FORECAST = "forecast"
PAIR = ["task", "images_per_class", "seed", "expert"]
PREDICTED = {"accuracy": "predicted", "accuracy_low": "low", "accuracy_high": "high"}
NUMBERS = ("bias_points", "error_points", "spearman", "holds", "slope")
MEAN = "mean of the targets"


def predictions(results: Results) -> pd.DataFrame:
    """One row per expert, target and seed with a forecast and a fine-tuning on the same images, without source overlap.

    Columns: task, images_per_class (infinite for all images), seed, expert; `predicted` with its interval, `low` and `high`; `measured`, the
    accuracy by which experts are compared on the task. Accuracies are 0 to 1. A forecast is of the class frequencies of its probe sample, which
    are equal where classes have enough images: there it is a forecast of the balanced accuracy.
    """
    scores, truths = results.score_table, results.finetuning_table
    scores = scores[(scores["score"] == FORECAST) & scores["value"].notna() & scores["terms"].notna() & ~scores["source_overlap"]]
    terms = pd.DataFrame([json.loads(each) for each in scores["terms"]], scores.index, columns=list(PREDICTED)).astype(float)
    forecasts = scores[PAIR].join(terms.rename(columns=PREDICTED)).drop_duplicates(PAIR, keep="last")
    truths = truths[truths["role"] == "truth"].drop_duplicates(PAIR, keep="last").rename(columns={"judged": "measured"})
    return forecasts.merge(truths[[*PAIR, "measured"]], on=PAIR)


def agreement(pairs: pd.DataFrame) -> dict[str, float]:
    """Agreement of the predicted and measured accuracies of several experts on one target, with the same seed.

    Returns:
      bias_points: predicted minus measured, mean over experts, in percentage points; error_points: the mean absolute difference; spearman; holds:
      percentage of the intervals that contain the measured accuracy; slope: regression of measured on predicted accuracies, which is that of
      the differences between two experts; NaN if all predictions are equal.
    """
    predicted, measured = pairs["predicted"].to_numpy(), pairs["measured"].to_numpy()
    error, spread = predicted - measured, predicted - predicted.mean()
    return {
        "bias_points": float(100 * error.mean()),
        "error_points": float(100 * np.abs(error).mean()),
        "spearman": spearman(predicted, measured),
        "holds": float(100 * np.mean((pairs["low"] <= pairs["measured"]) & (pairs["measured"] <= pairs["high"]))),
        "slope": float(spread @ measured / (spread @ spread)) if spread.any() else float("nan"),
    }


def forecast_accuracy(results: Results) -> Content:
    """Agreement of forecasts and accuracies on each target, mean over seeds, and its mean over targets."""
    pairs, rows = predictions(results), []
    tasks = {name: place for place, name in enumerate(results.task_names)}
    for images, of_shots in pairs.groupby("images_per_class"):
        shots, lines = shots_shown(shots_of(images)), []
        for task, found in sorted(of_shots.groupby("task"), key=lambda each: tasks[each[0]]):
            by_seed = pd.DataFrame([agreement(each) for _, each in found.groupby("seed")])
            lines.append(by_seed.mean())
            rows.append((task, shots, found["expert"].nunique(), len(by_seed), *lines[-1][list(NUMBERS)]))
        rows.append((MEAN, shots, None, None, *pd.DataFrame(lines).mean()[list(NUMBERS)]))
    missing = [] if rows else ["There is no forecast of an expert that was fine-tuned on the same images."]
    return Content(columns("target shots experts seeds " + " ".join(NUMBERS)), rows, missing)
