"""What is a plan: which way for which layer, in what portions, at what cost?"""

from collections.abc import Iterator
from dataclasses import dataclass

from ntk_select.engine.choice import Choice
from ntk_select.engine.cost import DISPATCH
from ntk_select.engine.factors import Stored
from ntk_select.engine.structure import LeafUse


@dataclass(frozen=True)
class LeafPlan:
    """What is done for one leaf.

    Attributes:
      use: where the leaf is used.
      position: among the structure's leaves.
      choice: the way; its operations are those for the whole kernel, passes through the network apart.
      stored_bytes: kept of each example.
    """

    use: LeafUse
    position: int
    choice: Choice
    stored_bytes: int


@dataclass(frozen=True)
class Plan:
    """How a kernel will be computed, and what that should cost.

    Attributes:
      leaves: a `LeafPlan` for each leaf that the function uses.
      groups: positions of the leaves that are treated together; each group costs a pass of its own.
      rows, columns: cuts of the examples of either side; between two cuts lies what is in memory together.
      chunks: cuts of the cotangents.
      batch: examples in one pass through the network.
      flops: floating-point operations, predicted; `pass_flops` of them go forwards and back through the network.
      passes: examples that go through the network, repetitions counted (each once: n).
      stored_bytes: of gradients and factors at a time, at most.
      peak_bytes: predicted peak of all memory that the computation takes on the device.
      memory: the budget in bytes.
    """

    leaves: tuple[LeafPlan, ...]
    unused: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...] | None
    chunks: tuple[int, ...]
    batch: int
    pairing: str
    memory: int
    flops: float = 0.0
    pass_flops: float = 0.0
    passes: int = 0
    stored_bytes: int = 0
    peak_bytes: int = 0

    @property
    def work(self) -> float:
        """Operations, with bytes moved counted as operations: what the choice is made by."""
        rounds = self.count_tiles() * len(list(self.rounds()))
        return self.pass_flops + sum(leaf.choice.work for leaf in self.leaves) + DISPATCH * rounds * len(self.leaves)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """The tiles of the kernel, by number of row and column cut; of a symmetric kernel the lower ones."""
        for i in range(len(self.rows) - 1):
            for j in range(i + 1 if self.columns is None else len(self.columns) - 1):
                yield i, j

    def count_tiles(self) -> int:
        """How many tiles there are."""
        rows = len(self.rows) - 1
        return rows * (rows + 1) // 2 if self.columns is None else rows * (len(self.columns) - 1)

    def rounds(self) -> Iterator[tuple[int, int, int]]:
        """(group, chunk of the left, chunk of the right cotangents) that add up to one tile."""
        for group in range(len(self.groups)):
            for left in range(len(self.chunks) - 1):
                for right in range(len(self.chunks) - 1) if self.pairing == "full" else (left,):
                    yield group, left, right

    def __str__(self):
        from ntk_select.engine.plan_table import plan_table

        return plan_table(self)

    __repr__ = __str__


def side_keys(plan: Plan, i: int, j: int, group: int, left: int, right: int) -> tuple[tuple, tuple]:
    """Names of the two sides of a tile: equal when they are the same gradients."""
    first = ("rows", i, group, left)
    return first, (("rows" if plan.columns is None else "columns"), j, group, right)


def stored_of(plan: Plan, group: int) -> tuple[Stored, ...]:
    """What one group keeps of each example."""
    return tuple(Stored(plan.leaves[index].position, plan.leaves[index].choice.stored) for index in plan.groups[group])
