"""`ntk-select scores` shows what each score measures and needs."""

import json

import pytest

from ntk_select.cli import main
from ntk_select.cli.scores import SUBJECTS
from ntk_select.errors import ConfigError
from ntk_select.ranking.rank import chosen_scores
from ntk_select.scores import INPUTS, SCORES, Score


@pytest.fixture
def typed(capsys):
    def run(*words):
        status = main(["scores", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def own(features):
    """Whether any feature differs from zero."""
    return float(features.any())


@pytest.fixture
def installed(monkeypatch):
    """A package that adds the score "own", would replace "lfc", and has a score that needs what is not there."""

    class Entry:
        def __init__(self, name):
            self.name = name

        def load(self):
            if self.name == "broken":
                raise ImportError("No module named 'there'")
            return Score(own, ("features",), False, "nobody", "0 or 1")

    monkeypatch.setattr(
        "ntk_select.scores.table.entry_points",
        lambda group: [Entry("own"), Entry("lfc"), Entry("broken")] if group == "ntk_select.scores" else [],
    )


def test_every_score_of_the_table_has_one_question():
    asked = [name for names in SUBJECTS.values() for name in names]
    assert sorted(asked) == sorted(SCORES)


def test_list_as_json_says_what_the_table_of_scores_says(typed):
    status, out, _ = typed("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert set(rows) == set(SCORES)
    for name, score in SCORES.items():
        row = rows[name]
        assert (row["needs"], row["higher_is_better"], row["range"], row["reference"]) == (
            list(score.needs),
            score.higher_is_better,
            score.range,
            score.reference,
        )
        assert name in SUBJECTS[row["question"]]


def test_list_has_a_line_for_each_and_says_what_to_type_next(typed):
    status, out, _ = typed("list")
    named = {line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")} - {""}
    assert status == 0
    assert named == set(SCORES)
    assert out.splitlines()[-1] == "Next: ntk-select scores show forecast"


def test_show_explains_the_inputs_and_the_direction(typed):
    status, out, _ = typed("show", "generalization")
    shown = " ".join(out.replace("│", " ").split())
    assert status == 0
    assert f"gradient_kernel: {INPUTS['gradient_kernel'].meaning}" in shown
    assert SCORES["generalization"].reference in shown
    assert "better lower" in shown
    assert json.loads(typed("show", "leep", "--json")[1])["inputs"] == {name: INPUTS[name].meaning for name in SCORES["leep"].needs}
    assert "a single expert has no value" in typed("show", "etran")[1]


def test_scores_of_installed_packages_are_listed_and_replace_none(typed, installed):
    rows = {row["name"]: row for row in json.loads(typed("list", "--json")[1])}
    assert set(rows) == {*SCORES, "own"}
    assert rows["own"]["question"] == "Whether any feature differs from zero."
    assert rows["lfc"]["reference"] == SCORES["lfc"].reference
    assert "nobody" in typed("show", "own")[1]


def test_a_score_of_a_package_that_cannot_be_loaded_is_named_and_ends_nothing(typed, installed):
    status, out, err = typed("list")
    assert status == 0
    assert "own" in out
    assert err.strip() == "The score broken of an installed package cannot be loaded: ImportError: No module named 'there'"
    sentence = "Score 'broken' of an installed package cannot be loaded: ImportError"
    assert sentence in typed("show", "broken")[2]
    with pytest.raises(ConfigError, match=sentence):
        chosen_scores(["lfc", "broken"])
    assert "broken" not in chosen_scores("all")


def test_an_unknown_score_is_one_sentence_and_status_2(typed):
    status, out, err = typed("show", "lfx")
    assert (status, out) == (2, "")
    assert err.startswith("ntk-select: Score 'lfx' is unknown. Did you mean 'lfc'")
    assert "scores list" in err


def test_rank_names_the_list(capsys):
    with pytest.raises(SystemExit):
        main(["rank", "--help"])
    assert "ntk-select scores list" in " ".join(capsys.readouterr().out.replace("│", " ").split())
