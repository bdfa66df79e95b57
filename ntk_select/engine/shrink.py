"""How does a kernel go on when memory runs out half way? In smaller tiles; those that are done stay."""

import itertools
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, Self

from ntk_select.engine.driver import Sink
from ntk_select.engine.plan import Plan
from ntk_select.errors import ConfigError
from ntk_select.out_of_memory import MemoryShrunkWarning, in_words, is_out_of_memory

Cuts = tuple[tuple[int, ...], tuple[int, ...] | None]


class CutSink(Sink, Protocol):
    """A sink whose tiles may be cut smaller."""

    def recut(self, plan: Plan) -> Self:
        """The same sink for a plan whose cuts are those of before and more; what is done stays done."""


def compute_shrinking(plan: Plan, planned: Callable[..., Plan], sink: CutSink, work: Callable[[Plan, CutSink], None]) -> CutSink:
    """Does the work, again with tiles half as long whenever memory runs out. Returns the sink that has everything.

    Args:
      plan: to begin with.
      planned: planned(memory=bytes, cuts=cuts) makes another plan, or raises ConfigError where there is none.
      sink: where tiles go.
      work: work(plan, sink) computes what the sink does not have.

    Raises:
      ConfigError: memory runs out with tiles of a single example.

    Warns:
      MemoryShrunkWarning: each time that tiles are cut.
    """
    while True:
        try:
            work(plan, sink)
            return sink
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said = in_words(error)
        # Here the failed work and its arrays are forgotten.
        before, plan = plan, _smaller(plan, planned, said)
        warnings.warn(
            f"Memory ran out with tiles of {_longest(before)} examples ({said}). The work goes on with tiles of {_longest(plan)}.",
            MemoryShrunkWarning,
            stacklevel=3,
        )
        sink = sink.recut(plan)


def _smaller(plan: Plan, planned: Callable[..., Plan], said: str) -> Plan:
    """A plan with shorter tiles: for half the memory, or, where that is too little by the estimate, for as much as before."""
    for memory in (min(plan.memory, plan.peak_bytes) // 2, plan.memory):
        cuts = plan.rows, plan.columns
        while any(b - a > 1 for side in cuts if side for a, b in itertools.pairwise(side)):
            cuts = _halved(cuts)
            with suppress(ConfigError):
                return planned(memory=memory, cuts=cuts)
    raise ConfigError(
        f"Memory ran out even with tiles of {_longest(plan)} example{'s' if _longest(plan) > 1 else ''} ({said}). End other programs, or type: "
        "layers= a smaller part of the network, outputs='sum', or out= a folder, for a kernel that is itself too large."
    )


def _halved(cuts: Cuts) -> Cuts:
    def halved(side):
        middles = {(a + b) // 2 for a, b in itertools.pairwise(side)}
        return tuple(sorted({*side, *middles}))

    return halved(cuts[0]), None if cuts[1] is None else halved(cuts[1])


def _longest(plan: Plan) -> int:
    return max(b - a for side in (plan.rows, plan.columns or ()) for a, b in itertools.pairwise(side))
