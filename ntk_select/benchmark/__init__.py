"""Every expert on every task, scored and fine-tuned: the benchmark of the paper, on one machine or many."""

from .config import BenchConfig as BenchConfig
from .config import read_config as read_config
from .run import run as run
from .store import Store as Store
