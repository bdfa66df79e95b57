"""The figure shows every expert, every score and the verdict."""

from dataclasses import replace

import pytest

from ntk_select.ranking import ExpertScores, Ranking
from ntk_select.scores import ScoreResult, Unavailable

pytest.importorskip("matplotlib")
from ntk_select.ranking.plot import MAX_PANELS, ranking_figure

RANKING = Ranking(
    task={"name": "birds"},
    score_names=("lfc", "lgc"),
    experts=(
        ExpertScores(1, "flowers_18", "flowers", "r", 1, {"lfc": ScoreResult(0.5, 0.4, 0.6), "lgc": Unavailable("none")}, {}),
        ExpertScores(2, "no source", None, None, 1, {"lfc": ScoreResult(0.4, 0.3, 0.5), "lgc": ScoreResult(0.2)}, {}),
        ExpertScores(3, "last", "flowers", "r", 1, {"lfc": Unavailable("none"), "lgc": Unavailable("none")}, {}),
    ),
    contenders=("flowers_18", "no source"),
    judgement="1 to 2 cannot be told apart.",
    evidence="It was measured.",
)


def named(name):
    return replace(RANKING, experts=(replace(RANKING.experts[0], name=name),), contenders=(name,))


def texts(ranking):
    """Matplotlib writes every text of an SVG as a comment beside its outlines."""
    lines = ranking_figure(ranking, "svg").decode().splitlines()
    return [line.strip().removeprefix("<!-- ").removesuffix(" -->") for line in lines if line.strip().startswith("<!-- ")]


def test_experts_scores_and_verdict_are_written_on_it():
    shown = texts(RANKING)
    assert [text for text in shown if text in ("flowers_18  1", "no source  2", "last  3")] == ["flowers_18  1", "no source  2", "last  3"]
    assert {"lfc", "lgc"} <= set(shown)
    assert f"birds: 1 to 2 cannot be told apart. {RANKING.evidence}" in " ".join(shown)
    assert {"trained on", "flowers", "unknown"} <= set(shown), "what the colours mean"
    assert "trained on" not in texts(named("one")), "one colour needs no legend"


def test_points_and_intervals_lie_where_the_values_are(monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot

    def watched(axes, x, y, *style, **options):
        drawn.append((x, y))
        return plot(axes, x, y, *style, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    ranking_figure(RANKING, "png")
    assert drawn == [([0.4, 0.6], [0, 0]), (0.5, 0), ([0.3, 0.5], [1, 1]), (0.4, 1), (0.2, 1)]


def test_the_same_ranking_gives_the_same_picture():
    assert ranking_figure(RANKING, "png") == ranking_figure(RANKING, "png")


def test_a_ranking_in_which_every_expert_failed_has_an_empty_figure():
    assert ranking_figure(replace(RANKING, experts=(), contenders=()), "png")


def test_a_name_with_dollars_is_no_formula():
    assert "a$^$b  1" in texts(named("a$^$b"))


def test_a_name_in_letters_that_the_font_lacks_draws_no_warning():
    assert ranking_figure(named("猫"), "png")


def test_many_scores_are_shown_by_the_places_that_they_give():
    names = tuple(f"score {number}" for number in range(MAX_PANELS + 1))
    values = {"a": 3.0, "b": 2.0, "c": 1.0}
    experts = tuple(
        ExpertScores(rank, name, None, None, 1, dict.fromkeys(names[:-1], ScoreResult(value)) | {names[-1]: Unavailable("none")}, {})
        for rank, (name, value) in enumerate(values.items(), 1)
    )
    shown = texts(Ranking({"name": "birds"}, names, experts, contenders=(experts[0].name,), higher_is_better={names[0]: False}))
    assert {*names, "a  1", "b  2", "c  3", "place by the score"} <= set(shown)
    body = [text for text in shown if text in ("1", "2", "3")]
    assert body[: 3 * MAX_PANELS] == ["3", *["1"] * (MAX_PANELS - 1), *["2"] * MAX_PANELS, "1", *["3"] * (MAX_PANELS - 1)]


def test_many_scores_of_no_expert_make_an_empty_figure():
    names = tuple(f"score {number}" for number in range(MAX_PANELS + 3))
    assert "birds: nothing" in texts(Ranking({"name": "birds"}, names, (), judgement="nothing"))
