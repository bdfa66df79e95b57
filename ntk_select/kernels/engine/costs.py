"""Cost model of the engine: block sizes per device, operations and bytes of each leaf, and of passes through the network.

Operations and bytes are computed from shapes alone; one multiply-add counts as two operations. `work` puts both on one
scale: operations plus `BALANCE` times the bytes moved, roughly the ratio of current CPUs and GPUs.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from ntk_select.kernels.engine.arguments import default_device
from ntk_select.kernels.engine.layer_ops import Embedding
from ntk_select.kernels.engine.program import Eqn
from ntk_select.kernels.engine.structure import LeafUse, Structure

BALANCE = 16


@dataclass(frozen=True)
class Tuning:
    """Block sizes for a kind of device.

    Attributes:
      positions: along one side of a block of pairs: large enough for an efficient matrix product, small enough to exploit symmetry.
      formed: bytes of gradients formed at a time.
      multiplied: bytes of stored gradients multiplied at a time.
      cotangents: number in one backward pass.
      halves: numbers of examples from which symmetric products are split into halves and into quarters.
    """

    positions: int
    formed: float
    multiplied: float
    cotangents: int
    halves: tuple[int, int]


CPU = Tuning(positions=512, formed=2**23, multiplied=2**21, cotangents=128, halves=(64, 128))
ACCELERATOR = Tuning(positions=4096, formed=2**28, multiplied=2**40, cotangents=1024, halves=(256, 512))


def tuning() -> Tuning:
    """Block sizes for the default device."""
    return CPU if default_device().platform == "cpu" else ACCELERATOR


@dataclass(frozen=True)
class Sizes:
    """Dimensions of one leaf: g, s (summed over its operations), k, o, entries of the leaf and of its inputs; `sparse`: X is one-hot."""

    groups: int
    positions: int
    width_in: int
    width_out: int
    entries: int
    entering: int
    item: int
    sparse: bool = False

    def stored(self, what: str, m: int) -> int:
        """Bytes per example of "gradients", "patches" or "inputs", with m cotangents."""
        if what == "gradients":
            return self.entries * m * self.item
        left = self.groups * self.positions * m * self.width_out
        return (left + (self.groups * self.positions * self.width_in if what == "patches" else self.entering)) * self.item

    def gradient_flops(self, m: int) -> float:
        """Operations to form the gradients of one example from its factors."""
        return 2.0 * self.groups * self.positions * self.width_in * self.width_out * m

    def gradient_pair_flops(self, m: int, pairing: str) -> float:
        """Operations per pair of examples in parameter space."""
        return 2.0 * self.entries * (m * m if pairing == "full" else m)

    def position_pair_flops(self, m: int, pairing: str) -> float:
        """Operations per pair of examples in sample space."""
        s, k, o = self.positions, 1 if self.sparse else self.width_in, self.width_out
        if pairing == "full":
            return 2.0 * self.groups * (s * s * k + s * s * m * o + m * m * s * o)
        return 2.0 * self.groups * s * s * (k + m * o + (m if pairing == "diagonal" else 1))

    def position_pair_bytes(self, m: int, pairing: str) -> float:
        """Bytes written and read per pair of examples in sample space."""
        if pairing == "full":
            return 2.0 * self.item * self.groups * (self.positions**2 + self.positions * m * self.width_out)
        return 4.0 * self.item * self.groups * self.positions**2 * (m if pairing == "diagonal" else 1)

    def pair_block(self, n: int) -> int:
        """Examples along one side of a block in sample space: n, or a power of two that divides it."""
        enough = tuning().positions
        size = 1
        while n % (2 * size) == 0 and size * self.positions < enough:
            size *= 2
        return n if n * self.positions <= enough else size


def sizes_of(structure: Structure, leaf: LeafUse) -> Sizes:
    """The sizes of one leaf; for a leaf without structure, one position as wide as the leaf."""
    item = jnp.dtype(structure.dtype).itemsize
    entries = math.prod(leaf.shape)
    if not leaf.structured:
        return Sizes(1, 1, 1, entries, entries, 0, item)
    ops = structure.ops(leaf)
    entering = sum(math.prod(op.input_shape) for op in ops)
    first, positions = ops[0], sum(op.positions for op in ops)
    entries = first.groups * first.width_in * first.width_out  # without the taps that only meet padding
    sparse = isinstance(first, Embedding)
    return Sizes(first.groups, positions, first.width_in, first.width_out, entries, entering, item, sparse)


@dataclass(frozen=True)
class Passes:
    """Operations per example of a forward pass and of a backward pass for one cotangent; bytes of all and of the largest activations."""

    forward: float
    backward: float
    activations: int
    largest: int


def passes_of(structure: Structure) -> Passes:
    """Counts over all products and convolutions of the program."""
    program = structure.program
    of_x, live = set(program.invars[structure.count :]), set()
    weights = {structure.taps[number].eqn for leaf in structure.leaves for number in leaf.taps}
    moved = {program.invars[leaf.index] for leaf in structure.leaves if leaf.kind in ("elementwise", "general", "derived")}
    forward = backward = 0.0
    activations = largest = 0
    for index, eqn in enumerate(program.eqns):
        if not of_x.intersection(eqn.invars):
            if moved.intersection(eqn.invars):
                moved.update(eqn.outvars)
            continue
        of_x.update(eqn.outvars)
        flops = product_flops(eqn, program.avals)
        forward += flops
        differentiated = [var for var in eqn.invars if var in live]
        backward += flops * len(differentiated)
        if differentiated or index in weights or moved.intersection(eqn.invars):
            live.update(eqn.outvars)
        size = sum(_bytes(program.avals[var]) for var in eqn.outvars)
        activations, largest = activations + size, max(largest, size)
    return Passes(forward, backward, activations, largest)


def _bytes(aval) -> int:
    return math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize if jnp.issubdtype(aval.dtype, jnp.number) else 0


def product_flops(eqn: Eqn, avals: dict) -> float:
    """Operations of a product or convolution; zero for any other equation."""
    if eqn.name == "dot_general":
        contract, _ = eqn.params["dimension_numbers"]
        left = avals[eqn.invars[0]].shape
        return 2.0 * math.prod(avals[eqn.outvars[0]].shape) * math.prod(left[axis] for axis in contract[0])
    if eqn.name == "conv_general_dilated":
        kernel = avals[eqn.invars[1]].shape
        out_features = eqn.params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(avals[eqn.outvars[0]].shape) * math.prod(kernel) / kernel[out_features]
    return 0.0


def parameter_block(n: int) -> int:
    """Examples along one side of a block in parameter space: halves or quarters if n is large enough to gain from symmetry."""
    n, few, many = padded(n), *tuning().halves
    return n if n < few else n // 2 if n < many else n // 4


def padded(n: int) -> int:
    """Length of the buffers, rounded up so that blocks divide it; rows beyond n stay zero."""
    multiple = 1 if n <= 8 else 8 if n <= 64 else 16 if n <= 256 else 32
    return multiple * math.ceil(n / multiple)
