"""The page is complete, self-contained HTML, whatever names it shows, and a folder of results becomes the files of a report."""

import ast
import csv
import importlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ntk_select.benchmark import report as report_module
from ntk_select.benchmark import run
from ntk_select.benchmark.report.figures import FIGURES
from ntk_select.benchmark.report.page import FILTER_FROM, Drawn, page
from ntk_select.benchmark.report.results import read_results
from ntk_select.benchmark.report.tables import TABLES, content
from ntk_select.benchmark.report.write import report
from ntk_select.errors import ConfigError, MissingDependencyError

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
EVIL = "<script>alert('&')</script>"
SHOWN = (
    Drawn("figure_1", 'A zoo, "best"', ("Caption <b>one</b>.",), svg=b"<svg/>", png=b"longer than that"),
    Drawn("figure_8", "Kernels", why_not="No kernel was measured yet."),
)


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text outside of style and script."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.texts, self._within = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if self._within not in ("style", "script"):
            self.texts.append(data)


def written(results, figures=SHOWN, tables=TABLES):
    return page(results, figures, {name: content(results, name) for name in tables}, WHEN)


@pytest.fixture(scope="module")
def results(whole):
    return whole


@pytest.fixture(scope="module")
def text(results):
    return written(results)


def test_the_same_results_give_the_same_page(made, results):
    def of_birds(some):
        return written(made.without(some, lambda row: row["task"] == "birds" and row["images_per_class"] == 5), tables=["experts", "truth"])

    assert of_birds(results) == of_birds(made.with_costs(made.world()))
    assert of_birds(results) != of_birds(made.world(seed=1))


def test_the_page_requests_nothing_from_a_network_or_another_file(text):
    elements = Elements(text)
    policy = next(attributes["content"] for tag, attributes in elements.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for tag, attributes in elements.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name) is None or attributes[name].startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://", text)


def test_every_id_is_there_once_and_every_link_leads_to_one(text):
    tags = Elements(text).tags
    ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert set(ids.values()) == {1}
    assert {attributes["href"][1:] for tag, attributes in tags if tag == "a"} <= set(ids)
    assert set(TABLES) <= set(ids)


def test_every_row_of_every_table_is_there_and_numbers_can_be_sorted(results, text):
    tags = Elements(text).tags
    contents = [content(results, name) for name in TABLES]
    assert sum(tag == "tr" for tag, _ in tags) == sum(len(content.rows) + bool(content.rows) for content in contents)
    for _, attributes in tags:
        if attributes.get("class") == "number" and "data-value" in attributes:
            float(attributes["data-value"])
    assert sum("data-filter" in attributes for _, attributes in tags) == sum(len(content.rows) > FILTER_FROM for content in contents)


def test_all_images_are_sorted_after_any_number(made):
    some = made.without(made.world(made.CONFIG.replace("shots = [5, 20]", 'shots = ["full", 5]')), lambda row: row["task"] == "birds")
    assert '<td class="number" data-value="Infinity">all</td>' in written(some, tables=["truth"])


def test_a_figure_is_shown_with_its_caption_or_with_the_reason_why_it_is_missing(text):
    elements = Elements(text)
    (image,) = [attributes for tag, attributes in elements.tags if tag == "img"]
    assert image["src"] == "data:image/svg+xml;base64,PHN2Zy8+"
    assert image["alt"] == 'Figure 1. A zoo, "best"'  # the caption follows, and is not read twice
    assert "Caption <b>one</b>." in elements.texts
    assert "No kernel was measured yet." in elements.texts


def test_what_several_captions_share_is_shown_once_above_them(results):
    figures = [
        Drawn("figure_4", "a", ("Own of four.", "Bars are intervals."), b"<svg/>"),
        Drawn("figure_5", "b", ("Own of five.", "Not shared."), b"<svg/>"),
        Drawn("figure_6", "c", ("Own of six.", "Bars are intervals."), b"<svg/>"),
        Drawn("figure_7", "d", ("Bars are intervals.",), why_not="Nothing was measured."),
    ]
    texts = Elements(written(results, figures, ["experts"])).texts
    assert "".join(texts).count("Bars are intervals.") == 1
    assert "Figures 4, 6: Bars are intervals." in texts
    assert {"Own of four.", "Own of five. Not shared.", "Own of six."} <= set(texts)


def test_a_figure_is_as_wide_as_the_page_and_scrolls_in_its_frame_when_it_is_wanted_larger(text):
    """No rule gives pictures a width of their own in a narrow window; what is wider than its frame scrolls."""
    style = text[text.index("<style>") : text.index("</style>")]
    rules = re.findall(r"([^{}]*img[^{}]*)\{([^}]*)\}", style)
    assert rules
    assert not any(re.search(r"(?<!-)width:\s*[\d.]+(rem|px|em)", rule) for _, rule in rules)
    assert any("max-width: 100%" in rule and "height: auto" in rule for _, rule in rules)
    assert re.search(r"\.frame \{[^}]*overflow: auto", style)
    tags = Elements(text).tags
    (frame,) = [attributes for tag, attributes in tags if attributes.get("class") == "frame"]
    assert frame["tabindex"] == "0"
    (button,) = [attributes for tag, attributes in tags if attributes.get("class") == "zoom"]
    assert button["aria-pressed"] == "false"


def test_the_smaller_of_both_pictures_is_taken():
    assert Drawn("figure_1", "", svg=b"12345", png=b"1234").uri.startswith("data:image/png;base64,")
    assert Drawn("figure_1", "", svg=b"123", png=b"1234").uri.startswith("data:image/svg+xml;base64,")
    assert Drawn("figure_1", "").uri is None


def test_names_are_text_and_never_markup(made, results):
    results = made.without(results, lambda row: row["task"] == "birds")
    experts = {**results.experts, EVIL: replace(results.experts["photos-net_b"], name=EVIL)}
    failure = {"kind": "truth", "expert": EVIL, "task": "birds", "images": 5, "seed": 0, "error": EVIL}
    skipped = [{"expert": EVIL, "task": "birds", "reason": EVIL}]
    results = replace(results, name=EVIL, config_text=EVIL, experts=experts, failures={results.cells[0].key: failure}, skipped=skipped)
    elements = Elements(written(results, [Drawn("figure_1", EVIL, (EVIL,), why_not=EVIL)], ["experts", "failures"]))
    assert sum(tag == "script" for tag, _ in elements.tags) == 1
    assert sum(EVIL in text for text in elements.texts) >= 6


def test_it_says_what_it_is_of_and_when_and_what_is_missing(made, results):
    some = made.without(results, lambda row: row["seed"] == 0)
    texts = " ".join(Elements(written(some, tables=["scores"])).texts)
    for part in (
        f"{len(made.EXPERTS)} experts",
        "4 target tasks",
        "5 and 20 images per class",
        "Written 2026-01-02 03:04 UTC",
        "fine-tunings of networks with random weights",
        "Seeds of fine-tuning: 0, 1",
    ):
        assert part in texts
    done, asked = (sum(cell.kind == "score" for cell in some.cells if cell.seed in seeds) for seeds in ((0,), (0, 1)))
    assert f"{done:,} of {asked:,} scorings" in texts


def test_the_page_names_the_versions_of_the_records_next_to_those_of_the_run(whole):
    rows = [{**row, "jax_version": ("0.9", "0.10")[row["seed"]], "device": "cpu"} for row in whole.finetunings]
    text = page(replace(whole, finetunings=rows, versions={"jax": "0.10"}), [], {"experts": content(whole, "experts")}, WHEN)
    assert "Packages of the last run: jax 0.10." in text
    assert "The records name: device cpu, jax 0.10 and 0.9." in text
    assert "measured on cpu." in text


def test_without_jinja_the_error_says_what_to_install(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"page of a report needs the package jinja2.*pip install jinja2"):
        written(results, tables=["experts"])


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"report of a benchmark needs the package pandas.*pip install pandas"):
        importlib.reload(report_module)


def test_modules_of_the_report_import_matplotlib_and_jinja_only_when_they_are_needed():
    for path in Path(report_module.__file__).parent.glob("*.py"):
        imported = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for node in imported for name in (getattr(node, "module", None), *(alias.name for alias in node.names)) if name}
        assert not names & {"jinja2", "matplotlib", "duckdb"}, path.name


@pytest.mark.nightly
def test_importing_the_report_loads_neither_matplotlib_nor_jinja():
    code = "import sys, ntk_select.benchmark.report.write; print(*{'jinja2', 'matplotlib', 'duckdb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.split() == []


CONFIG = "finetune_seeds = [0, 1]\n[synthetic]\nexperts = 6\ntasks = 4\nscores = 2\nsignal = 1.0\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bench")
    (place / "made_up.toml").write_text(CONFIG)
    run(place / "made_up.toml", place / "out")
    return place / "out"


@pytest.fixture(scope="module")
def written_files(folder):
    """All files of a report, and the calls of progress."""
    said = []
    return report(folder, progress=lambda *each: said.append(each)), said


def test_the_page_the_tables_and_every_figure_that_was_measured_are_written(folder, written_files):
    files, _ = written_files
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
    assert "synthetic" in text


def test_progress_counts_every_step_and_names_it(written_files):
    _, said = written_files
    names = [*FIGURES, *TABLES, "page", ""]
    assert said == [(place, len(names) - 1, name) for place, name in enumerate(names)]


def test_tables_in_files_are_those_of_the_results(folder, written_files):
    results = read_results(folder)
    for name in ("scores", "truth"):
        assert (folder / "report" / f"{name}.csv").read_bytes() == content(results, name).csv()


def test_names_alone_are_written_and_the_same_bytes_again(folder, written_files, tmp_path):
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
        (["scores", "plot"], "'plot'.*Allowed: ablations"),
        ([], "only is empty"),
    ],
)
def test_unknown_names_are_rejected_before_anything_is_written(folder, tmp_path, only, sentence):
    with pytest.raises(ConfigError, match=sentence):
        report(folder, tmp_path / "none", only=only)
    assert not (tmp_path / "none").exists()


def test_a_folder_without_results_and_one_that_cannot_be_written_are_errors(folder, tmp_path):
    with pytest.raises(ConfigError, match="contains no benchmark"):
        report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: .*another folder"):
        report(folder, tmp_path / "file" / "report", only=["truth"])
