"""The images and labels that a task URI means.

`load_task("folder:photos")` gives a `Task`. `TASKS` lists the built-in kinds of task, `KNOWN` the sets of
the benchmark.
"""

from .describe import describe as describe
from .kinds import TASKS as TASKS
from .kinds import TaskKind as TaskKind
from .lazy import LazyImages as LazyImages
from .published import KNOWN as KNOWN
from .published import KnownSet as KnownSet
from .uri import load_task as load_task
from .uri import task_kinds as task_kinds
