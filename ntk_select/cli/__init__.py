"""The command line: `ntk-select COMMAND ...`.

`main` parses the words and returns the exit status. Each command is a dataclass in a file of its name: its fields are the options, its docstrings
the help, and its `run` does the work. JAX is imported inside `run`; help and errors appear at once.
"""

from ntk_select.cli.main import COMMANDS as COMMANDS
from ntk_select.cli.main import main as main
