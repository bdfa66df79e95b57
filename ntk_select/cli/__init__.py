"""The command line: `ntk-select COMMAND ...`."""

import dataclasses
import errno
import importlib
import io
import os
import sys
from contextlib import suppress
from typing import Annotated, Union

from ntk_select import __version__
from ntk_select.errors import ConfigError, NtkSelectError, did_you_mean, escaped

SURROUNDINGS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE)
"""What is the matter with the disk or the system, and no defect of this package."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, 1 (done, with failures), 2 (the input was refused), 130 (Ctrl-C)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal or UTF-8 does not have ends nothing
    try:
        status = _run(arguments)
        sys.stdout.flush()  # what cannot be printed is said here, and not by the interpreter as it ends
        return status
    except NtkSelectError as error:
        print(escaped(f"ntk-select: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ntk-select: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _print_no_more()
        return 0
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        place = error.filename or ("something" if _can_print() else "the output")
        print(escaped(f"ntk-select: {place} cannot be written or read: {error.strerror}."), file=sys.stderr)
        return 2
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home directory"):  # of pathlib, for ~ and ~NAME
            print(f"ntk-select: a path begins with ~, and whose home that is cannot be found. Type the path in full. ({error})", file=sys.stderr)
            return 2
        if not _is_out_of_memory(error):
            raise
        print("ntk-select: Memory ran out. End other programs, or do less at a time: fewer --per-class, a smaller --batch-size.", file=sys.stderr)
        return 2


def _can_print() -> bool:
    """Whether standard output takes one line more. If not, it is given up."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        _print_no_more()
        return False
    return True


def _print_no_more() -> None:
    """What waits to be printed has no place to go; the interpreter would complain of it as it ends."""
    with suppress(OSError, ValueError):  # ValueError: an output that is no file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_out_of_memory(error: Exception) -> bool:
    from ntk_select._runtime.out_of_memory import is_out_of_memory  # here, for it imports JAX

    return is_out_of_memory(error)


COMMANDS = {
    "demo": ("Demo", "Rank the embedded experts for handwritten digits and fine-tune some of them, offline."),
    "rank": ("Rank", "Rank the experts of a zoo for a task, best first, without fine-tuning any."),
    "kernel": ("Kernel", "Compute the kernel of one expert on a task, exact or sketched, say what it says, and save it with its provenance."),
    "dynamics": ("Dynamics", "Predict the fine-tuning of one expert from its kernel, fine-tune it, and compare the curves."),
    "finetune": ("Finetune", "Fine-tune experts on a task, by the paper's recipe, and test them."),
    "bench": ("Bench", "Every expert on every task, scored and fine-tuned: run, plan, status, report, pack."),
    "tasks": ("Tasks", "List the kinds of task, show one, or prepare a set of the benchmark."),
    "scores": ("Scores", "Which scores are there, what does each ask, and what does it need?"),
    "zoo": ("Zoo", "List, show and verify experts; convert checkpoints; train a zoo from a config."),
}
"""The class of each command, in the file of the command's name, and what `ntk-select --help` says of it."""


def _run(arguments: list[str] | None) -> int:
    # Imported here, so that Ctrl-C while they load is met as well.
    import tyro

    from ntk_select.cli.mistakes import hints

    words = sys.argv[1:] if arguments is None else arguments
    first = words[0] if words else ""
    if first == "--version":
        print(f"ntk-select {__version__}")
        return 0
    if first and first not in COMMANDS and not first.startswith("-"):
        raise ConfigError(f"There is no command {first!r}.{did_you_mean(first, COMMANDS)} Type: ntk-select --help")
    complete = first.startswith("--tyro-")  # completion for a shell
    classes = {name: _command(name) if complete or name == first else _described(name) for name in COMMANDS}
    try:
        command = tyro.cli(
            Union[tuple(Annotated[classes[name], tyro.conf.subcommand(name, prefix_name=False)] for name in COMMANDS)],  # noqa: UP007
            prog="ntk-select",
            description="Which pre-trained image models are worth fine-tuning on your task? (The version: ntk-select --version)",
            args=words,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    except SystemExit as stopped:
        if stopped.code not in (None, 0) and first in COMMANDS:
            for hint in hints(classes[first], words[1:]):
                print(escaped(hint), file=sys.stderr)
        raise
    return command.run()


def _command(name: str) -> type:
    """The class of a command. Its file is imported only when it is wanted: some take seconds."""
    return getattr(importlib.import_module(f"ntk_select.cli.{name}"), COMMANDS[name][0])


def _described(name: str) -> type:
    """What stands for a command that is not wanted: it can be named and nothing else."""
    title, says = COMMANDS[name]
    return dataclasses.make_dataclass(title, [], namespace={"__doc__": says})
