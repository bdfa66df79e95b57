"""The benchmark of the paper: every expert on every task, scored and fine-tuned, on one machine or many."""

from ntk_select.benchmark.config import BenchConfig as BenchConfig
from ntk_select.benchmark.config import read_config as read_config
from ntk_select.benchmark.run import run as run
from ntk_select.benchmark.store import Store as Store
