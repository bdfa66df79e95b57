"""Contenders and the verdict in words."""

import numpy as np
import pytest

from ntk_select.evaluate.intervals import HalfSamples
from ntk_select.ranking.judge import NAMED, contenders, judgement, ordered
from ntk_select.ranking.record import ExpertScores, firsts
from ntk_select.scores import SCORES, Score, ScoreResult, Unavailable

DRAWS = np.random.default_rng(0).normal(size=(40, 200))
HALVES = HalfSamples((np.arange(3),) * 200)
LFC = {"lfc": SCORES["lfc"]}


def rows_of(values, score="lfc"):
    """Experts a, b, c... in order, with intervals."""
    return [ExpertScores(i, "abcdefghijklmnop"[i - 1], None, None, 1, {score: ScoreResult(v, v - 0.1, v + 0.1)}, {}) for i, v in enumerate(values, 1)]


def halves_of(rows, errors, score="lfc"):
    """Values on half-samples, independent between experts, that give these standard errors."""
    return {row.name: row.scores[score].value + error * draws / draws.std(ddof=1) for row, error, draws in zip(rows, errors, DRAWS, strict=False)}


def verdict(rows, among, scores=LFC, deciding="lfc", **options):
    return judgement(rows, among, deciding, scores, **{"images": 60, "resamples": 100, "halved": True} | options)


def test_those_between_that_can_be_told_from_the_best_are_not_named():
    """A = .30, B = .20, C = .19 with standard errors of .01, D = .18 with .2."""
    rows = rows_of([0.30, 0.20, 0.19, 0.18])
    among = contenders(rows, halves_of(rows, [0.01, 0.01, 0.01, 0.2]), "lfc", HALVES)
    assert among == ("a", "d")
    assert verdict(rows, among) == "lfc is highest for a on these 60 images; d cannot be distinguished from it (95 %, over the choice of images)."


@pytest.mark.parametrize(("error", "among"), [(0.001, ("a",)), (0.03, ("a", "b")), (1.0, ("a", "b", "c"))])
def test_the_larger_the_errors_the_more_cannot_be_distinguished(error, among):
    rows = rows_of([0.30, 0.25, 0.1])
    assert contenders(rows, halves_of(rows, [error] * 3), "lfc", HALVES) == among


def test_equal_values_cannot_be_distinguished_even_without_half_samples():
    rows = rows_of([0.3, 0.3, 0.2])
    assert contenders(rows, {}, "lfc", HalfSamples(())) == ("a", "b")


def test_an_expert_whose_difference_has_no_error_is_not_called_behind():
    rows = rows_of([0.3, 0.2, 0.1])
    on_halves = halves_of(rows, [0.01] * 3)
    on_halves["b"] = np.full(200, np.nan)
    assert contenders(rows, on_halves, "lfc", HALVES) == ("a", "b")


def test_nobody_has_the_score():
    rows = [ExpertScores(1, "a", None, None, 1, {"lfc": Unavailable("none")}, {})]
    assert contenders(rows, {}, "lfc", HALVES) == ()
    assert verdict(rows, ()) == "No expert has the score lfc."


def test_many_are_given_by_their_ranks():
    rows = rows_of(np.linspace(0.5, 0.2, 12))
    names = [row.name for row in rows]
    among = [names[0], *names[2:5], names[7], *names[9:11]]
    assert len(among) > NAMED
    assert "; the 6 others at rank 3 to 5, 8, 10 to 11 cannot be distinguished from it" in verdict(rows, among)


def test_all_at_once():
    rows = rows_of([0.3, 0.29])
    assert "no other expert can be distinguished from it" in verdict(rows, ("a", "b"))
    assert "ahead of every other expert" in verdict(rows, ("a",))
    lacking = [*rows, ExpertScores(3, "c", None, None, 1, {"lfc": Unavailable("none")}, {})]
    assert "ahead of the only other with the score by more" in verdict(lacking, ("a",))
    three = [*rows_of([0.3, 0.2, 0.1]), lacking[-1]]
    assert "ahead of the 2 others with the score by more" in verdict(three, ("a",))


def test_a_score_that_would_fit_any_labels_gives_no_verdict():
    rows = rows_of([0.9, 0.8], "sfda")
    rows[0].scores["sfda"] = ScoreResult(0.9, 0.8, 1.0, remark="too few", by_chance={"value": 0.88})
    found = verdict(rows, ("a",), {"sfda": SCORES["sfda"]}, "sfda")
    assert found == "sfda is highest for a on these 60 images, with 0.9, which is not informative: shuffled labels give it 0.88."


def test_the_lowest_is_named_where_lower_is_better():
    rows = rows_of([1.0, 2.0], "generalization")
    assert verdict(rows, ("a",), {"generalization": SCORES["generalization"]}, "generalization").startswith("generalization is lowest for a on")


def test_whom_other_scores_put_first_is_said():
    scores = {name: SCORES[name] for name in ("lfc", "lgc", "knn", "leep", "num_params")}
    rows = rows_of([0.3, 0.2, 0.1])
    for row, lgc, knn, leep, size in zip(rows, (0.1, 0.5, 0.2), (0.9, 0.5, 0.9), (-1, -0.5, -2), (1, 2, 3), strict=True):
        row.scores.update(lgc=ScoreResult(lgc), knn=ScoreResult(knn), leep=ScoreResult(leep), num_params=ScoreResult(size))
    assert verdict(rows, ("a",), scores).endswith("Other scores disagree; first is b by lgc, leep.")
    assert firsts(rows, "knn") == ["a", "c"]
    rows[1].scores["knn"] = ScoreResult(0.95)
    rows[2].scores["knn"] = ScoreResult(0.95)
    assert "b (tied with 1) by knn" in verdict(rows, ("a",), scores)


def test_scores_that_would_fit_any_labels_put_nobody_first_and_come_behind_the_others():
    scores = {name: SCORES[name] for name in ("lfc", "sfda")}
    rows = rows_of([0.3, 0.2])
    for row, value, remark in zip(rows, (0.5, 0.99), ("", "too few"), strict=True):
        row.scores["sfda"] = ScoreResult(value, remark=remark)
    assert "disagree" not in verdict(rows, ("a",), scores)
    assert firsts(rows, "sfda") == ["a"]
    assert [row.name for row in ordered(rows, "sfda", SCORES["sfda"])] == ["a", "b"]
    assert contenders(ordered(rows, "sfda", SCORES["sfda"]), {}, "sfda", HALVES) == ("a",)


def test_equal_values_without_intervals_are_called_equal():
    rows = rows_of([5.0, 5.0, 5.0], "num_params")
    sizes = {"num_params": SCORES["num_params"]}
    found = verdict(rows, contenders(rows, {}, "num_params", HALVES), sizes, "num_params")
    assert found == "num_params is highest for a and 2 others of equal value, and does not depend on the task."


def test_where_half_samples_do_not_tell_the_error_that_is_said():
    rows = rows_of([1.0, 0.9])
    rows[0].scores["lfc"] = ScoreResult(1.0)
    assert "half-samples of them give no uncertainty" in verdict(rows, contenders(rows, {"a": np.ones(200)}, "lfc", HALVES))


def test_without_intervals_the_reason_is_said():
    rows = rows_of([0.3, 0.2])
    assert "without half-samples (resamples=0) its uncertainty is not known" in verdict(rows, ("a",), resamples=0)
    assert "some classes have too few of them to estimate the uncertainty" in verdict(rows, ("a",), halved=False)
    costly = {"mine": Score(lambda features: 1.0, ("features",), True, "", "", resampled=False)}
    assert "It has no intervals" in verdict(rows_of([0.3, 0.2], "mine"), ("a",), costly, "mine")
