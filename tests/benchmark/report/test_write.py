"""Does a folder of results become the files of a report, whole or not at all?"""

import csv

import pytest

from ntk_select.benchmark import run
from ntk_select.benchmark.report.figures import FIGURES
from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.tables import TABLES, csv_bytes
from ntk_select.benchmark.report.write import report
from ntk_select.errors import ConfigError

CONFIG = "finetune_seeds = [0, 1]\n[synthetic]\nexperts = 6\ntasks = 4\nscores = 2\nsignal = 1.0\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bench")
    (place / "made_up.toml").write_text(CONFIG)
    run(place / "made_up.toml", place / "out")
    return place / "out"


@pytest.fixture(scope="module")
def whole(folder):
    """All files of a report, and what was said of the progress."""
    said = []
    return report(folder, progress=lambda *each: said.append(each)), said


def test_the_page_the_tables_and_every_figure_that_was_measured_are_written(folder, whole):
    files, _ = whole
    names = {file.name for file in files}
    assert all(file.parent == folder / "report" and file.stat().st_size for file in files)
    assert {"index.html", *(f"{name}.csv" for name in TABLES)} <= names
    assert names == {file.name for file in (folder / "report").iterdir()}
    drawn = {name for name in FIGURES if f"{name}.png" in names}
    assert drawn
    for name in drawn:
        assert {f"{name}.svg", f"{name}.csv"} <= names
        assert (folder / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (folder / "report" / f"{name}.svg").read_bytes()
        assert list(csv.DictReader((folder / "report" / f"{name}.csv").read_text(encoding="utf-8").splitlines()))
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert text.count("<img") == len(drawn)
    assert "made up" in text


def test_progress_counts_every_step_and_names_it(whole):
    _, said = whole
    names = [*FIGURES, *TABLES, "page", ""]
    assert said == [(place, len(names) - 1, name) for place, name in enumerate(names)]


def test_tables_in_files_are_those_of_the_results(folder, whole):
    results = read_results(folder)
    for name in ("scores", "truth"):
        assert (folder / "report" / f"{name}.csv").read_bytes() == csv_bytes(TABLES[name].content(results))


def test_names_alone_are_written_and_the_same_bytes_again(folder, whole, tmp_path):
    drawn = next(name for name in FIGURES if (folder / "report" / f"{name}.png").exists())
    files = report(folder, tmp_path / "some", only=[drawn, "scores"])
    assert [file.name for file in files] == [f"{drawn}.png", f"{drawn}.svg", f"{drawn}.csv", "scores.csv"]
    assert sorted(files) == sorted((tmp_path / "some").iterdir())
    for file in files:
        assert file.read_bytes() == (folder / "report" / file.name).read_bytes()


def test_what_is_written_replaces_what_was_there_and_leaves_nothing_else(folder, tmp_path):
    (tmp_path / "truth.csv").write_text("old")
    report(folder, tmp_path, only="truth")
    assert [file.name for file in tmp_path.iterdir()] == ["truth.csv"]
    assert (tmp_path / "truth.csv").read_text().startswith("task,shots,expert")


@pytest.mark.parametrize(
    ("only", "sentence"),
    [
        (["table_33"], r"no figure or table 'table_33'. Did you mean 'table_3'"),
        (["scores", "plot"], "'plot'.*Allowed: budget"),
        ([], "only is empty"),
    ],
)
def test_names_that_mean_nothing_are_refused_before_anything_is_written(folder, tmp_path, only, sentence):
    with pytest.raises(ConfigError, match=sentence):
        report(folder, tmp_path / "none", only=only)
    assert not (tmp_path / "none").exists()


def test_a_folder_without_results_and_one_that_cannot_be_written_are_said_so(folder, tmp_path):
    with pytest.raises(ConfigError, match="holds no benchmark"):
        report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: .*Give another folder with --out"):
        report(folder, tmp_path / "file" / "report", only=["truth"])
