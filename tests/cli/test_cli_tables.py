"""A table fits its terminal without a number that is broken or names that cannot be told apart."""

from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from ntk_select.cli import main
from ntk_select.cli.console import print_table
from ntk_select.cli.finetune import print_results

COLUMNS = ["rank", "expert", "source", "lfc", "lfc 95 %", "seconds"]
ROWS = [["1", "fashion_mnist-densenet_small", "fashion_mnist", "0.1234", "[-0.012, 0.200]", "12.34"], ["10", "ash", "?", "-0.5", "", "0.1"]]
OPTIONS = {"right": ("rank", "lfc", "lfc 95 %", "seconds"), "optional": ("source", "seconds", "lfc 95 %")}
NUMBERS = ["0.1234", "[-0.012, 0.200]", "12.34"]


@pytest.fixture
def shown(monkeypatch, capsys):
    def show(width, columns=COLUMNS, rows=ROWS, **options):
        monkeypatch.delenv("COLUMNS", raising=False)
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        print_table("A title", columns, rows, **(options or OPTIONS))
        return capsys.readouterr().out

    return show


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith(("┏", "┃", "┡", "│", "└"))]


def test_piped_output_keeps_all_columns(shown):
    text = shown(None)
    assert all(column in text for column in COLUMNS)
    assert "No room" not in text


@pytest.mark.parametrize(("width", "gone"), [(92, []), (91, ["source"]), (76, ["source"]), (75, ["source", "seconds"]), (50, OPTIONS["optional"])])
def test_the_least_important_columns_go_first_and_are_named(shown, width, gone):
    text = shown(width)
    assert max(map(cell_len, table_lines(text))) <= width
    head = text.partition("┡")[0]
    assert [column for column in ("source", "seconds", "95 %") if column not in head] == [column.removeprefix("lfc ") for column in gone]
    told = [line for line in text.splitlines() if line.startswith("No room for: ")]
    assert len(told) == bool(gone)
    if gone:
        named = told[0].partition(".")[0].removeprefix("No room for: ").split(", ")
        assert sorted(named) == sorted(gone)
        assert "--json" in told[0]


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 100])
def test_numbers_are_never_broken(shown, width):
    text = shown(width, right=OPTIONS["right"])
    assert all(number in text for number in NUMBERS)


NAMES = ["fashion_mnist-densenet_small-from-cifar10", "fashion_mnist-resnet_small-from-cifar10", "fashion_mnist-resnet_small", "ash"]


@pytest.mark.parametrize("width", [40, 50, 60])
def test_long_names_are_shortened_in_the_middle_and_stay_different(shown, width):
    text = shown(width, ["expert", "lfc"], [[name, "0.204 ±0.022"] for name in NAMES], right=("lfc",), names=("expert",))
    cells = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert len(set(cells)) == len(NAMES)
    assert max(map(cell_len, table_lines(text))) <= max(width, 44)
    for cell, name in zip(cells, NAMES, strict=True):
        start, _, end = cell.partition("…")
        assert name.startswith(start)
        assert name.endswith(end)
    assert text.count("0.204 ±0.022") == 4


def test_what_all_names_begin_with_is_told_once(shown):
    names = [f"hf-hub:timm/resnet{depth}.a1_in1k" for depth in (18, 34, 50)]
    text = shown(36, ["expert", "lfc"], [[name, "0.2"] for name in names], right=("lfc",), names=("expert",))
    assert "Every expert begins with hf-hub:timm/" in text
    assert "│ resnet18.a1_in1k " in text
    assert "begins with" not in shown(100, ["expert", "lfc"], [[name, "0.2"] for name in names], right=("lfc",), names=("expert",))


def test_a_single_long_name_is_shortened_and_none_are_no_error(shown):
    options = {"right": ("lfc",), "names": ("expert",)}
    assert "…" in shown(36, ["expert", "lfc"], [["x" * 60, "0.2"]], **options)
    assert "expert" in shown(10, ["expert", "lfc"], [], **options)


def test_a_sentence_goes_over_several_lines_before_a_column_goes(shown):
    rows = [["digits", "many handwritten digits that somebody wrote by hand", "10,000"]]
    text = shown(50, ["kind", "what it is", "images"], rows, right=("images",), optional=("images",), sentences=("what it is",))
    assert max(map(cell_len, table_lines(text))) <= 50
    assert "10,000" in text
    assert len(table_lines(text)) > 5


def test_an_empty_table_and_wide_letters_are_no_trouble(shown):
    assert "expert" in shown(40, rows=[])
    text = shown(30, ["expert", "classes"], [["漢字漢字漢字漢字", "10"]], right=("classes",))
    assert max(map(cell_len, table_lines(text))) <= 30


@pytest.mark.parametrize("words", ["zoo list", "tasks list", "tasks list --all", "scores list", "scores show lgc", "zoo show cifar10-resnet_small"])
def test_lists_fit_eighty_columns(monkeypatch, capsys, words):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words.split()) == 0
    lines = table_lines(capsys.readouterr().out)
    assert len(lines) > 5
    assert max(map(cell_len, lines)) <= 80


def test_the_table_of_fine_tunings_says_what_its_short_headings_mean(monkeypatch, capsys):
    trial = SimpleNamespace(learning_rate=0.01, accuracy=0.6, diverged=None)
    numbers = {"seed": 0, "accuracy": 0.9, "balanced_accuracy": 0.8, "learning_rate": 0.01, "images_per_second": 900.0, "cost": 3.4}
    numbers |= {"accuracy_interval": (0.88, 0.92), "notes": (), "extended": (), "edge": None, "test_split": None}
    images = {"shots": 5, "train_images": 50, "test_images": 797, "seconds": {"train": 3.0}}
    result = SimpleNamespace(expert="ash", task="digits", trials=[trial] * 3, choose="validation", **numbers, **images)
    monkeypatch.setenv("COLUMNS", "80")
    print_results([result])
    out = capsys.readouterr().out
    assert max(map(cell_len, table_lines(out))) <= 80
    assert "88.0 to 92.0" in out
    assert "on the fifth of the 50 images that was held out" in out
    assert "Cost: work, in units of one fine-tuning of the reference expert" in out
