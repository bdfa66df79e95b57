"""Is it said what was meant, where the words make no command?"""

import pytest

from ntk_select.cli import main


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("rank my_images", "Did you mean --task my_images?"),
        ("rank --scores=lfc my_images", "Did you mean --task my_images?"),
        ("rank --json my_images", "Did you mean --task my_images?"),
        ("rank --task digits tvzoo", "Did you mean --zoo tvzoo?"),
        ("rank --tsk digits", "Did you mean --task instead of --tsk?"),
        ("rank --task digits --shcores lfc", "Did you mean --scores instead of --shcores?"),
        ("rank --task digits --per_clas 3", "Did you mean --per-class instead of --per-clas?"),
        ("zoo list tvzoo", "Did you mean --zoo tvzoo?"),
        ("zoo show ash tvzoo", "Did you mean --zoo tvzoo?"),
        ("zoo lst", "Did you mean list?"),
        ("zoo qqq", "Choose one of: list, show, verify, convert, train."),
        ("dynamics ash", "Did you mean --expert ash or --task ash?"),
        ("dynamics --expert ash --task digits --no-linear tvzoo", "Did you mean --zoo tvzoo?"),
        ("zoo convert a.pth --mean 0.5 0.5 0.5 --std 1 1 1 --sise 3", "Did you mean --size instead of --sise?"),
    ],
)
def test_what_was_meant_is_the_last_line(capsys, words, hint):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert err.splitlines()[-1] == hint


@pytest.mark.parametrize(
    "words",
    [
        "rank --task digits --per-class many",
        "scores show lfc lgc",
        "rank --task a --per-class 5 extra more",
        "dynamics ash digits tvzoo",
        "demo --qqqqq",
    ],
)
def test_nothing_is_guessed_where_nothing_is_near(capsys, words):
    with pytest.raises(SystemExit):
        main(words.split())
    assert "Did you mean" not in capsys.readouterr().err


def test_a_misspelt_command_is_one_sentence_and_status_2(capsys):
    assert main(["ran", "--task", "digits"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ntk-select: There is no command 'ran'. Did you mean 'rank'? Allowed: bench, demo, ")
