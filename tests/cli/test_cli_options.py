"""Options that commands share: words become values, and a command becomes words again."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tyro

from ntk_select.cli.console import duration, percent, saving
from ntk_select.cli.dynamics import Dynamics
from ntk_select.cli.finetune import Finetune
from ntk_select.cli.kernel import Kernel
from ntk_select.cli.main import OLD_OPTIONS, _current
from ntk_select.cli.options import TASK_KINDS, Flag, changed, command_class, group, numbers, repeated, split, typed
from ntk_select.cli.rank import Rank
from ntk_select.data.uri import TASKS
from ntk_select.errors import ConfigError
from ntk_select.experts.new_head import HEADS
from ntk_select.kernels.engine.arguments import OUTPUTS, PRECISIONS
from ntk_select.linearized.losses import LOSSES
from ntk_select.linearized.network import KERNEL_METHODS
from ntk_select.linearized.optimizers import OPTIMIZERS
from ntk_select.training.augment import AUGMENTATIONS
from ntk_select.training.finetuning.recipe import BATCH_NORMS, LEARNING_RATES
from ntk_select.training.finetuning.search import SEARCHES
from ntk_select.training.loop import PRECISIONS as TRAINING_PRECISIONS


@dataclass(frozen=True)
class Given:
    """A command with an option of each type."""

    name: str
    zoo: tuple[str, ...] = ("builtin",)
    rates: tuple[str, ...] = ()
    per_class: int = 25
    lr: float | None = None
    linear: bool = True
    plan: bool = False
    cache: Path | None = field(default_factory=lambda: Path("usual"))
    out: Path | None = None
    json: bool = False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"zoo": ("builtin",), "per_class": 25, "cache": Path("usual")}, []),
        ({"zoo": ("a zoo,b",), "rates": ("1", "2,3")}, ["--zoo", "a zoo", "b", "--rates", "1", "2", "3"]),
        ({"per_class": 3, "lr": 0.5}, ["--per-class", "3", "--lr", "0.5"]),
        ({"linear": False, "plan": True}, ["--no-linear", "--plan"]),
        ({"cache": None, "out": Path("runs"), "json": True}, ["--cache", "None", "--out", "runs", "--json"]),
    ],
)
def test_changed_options_are_those_that_differ_from_their_defaults(options, words):
    found = changed(Given("it", **options))
    assert [word for option, values in found.items() for word in (option, *values)] == ["--name", "it", *words]


def test_a_repeated_command_leaves_out_what_it_is_told_and_is_quoted():
    command = Given("an expert", per_class=3, plan=True, out=Path("x"), json=True)
    assert repeated(command, "--out", "y z") == "ntk-select given --name 'an expert' --per-class 3 --plan --out 'y z'"
    assert repeated(command, without=("--plan", "--per-class")) == "ntk-select given --name 'an expert' --out x --json"
    assert typed("zoo", "list") == "ntk-select zoo list"


def test_lists_are_separated_by_commas_or_blanks_but_existing_paths_stay_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b").mkdir()
    assert split(["a,b", "c,d", "e"]) == ["a,b", "c", "d", "e"]
    assert numbers("--lr", ["1,0.5", "1"], float) == [1.0, 0.5]
    with pytest.raises(ConfigError, match="--lr 'x' is not a number"):
        numbers("--lr", ["x"], float)
    with pytest.raises(ConfigError, match=r"--seeds '1.5' is not a whole number"):
        numbers("--seeds", ["1.5"], int)
    with pytest.raises(ConfigError, match="--lr needs at least one number"):
        numbers("--lr", [","], float)


def test_a_group_runs_the_command_that_was_chosen():
    @dataclass(frozen=True)
    class First:
        def run(self):
            return 7

    found = group("Both", "Two commands.", first=First, second=Given)
    assert (found.__name__, found.__doc__, found(First()).run()) == ("Both", "Two commands.", 7)


def test_help_names_only_defaults_that_say_something(capsys):
    @command_class
    class Shown:
        """A command."""

        size: int = 7
        """Size."""
        only: tuple[str, ...] = ()
        """All by default."""
        name: str = ""
        """Name."""
        out: Path | None = None
        """Folder."""
        plan: Flag = False
        """Plan."""
        linear: bool = True
        """Linear."""

    assert Shown(size=3) == tyro.cli(Shown, args=["--size", "3"])
    with pytest.raises(AttributeError):
        Shown().size = 8
    with pytest.raises(SystemExit):
        tyro.cli(Shown, args=["--help"])
    shown = capsys.readouterr().out
    assert [part.partition(")")[0] for part in shown.split("(default: ")[1:]] == ["7", "True"]


def test_help_of_tasks_names_the_kinds_that_exist():
    assert TASK_KINDS.split(", ")[:-2] == [kind.example for kind in TASKS.values() if kind.known is None]


def test_an_old_option_still_works_and_is_not_shown():
    assert [_current("rank", word) for word in ("--draws", "--draws=3", "--draws-x", "20")] == ["--resamples", "--resamples=3", "--draws-x", "20"]
    assert _current("kernel", "--draws") == "--draws"
    assert set(OLD_OPTIONS.values()) <= {f"--{name.replace('_', '-')}" for name in get_type_hints(Rank)}


def test_saving_names_the_files_or_the_reason_and_never_raises_for_the_disk(capsys):
    def refused():
        raise ConfigError("x cannot be written: the disk is full.")

    assert saving("The ranking", lambda: [Path("a"), Path("b")]) == [Path("a"), Path("b")]
    assert saving("The ranking", refused) is None
    assert capsys.readouterr().err.splitlines() == ["wrote a", "wrote b", "The ranking could not be saved: x cannot be written: the disk is full."]


def test_durations_and_shares_are_as_exact_as_they_are_known():
    assert [duration(seconds) for seconds in (1, 42, 89, 90, 600, 5400)] == ["5 s", "40 s", "90 s", "2 minutes", "10 minutes", "1.5 hours"]
    assert (percent(0.12345), percent(0.12345, 2), percent(None)) == ("12.3 %", "12.35 %", "?")


def test_the_choices_of_the_options_are_those_of_the_functions():
    def choices(command, option):
        return set(get_args(get_type_hints(command)[option]))

    assert choices(Dynamics, "optimizer") == set(OPTIMIZERS) - {"flow"}
    assert choices(Dynamics, "loss") == set(LOSSES)
    assert choices(Dynamics, "head") == set(HEADS)
    assert choices(Dynamics, "method") == set(KERNEL_METHODS)
    assert choices(Kernel, "outputs") == set(OUTPUTS)
    assert choices(Kernel, "precision") == set(PRECISIONS)
    assert choices(Finetune, "search") == set(SEARCHES)
    for command in (Finetune, Rank):  # the help cannot import the recipe, which imports JAX
        assert "by default {:g}, {:g} and {:g}".format(*LEARNING_RATES) in inspect.getsource(command)
    assert choices(Finetune, "augment") == {"auto", *AUGMENTATIONS}
    assert choices(Finetune, "batch_norm") == choices(Rank, "batch_norm") == set(BATCH_NORMS)
    assert choices(Finetune, "precision") == set(TRAINING_PRECISIONS)
