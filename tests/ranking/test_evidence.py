"""The stated predictive power of the scores is that of the committed records."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.summary import measured
from ntk_select.ranking.evidence import MEASURED_AT, SPEARMAN, evidence_for
from ntk_select.scores import SCORES

RESULTS = Path(__file__).parents[2] / "scripts" / "results"


@pytest.fixture(scope="module")
def found():
    results = read_results(RESULTS / "evidence")
    return [measured(results, "spearman", images) for images in MEASURED_AT]


def test_every_score_of_the_table_is_there():
    assert set(SPEARMAN) == set(SCORES) - {"random"}


@pytest.mark.parametrize("name", sorted(SPEARMAN))
def test_the_numbers_are_those_of_the_records(found, name):
    recorded = {"best_elsewhere": "static_leaderboard"}.get(name, name)
    for number, values in zip(SPEARMAN[name], found, strict=True):
        assert (number is None) == (recorded not in values)
        if number is not None:
            assert number == pytest.approx(values[recorded].value, abs=0.0051)


AGREE = {
    "lfc_centered": ("cka", 1.0),
    "lgc_centered": ("cka_gradient", 1.0),
    "lfc_off_diagonal": ("lfc", 0.97),
    "lgc_off_diagonal": ("lgc", 0.96),
    "lfc_cosine": ("cka", 0.87),
    "lgc_cosine": ("cka_gradient", 0.90),
    "nleep": ("cka", 0.85),
    "knn5": ("knn", 0.82),
    "nce": ("leep", 0.89),
    "hscore": ("gbc", 0.88),
    "generalization_features": ("hscore_shrinkage", 0.96),
    "sfda": ("hscore_shrinkage", 0.90),
    "pactran": ("hscore_shrinkage", 0.90),
    "linear_probe": ("logme", 0.81),
}
"""The numbers in the comment of the table of scores; without etran, whose records are terms."""


def test_scores_of_the_ablation_group_rank_the_experts_of_the_records_as_one_of_the_main_group():
    records = pd.read_parquet(RESULTS / "embedded" / "records" / "score.parquet")
    records = records[(records["images_per_class"] == 20) & ~records["own_source"]]
    signed = records.assign(value=records["value"].where(records["higher_is_better"], -records["value"]))
    tables = [table.pivot(index="expert", columns="score", values="value") for _, table in signed.groupby(["task", "seed"])]
    for name, (main, expected) in AGREE.items():
        found = np.mean([table[name].corr(table[main], "spearman") for table in tables])
        assert found == pytest.approx(expected, abs=0.0051), name
        assert (SCORES[name].group, SCORES[main].group) == ("ablation", "main")
    left_out = {name for name, score in SCORES.items() if score.group == "ablation"} - set(AGREE)
    assert left_out == {"etran", "cka_features_gradient", "domain_similarity_own"}


def test_the_sentence_has_both_numbers_and_says_what_they_are():
    assert "forecast has a rank correlation with accuracy after fine-tuning of 0.65 at 20 images per class and 0.54 at 5" in evidence_for("forecast")
    assert "of 0.48 at 20 images per class (1 is perfect" in evidence_for("nleep")
    assert evidence_for("mine") == "How well mine predicts accuracy after fine-tuning has not been measured."
