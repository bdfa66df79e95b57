"""`ntk-select tasks`: lists the kinds of task, shows one, prepares a data set of the benchmark."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from ntk_select.cli.console import print_json, print_line, print_table, print_text, progress_bar
from ntk_select.cli.options import Flag, Json, command_class, group, typed
from ntk_select.errors import ConfigError, near

FACTS = ("split", "note", "licence", "citation", "home", "obtain", "layout", "download", "evidence")


@command_class
class TasksList:
    """List the kinds of task, and with --all the nineteen data sets of the benchmark."""

    all: Flag = False
    """Also list the data sets of the benchmark, each of which is a kind of its own."""
    json: Json = False

    def run(self) -> int:
        """Prints the kinds."""
        from ntk_select.data import task_kinds

        kinds = task_kinds()
        if self.json:
            print_json([{"name": name, "summary": kind.summary, "example": kind.example} | _row(kind) for name, kind in kinds.items()])
            return 0
        plain = {name: kind for name, kind in kinds.items() if kind.known is None}
        print_table(
            "Kinds of task",
            ["kind", "what it is", "example"],
            [[name, kind.summary, kind.example] for name, kind in plain.items()],
            sentences=("what it is",),
        )
        sets = {name: kind for name, kind in kinds.items() if kind.known is not None}
        if not self.all:
            print_line(
                "Or the path of a folder, or of a .zip, .npz, .csv or .tsv file."
                + (f" {len(sets)} data sets of the benchmark have names too: " if sets else "")
                + (typed("tasks", "list", "--all") if sets else "")
            )
            print_line("Next: " + typed("tasks", "show", "digits"))
            return 0
        rows = [
            [
                name,
                row["title"],
                row["role"],
                f"{row['images']:,}",
                f"{row['classes']:,}",
                "yes" if row["prepared"] else "",
            ]
            for name, row in ((name, _row(kind)) for name, kind in sets.items())
        ]
        if rows:
            columns = ["kind", "set", "role", "images", "classes", "prepared"]
            title = "Data sets of the benchmark, each a kind of its own; their authors publish them, tasks show NAME says where"
            print_table(title, columns, rows, right=("images", "classes"), optional=("role",), sentences=("set",))
            print_line("Next: " + typed("tasks", "show", rows[0][0]))
        return 0


@command_class
class TasksShow:
    """Show sizes, classes and warnings of a task."""

    uri: tyro.conf.Positional[str]
    """The task."""
    download: Flag = False
    """Download and prepare a TensorFlow Dataset that is not prepared. Data sets of the hub (hf:NAME) are downloaded without it."""
    json: Json = False

    def run(self) -> int:
        """Prints the task."""
        from ntk_select.data import describe, load_task, task_kinds

        name, _, argument = self.uri.partition(":")
        kind = task_kinds().get(name)
        known = {} if kind is None or kind.known is None else _facts(kind, argument)
        if known and not known["prepared"] and not self.download:
            if self.json:
                print_json({"name": name, "uri": self.uri} | known)
            else:
                _print_facts(known)
                print_line("Next: " + known["next"])
            return 0
        facts = describe(load_task(self.uri, download=self.download)) | (_facts(kind, argument) if known else {})
        if self.json:
            print_json(facts)
            return 0
        if known:
            _print_facts(facts)
        rows = [[entry["name"], str(entry["train"]), "-" if entry["test"] is None else str(entry["test"])] for entry in facts["classes"]]
        size = "{} x {} pixels, {} channel(s)".format(*facts["image_size"], facts["channels"])
        print_table(
            f"{facts['name']}: first image {size}; licence {facts['licence'] or 'unknown'}",
            ["class", "train", "test"],
            rows,
            right=("train", "test"),
        )
        print_text(f"{facts['train']} training images, {facts['test'] or 0} test images, {facts['num_classes']} classes.")
        if facts["held_out"] is not None:
            split = f"finetune and bench hold out a fifth of each class for testing: {facts['held_out']:,} of {facts['train']:,} images"
            print_text(f"No test set: {split if facts['held_out'] else 'and no class has two images, so that none can be held out for testing'}.")
        for warning in facts["warnings"]:
            print_text(f"Note: {warning}")
        print_line("Next: " + typed("rank", "--task", self.uri))
        return 0


@command_class
class TasksPrepare:
    """Prepare a data set of the benchmark from the archive that its authors publish."""

    name: tyro.conf.Positional[str]
    """The data set, as `ntk-select tasks list --all` names it."""
    archive: Path
    """The archive, or the folder with the archives and lists that `ntk-select tasks show NAME` describes."""
    data_dir: Path | None = None
    """Output folder; by default that of TensorFlow Datasets ($TFDS_DATA_DIR or ~/tensorflow_datasets)."""
    any_size: Flag = False
    """Accept an archive whose numbers of images or classes differ from the table."""
    json: Json = False

    def run(self) -> int:
        """Prepares the data set."""
        from ntk_select.data import task_kinds

        kinds = {name: kind for name, kind in task_kinds().items() if kind.prepare}
        if self.name not in kinds:
            raise ConfigError(f"{self.name!r} is not a data set that can be prepared.{near(self.name, kinds)} Try: ntk-select tasks list --all")
        with progress_bar(f"Preparing {self.name}") as progress:
            done = kinds[self.name].prepare(self.archive, data_dir=self.data_dir, any_size=self.any_size, progress=progress)
        uri = self.name if self.data_dir is None else f"{self.name}:{os.path.abspath(self.data_dir.expanduser())}"
        if self.json:
            print_json(asdict(done) | {"folder": str(done.folder), "uri": uri})
            return 0
        print_line(f"{done.train:,} training and {done.test:,} test images of {done.classes:,} classes in {done.folder}")
        if done.left_out:
            print_line(f"Note: {done.left_out:,} files are left out, because they are not images.")
        print_line("Next: " + typed("tasks", "show", uri))
        return 0


def _row(kind: Any) -> dict[str, Any]:
    """What the list shows of a data set of the benchmark; nothing for other kinds."""
    if kind.known is None:
        return {}
    known = kind.known
    facts = {"title": known.title, "role": known.role, "images": known.train + known.test, "classes": known.classes}
    return facts | {"prepared": kind.find("") is not None}


def _facts(kind: Any, argument: str) -> dict[str, Any]:
    """What is known of a data set, its folder if it is prepared, and else the command that prepares it."""
    folder = kind.find(argument)
    return {"known": asdict(kind.known), "prepared": folder and str(folder), "next": None if folder else kind.next_command(argument)}


def _print_facts(facts: dict[str, Any]) -> None:
    known = facts["known"]
    sizes = f"{known['train']:,} training images, {known['test']:,} test images, {known['classes']:,} classes"
    rows = [["in table 4", sizes], *([name, known[name]] for name in FACTS if known[name]), ["prepared", facts["prepared"] or "no"]]
    print_table(f"{known['title']}, a {known['role']} of the benchmark", ["field", "value"], rows, sentences=("value",))


Tasks = group(
    "Tasks", "List the kinds of task, show one, or prepare a data set of the benchmark.", list=TasksList, show=TasksShow, prepare=TasksPrepare
)
