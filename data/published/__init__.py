"""The 19 sets of the benchmark, and how they are prepared and loaded.

`KNOWN` is table 4 of Deshpande et al. 2021, "A linearized framework and a new benchmark for model selection for
fine-tuning" (arXiv 2102.00084): 8 sources, then 11 targets.
"""

from .known import KnownSet as KnownSet
from .sources import SOURCES
from .targets import TARGETS

KNOWN: dict[str, KnownSet] = SOURCES | TARGETS
