"""Options that several commands share: their types and help, how words become values, and how a command is written out again."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, dataclass_transform

import tyro

from ntk_select.errors import ConfigError, ModelError, first_line, near

if TYPE_CHECKING:
    from ntk_select.experts.expert import Expert
    from ntk_select.training.tracking import Tracker

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value and without a --no- counterpart."""
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print JSON instead of text.")]
Zoo = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help="Experts: builtin, folders of experts, timm:NAME or a pattern of names, hf-hub:ORG/NAME, features:PATH (files of features), "
        "zoos of installed packages, or several of them."
    ),
]
Track = Annotated[
    Literal["mlflow", "wandb"] | None,
    tyro.conf.arg(
        help="Log to MLflow or Weights & Biases, in the experiment of MLFLOW_EXPERIMENT_NAME or the project of WANDB_PROJECT; by default ntk_select."
    ),
]
TrackUri = Annotated[str | None, tyro.conf.arg(help="Server, database or folder of MLflow, such as sqlite:///mlflow.db; by default MLflow's own.")]
Executor = Annotated[str, tyro.conf.arg(help="local (this process), processes (of this machine), or ray (a cluster).")]
Workers = Annotated[int, tyro.conf.arg(help="Number of parallel workers; 0 for as many as fit.")]
Address = Annotated[
    str | None,
    tyro.conf.arg(
        help="Address of a running Ray cluster: auto, HOST:PORT or ray://HOST:10001; by default a cluster is started on this machine.", metavar="STR"
    ),
]
Cpus = Annotated[float, tyro.conf.arg(help="CPUs per Ray worker.")]
Gpus = Annotated[float, tyro.conf.arg(help="GPUs per Ray worker.")]
TASK_KINDS = (
    "digits, fashion_mnist:DIR, folder:photos, zip:photos.zip, npz:photos.npz, csv:photos.csv, hf:uoft-cs/cifar10, "
    "tfds:cifar10@~/tensorflow_datasets, a data set of the benchmark, or the path of a folder or file"
)
"""Examples of all kinds of task, for help texts; those of `ntk_select.data.TASKS`, whose import would load NumPy for every `--help`."""
TaskUri = Annotated[str, tyro.conf.arg(help=f"The task: {TASK_KINDS}.")]
OptionalTaskUri = Annotated[
    str | None, tyro.conf.arg(metavar="STR", help=f"The task: {TASK_KINDS}. Not needed where the zoo is files of features with labels.")
]


@dataclass_transform(frozen_default=True)
def command_class(cls: type) -> type:
    """A frozen dataclass, of whose options the help names only those defaults that say something: neither None, nor an empty value, nor False."""
    for name, kind in cls.__annotations__.items():
        if name in vars(cls):
            cls.__annotations__[name] = Annotated[kind, tyro.conf.arg(help_behavior_hint=_default_shown)]
    return dataclasses.dataclass(frozen=True)(cls)


def _default_shown(default: str) -> str:
    return "" if default in ("None", "False", "", "''") else f"(default: {default})"


def group(name: str, description: str, **commands: type) -> type:
    """A command whose first word chooses one of several commands, by their names."""
    choices = Union[tuple(Annotated[command, tyro.conf.subcommand(word, prefix_name=False)] for word, command in commands.items())]  # noqa: UP007
    return dataclasses.make_dataclass(name, [("command", choices)], namespace={"__doc__": description, "run": lambda self: self.command.run()})


def executor_options(command: Any) -> dict[str, Any]:
    """The options of a command that say where it computes: executor, workers, address, cpus, gpus. Raises ConfigError if one is unknown or out of range."""
    from ntk_select.executors import checked_options, executor_of

    executor_of(command.executor)
    return {"executor": command.executor, **checked_options(command.workers, command.address, command.cpus, command.gpus)}


def split(values: Sequence[str]) -> list[str]:
    """The parts of `--scores lfc lgc` and of `--scores lfc,lgc` alike; a path with a comma that exists is not split."""
    return [part for value in values for part in ([value] if os.path.exists(value) else value.split(",")) if part]


def numbers(option: str, texts: Sequence[str], kind: type) -> list:
    """The distinct numbers of an option. Raises ConfigError for a text that is not a number, or where there is none."""
    found = []
    for text in split(texts):
        try:
            found.append(kind(text))
        except ValueError as error:
            raise ConfigError(f"{option} {text!r} is not a {'whole ' if kind is int else ''}number.") from error
    if not found:
        raise ConfigError(f"{option} needs at least one number.")
    return list(dict.fromkeys(found))


def changed(command: Any) -> dict[str, list[str]]:
    """The options of a command that differ from their defaults: {"--per-class": ["5"]}; a flag has no words."""
    found = {}
    for field in dataclasses.fields(command):
        value, name = getattr(command, field.name), field.name.replace("_", "-")
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if isinstance(value, tuple) and (words := split(value)) != (list(default) if isinstance(default, tuple) else default):
            found[f"--{name}"] = words
        elif isinstance(value, bool) and value != default:
            found[f"--{name}" if value else f"--no-{name}"] = []
        elif not isinstance(value, tuple | bool) and value != default:
            found[f"--{name}"] = [str(value)]
    return found


def typed(*words: str) -> str:
    """A command as one types it, quoted for the shell."""
    return shlex.join(("ntk-select", *words))


def repeated(command: Any, *more: str, without: Sequence[str] = ("--out", "--json")) -> str:
    """The same command as one types it, with some options added and others left out."""
    options = [word for option, words in changed(command).items() if option not in without for word in (option, *words)]
    return typed(type(command).__name__.lower(), *options, *more)


def zoo_option(zoo: Sequence[str]) -> list[str]:
    """The words that name a zoo; none for the built-in one."""
    return [] if split(zoo) == ["builtin"] else ["--zoo", *split(zoo)]


def no_such_expert(name: str, experts: Iterable[str], zoo: Sequence[str], option: str = "") -> ModelError:
    """The error for a name that is not in the zoo; `option` is where it was given."""
    place = f"{option}: there" if option else "There"
    return ModelError(f"{place} is no expert {name!r} in the zoo.{near(name, experts)} Try: {typed('zoo', 'list', *zoo_option(zoo))}")


def named_expert(zoo: Sequence[str], name: str) -> Callable[[], Expert]:
    """What loads the expert `name` of the zoo, or of a zoo of its own as timm:NAME. Raises ModelError if there is none."""
    from ntk_select.models import open_zoo
    from ntk_select.models.zoo import is_zoo_uri

    experts = open_zoo(split(zoo))
    if name not in experts and is_zoo_uri(name):
        experts = open_zoo([name])
    if name not in experts:
        raise no_such_expert(name, experts, zoo)
    return experts[name]


def load_expert(zoo: Sequence[str], name: str) -> Expert:
    """The `named_expert`, which must take images. Raises ModelError if there is none, or it has no network or no preprocess."""
    from ntk_select.experts.feature_expert import with_network

    expert = with_network(named_expert(zoo, name)())
    if expert.preprocess is None:
        raise ModelError(f"Expert {expert.name!r} has no preprocess, so it cannot take images. Try: Expert(..., preprocess=Preprocess(size=224))")
    return expert


def tracker_of(track: str | None, uri: str | None) -> Tracker | None:
    """The tracker of --track and --track-uri, for all runs of a command. Raises ConfigError or MissingDependencyError if it cannot be used."""
    from ntk_select.training.tracking import guarded, mlflow_tracker

    if uri is not None and track != "mlflow":
        raise ConfigError(f"--track-uri {uri!r} is for MLflow. Try: --track mlflow, or the variable WANDB_BASE_URL for Weights & Biases")
    return guarded(track if uri is None else mlflow_tracker(uri))


def check_writable(folder: Path, option: str = "--out") -> None:
    """Raises ConfigError before the computation if a folder could not be written after it. Creates nothing that stays."""
    try:
        place = Path(os.path.abspath(folder.expanduser()))
        while True:  # the folder, or the nearest above it that exists
            try:
                place.lstat()
                break
            except FileNotFoundError:
                place = place.parent
        if not place.is_dir():
            raise ConfigError(f"{option} {str(folder)!r} cannot be written: {place.name} is not a folder. Try: another folder")
        probe = place / f".ntk-select-write-test-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home for ~
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"{option} {str(folder)!r} cannot be written: {reason}. Try: another folder") from error
