"""`ntk-select tasks`: which tasks can be named, and what is in one?"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.text import Text

from ntk_select.cli.console import Flag, command, out, print_json, print_line, print_table
from ntk_select.plugins import builtin


@dataclass(frozen=True)
class TasksList:
    """List the kinds of task URI."""

    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the kinds."""
        kinds = builtin("task_kinds")()
        if self.json:
            print_json([{"name": name, "summary": kind.summary, "example": kind.example} for name, kind in kinds.items()])
        else:
            print_table("Tasks", ["kind", "what it is", "example"], [[name, kind.summary, kind.example] for name, kind in kinds.items()])
        return 0


@dataclass(frozen=True)
class TasksShow:
    """Show sizes, classes and oddities of a task."""

    uri: tyro.conf.Positional[str]
    """The task."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the task."""
        facts = builtin("describe_task")(builtin("load_task")(self.uri))
        if self.json:
            print_json(facts)
            return 0
        rows = [[entry["name"], str(entry["train"]), "-" if entry["test"] is None else str(entry["test"])] for entry in facts["classes"]]
        size = "{} x {} pixels, {} channel(s)".format(*facts["image_size"], facts["channels"])
        print_table(
            f"{facts['name']}: first image {size}; licence {facts['licence'] or 'not known'}",
            ["class", "train", "test"],
            rows,
            right=("train", "test"),
        )
        out().print(Text(f"{facts['train']} training images, {facts['test'] or 0} test images, {facts['num_classes']} classes."))
        for warning in facts["warnings"]:
            out().print(Text(f"Note: {warning}"))
        print_line("Next: " + command("rank", "--task", self.uri))
        return 0


@dataclass(frozen=True)
class Tasks:
    """Which tasks can be named, and what is in one?"""

    command: (
        Annotated[TasksList, tyro.conf.subcommand("list", prefix_name=False)] | Annotated[TasksShow, tyro.conf.subcommand("show", prefix_name=False)]
    )

    def run(self) -> int:
        """Runs the sub-command."""
        return self.command.run()
