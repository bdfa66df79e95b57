"""Correlations between scores equal those of SciPy; undefined ones are NaN."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from ntk_select import agreement
from ntk_select.errors import ConfigError
from ntk_select.ranking import ExpertScores, Ranking
from ntk_select.scores import ScoreResult, Unavailable


def ranking(columns, **fields):
    """A ranking with these values by score; NaN stands for none."""
    names, values = tuple(columns), np.array(list(columns.values()), float).T
    rows = tuple(
        ExpertScores(
            place,
            f"e{place}",
            None,
            None,
            1,
            {n: ScoreResult(v) if np.isfinite(v) else Unavailable("none") for n, v in zip(names, row, strict=True)},
            {},
        )
        for place, row in enumerate(values, 1)
    )
    return Ranking({"name": "birds"}, names, rows, **fields)


@pytest.fixture
def columns(rng):
    a = rng.normal(size=9)
    return {"a": a, "b": a + rng.normal(size=9), "lower": rng.normal(size=9).round()}


def test_the_matrix_is_scipys_with_scores_turned_so_that_higher_is_better(columns):
    found = agreement(ranking(columns, higher_is_better={"a": True, "b": True, "lower": False}))
    turned = np.array([columns["a"], columns["b"], -columns["lower"]]).T
    np.testing.assert_allclose(found.matrix, spearmanr(turned).statistic, atol=1e-12)
    assert (found.rankings == 1).all()


def test_several_rankings_are_averaged_each_with_its_own_experts(columns, rng):
    other = {name: values[rng.permutation(9)][:6] for name, values in columns.items()}
    found = agreement([ranking(columns), ranking(other)])
    single = [agreement(ranking(part)).matrix for part in (columns, other)]
    np.testing.assert_allclose(found.matrix, np.mean(single, axis=0), atol=1e-12)
    assert (found.rankings == 2).all()


def test_what_is_not_known_is_left_open(columns):
    few = {
        **columns,
        "few": np.where(np.arange(9) < 3, columns["a"], np.nan),
        "flat": np.ones(9),
        "some": np.where(np.arange(9) < 4, columns["b"], np.nan),
    }
    found = agreement(ranking(few))
    known = np.isfinite(found.matrix)
    places = {name: place for place, name in enumerate(found.names)}
    assert not known[places["few"]].any()
    assert not known[places["flat"]].any()
    assert found.matrix[places["some"], places["b"]] == pytest.approx(1)
    assert found.matrix[places["some"], places["a"]] == pytest.approx(spearmanr(columns["a"][:4], columns["b"][:4]).statistic)
    assert found.to_dict()["spearman"][places["flat"]] == [None] * 6
    assert set(found.ordered().names) == {"a", "b", "lower", "some"}


def test_scores_that_agree_stand_beside_each_other(rng):
    a, b = rng.normal(size=(2, 12))
    columns = {"a1": a, "b1": b, "a2": a + 0.01 * rng.normal(size=12), "b2": b + 0.01 * rng.normal(size=12)}
    found = agreement(ranking(columns)).ordered()
    assert {frozenset(found.names[:2]), frozenset(found.names[2:])} == {frozenset(("a1", "a2")), frozenset(("b1", "b2"))}
    whole = agreement(ranking(columns))
    for i, first in enumerate(found.names):
        for j, second in enumerate(found.names):
            assert found.matrix[i, j] == whole.matrix[whole.names.index(first), whole.names.index(second)]


def test_the_figure_names_every_score_that_is_known(columns, tmp_path):
    pytest.importorskip("matplotlib")
    found = agreement(ranking({**columns, "flat": np.ones(9)}))
    text = found.report(tmp_path / "a.svg", "three $ tasks").read_text()
    assert all(f"<!-- {name} -->" in text for name in (*columns, "three $ tasks"))
    assert "<!-- flat -->" not in text
    assert found.report(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"'a.jpg' ends in '.jpg'; allowed are .png, .svg and .pdf"):
        found.report(tmp_path / "a.jpg")


def test_rankings_of_other_scores_and_none_at_all_are_refused(columns):
    with pytest.raises(ConfigError, match="at least one ranking"):
        agreement([])
    with pytest.raises(ConfigError, match="No two of the 2 scores have 4 experts in common"):
        agreement(ranking({"a": columns["a"], "flat": np.ones(9)})).report("never.png")
    with pytest.raises(ConfigError, match="all of the same scores"):
        agreement([ranking(columns), ranking({"a": columns["a"]})])
