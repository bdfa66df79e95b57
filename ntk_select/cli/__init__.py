"""The command line: `ntk-select COMMAND ...`."""

import sys
from typing import Annotated

from ntk_select.errors import NtkSelectError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, 1 (done, with failures), 2 (the input was refused), 130 (Ctrl-C)."""
    try:
        return _run(arguments)
    except NtkSelectError as error:
        print(f"ntk-select: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ntk-select: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _run(arguments: list[str] | None) -> int:
    # Imported here, so that Ctrl-C while they load is met as well.
    import tyro

    from ntk_select.cli.bench import Bench
    from ntk_select.cli.demo import Demo
    from ntk_select.cli.dynamics import Dynamics
    from ntk_select.cli.finetune import Finetune
    from ntk_select.cli.kernel import Kernel
    from ntk_select.cli.rank import Rank
    from ntk_select.cli.tasks import Tasks
    from ntk_select.cli.zoo import Zoo

    commands = (
        Annotated[Demo, tyro.conf.subcommand("demo", prefix_name=False)]
        | Annotated[Rank, tyro.conf.subcommand("rank", prefix_name=False)]
        | Annotated[Kernel, tyro.conf.subcommand("kernel", prefix_name=False)]
        | Annotated[Dynamics, tyro.conf.subcommand("dynamics", prefix_name=False)]
        | Annotated[Finetune, tyro.conf.subcommand("finetune", prefix_name=False)]
        | Annotated[Bench, tyro.conf.subcommand("bench", prefix_name=False)]
        | Annotated[Tasks, tyro.conf.subcommand("tasks", prefix_name=False)]
        | Annotated[Zoo, tyro.conf.subcommand("zoo", prefix_name=False)]
    )
    command = tyro.cli(
        commands,
        prog="ntk-select",
        description="Which pre-trained image models are worth fine-tuning on your task?",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    return command.run()
