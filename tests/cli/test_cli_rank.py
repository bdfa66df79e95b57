"""`ntk-select rank` prints the documented table and JSON, saves them, and rejects invalid options in one sentence."""

import contextlib
import io
import json
import shlex
import shutil
from itertools import pairwise

import numpy as np
import pytest

from ntk_select import Ranking, rank
from ntk_select.cli import main
from ntk_select.cli.rank import Rank, next_command, print_ranking
from ntk_select.data import load_task
from ntk_select.errors import ConfigError
from ntk_select.models import open_zoo
from ntk_select.ranking import ExpertScores
from ntk_select.scores import SCORES, ScoreResult
from ntk_select.training import reference


@pytest.fixture(scope="module")
def zoo(write_zoo):
    return write_zoo("ash", "birch", "cedar")


@pytest.fixture(scope="module")
def npz(write_task):
    return write_task()


@pytest.fixture
def ran(zoo, npz, capsys):
    """ran("--json", ...) ranks the small zoo for the small task and gives the exit status, stdout and stderr."""

    def run(*options, task=npz, zoos=(zoo,)):
        capsys.readouterr()
        status = main(["rank", "--task", task, "--zoo", *zoos, "--per-class", "6", "--batch-size", "12", "--draws", "20", *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def test_json_has_the_promised_shape_and_the_values_of_the_python_face(ran, zoo, npz):
    status, out, _ = ran("--json")
    record = json.loads(out)
    assert status == 0
    expected = rank(open_zoo([zoo]), load_task(npz), per_class=6, batch_size=12, resamples=20)
    assert [(expert["name"], expert["rank"]) for expert in record["experts"]] == [
        (row.name, position) for position, row in enumerate(expected.experts, 1)
    ]
    for expert, row in zip(record["experts"], expected.experts, strict=True):
        assert expert["scores"]["lfc"] == {"value": row.scores["lfc"].value, "low": row.scores["lfc"].low, "high": row.scores["lfc"].high}
        found, details = expert["scores"]["forecast"], row.scores["forecast"].details
        assert found["details"] == pytest.approx(details)
        assert {name: found[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "learning_rate")}.items() <= found["details"].items()
        assert (found["value"], found["low"], found["high"]) == (
            row.scores["forecast"].value,
            row.scores["forecast"].low,
            row.scores["forecast"].high,
        )
        assert found["value"] == pytest.approx(np.log(2) - details["loss"] + details["evidence"])
    expected = [expert["scores"]["forecast"]["value"] for expert in record["experts"]]
    assert expected == sorted(expected, reverse=True)
    assert record["task"] | {"name": "bright things", "uri": npz, "classes": 2, "images": 12, "per_class": 6, "seed": 0} == record["task"]


def test_nothing_but_one_json_document_is_on_standard_output(ran):
    _, out, err = ran("--json")
    assert out.startswith("{")
    assert out.endswith("}\n")
    assert "{" not in err


def test_the_table_names_experts_best_first_with_the_verdict_and_what_to_type(ran):
    status, out, _ = ran("--scores", "lfc")
    _, as_json, _ = ran("--scores", "lfc", "--json")
    record = json.loads(as_json)
    assert status == 0
    assert [out.index(expert["name"]) for expert in record["experts"]] == sorted(out.index(expert["name"]) for expert in record["experts"])
    for expert in record["experts"]:
        value = expert["scores"]["lfc"]
        assert f"{value['value']:.3f} ±{(value['high'] - value['low']) / 2:.3f}" in out
    assert record["judgement"] in out
    assert "bright things: 12 images of 2 classes, seed 0" in out
    assert "Next" in out


def test_scores_may_be_separated_by_commas_or_blanks(ran):
    def scored(*options):
        record = json.loads(ran("--json", *options)[1])
        return record["scores"], [(expert["name"], expert["scores"]) for expert in record["experts"]]

    assert scored("--scores", "lfc,random") == scored("--scores", "lfc", "random")
    assert scored("--scores", "random,lfc")[0] == ["random", "lfc"]


def test_a_group_stands_for_its_scores(ran):
    record = json.loads(ran("--json", "--scores", "num_params", "baselines")[1])
    assert record["scores"][0] == "num_params"
    assert set(record["scores"]) == {name for name, score in SCORES.items() if score.group == "baseline"}


def test_only_ranks_the_named_experts(ran):
    for options in (("--only", "ash", "cedar"), ("--only", "ash,cedar")):
        record = json.loads(ran("--json", "--scores", "random", *options)[1])
        assert {expert["name"] for expert in record["experts"]} == {"ash", "cedar"}


def test_only_takes_patterns(ran):
    record = json.loads(ran("--json", "--scores", "random", "--only", "*a*r", "birch")[1])
    assert {expert["name"] for expert in record["experts"]} == {"birch", "cedar"}
    status, _, err = ran("--only", "oak*")
    assert status == 2
    assert "--only: there is no expert 'oak*' in the zoo" in err


def test_layers_of_lgc_can_be_chosen_and_are_part_of_the_next_command(ran, zoo, npz):
    status, out, _ = ran("--json", "--scores", "lgc", "--layers", "all")
    expected = rank(open_zoo([zoo]), load_task(npz), ("lgc",), per_class=6, batch_size=12, resamples=20, layers="all")
    assert status == 0
    assert {row["name"]: row["scores"]["lgc"]["value"] for row in json.loads(out)["experts"]} == {
        row.name: row.scores["lgc"].value for row in expected
    }
    status, _, err = ran("--scores", "lgc", "--layers", "(")
    assert status == 2
    assert "is not a regular expression" in err


def test_the_verdict_is_followed_by_how_well_the_score_predicted_accuracy(ran):
    _, out, _ = ran("--scores", "lfc")
    assert "lfc has a rank correlation with accuracy after fine-tuning of 0.51" in " ".join(out.split())
    assert "± 95 %, over the choice of images." in out
    record = json.loads(ran("--scores", "lfc", "--json")[1])
    assert record["evidence"] in " ".join(out.split())


@pytest.mark.parametrize(("low", "cell", "legend"), [(0.85, "0.900 ±0.050", "± 95 %,"), (0.7, "0.900 [0.700, 0.950]", "± and [ ] 95 %,")])
def test_brackets_of_uneven_intervals_are_explained(capsys, low, cell, legend):
    row = ExpertScores(1, "ash[old]", None, None, 1, {"lfc": ScoreResult(0.9, low, 0.95)}, {})
    print_ranking(Ranking({"name": "t", "images": 18, "classes": 3, "seed": 0, "copies": 0, "per_class": 6}, ("lfc",), (row,)), 1.0)
    out = capsys.readouterr().out
    assert cell in out
    assert f"\n{legend} over the choice of images.\n" in out


def test_out_writes_the_files_it_names(ran, tmp_path):
    status, out, err = ran("--scores", "lfc", "--json", "--out", str(tmp_path / "runs" / "a"))
    assert status == 0
    assert json.loads((tmp_path / "runs" / "a" / "ranking.json").read_text()) == json.loads(out)
    names = {path.name for path in (tmp_path / "runs" / "a").iterdir() if path.is_file()}
    assert {"ranking.json", "ranking.csv", "ranking.parquet"} <= names
    assert all(f"{name}\n" in err for name in names)


def test_the_same_command_resumes_and_show_prints_what_was_saved(ran, tmp_path, capsys):
    options = ("--scores", "lfc", "--out", str(tmp_path / "a"))
    status, _, err = ran(*options, "--only", "ash")
    assert (status, "scored before" in err) == (0, False)
    _, out, err = ran(*options, "--json")
    assert f"1 of 3 experts were scored before, by the same command ({tmp_path / 'a'}/experts)" in err
    _, again, err = ran(*options, "--json")
    assert "3 of 3 experts were scored before" in err
    numbers = [[(row["name"], row["scores"]) for row in json.loads(text)["experts"]] for text in (out, again)]
    assert numbers[0] == numbers[1]
    assert main(["rank", "--show", str(tmp_path / "a"), "--json"]) == 0
    assert capsys.readouterr().out == again
    assert main(["rank", "--show", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("ash", "birch", "cedar", json.loads(again)["judgement"][:30]))
    assert main(["rank", "--show", str(tmp_path / "a"), "--seed", "1"]) == 2
    assert f"--show prints a ranking as it was saved, without --seed. Try: ntk-select rank --show {tmp_path / 'a'}" in capsys.readouterr().err


def test_what_no_executor_takes_is_refused(ran):
    for options, sentence in (
        (("--executor", "slurm"), "executor = 'slurm' is unknown. Allowed: local, processes, ray"),
        (("--cpus", "-1"), "cpus=-1 must be a finite number from 0. Try: cpus=1 (--cpus 1)"),
        (("--workers", "-1"), "workers=-1 must be a whole number from 0"),
    ):
        status, out, err = ran(*options)
        assert (status, out) == (2, "")
        assert sentence in err


def test_the_task_digits_is_ranked(ran):
    pytest.importorskip("sklearn")
    status, out, _ = ran("--json", "--scores", "lfc", task="digits")
    assert status == 0
    assert (json.loads(out)["task"]["classes"], json.loads(out)["task"]["images"]) == (10, 60)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (("--scores", "lcf"), {}, "ntk-select: Score 'lcf' is unknown. Did you mean"),
        (("--only", "oak"), {}, "ntk-select: --only: there is no expert 'oak' in the zoo. Try: ntk-select zoo list --zoo"),
        (("--draws", "3"), {}, "ntk-select: resamples=3 must be"),
        ((), {"task": "digit"}, "ntk-select: There is no folder or file 'digit', and no task of that name. Did you mean 'digits'"),
        ((), {"task": "npz:/no/such.npz"}, "ntk-select: There is no file '/no/such.npz'"),
        ((), {"zoos": ("bultin",)}, "ntk-select: The zoo 'bultin' is neither installed nor a folder. Did you mean 'builtin'"),
        pytest.param(("--seed", "-1"), {}, "seed"),
    ],
)
def test_what_is_refused_is_one_sentence_and_status_2(ran, options, changes, message):
    status, out, err = ran("--json", *options, **changes)
    assert (status, out) == (2, "")
    assert message in err


def test_a_task_that_is_refused_leaves_no_folder_behind(ran, tmp_path):
    assert ran("--out", str(tmp_path / "stray"), task="nosuch")[0] == 2
    assert not (tmp_path / "stray").exists()


def test_the_next_command_keeps_the_options(ran, zoo, tmp_path):
    twins = shutil.copytree(f"{zoo}/ash", tmp_path / "twins" / "ash").parent
    shutil.copytree(twins / "ash", twins / "elm")
    _, out, _ = ran("--scores", "lgc,lfc", "--only", "ash", "elm", "--seed", "3", zoos=(str(twins),))
    line = " ".join(typed_next(out))
    assert "--scores lgc lfc --per-class 24 --seed 3 --only ash elm --resamples 20 --batch-size 12" in line


def test_an_unwritable_out_is_refused_before_any_work(ran, tmp_path, monkeypatch):
    def worked(*_, **__):
        pytest.fail("the ranking began")

    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("ntk_select.ranking.rank", worked)
    status, out, err = ran("--out", str(tmp_path / "file" / "runs"))
    assert (status, out) == (2, "")
    assert "--out" in err
    assert "cannot be written" in err


def test_a_broken_expert_is_status_1_and_the_others_are_ranked(ran, zoo, tmp_path):
    broken = shutil.copytree(zoo, tmp_path / "broken")
    (broken / "birch" / "model.safetensors").write_bytes(b"cut")
    status, out, err = ran("--json", "--scores", "lfc", zoos=(str(broken),))
    record = json.loads(out)
    assert status == 1
    assert {expert["name"] for expert in record["experts"]} == {"ash", "cedar"}
    assert [failure["name"] for failure in record["failures"]] == ["birch"]
    assert "birch failed: Weights" in err
    status, out, _ = ran("--scores", "lfc", zoos=(str(broken),))
    assert status == 1
    assert "birch failed: Weights" in out


def test_ctrl_c_is_status_130(capsys, monkeypatch):
    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Rank, "run", stopped)
    assert main(["rank", "--task", "digits"]) == 130
    assert capsys.readouterr().err == "ntk-select: stopped.\n"


def test_a_reader_that_went_away_is_no_error(monkeypatch, capsys):
    def gone(self):
        raise BrokenPipeError

    monkeypatch.setattr(Rank, "run", gone)
    assert main(["rank", "--task", "digits"]) == 0
    assert capsys.readouterr().err == ""


def test_a_defect_of_the_package_is_not_hidden(monkeypatch):
    def broken(self):
        raise ZeroDivisionError

    monkeypatch.setattr(Rank, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["rank", "--task", "digits"])


def typed_next(out):
    """The command after "Next...: ", which may go over several lines."""
    return shlex.split(out[out.index("Next") :].partition(": ")[2].replace("\n", " "))[1:]


def test_what_is_said_to_type_next_works(ran, capsys):
    _, out, _ = ran("--scores", "random")
    command = typed_next(out)
    assert command[0] == "finetune"
    assert main([*command, "--epochs", "2"]) == 0  # a task without test images, of which a fifth is kept for testing
    assert "bright things: all training images (20), tested on 4" in capsys.readouterr().out


def test_with_test_images_the_first_expert_is_to_be_fine_tuned_from_the_same_zoo():
    row = ExpertScores(1, "ash", None, None, 1, {}, {})
    ranking = Ranking({"images": 20, "copies": 0, "per_class": 5}, ("lfc",), (row,), contenders=("ash",))
    told = next_command(ranking, Rank("folder:my photos", zoo=("a zoo",)), 20)
    assert "\n" not in told
    assert typed_next(told) == ["finetune", "--expert", "ash", "--task", "folder:my photos", "--zoo", "a zoo"]


def test_more_images_are_suggested_for_the_same_zoo(ran, zoo, tmp_path):
    twins = shutil.copytree(f"{zoo}/ash", tmp_path / "twins" / "ash").parent
    shutil.copytree(twins / "ash", twins / "elm")
    _, out, _ = ran("--scores", "lfc", zoos=(str(twins),))
    command = typed_next(out)
    assert command[0] == "rank"
    assert str(twins) in command


@pytest.mark.parametrize(
    ("tied", "available", "start"),
    [(2, 100, "Next, to tell them apart"), (2, 20, "Next, to fine-tune the first"), (1, 100, "Next, to fine-tune the first")],
)
def test_more_images_are_suggested_only_when_they_could_help(tied, available, start):
    row = ExpertScores(1, "ash", None, None, 1, {}, {})
    ranking = Ranking({"images": 18, "copies": 2, "per_class": 5}, ("lfc",), (row,), contenders=("ash", "elm")[:tied])
    assert next_command(ranking, Rank("folder:my photos"), available).startswith(start)


def test_names_in_brackets_are_shown_as_they_are(ran, zoo, tmp_path):
    other = shutil.copytree(zoo, tmp_path / "other")
    (other / "ash").rename(other / "ash[old]")
    assert "ash[old]" in ran("--scores", "random", zoos=(str(other),))[1]


# All scores, what they need, and what is kept


@pytest.fixture(scope="module")
def all_scores(write_zoo, npz, tmp_path_factory):
    """Status, what was printed and the folder of `--scores all` for a small zoo, with a reference network of a few steps."""
    patch, folder, out = pytest.MonkeyPatch(), tmp_path_factory.mktemp("all"), io.StringIO()
    patch.setattr(reference, "EPOCHS", 2)
    patch.setattr(reference, "MIN_STEPS", 2)
    (folder / "measured.json").write_text(json.dumps({name: {"elsewhere": value} for name, value in ELSEWHERE.items()}))
    words = ["--scores", "lgc", "all", "ablation", "baselines", "--draws", "20", "--measured", str(folder / "measured.json"), "--out", str(folder)]
    with contextlib.redirect_stdout(out):
        status = main(["rank", "--task", npz, "--zoo", write_zoo(*ELSEWHERE), *words, "--cache", str(folder / "cache")])
    patch.undo()
    return status, out.getvalue(), folder


ELSEWHERE = {"ash": 0.5, "birch": 0.75, "cedar": 0.25, "elm": 1.0}


@pytest.mark.slow
def test_all_scores_are_computed_and_the_named_one_decides(all_scores):
    status, _, folder = all_scores
    record = json.loads((folder / "ranking.json").read_text())
    assert status == 0
    assert record["scores"][0] == "lgc"
    assert set(record["scores"]) == set(SCORES)
    assert {expert["name"]: expert["scores"]["best_elsewhere"]["value"] for expert in record["experts"]} == ELSEWHERE
    assert set(record["experts"][0]["score_seconds"]) == set(SCORES)
    assert {"load", "preprocess", "forward", "backward", "scores", "intervals"} <= set(record["experts"][0]["seconds"])
    assert record["shared_seconds"]["reference"] > 0


@pytest.mark.slow
def test_many_scores_become_a_table_of_their_own_with_reasons_for_those_that_are_missing(all_scores):
    _, out, folder = all_scores
    record = json.loads((folder / "ranking.json").read_text())
    assert "Top three experts by score" in out
    missing = [name for name in record["scores"] if all(expert["scores"][name]["value"] is None for expert in record["experts"])]
    assert "domain_similarity" in missing  # these experts know nothing of their source
    told = [line.partition(" unavailable: ")[0].split(", ") for line in out.splitlines() if " unavailable: " in line]
    assert sorted(missing) == sorted(name for names in told for name in names)
    assert ["domain_similarity", "domain_similarity_own"] in told  # for one reason, in one line
    by_knn = sorted(record["experts"], key=lambda expert: (-expert["scores"]["knn"]["value"], expert["rank"]))
    (line,) = (line for line in out.splitlines() if line.startswith("│ knn "))
    shown = line.split("│")[2].partition("(")[0]
    assert shown.replace("=", " ").split() == [str(expert["rank"]) for expert in by_knn[:3]]
    values = [expert["scores"]["knn"]["value"] for expert in by_knn]
    assert shown.count("=") == sum(first == second for first, second in pairwise(values[:3]))
    assert f"These {len(record['scores']) - len(missing)} scores put" in out
    assert "4 scored, 0 failed" in out
    assert ", forward " in out.partition("4 scored")[2]


@pytest.mark.slow
def test_the_agreement_is_saved_beside_the_ranking(all_scores):
    _, _, folder = all_scores
    found = json.loads((folder / "agreement.json").read_text())
    assert set(found["scores"]) == set(SCORES)
    assert len(found["spearman"]) == len(SCORES)
    assert (folder / "agreement.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_passes_are_kept_in_the_named_folder_and_not_with_no_cache(ran, all_scores, tmp_path):
    assert list((all_scores[2] / "cache").glob("*/*.npz"))
    ran("--scores", "lfc", "--cache", str(tmp_path / "kept"))
    assert len(list((tmp_path / "kept").glob("*/*.npz"))) == 3
    ran("--scores", "lfc", "--cache", str(tmp_path / "nothing"), "--no-cache")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", "must contain"),
        ('{"a": {"t": 2}}', "must contain"),
        ('{"a": 1}', "must contain"),
    ],
)
def test_accuracies_that_cannot_be_read_are_refused(ran, tmp_path, content, message):
    file = tmp_path / "measured.json"
    if content is not None:
        file.write_text(content)
    status, out, err = ran("--scores", "best_elsewhere", "--measured", str(file))
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(("scores", "estimated"), [(("lfc",), False), (("lfc", "baselines"), False), (("lgc", "forecast"), True), (("all",), True)])
def test_the_time_is_estimated_only_where_the_forecast_is_among_the_scores(monkeypatch, ran, scores, estimated):
    def refused(*_args, **_options):
        raise ConfigError("ranked")

    monkeypatch.setattr("ntk_select.ranking.expected_time.expected_seconds", lambda *_args, **_options: 600.0)
    monkeypatch.setattr("ntk_select.ranking.rank", refused)
    status, _, err = ran("--scores", *scores)
    assert (status, "ranked" in err) == (2, True)
    assert ("About 10 minutes for" in err and "Faster: --scores lfc lgc" in err) == estimated
