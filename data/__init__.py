"""Target tasks by URI: `load_task("folder:photos")` gives a `Task`.

`TASKS` lists the built-in kinds of task, `KNOWN` the data sets of the benchmark.
"""

from ntk_select.data.decode import LazyImages as LazyImages
from ntk_select.data.published.catalogue import KNOWN as KNOWN
from ntk_select.data.published.catalogue import KnownSet as KnownSet
from ntk_select.data.uri import TASKS as TASKS
from ntk_select.data.uri import TaskKind as TaskKind
from ntk_select.data.uri import describe as describe
from ntk_select.data.uri import load_task as load_task
from ntk_select.data.uri import task_kinds as task_kinds
