"""What does each way to the kernel cost? Counts of floating-point operations and bytes, from shapes alone.

One multiplication with its addition counts as two operations. Work puts both on one scale: `BALANCE` operations take as
long as moving one byte, about what today's CPUs and GPUs have in common.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ntk_select.engine.structure import LeafUse, Structure

BALANCE = 16
DISPATCH = 2e7  # operations that starting one portion of work costs
# Positions along one side of a tile of pairs: enough for a good matrix product, few enough to gain from symmetry.
PAIR_TILE = {"cpu": 512}
PAIR_TILE_ELSEWHERE = 4096


@dataclass(frozen=True)
class Sizes:
    """What the counts of one leaf depend on: g, s (all uses), k, o, entries of the leaf and of what enters its uses."""

    groups: int
    positions: int
    width_in: int
    width_out: int
    entries: int
    entering: int
    taps: int
    item: int

    def stored(self, what: str, m: int) -> int:
        """Bytes an example of "gradients", "patches" or "inputs", with m cotangents."""
        if what == "gradients":
            return self.entries * m * self.item
        left = self.groups * self.positions * m * self.width_out
        return (left + (self.groups * self.positions * self.width_in if what == "patches" else self.entering)) * self.item

    def gradient_flops(self, m: int) -> float:
        """Forming the gradients of one example from its factors."""
        return 2.0 * self.groups * self.positions * self.width_in * self.width_out * m

    def gradient_pair_flops(self, m: int, pairing: str) -> float:
        """One pair of examples in parameter space."""
        return 2.0 * self.entries * (m * m if pairing == "full" else m)

    def position_pair_flops(self, m: int, pairing: str) -> float:
        """One pair of examples in sample space."""
        s, k, o = self.positions, self.width_in, self.width_out
        if pairing == "full":
            return 2.0 * self.groups * (s * s * k + s * s * m * o + m * m * s * o)
        return 2.0 * self.groups * s * s * (k + m * o + (m if pairing == "diagonal" else 1))

    def position_pair_bytes(self, m: int, pairing: str) -> float:
        """Written and read for one pair of examples in sample space."""
        if pairing == "full":
            return 2.0 * self.item * self.groups * (self.positions**2 + self.positions * m * self.width_out)
        return 4.0 * self.item * self.groups * self.positions**2 * (m if pairing == "diagonal" else 1)

    def pair_tile(self, n: int) -> int:
        """Examples along one side of a tile in sample space: n, or a power of two that divides it."""
        enough = PAIR_TILE.get(jax.devices()[0].platform, PAIR_TILE_ELSEWHERE)
        size = 1
        while n % (2 * size) == 0 and size * self.positions < enough:
            size *= 2
        return n if n * self.positions <= enough else size


def sizes_of(structure: Structure, leaf: LeafUse) -> Sizes:
    """The sizes of one leaf; for a leaf without structure, one position as wide as the leaf."""
    item = jnp.dtype(structure.dtype).itemsize
    entries = math.prod(leaf.shape)
    if not leaf.structured:
        return Sizes(1, 1, 1, entries, entries, 0, 1, item)
    uses = [structure.taps[number].use for number in leaf.taps]
    entering = sum(math.prod(use.input_shape) for use in uses)
    first = uses[0]
    entries = first.groups * first.width_in * first.width_out  # without the taps that only meet padding
    return Sizes(first.groups, sum(use.positions for use in uses), first.width_in, first.width_out, entries, entering, first.taps, item)


@dataclass(frozen=True)
class Passes:
    """Operations of one example's passes through the network: forwards, and back for one cotangent; bytes that live meanwhile."""

    forward: float
    backward: float
    activations: int
    largest: int


def passes_of(structure: Structure) -> Passes:
    """Counts over all products and convolutions of the program."""
    program = structure.program
    of_x, live = {program.inputs[structure.count]}, set()
    weights = {structure.taps[number].step for leaf in structure.leaves for number in leaf.taps}
    moved = {program.inputs[leaf.index] for leaf in structure.leaves if leaf.kind in ("elementwise", "general", "derived")}
    forward = backward = 0.0
    activations = largest = 0
    for index, step in enumerate(program.steps):
        if not of_x.intersection(step.inputs):
            if moved.intersection(step.inputs):
                moved.update(step.outputs)
            continue
        of_x.update(step.outputs)
        flops = _flops(step, program.shapes)
        forward += flops
        differentiated = [slot for slot in step.inputs if slot in live]
        backward += flops * len(differentiated)
        if differentiated or index in weights or moved.intersection(step.inputs):
            live.update(step.outputs)
        size = sum(_bytes(program.shapes[slot]) for slot in step.outputs)
        activations, largest = activations + size, max(largest, size)
    return Passes(forward, backward, activations, largest)


def _bytes(shape) -> int:
    return math.prod(shape.shape) * jnp.dtype(shape.dtype).itemsize if jnp.issubdtype(shape.dtype, jnp.number) else 0


def _flops(step, shapes) -> float:
    if step.name == "dot_general":
        contract, _ = step.settings["dimension_numbers"]
        left = shapes[step.inputs[0]].shape
        return 2.0 * math.prod(shapes[step.outputs[0]].shape) * math.prod(left[axis] for axis in contract[0])
    if step.name == "conv_general_dilated":
        kernel = shapes[step.inputs[1]].shape
        out_features = step.settings["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(shapes[step.outputs[0]].shape) * math.prod(kernel) / kernel[out_features]
    return 0.0
