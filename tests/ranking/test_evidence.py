"""The stated predictive power of the scores is that of the committed records."""

from pathlib import Path

import pytest

from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.summary import measured
from ntk_select.ranking.judge import PER_CLASS, SPEARMAN, evidence_for
from ntk_select.scores import SCORES

RECORDS = Path(__file__).parents[2] / "scripts" / "results" / "embedded"


@pytest.fixture(scope="module")
def found():
    results = read_results(RECORDS)
    return [measured(results, "spearman", images) for images in PER_CLASS]


def test_every_score_of_the_table_is_there():
    assert set(SPEARMAN) == set(SCORES) - {"random"}


@pytest.mark.parametrize("name", sorted(SPEARMAN))
def test_the_numbers_are_those_of_the_records(found, name):
    recorded = {"best_elsewhere": "static_leaderboard"}.get(name, name)
    for number, values in zip(SPEARMAN[name], found, strict=True):
        assert (number is None) == (recorded not in values)
        if number is not None:
            assert number == pytest.approx(values[recorded].value, abs=0.0051)


def test_the_sentence_has_both_numbers_and_says_what_they_are():
    assert "forecast has a rank correlation with accuracy after fine-tuning of 0.69 at 20 images per class and 0.58 at 5" in evidence_for("forecast")
    assert "of 0.22 at 20 images per class (1 is perfect" in evidence_for("nleep")
    assert evidence_for("mine") == "How well mine predicts accuracy after fine-tuning has not been measured."
