"""Entry point of the command line: chooses the command, and turns errors into sentences and exit codes."""

import dataclasses
import errno
import importlib
import io
import os
import shlex
import sys
from contextlib import suppress
from typing import Annotated, Union

from ntk_select import __version__
from ntk_select.errors import ConfigError, NtkSelectError, did_you_mean, escaped

FAILED, INVALID, STOPPED = 1, 2, 130
"""Exit codes next to 0: the command finished, with failures; invalid input or an unusable file; Ctrl-C. Commands return 0 or `FAILED` themselves."""
USER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE)
"""OS errors that are reported in a sentence, without a traceback: the disk or the system is the cause, not this package."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns its exit code: 0, `FAILED`, `INVALID` or `STOPPED`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding cannot represent
    try:
        status = _run(arguments)
        sys.stdout.flush()  # an error in printing is handled here, not by the interpreter at exit
        return status
    except NtkSelectError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        print("ntk-select: stopped.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        _discard_output()
        return 0
    except ModuleNotFoundError as error:
        if error.name not in ("ntk_select.models", "ntk_select.data"):  # mapped into the package by its installation
            raise
        return _refused("ntk_select is on the path but not installed. Try: pip install -e .")
    except OSError as error:
        if error.errno not in USER_ERRORS:
            raise
        place = error.filename or ("something" if _can_print() else "the output")
        return _refused(f"{place} cannot be written or read: {error.strerror}.")
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home directory"):  # raised by pathlib for ~ and ~NAME
            return _refused(f"A path begins with ~, and the home directory is unknown ({error}). Try: the full path")
        if not _is_out_of_memory(error):
            raise
        return _refused("Out of memory. Try: a smaller --per-class or --batch-size, or end other programs.")


def _refused(sentence: str) -> int:
    print(escaped(f"ntk-select: {sentence}"), file=sys.stderr)
    return INVALID


def _can_print() -> bool:
    """Whether standard output accepts another line. If not, the rest of the output is discarded."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        _discard_output()
        return False
    return True


def _discard_output() -> None:
    """Redirects standard output to the null device, or the interpreter would report the unwritten rest at exit."""
    with suppress(OSError, ValueError):  # ValueError: an output that is not a file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_out_of_memory(error: Exception) -> bool:
    from ntk_select._runtime.memory import is_out_of_memory  # here, since it imports JAX

    return is_out_of_memory(error)


COMMANDS = {
    "demo": ("Demo", "Rank the embedded experts for handwritten digits and fine-tune some of them, offline."),
    "rank": ("Rank", "Rank the experts of a zoo for a task, best first, without fine-tuning any."),
    "kernel": ("Kernel", "Compute the kernel of one expert on a task, exact or sketched, summarise it, and save it with its provenance."),
    "dynamics": ("Dynamics", "Predict the fine-tuning of one expert from its kernel, fine-tune it, and compare the curves."),
    "finetune": ("Finetune", "Fine-tune experts on a task, by the paper's recipe, and test them."),
    "bench": ("Bench", "Score and fine-tune every expert on every task: run, plan, status, report, pack."),
    "tasks": ("Tasks", "List the kinds of task, show one, or prepare a data set of the benchmark."),
    "scores": ("Scores", "List the scores, or show what one measures and needs."),
    "zoo": ("Zoo", "List, show and verify experts; convert checkpoints; train a zoo from a config."),
}
"""Name of each command -> its class, in the file of the same name, and its line in `ntk-select --help`."""
OLD_OPTIONS = {("rank", "--draws"): "--resamples"}
"""Command and former name of an option, which still works -> its present name."""
FIRST_OPTION = {"rank": "--task", "finetune": "--expert", "kernel": "--expert", "dynamics": "--expert", "zoo list": "--zoo", "zoo verify": "--zoo"}
"""Command that takes only options -> the option that a first word without one is probably for."""


def _run(arguments: list[str] | None) -> int:
    import tyro  # here: Ctrl-C during the import is handled as well

    words = sys.argv[1:] if arguments is None else list(arguments)
    first = words[0] if words else ""
    words = [_current(first, word) for word in words]
    if first == "--version":
        print(f"ntk-select {__version__}")
        return 0
    if first and first not in COMMANDS and not first.startswith("-"):
        raise ConfigError(f"There is no command {first!r}.{did_you_mean(first, COMMANDS)} Try: ntk-select --help")
    for command, option in FIRST_OPTION.items():
        before, rest = words[: len(command.split())], words[len(command.split()) :]
        if before == command.split() and rest and not rest[0].startswith("-"):
            repaired = shlex.join(["ntk-select", *before, option, *rest])
            raise ConfigError(f"{rest[0]!r} is given without an option; {command} takes only options. Try: {repaired}")
    if arguments is None and first in COMMANDS:  # a process of its own
        from ntk_select._runtime.compiled_programs import keep_compiled_programs

        keep_compiled_programs()
    complete = first.startswith("--tyro-")  # completion for a shell
    classes = {name: _command(name) if complete or name == first else _placeholder(name) for name in COMMANDS}
    command = tyro.cli(
        Union[tuple(Annotated[classes[name], tyro.conf.subcommand(name, prefix_name=False)] for name in COMMANDS)],  # noqa: UP007
        prog="ntk-select",
        description="Which pre-trained image models are worth fine-tuning on your task? (Version: ntk-select --version)",
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    return command.run()


def _current(command: str, word: str) -> str:
    """The word, with the present name of an option in place of its old one."""
    option, *value = word.split("=", 1)
    new = OLD_OPTIONS.get((command, option))
    return word if new is None else "=".join([new, *value])


def _command(name: str) -> type:
    """The class of a command. Its file is imported only when it is used."""
    return getattr(importlib.import_module(f"ntk_select.cli.{name}"), COMMANDS[name][0])


def _placeholder(name: str) -> type:
    """A class without options, with the help of a command that is not used."""
    title, description = COMMANDS[name]
    return dataclasses.make_dataclass(title, [], namespace={"__doc__": description})
