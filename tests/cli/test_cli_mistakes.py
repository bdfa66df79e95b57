"""Misspelt commands and options end with status 2 and a message that names the mistake, and the nearest option where there is one."""

import pytest

from ntk_select.cli import main


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("rank --tsk digits", ("--task STR", "--tsk")),
        ("rank --task digits --shcores lfc", ("Unrecognized options: --shcores", "--scores")),
        ("rank --task digits --per-class many", ("--per-class", "'many'")),
        ("rank --task digits tvzoo", ("Unrecognized options: tvzoo", "--help")),
        ("zoo lst", ("Unrecognized options: lst", "Available subcommands: list, show, verify, convert, train")),
        ("zoo", ("Expected one of {list, show, verify, convert, train}",)),
        ("zoo convert a.pth --mean 0.5 0.5 0.5 --std 1 1 1 --sise 3", ("Unrecognized options: --sise", "--size")),
        ("bench run", ("PATH", "--out PATH")),
    ],
)
def test_a_word_that_has_no_place_is_named_with_what_is_allowed(capsys, words, parts):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    out, err = capsys.readouterr()
    shown = " ".join(err.replace("│", " ").split())
    assert (stopped.value.code, out) == (2, "")
    assert [part for part in parts if part not in shown] == []
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "repaired"),
    [
        (["rank", "my images"], "ntk-select rank --task 'my images'"),
        (["finetune", "cifar10-resnet_small", "--task", "digits"], "ntk-select finetune --expert cifar10-resnet_small --task digits"),
        (["zoo", "list", "my_zoo", "--json"], "ntk-select zoo list --zoo my_zoo --json"),
    ],
)
def test_a_first_word_without_its_option_is_shown_with_it(capsys, words, repaired):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    command, word = ("zoo list", words[2]) if words[0] == "zoo" else words[:2]
    assert err == f"ntk-select: {word!r} is given without an option; {command} takes only options. Try: {repaired}\n"


def test_a_misspelt_command_is_one_sentence_and_status_2(capsys):
    assert main(["ran", "--task", "digits"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ntk-select: There is no command 'ran'. Did you mean 'rank'? Allowed: bench, demo, ")
    assert err.rstrip().endswith("Try: ntk-select --help")
