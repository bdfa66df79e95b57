"""Costs of fine-tuning and scoring, in units of one training of the reference expert, and the tables of them.

A unit is one training, with one learning rate, on all training images of a target at that number of images per class. A search of a learning
rate costs several units: with three rates on four fifths of the images and one on all of them, 3.4.
"""

from functools import partial

import numpy as np
import pandas as pd

from ntk_select.benchmark.config import Images
from ntk_select.benchmark.report import paper
from ntk_select.benchmark.report.columns import Content, columns
from ntk_select.benchmark.report.results import CONSENSUS, STATIC, Results, images_of
from ntk_select.benchmark.report.summary import RANDOM, in_points, of_targets, usable_targets
from ntk_select.benchmark.report.words import paper_first, shots_shown
from ntk_select.evaluate import Target, gain_against_cost, interval

EXPERT_PASS = {"features", "source_probs", "gradient_kernel", "own_source_means"}
"""Inputs of scores for which the images pass through every expert."""
IMAGES = EXPERT_PASS | {"domain_features"}
"""Inputs of scores that need the probe images."""
PARTS = ("reading", "forward", "backward", "score_alone", "shared")
TOP = 3
"""Experts that are fine-tuned after a selection in table 3."""
BRUTE_FORCE = "brute force"
TRIALS = (1, 2, 3, 5, 10)
"""Experts that are fine-tuned after a selection in the table of budgets."""
WAYS = ("forecast", "lfc", "lgc", STATIC, CONSENSUS, RANDOM)
"""Scores in the table of budgets."""


def units(results: Results, task: str, shots: Images) -> pd.Series:
    """One unit in "operations" and in "seconds", the mean over the seeds of the reference; NaN without its record.

    Seconds are of training, without reading, compilation and evaluation.
    """
    rows = _spent(results, task, shots)
    rows = rows[rows["expert"] == results.config.reference]
    return rows[["operations", "seconds"]].mul(rows["train_images"] * rows["epochs"] / rows["images"], axis=0).mean()


def training_costs(results: Results, task: str, shots: Images) -> pd.DataFrame:
    """Units of fine-tuning each expert with its search, by "operations" and by "seconds"; NaN where unknown."""
    key = ("training costs", task, shots)
    return results.once(key, lambda: _spent(results, task, shots).groupby("expert")[["operations", "seconds"]].mean() / units(results, task, shots))


def _spent(results: Results, task: str, shots: Images) -> pd.DataFrame:
    """Fine-tunings with the operations and seconds of all their trainings.

    A resumed training counts all its images but timed only some of them: seconds are images divided by speed. A training that was
    complete when it was resumed has no speed.
    """
    table = results.finetuning_table
    here = (table["role"] == "truth") & (table["task"] == task) & (table["images_per_class"] == images_of(shots)) & ~table["source_overlap"]
    table = table[here]
    speed, flops = table["images_per_second"], table["flops"]
    return table.assign(operations=flops.where(flops > 0), seconds=table["images"] / speed.where(speed > 0))


def scoring(results: Results, task: str, shots: Images) -> pd.DataFrame:
    """Units of scoring all experts of a target with each score alone, on the probe images that the config assigns to these shots.

    Columns are `PARTS` and their sum, "scoring"; rows the scores that are installed, as the inputs of others are unknown. Passes and scores of
    an expert are the median over the experts of its architecture and the probe samples, as the first expert of each architecture also compiles.
    Reading is that of the most expensive cell, as the first expert reads for the others that use the same size. "shared" is the
    reference network of RSA and DDS with its training, and the extractor's pass if the same cell made it; it is NaN where the records do
    not separate it. The network is trained once for all probes that know the same number of shots: the most expensive cell of each seed
    counts (other workers, and resumed runs, train it again), the median over draws. Empty without records or without the unit.
    """
    return results.once(("scoring", task, shots), lambda: _scoring(results, task, shots))


def _scoring(results: Results, task: str, shots: Images) -> pd.DataFrame:
    probe = results.config.probe_of(shots) if results.tasks else None
    table = results.score_table
    table = table[(table["task"] == task) & table["forward_seconds"].notna() & ~table["source_overlap"]]
    rows = table[table["images_per_class"] == images_of(probe)]
    unit = units(results, task, shots)["seconds"]
    if rows.empty or np.isnan(unit):
        return pd.DataFrame(columns=[*PARTS, "scoring"])
    experts = rows.drop_duplicates("expert")["architecture"].value_counts()
    forward, backward = rows.groupby("architecture")[["forward_seconds", "backward_seconds"]].median().mul(experts, axis=0).sum()
    after = rows.groupby(["score", "architecture"])["score_seconds"].median().unstack().mul(experts, axis=1).sum(axis=1)
    shots_seen = results.config.shots_seen(task, probe)
    probes = [images_of(each) for each in results.config.probes if results.config.shots_seen(task, each) == shots_seen]
    network = table[table["images_per_class"].isin(probes)].groupby("seed")["shared_seconds"].max().median()
    found = {}
    for name in after.index.intersection(list(results.known_scores)):
        needs = set(results.known_scores[name].takes)
        reading = rows["preprocess_seconds"].max() if needs & IMAGES else 0.0
        passes = forward if needs & EXPERT_PASS else 0.0, backward if "gradient_kernel" in needs else 0.0
        shared = network if "reference_features" in needs else np.nan if "domain_features" in needs else 0.0
        found[name] = (reading, *passes, after[name], shared)
    parts = pd.DataFrame.from_dict(found, orient="index", columns=list(PARTS), dtype=float) / unit
    return parts.assign(scoring=parts.sum(axis=1))


def tried_cost(target: Target, costs: np.ndarray, tried: int | None, *, random: bool = False) -> float:
    """Cost of fine-tuning the experts with the highest scores, all if `tried` is None: the mean over probe samples, and over orders within ties.

    NaN if the cost of an expert is.
    """
    if tried is None or np.isnan(costs).any():
        return float(costs.sum())
    if random:
        return float(tried * costs.mean())
    accuracies = target.mean_accuracies()
    return float(np.mean([gain_against_cost(scores, accuracies, accuracies[target.reference], costs)[0][tried] for scores in target.scores]))


def _costs(results: Results, target: Target, shots: Images, name: str, tried: int | None) -> dict[str, float]:
    """Costs of one way to select on one target; NaN where unknown."""
    experts = list(results.ground_truth(target.name, shots).experts)
    costs = training_costs(results, target.name, shots).reindex(experts)
    spent = {by: tried_cost(target, costs[by].to_numpy(), tried, random=name == RANDOM) for by in costs}
    by_score = scoring(results, target.name, shots)
    if name in (BRUTE_FORCE, RANDOM, STATIC):
        parts = dict.fromkeys(by_score, 0.0)
    elif name == CONSENSUS:
        members, _ = results.consensus_of(shots, results.config.probe_of(shots))[target.name]
        of_members = by_score.reindex(list(members))
        parts = of_members.max(skipna=False).to_dict() | {"score_alone": of_members["score_alone"].sum(skipna=False)}
        parts["scoring"] = sum(parts[name] for name in PARTS)
    else:
        parts = by_score.loc[name].to_dict() if name in by_score.index else dict.fromkeys(by_score, np.nan)
    return {"tried": tried or len(experts), **spent, **parts, "total": spent["seconds"] + parts["scoring"]}


def _means(costs: list[dict[str, float]], names: list[str]) -> list[float | None]:
    """The means of these columns over the targets where they are known; None without any."""
    means = pd.DataFrame(costs)[names].mean()
    return [None if np.isnan(value) else float(value) for value in means]


def table_3(results: Results) -> Content:
    """Costs of fine-tuning the experts with the highest scores, and of the scores, with those that the paper prints."""
    measured = columns("tried operations seconds reading forward backward score_alone shared scoring total")
    head = [*columns("score shots targets"), *measured, *columns("paper_tried paper_scoring")]
    if not any(units(results, task, shots)["operations"] > 0 for task in results.task_names for shots in results.shots):
        return Content(head, [], ["The reference expert was not fine-tuned, or its cost was not recorded: there is no unit of cost."])
    rows = []
    for shots in results.shots:
        for name in [BRUTE_FORCE, *paper_first(results.score_names), RANDOM]:
            found = usable_targets(results, None if name == BRUTE_FORCE else name, "top_k_gain", shots, k=TOP)
            targets = [target for target in found if units(results, target.name, shots)["operations"] > 0]
            costs = [_costs(results, target, shots, name, None if name == BRUTE_FORCE else TOP) for target in targets]
            if costs:
                means = _means(costs, [column.name for column in measured])
                rows.append((name, shots_shown(shots), len(targets), *means, *printed(name, shots)))
    return Content(head, rows, [] if rows else [f"No target has accuracies of {TOP} experts and the reference yet."])


def printed(name: str, shots: Images) -> tuple[float | None, float | None]:
    """The paper's costs of fine-tuning the experts with the highest values of a score, and of scoring all of its experts."""
    if name == BRUTE_FORCE:
        return paper.BRUTE_FORCE.get(shots), None
    return tuple(table.get(shots, {}).get(name) for table in (paper.TOP_3, paper.SCORING))


def budget(results: Results) -> Content:
    """Expected gain over the reference after some fine-tunings, and their costs."""
    rows = []
    for shots in results.shots:
        for name in WAYS:
            usable = usable_targets(results, name, "top_k_gain", shots)
            for trials in TRIALS:
                targets = [target for target in usable if target.scores.shape[1] >= trials]
                if targets:
                    gain = of_targets(in_points(interval(partial(gain_after, trials, name == RANDOM), targets)), len(targets))
                    means = _means([_costs(results, target, shots, name, trials) for target in targets], ["operations", "scoring"])
                    rows.append((name, shots_shown(shots), trials, len(targets), gain, *means))
    missing = [] if rows else ["No target has the accuracy of a reference expert yet."]
    return Content(columns("score shots trials targets gain_points operations scoring"), rows, missing)


def gain_after(trials: int, random: bool, scores, accuracies, target: Target) -> float:
    """Expected gain of the best of the experts tried and of the reference, which stays available."""
    scores = np.zeros(len(accuracies)) if random else scores
    return float(gain_against_cost(scores, accuracies, float(accuracies[target.reference]), np.ones(len(accuracies)))[1][trials])
