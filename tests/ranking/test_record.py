"""All representations of a ranking have the same content."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest

from ntk_select.errors import ConfigError, DataError, MissingDependencyError
from ntk_select.ranking import ExpertScores, Failure, Ranking
from ntk_select.ranking.record import cell
from ntk_select.scores import SCORES, Score, ScoreResult, Unavailable

TASK = {"name": "birds", "uri": "folder:birds", "classes": 3, "images": 9, "per_class": 3, "seed": 0, "smallest_class": 3, "warnings": []}
RANKING = Ranking(
    task=TASK,
    score_names=("lfc", "lgc"),
    experts=(
        ExpertScores(
            1,
            "flowers",
            "Blüten",
            "resnet18",
            1234,
            {"lfc": ScoreResult(1 / 3, 0.25, 0.5), "lgc": Unavailable("no, it has none")},
            {"load": 0.25, "forward": 0.5},
        ),
        ExpertScores(2, 'a "b", c', None, None, 5, {"lfc": ScoreResult(-0.125), "lgc": ScoreResult(0.5)}, {"load": 1.0}),
    ),
    failures=(Failure("broken", "The weights are gone."),),
    contenders=("flowers",),
    judgement="flowers is ahead.",
    evidence="It was measured.",
    versions={"jax": "0"},
)
FULL = Ranking(
    task=TASK | {"warnings": ["Unbalanced."]},
    score_names=("forecast", "sfda"),
    experts=(
        ExpertScores(
            1,
            "a",
            "s",
            "r",
            5,
            {
                "forecast": ScoreResult(
                    0.75, 0.5, 0.9, {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.9, "learning_rate": 0.01}, np.ones(9)
                ),
                "sfda": ScoreResult(0.9, remark="Too few images.", by_chance={"value": 0.8}),
            },
            {"load": 1 / 3, "forecast": 2 / 3},
            {"forecast": 0.2, "sfda": 1e-7},
        ),
    ),
    contenders=("a",),
    judgement="a it is.",
    versions={"jax": "0", "device": "cpu"},
    higher_is_better={"forecast": True, "sfda": True},
    shared_seconds={"reference": 1 / 7},
    deciding="forecast",
    evidence="It was measured.",
    fine_tuning={"recipe": {"epochs": 30, "milestones": [15, 25]}, "learning_rates": [0.01, 0.001]},
)
NOTHING = Ranking(task=TASK, score_names=("lfc",), experts=(), failures=(Failure("broken", "gone"),), judgement="No expert has the score lfc.")
UNSCORED = Ranking(task=TASK, score_names=("lfc",), experts=(ExpertScores(1, "a", "s", "r", 5, {"lfc": Unavailable("none")}, {}),))
ROWS = [
    {
        "rank": 1, "expert": "flowers", "source": "Blüten", "architecture": "resnet18", "parameters": 1234,
        "lfc": 1 / 3, "lfc_low": 0.25, "lfc_high": 0.5, "lgc": None, "lgc_low": None, "lgc_high": None, "seconds": 0.75,
    },
    {
        "rank": 2, "expert": 'a "b", c', "source": None, "architecture": None, "parameters": 5,
        "lfc": -0.125, "lfc_low": None, "lfc_high": None, "lgc": 0.5, "lgc_low": None, "lgc_high": None, "seconds": 1.0,
    },
]  # fmt: skip

PLACED = {"a": ScoreResult(1.0), "b": ScoreResult(2.0), "c": ScoreResult(2.0), "d": Unavailable("none")}


def test_repr_is_a_table_with_the_verdict():
    assert repr(RANKING).splitlines() == [
        "Ranking of 2 experts for birds",
        "rank  expert    lfc                   lgc",
        "1     flowers   0.333 [0.250, 0.500]  -",
        '2     a "b", c  -0.125                0.500',
        "lgc unavailable for 1 of 2: no, it has none",
        "broken failed: The weights are gone.",
        "flowers is ahead.",
        "It was measured.",
    ]


def test_experts_can_be_counted_iterated_and_taken_by_place_or_name():
    assert (len(RANKING), [row.name for row in RANKING]) == (2, ["flowers", 'a "b", c'])
    assert (RANKING[0].name, RANKING[-1].rank, [row.rank for row in RANKING[:2]]) == ("flowers", 2, [1, 2])
    assert RANKING["flowers"] is RANKING.experts[0]
    with pytest.raises(KeyError, match="is not in this ranking. Did you mean .*flowers"):
        RANKING["flower"]
    with pytest.raises(IndexError):
        RANKING[2]


def test_html_is_the_same_table_escaped():
    found = replace(RANKING, judgement="<b> is ahead.")._repr_html_()
    assert "<tr><th>rank</th><th>expert</th><th>lfc</th><th>lgc</th></tr>" in found
    assert '<td><b>flowers</b></td><td><b>0.333 [0.250, 0.500]</b></td><td title="no, it has none"><b>-</b></td>' in found
    assert "<td>a &quot;b&quot;, c</td><td>-0.125</td><td>0.500</td>" in found
    assert "&lt;b&gt; is ahead." in found
    assert "<b> is" not in found


@pytest.mark.parametrize(
    ("name", "outcome", "shown"),
    [
        ("lfc", ScoreResult(0.2041, 0.18, 0.224), "0.204 ±0.022"),
        ("lfc", ScoreResult(-0.5), "-0.500"),
        ("cka", ScoreResult(0.783, 0.73, 0.83), "0.783 ±0.050"),
        ("forecast", ScoreResult(0.921, 0.8, 1.0, {"accuracy": 0.783, "accuracy_low": 0.73, "accuracy_high": 0.83}), "78.3 ±5.0 % (0.92)"),
        ("forecast", ScoreResult(1.5, details={"accuracy": 1.0, "accuracy_low": 0.94, "accuracy_high": 1.0}), "100.0 [94.0, 100.0] % (1.50)"),
        ("forecast", ScoreResult(1.5, details={"accuracy": 0.5}), "50.0 % (1.50)"),
        ("forecast", ScoreResult(1.5), "1.500"),
        ("lfc", ScoreResult(0.02, 0.0, 0.05), "0.020 ±0.025"),
        ("num_params", ScoreResult(11_000_000.0), "11000000.0"),
        ("mine", ScoreResult(0.9, remark="few", by_chance={"value": 0.85}), "0.900 (chance 0.850)"),
        ("etran", ScoreResult(0.9, remark="few", by_chance={"lda": 0.85, "value": 0.7}), "0.900 (chance 0.700)"),
        ("lfc", Unavailable("none"), "-"),
    ],
)
def test_a_cell_holds_value_interval_and_chance(name, outcome, shown):
    assert cell(outcome, name) == shown


def test_experts_that_cannot_be_told_from_the_best_are_marked_wherever_they_stand():
    rows = tuple(ExpertScores(i, name, None, None, 5, {"s": ScoreResult(1.0 - i / 10)}, {}) for i, name in enumerate("abcd", 1))
    found = Ranking(TASK, ("s",), rows, contenders=("a", "d"))
    assert [found.shown_rank(row) for row in found] == ["1", "2", "3", "4 ~"]
    assert "~ cannot be distinguished from the first (95 %, over the choice of images)." in repr(found)
    assert "~" not in repr(replace(found, contenders=("a",)))


def test_equal_values_have_a_mark_of_their_own():
    rows = tuple(
        ExpertScores(i, name, None, None, 5, {"s": ScoreResult(value)}, {})
        for i, (name, value) in enumerate(zip("abc", (1.0, 1.0, 0.5), strict=True), 1)
    )
    found = Ranking(TASK, ("s",), rows, contenders=("a", "b"))
    assert [found.shown_rank(row) for row in found] == ["1", "2 =", "3"]
    assert found.marks == ["= has the same value as the first."]


def test_of_many_scores_only_the_deciding_one_is_printed():
    names = tuple("abcdefgh")
    row = ExpertScores(1, "x", None, None, 5, {name: ScoreResult(float(place)) for place, name in enumerate(names)}, {})
    lines = repr(Ranking(TASK, names, (row,), contenders=("x",), deciding="c")).splitlines()
    assert lines[1].split() == ["rank", "expert", "c"]
    assert "7 more scores: see to_pandas()." in lines


def test_the_lines_below_a_ranking_are_its_marks_notes_verdict_and_evidence():
    rows = tuple(ExpertScores(i, name, None, None, 5, {"s": ScoreResult(1.0)}, {}) for i, name in enumerate("ab", 1))
    task = {**TASK, "warnings": ["Unbalanced."]}
    found = Ranking(task, ("s",), rows, (Failure("c", "gone"),), ("a", "b"), "A verdict.", evidence="A measurement.")
    assert found.notes() == ["c failed: gone", "Note: Unbalanced."]
    assert found.summary_lines() == [*found.marks, *found.notes(), "A verdict.", "A measurement."]
    assert repr(found).splitlines()[-5:] == found.summary_lines()


def test_a_remark_is_told_once_for_all_experts_and_is_in_the_dictionary():
    saturated = ScoreResult(0.9, remark="Too few images.", by_chance={"value": 0.8})
    rows = tuple(ExpertScores(i, name, None, None, 5, {"sfda": saturated}, {}) for i, name in enumerate("ab", 1))
    found = Ranking(TASK, ("sfda",), rows, contenders=("a", "b"))
    assert repr(found).count("sfda: Too few images.") == 1
    assert (
        found.to_dict()["experts"][0]["scores"]["sfda"] | {"remark": "Too few images.", "by_chance": {"value": 0.8}}
        == found.to_dict()["experts"][0]["scores"]["sfda"]
    )


def test_repr_says_why_nothing_was_ranked():
    assert repr(NOTHING).splitlines() == [
        "Ranking of 0 experts for birds",
        "rank  expert  lfc",
        "broken failed: gone",
        "No expert has the score lfc.",
    ]
    assert "lfc unavailable: none" in repr(UNSCORED).splitlines()


def test_repr_stays_short_however_much_failed():
    many = Ranking(TASK, ("lfc",), (), tuple(Failure(f"e{i}", "x" * 1000) for i in range(50)), judgement="Nothing.")
    lines = repr(many).splitlines()
    assert lines[-2:] == ["and 38 more notes: see notes()", "Nothing."]
    assert len(lines) == 2 + 12 + 2
    assert max(map(len, lines)) == 300


def test_best_is_the_first_expert_if_it_has_the_score():
    assert RANKING.best == "flowers"
    assert NOTHING.best is None
    assert UNSCORED.best is None


def test_the_dictionary_has_the_promised_shape():
    record = RANKING.to_dict()
    assert record["task"] == TASK
    assert [(expert["name"], expert["rank"]) for expert in record["experts"]] == [("flowers", 1), ('a "b", c', 2)]
    assert record["experts"][0]["scores"]["lfc"] == {"value": 1 / 3, "low": 0.25, "high": 0.5}
    assert record["experts"][0]["scores"]["lgc"] == {"value": None, "low": None, "high": None, "unavailable": "no, it has none"}
    assert record["experts"][1]["scores"]["lfc"] == {"value": -0.125, "low": None, "high": None}
    assert record["failures"] == [{"name": "broken", "error": "The weights are gone."}]
    assert (record["scores"], record["tied"], record["judgement"]) == (["lfc", "lgc"], 1, "flowers is ahead.")
    assert (record["contenders"], record["evidence"]) == (["flowers"], "It was measured.")
    assert record["firsts"] == {"lfc": ["flowers"], "lgc": ['a "b", c']}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_details_and_times_of_single_scores_are_in_the_dictionary():
    row = ExpertScores(1, "a", None, None, 5, {"parc": ScoreResult(20.0, details={"auc": 0.75})}, {"scores": 0.25}, {"parc": 0.25})
    record = Ranking(TASK, ("parc",), (row,), higher_is_better={"parc": True}, shared_seconds={"reference": 2.0}).to_dict()
    assert record["experts"][0]["scores"]["parc"] == {"value": 20.0, "low": None, "high": None, "details": {"auc": 0.75}}
    assert record["experts"][0]["score_seconds"] == {"parc": 0.25}
    assert (record["higher_is_better"], record["shared_seconds"]) == ({"parc": True}, {"reference": 2.0})


def test_places_follow_the_direction_of_the_score_and_share_ties():
    rows = [ExpertScores(i, name, None, None, 5, {"s": outcome}, {}) for i, (name, outcome) in enumerate(PLACED.items(), 1)]
    assert Ranking(TASK, ("s",), tuple(rows)).places("s") == {"a": 3, "b": 1.5, "c": 1.5}
    assert Ranking(TASK, ("s",), tuple(rows), higher_is_better={"s": False}).places("s") == {"a": 1, "b": 2.5, "c": 2.5}


def test_html_has_all_scores_with_the_deciding_one_first():
    names = tuple("abcdefgh")
    scores = {name: ScoreResult(float(place), remark="Too few." if name == "b" else "") for place, name in enumerate(names)}
    found = Ranking(TASK, names, (ExpertScores(1, "x", None, None, 5, scores, {}),), contenders=("x",), deciding="c")._repr_html_()
    assert "<th>rank</th><th>expert</th><th>c</th><th>a</th><th>b</th>" in found
    assert '<td title="Too few."><b>1.000</b></td>' in found
    assert "more scores" not in found


def test_pandas_has_a_row_for_every_expert_failed_ones_included():
    pandas = pytest.importorskip("pandas")
    frame = RANKING.to_pandas()
    expected = pandas.DataFrame([*ROWS, {"expert": "broken"}]).astype({"rank": "Int64", "parameters": "Int64"})
    pandas.testing.assert_frame_equal(frame[list(ROWS[0])], expected)
    assert list(frame.columns[len(ROWS[0]) :]) == ["lgc_unavailable", "seconds_load", "seconds_forward", "error"]
    assert frame["lgc_unavailable"].dropna().to_dict() == {0: "no, it has none"}
    assert frame["error"].dropna().to_dict() == {2: "The weights are gone."}
    assert frame["seconds_forward"].dropna().to_dict() == {0: 0.5}
    assert frame.attrs == {name: value for name, value in RANKING.to_dict().items() if name not in ("experts", "failures")}


def test_pandas_has_details_remarks_and_times():
    pandas = pytest.importorskip("pandas")
    frame = FULL.to_pandas()
    row = frame.iloc[0]
    assert (row["forecast_accuracy"], row["forecast_learning_rate"], row["forecast_low"], row["forecast_seconds"]) == (0.75, 0.01, 0.5, 0.2)
    assert (row["sfda_remark"], row["sfda_by_chance"], row["rank"]) == ("Too few images.", 0.8, 1)
    assert not [name for name in frame.columns if list(frame.columns).count(name) > 1]
    (failed,) = NOTHING.to_pandas().to_dict("records")
    assert (failed["expert"], failed["error"], pandas.isna(failed["rank"])) == ("broken", "gone", True)


@pytest.mark.parametrize("ranking", ["RANKING", "NOTHING", "UNSCORED", "FULL"])
def test_a_saved_ranking_is_loaded_as_it_was(tmp_path, ranking):
    ranking = globals()[ranking]
    ranking.save(tmp_path)
    for path in (tmp_path, str(tmp_path / "ranking.json")):
        found = Ranking.load(path)
        assert found == ranking
        assert (repr(found), found._repr_html_(), found.to_dict()) == (repr(ranking), ranking._repr_html_(), ranking.to_dict())
    assert [row.scores for row in found] == [row.scores for row in ranking]


def test_what_is_no_saved_ranking_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"contains no ranking \(ranking.json: No such file.*Try: the folder of Ranking.save \(ntk-select rank --out\)"
    ):
        Ranking.load(tmp_path)
    with pytest.raises(ConfigError, match="contains no ranking"):
        Ranking.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"'/dev/null' is not a file. Try: the folder of Ranking.save"):
        Ranking.load("/dev/null")
    for content, message in (
        ("{", "cannot be read as JSON .*Try: rank again"),
        ("[]", "is not a ranking"),
        ('{"scores": ["lfc"]}', "is not a ranking of this version .ValidationError: Object missing required field"),
        (
            json.dumps(RANKING.to_dict() | {"task": {"name": "digits"}}),
            "is not a ranking of this version .ValidationError: Object missing required field `images`",
        ),
        (json.dumps(RANKING.to_dict()).replace(str(RANKING[0].scores["lfc"].value), "null"), "a score and its limits must be numbers"),
        (json.dumps(RANKING.to_dict()).replace(str(RANKING[0].scores["lfc"].value), '"0.3"'), "Expected `float . null`, got `str` - at"),
        (json.dumps(RANKING.to_dict() | {"deciding": "lfcc"}), "the deciding score 'lfcc' is not one of lfc, lgc"),
        (
            json.dumps(RANKING.to_dict() | {"contenders": ["nobody"]}),
            "the contenders nobody are not experts with the score lfc, starting with the first",
        ),
        (json.dumps(RANKING.to_dict() | {"contenders": ['a "b", c']}), "starting with the first"),
        (json.dumps(RANKING.to_dict()).replace("0.25, ", "null, ", 1), "a score and its limits must be numbers"),
        (json.dumps(RANKING.to_dict()).replace("0.25", "1e999"), "cannot be read as JSON .1e999 is not a finite number.. Try"),
        (json.dumps(RANKING.to_dict()).replace("0.25", "NaN"), "cannot be read as JSON .NaN is not a finite number.. Try"),
    ):
        (tmp_path / "ranking.json").write_text(content)
        with pytest.raises(DataError, match=message):
            Ranking.load(tmp_path)


def test_saved_files_read_back_as_what_was_saved(tmp_path):
    paths = RANKING.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths[:3]] == ["ranking.json", "ranking.csv", "ranking.parquet"]
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert json.loads(paths[0].read_text(encoding="utf-8")) == RANKING.to_dict()
    with open(paths[1], newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{key: "" if value is None else str(value) for key, value in row.items()} for row in ROWS]
    assert pyarrow.parquet.read_table(paths[2]).to_pylist() == ROWS


def test_saving_again_replaces_what_was_there(tmp_path):
    RANKING.save(tmp_path)
    UNSCORED.save(tmp_path)
    assert json.loads((tmp_path / "ranking.json").read_text())["experts"][0]["name"] == "a"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_matplotlib_all_but_the_figure_is_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [path.name for path in NOTHING.save(tmp_path)] == ["ranking.json", "ranking.csv", "ranking.parquet"]
    assert json.loads((tmp_path / "ranking.json").read_text())["failures"] == [{"name": "broken", "error": "gone"}]
    with pytest.raises(MissingDependencyError, match=r"The figure of a ranking needs the package matplotlib.*pip install matplotlib"):
        RANKING.report(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("pandas", lambda folder: RANKING.to_pandas(), r"Ranking.to_pandas needs the package pandas.*pip install pandas"),
        ("pyarrow", lambda folder: RANKING.save(folder), "Saving a ranking needs the package pyarrow"),
    ],
)
def test_a_missing_package_is_named_with_what_to_type(tmp_path, monkeypatch, module, call, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=message):
        call(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file/ranking.json cannot be written: .*Try: another folder"):
        UNSCORED.save(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"file/a.png cannot be written"):
        UNSCORED.report(tmp_path / "file" / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"allowed are .png, .svg and .pdf"):
        RANKING.report(tmp_path / name)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_report_is_a_file_of_its_ending(tmp_path, ending, magic):
    pytest.importorskip("matplotlib")
    path = RANKING.report(tmp_path / f"figure.{ending}")
    assert path.read_bytes().startswith(magic)


def test_a_score_in_per_cent_is_shown_in_per_cent(monkeypatch):
    monkeypatch.setitem(SCORES, "share", Score(fn=lambda: 0.5, needs=(), unit="accuracy"))
    assert cell(ScoreResult(0.783, 0.73, 0.83), "share") == "78.3 ±5.0 %"


def test_what_is_displayed_is_the_accuracy_where_a_score_has_one():
    with_accuracy = ScoreResult(1.5, 1.2, 1.8, {"accuracy": 0.5, "accuracy_low": 0.4})
    assert SCORES["forecast"].displayed(with_accuracy) == (0.5, 0.4, None)
    assert SCORES["forecast"].displayed(ScoreResult(1.5, 1.2, 1.8)) == SCORES["lfc"].displayed(ScoreResult(1.5, 1.2, 1.8)) == (1.5, 1.2, 1.8)
