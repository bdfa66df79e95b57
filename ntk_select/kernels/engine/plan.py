"""Plans: tiles, groups of layers and chunks of cotangents that fit into memory, with the predicted cost of the kernel."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.arguments import Outputs
from ntk_select.kernels.engine.byte_cache import ByteCache
from ntk_select.kernels.engine.contract import Contraction
from ntk_select.kernels.engine.costs import BALANCE, Passes, Sizes, padded, parameter_block, passes_of, sizes_of, tuning
from ntk_select.kernels.engine.factors import Stored
from ntk_select.kernels.engine.structure import LeafUse, Structure

DISPATCH = 2e7  # cost of one dispatch, in operations
MAX_STEPS = 20_000  # largest number of (tile, round) pairs that are simulated one by one
COMPILER_BYTES = 4e8  # reserved for the compiler and its code; at most a fifth of the budget
MAX_LINES = 40  # leaves listed in a printed plan


@dataclass(frozen=True)
class Choice:
    """Contraction of one leaf: `space` is "parameter" or "sample", `stored` what is stored per example (see `Stored`)."""

    space: str
    stored: str
    flops: float
    work: float
    sizes: Sizes


def choose(
    sizes: Sizes, structured: bool, m: int, pairing: str, n1: int, n2: int | None, *, longest: int, space=None, parts: int = 1, reuse_count: float = 1
) -> Choice:
    """The cheaper space for one leaf.

    Args:
      sizes: Dimensions of the leaf.
      structured: whether sample space is possible.
      m, pairing: cotangents at a time and how they are paired; `parts`: number of such chunks.
      n1, n2, longest: examples on either side, and of one side in memory.
      space: overrides the choice.
      reuse_count: how often gradients are formed if only factors are stored.
    """
    n, products = n1 + (n2 or 0), parts * parts if pairing == "full" else parts
    pairs = _pairs(n1, n2, parameter_block(longest)) * products
    flops = pairs * sizes.gradient_pair_flops(m, pairing)
    work = flops + BALANCE * 3 * n * sizes.stored("gradients", m)
    if not structured:
        return Choice("parameter", "gradients", flops, work, sizes)
    factors = min(("inputs", "patches"), key=lambda what: sizes.stored(what, m))
    cheapest = min(("gradients", factors), key=lambda what: sizes.stored(what, m))
    formed = n * parts * sizes.gradient_flops(m) * (1 if cheapest == "gradients" else reuse_count)
    in_parameters = Choice("parameter", cheapest, flops + formed, work + formed, sizes)
    pairs = _pairs(n1, n2, sizes.pair_block(padded(longest))) * products
    flops = pairs * sizes.position_pair_flops(m, pairing)
    work = flops + BALANCE * (pairs * sizes.position_pair_bytes(m, pairing) + n * sizes.stored(factors, m))
    in_samples = Choice("sample", factors, flops, work, sizes)
    if space is not None:
        return in_samples if space == "sample" else in_parameters
    return min(in_parameters, in_samples, key=lambda choice: choice.work)


def _pairs(n1: int, n2: int | None, block: int) -> float:
    return n1 * (n1 + min(block, n1)) / 2 if n2 is None else n1 * n2


@dataclass(frozen=True)
class LeafPlan:
    """Plan of one leaf.

    Attributes:
      use: where the leaf is used.
      position: among the structure's leaves.
      choice: its contraction; operations are those for the whole kernel without passes through the network.
      stored_bytes: stored per example.
    """

    use: LeafUse
    position: int
    choice: Choice
    stored_bytes: int


@dataclass(frozen=True)
class Plan:
    """How a kernel will be computed, and its predicted cost.

    Attributes:
      leaves: a `LeafPlan` for each leaf that the function uses.
      unused: paths of the leaves without influence on the outputs.
      groups: indices into `leaves` of those computed together; each group needs a pass of its own.
      rows, columns: bounds of the tiles along each side; columns is None for a symmetric kernel.
      chunks: bounds of the chunks of cotangents.
      batch: examples in one pass through the network.
      pairing: of the cotangents; see `Outputs`.
      flops: floating-point operations, predicted; `pass_flops` of them go forwards and back through the network.
      passes: examples that pass through the network, with repetitions (n if each passes once).
      stored_bytes: peak of gradients and factors.
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
        """Operations plus weighted bytes moved: the objective that is minimised."""
        rounds = self.count_tiles() * len(list(self.rounds()))
        return self.pass_flops + sum(leaf.choice.work for leaf in self.leaves) + DISPATCH * rounds * len(self.leaves)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Indices (i, j) of the tiles; of a symmetric kernel those of the lower triangle."""
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
        return _table(self)

    __repr__ = __str__


def side_keys(plan: Plan, i: int, j: int, group: int, left: int, right: int) -> tuple[tuple, tuple]:
    """Cache keys of the two sides of a tile; equal if both are the same gradients."""
    first = ("rows", i, group, left)
    return first, (("rows" if plan.columns is None else "columns"), j, group, right)


def contractions_of(plan: Plan, structure: Structure, group: int, *, split: bool) -> tuple[Contraction, ...]:
    """Contractions of the leaves of one group; with `split` each into a separate kernel."""
    longest = padded(max(b - a for side in (plan.rows, plan.columns or ()) for a, b in itertools.pairwise(side)))
    chunk = plan.chunks[1]
    found = []
    for index in plan.groups[group]:
        leaf, choice = plan.leaves[index], plan.leaves[index].choice
        sizes = choice.sizes
        block = sizes.pair_block(longest) if choice.space == "sample" else parameter_block(longest)
        size = tuning().multiplied if choice.stored == "gradients" else tuning().formed
        entries = max(64, int(size // (longest * chunk * sizes.item)))
        ops = structure.ops(leaf.use) if leaf.use.structured else ()
        found.append(Contraction(leaf.use.name if split else "", ops, choice.space, choice.stored, block, entries))
    return tuple(found)


def stored_of(plan: Plan, group: int) -> tuple[Stored, ...]:
    """What is stored per example for one group."""
    return tuple(Stored(plan.leaves[index].position, plan.leaves[index].choice.stored) for index in plan.groups[group])


def make_plan(
    structure: Structure,
    outputs: Outputs,
    n1: int,
    n2: int | None,
    *,
    memory: int,
    tile_bounds: tuple[tuple[int, ...], tuple[int, ...] | None] | None = None,
    batch_size: int | None = None,
    split: bool = False,
    space: str | None = None,
    devices: int = 1,
    chunks: int | None = None,
) -> Plan:
    """The cheapest plan whose predicted peak stays within `memory`.

    Args:
      structure, outputs: Structure of the function, and the requested outputs.
      n1, n2: examples on either side; n2 None for a symmetric kernel.
      memory: bytes, for each device.
      tile_bounds: Bounds of rows and columns, if the tiles are given.
      batch_size: examples in one pass, if given.
      split: one kernel per leaf.
      space: "parameter" or "sample" for all weights, against the cost model; for measurements.
      devices: Number of devices over which the examples are spread.
      chunks: number of chunks of cotangents, if given.

    Raises:
      ConfigError: not even one example at a time fits.
    """
    passes = passes_of(structure)
    m, pairing = outputs.count, outputs.pairing
    unused = tuple(leaf.name for leaf in structure.leaves if leaf.kind == "unused")
    kernels = sum(leaf.kind != "unused" for leaf in structure.leaves) if split else 1
    best, least = None, math.inf
    for parts in _split_counts(m) if chunks is None else (chunks,):
        chunk = math.ceil(m / parts)
        for tiles in _split_counts(max(n1, n2 or 0)) if tile_bounds is None else (1,):
            rows, columns = tile_bounds or (_even(n1, tiles), None if n2 is None else _even(n2, tiles))
            longest = max(b - a for side in (rows, columns or rows) for a, b in itertools.pairwise(side))
            leaves = _leaf_plans(structure, chunk, pairing, n1, n2, longest, space, parts, _reuse_count(rows, columns))
            batch = min(longest, batch_size or max(1, tuning().cotangents // chunk))
            while True:
                overhead = _overhead(leaves, passes, chunk, batch, longest, pairing, m, n1 if len(rows) == 2 else longest, kernels)
                overhead += int(min(COMPILER_BYTES, memory / 5))
                if batch_size or batch == 1 or overhead <= memory / 3:
                    break
                batch = max(1, batch // 2)
            alone = n2 is None and len(rows) == 2 and (parts == 1 or pairing != "full")  # both sides of a tile are the same
            sides = longest * (1 if alone else 2)
            groups = _groups(leaves, sides, (memory - overhead) * devices)
            if groups is None:
                # What the most expensive leaf needs, and the compiler's share of it.
                bare = overhead - int(min(COMPILER_BYTES, memory / 5)) + padded(sides) * max((leaf.stored_bytes for leaf in leaves), default=0)
                least = min(least, bare + min(COMPILER_BYTES, bare / 4))
                continue
            chunks = (*range(0, m, chunk), m)
            plan = Plan(leaves, unused, groups, rows, columns, chunks, batch, pairing, memory=memory)
            plan = _priced(plan, passes, overhead, devices)
            if best is None or plan.work < best.work:
                best = plan
            if plan.passes == n1 + (n2 or 0):
                break  # every example passes once: smaller tiles gain almost nothing
        if best is not None and best.passes == n1 + (n2 or 0):
            break  # more chunks would only repeat forward passes
    if best is None and tile_bounds is not None:
        raise ConfigError(
            f"Tiles of {longest} examples do not fit into {memory / 1e9:.3g} GB: about {least / 1e9:.3g} GB are needed. "
            f"Try: tile={max(1, longest // 2)}, or a larger memory_gb."
        )
    if best is None:
        raise ConfigError(
            f"Not even one example at a time fits into {memory / 1e9:.3g} GB: about {least / 1e9:.3g} GB are needed. "
            f"Try: memory_gb={_rounded_up(1.02 * least / 1e9)} or more, layers= a smaller part of the network, or outputs='sum'."
        )
    return best


def _rounded_up(number: float) -> str:
    """Two digits, not less than the number."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit) * unit:.2g}"


def _reuse_count(rows: tuple[int, ...], columns: tuple[int, ...] | None) -> float:
    """Tiles that meet one example, at most: how often its gradients are formed if only factors are stored."""
    return max(len(rows), len(columns or ())) - 1


def _leaf_plans(structure, m, pairing, n1, n2, longest, space, parts, reuse_count) -> tuple[LeafPlan, ...]:
    plans = []
    for position, leaf in enumerate(structure.leaves):
        if leaf.kind != "unused":
            choice = choose(
                sizes_of(structure, leaf), leaf.structured, m, pairing, n1, n2, longest=longest, space=space, parts=parts, reuse_count=reuse_count
            )
            plans.append(LeafPlan(leaf, position, choice, choice.sizes.stored(choice.stored, m)))
    return tuple(plans)


def _split_counts(n: int) -> list[int]:
    return sorted({min(n, count) for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, n)})


def _even(n: int, parts: int) -> tuple[int, ...]:
    step = math.ceil(n / parts)
    return (*range(0, n, step), n)


def _groups(leaves: tuple[LeafPlan, ...], examples: int, room: float) -> tuple[tuple[int, ...], ...] | None:
    groups, left = [], -1.0
    # In network order: groups of late layers then need no backward pass to the early ones.
    for index, leaf in sorted(enumerate(leaves), key=lambda pair: pair[1].use.depth):
        need = leaf.stored_bytes * padded(examples)
        if need > room:
            return None
        if need > left:
            groups.append([])
            left = room
        groups[-1].append(index)
        left -= need
    return tuple(map(tuple, groups))


def _overhead(leaves, passes: Passes, m, batch, longest, pairing, all_m, rows, kernels) -> int:
    """Bytes in addition to `stored_bytes`: activations, temporary products, the kernel."""
    new = sum(leaf.stored_bytes for leaf in leaves)
    flight = batch * (2 * passes.activations + m * 4 * passes.largest + new)
    product = 0
    for leaf in leaves:
        sizes = leaf.choice.sizes
        if leaf.choice.space == "parameter":
            # A tap at a time, the gradients of all examples, and the slices that are multiplied.
            formed = padded(longest) * sizes.entries * m * sizes.item
            product = max(
                product,
                min(formed, tuning().formed) * (1 if parameter_block(longest) == padded(longest) else 3) if leaf.choice.stored != "gradients" else 0,
            )
        else:
            block = sizes.pair_block(padded(longest))
            here = 3 * block**2 * sizes.groups * sizes.positions**2 * sizes.item + 4 * block * leaf.stored_bytes
            if pairing == "full":
                here += block * sizes.positions * m * sizes.width_out * sizes.item * 2
            product = max(product, here)
    item = leaves[0].choice.sizes.item if leaves else 4
    entries = {"trace": 1, "diagonal": m, "full": m * m}[pairing]
    all_entries = {"trace": 1, "diagonal": all_m, "full": all_m * all_m}[pairing]
    kernel = kernels * item * (2 * padded(longest) ** 2 * entries + rows * longest * all_entries)
    return int(max(flight, product) + kernel)


def _priced(plan: Plan, passes: Passes, overhead: int, devices: int) -> Plan:
    """The plan with its costs, by simulating the driver's cache over the sides of all tiles."""
    room = max(0, (plan.memory - overhead) * devices)
    cache, done, high = ByteCache(room), 0, 0
    need = [sum(plan.leaves[index].stored_bytes for index in group) for group in plan.groups]
    tiles, rounds = plan.count_tiles(), len(list(plan.rounds()))
    if tiles * rounds > MAX_STEPS:
        # Too many to simulate: about one new side for each, unless all fit.
        lengths = [b - a for side in (plan.rows, plan.columns or ()) for a, b in itertools.pairwise(side)]
        everything = (len(plan.chunks) - 1) * sum(need) * sum(map(padded, lengths))
        once = (len(plan.chunks) - 1) * len(plan.groups) * sum(lengths)
        done = once if everything <= room else int(tiles * rounds * sum(lengths) / len(lengths)) + once
        high = int(min(everything, room))
    for i, j in plan.tiles() if tiles * rounds <= MAX_STEPS else ():
        for group, left, right in plan.rounds():
            sides = side_keys(plan, i, j, group, left, right)
            for side in sides:
                bounds = plan.rows if side[0] == "rows" else plan.columns
                length = bounds[side[1] + 1] - bounds[side[1]]
                if cache.get(side) is None:
                    cache.put(side, True, need[group] * padded(length), keep=sides[0])
                    done += length
                high = max(high, cache.used)
    # The backward pass of one group of several may end early; it is counted in full.
    pass_flops = done * (passes.forward + plan.chunks[1] * passes.backward)
    flops = pass_flops + sum(leaf.choice.flops for leaf in plan.leaves)
    return replace(plan, flops=flops, pass_flops=pass_flops, passes=done, stored_bytes=high // devices, peak_bytes=high // devices + overhead)


def _table(plan: Plan) -> str:
    """Totals, then one line per leaf; of more than `MAX_LINES` the most expensive ones."""
    n1, n2 = plan.rows[-1], (plan.columns or plan.rows)[-1]
    lines = [
        f"kernel of {n1} x {n2} examples, {plan.chunks[-1]} cotangents ({plan.pairing})" + ("" if plan.columns else ", symmetric"),
        f"operations: {_big(plan.flops)}FLOP, {_big(plan.pass_flops)} of them in {plan.passes} passes through the network"
        + (f" (each example {plan.passes / _examples(plan):.2g} times)" if plan.passes > _examples(plan) else " (each example once)"),
        f"memory: {_big(plan.peak_bytes)}B at most, {_big(plan.stored_bytes)}B of them gradients and factors; budget {_big(plan.memory)}B",
        f"portions: {_count(plan.count_tiles(), 'tile')}, {_count(len(plan.groups), 'group')} of layers, "
        f"{_count(len(plan.chunks) - 1, 'chunk')} of cotangents, {_count(plan.batch, 'example')} per pass",
        "",
    ]
    shown = plan.leaves if len(plan.leaves) <= MAX_LINES else sorted(plan.leaves, key=lambda leaf: -leaf.choice.work)[:MAX_LINES]
    width = max([5, *(len(leaf.use.name) for leaf in shown)])
    lines.append(f"{'layer':{width}}  {'shape':>18}  {'use':11} {'positions':>9}  {'space':9}  {'stored':9} {'B/example':>9}  {'FLOP':>7}  share")
    work = sum(leaf.choice.work for leaf in plan.leaves) or 1.0
    lines += [_line(leaf, width, work) for leaf in shown]
    if len(shown) < len(plan.leaves):
        lines.append(
            f"and {len(plan.leaves) - len(shown)} more, {sum(leaf.choice.work for leaf in plan.leaves if leaf not in shown) / work:.1%} of the work"
        )
    lines += [f"{leaf.use.name}: general route, {leaf.use.reason}" for leaf in plan.leaves if leaf.use.kind == "general"]
    if plan.unused:
        lines.append(f"without influence on the outputs: {', '.join(plan.unused)}")
    return "\n".join(lines)


def _line(leaf: LeafPlan, width: int, work: float) -> str:
    shape = "x".join(map(str, leaf.use.shape)) or "()"
    positions = str(leaf.choice.sizes.positions) if leaf.use.structured else "-"
    return (
        f"{leaf.use.name:{width}}  {shape:>18}  {leaf.use.kind:11} {positions:>9}  {leaf.choice.space:9}  {leaf.choice.stored:9} "
        f"{_big(leaf.stored_bytes):>9}  {_big(leaf.choice.flops):>7}  {leaf.choice.work / work:5.1%}"
    )


def _examples(plan: Plan) -> int:
    return plan.rows[-1] + (plan.columns[-1] if plan.columns else 0)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _big(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} P"
