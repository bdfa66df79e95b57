"""Which plan makes the kernel cost least within the memory?"""

import itertools
import math
from dataclasses import replace

import jax

from ntk_select.engine.choice import choose, formed_bytes, padded, parameter_tile
from ntk_select.engine.cost import Passes, passes_of, sizes_of
from ntk_select.engine.kept import Cache
from ntk_select.engine.outputs import Outputs
from ntk_select.engine.plan import LeafPlan, Plan, side_keys
from ntk_select.engine.structure import Structure
from ntk_select.errors import ConfigError

MOST_STEPS = 20_000  # that pricing a plan goes through one by one
COMPILER_BYTES = 4e8  # of the budget, left to the compiler and its code; at most a fifth
IN_FLIGHT = {"cpu": 128}  # cotangents that go back through the network together
IN_FLIGHT_ELSEWHERE = 1024


def make_plan(
    structure: Structure,
    outputs: Outputs,
    n1: int,
    n2: int | None,
    *,
    memory: int,
    cuts: tuple[tuple[int, ...], tuple[int, ...] | None] | None = None,
    batch_size: int | None = None,
    split: bool = False,
    space: str | None = None,
    devices: int = 1,
) -> Plan:
    """The cheapest plan whose predicted peak stays within `memory`.

    Args:
      structure, outputs: of the function and of the question.
      n1, n2: examples on either side; n2 None for a symmetric kernel.
      memory: bytes, for each device.
      cuts: of rows and columns, when the tiles are given.
      batch_size: examples in one pass, when given.
      split: one kernel a leaf is kept.
      space: "parameter" or "sample" for all weights, against the cost model; for measurements.
      devices: over which the examples are spread.

    Raises:
      ConfigError: not even one example at a time fits.
    """
    passes = passes_of(structure)
    m, pairing = outputs.count, outputs.pairing
    unused = tuple(leaf.name for leaf in structure.leaves if leaf.kind == "unused")
    kernels = sum(leaf.kind != "unused" for leaf in structure.leaves) if split else 1
    platform = jax.devices()[0].platform
    flight = IN_FLIGHT.get(platform, IN_FLIGHT_ELSEWHERE)
    best, least = None, math.inf
    for parts in _cuts_to_try(m):
        chunk = math.ceil(m / parts)
        for tiles in _cuts_to_try(max(n1, n2 or 0)) if cuts is None else (1,):
            rows, columns = cuts or (_even(n1, tiles), None if n2 is None else _even(n2, tiles))
            longest = max(b - a for side in (rows, columns or rows) for a, b in itertools.pairwise(side))
            leaves = _leaf_plans(structure, chunk, pairing, n1, n2, longest, space, parts, _meetings(rows, columns))
            batch = min(longest, batch_size or max(1, flight // chunk))
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
                # What the dearest leaf needs, and the compiler's share of it.
                bare = overhead - int(min(COMPILER_BYTES, memory / 5)) + padded(sides) * max((leaf.stored_bytes for leaf in leaves), default=0)
                least = min(least, bare + min(COMPILER_BYTES, bare / 4))
                continue
            chunks = (*range(0, m, chunk), m)
            plan = Plan(leaves, unused, groups, rows, columns, chunks, batch, pairing, memory=memory)
            plan = _priced(plan, passes, overhead, devices)
            if best is None or plan.work < best.work:
                best = plan
            if plan.passes == n1 + (n2 or 0):
                break  # every example passes once: smaller tiles gain next to nothing
        if best is not None and best.passes == n1 + (n2 or 0):
            break  # more chunks would only repeat forward passes
    if best is None and cuts is not None:
        raise ConfigError(
            f"Tiles of {longest} examples do not fit into {memory / 1e9:.3g} GB: about {least / 1e9:.3g} GB are needed. Type: tile={max(1, longest // 2)}, or a larger memory_gb."
        )
    if best is None:
        raise ConfigError(
            f"Not even one example at a time fits into {memory / 1e9:.3g} GB: about {least / 1e9:.3g} GB are needed. "
            f"Type: memory_gb={_rounded_up(1.02 * least / 1e9)} or more, layers= a smaller part of the network, or outputs='sum'."
        )
    return best


def _rounded_up(number: float) -> str:
    """Two digits, not less than the number."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit) * unit:.2g}"


def _meetings(rows: tuple[int, ...], columns: tuple[int, ...] | None) -> float:
    """How many tiles an example meets, on average: so often its gradients are formed, if only factors are kept."""
    if columns is None:
        return 1 if len(rows) == 2 else len(rows)
    return max(len(rows), len(columns)) - 1


def _leaf_plans(structure, m, pairing, n1, n2, longest, space, parts, meetings) -> tuple[LeafPlan, ...]:
    plans = []
    for position, leaf in enumerate(structure.leaves):
        if leaf.kind != "unused":
            choice = choose(
                sizes_of(structure, leaf), leaf.structured, m, pairing, n1, n2, longest=longest, space=space, parts=parts, meetings=meetings
            )
            plans.append(LeafPlan(leaf, position, choice, choice.sizes.stored(choice.stored, m)))
    return tuple(plans)


def _cuts_to_try(n: int) -> list[int]:
    return sorted({min(n, cuts) for cuts in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, n)})


def _even(n: int, parts: int) -> tuple[int, ...]:
    step = math.ceil(n / parts)
    return (*range(0, n, step), n)


def _groups(leaves: tuple[LeafPlan, ...], examples: int, room: float) -> tuple[tuple[int, ...], ...] | None:
    groups, left = [], -1.0
    # In the order of the network: the groups of late layers then need no way back to the early ones.
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
    """Bytes beside what is stored: passes in flight, products in flight, the kernel."""
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
                min(formed, formed_bytes()) * (1 if parameter_tile(longest) == padded(longest) else 3) if leaf.choice.stored != "gradients" else 0,
            )
        else:
            tile = sizes.pair_tile(padded(longest))
            here = 3 * tile**2 * sizes.groups * sizes.positions**2 * sizes.item + 4 * tile * leaf.stored_bytes
            if pairing == "full":
                here += tile * sizes.positions * m * sizes.width_out * sizes.item * 2
            product = max(product, here)
    item = leaves[0].choice.sizes.item if leaves else 4
    entries = {"trace": 1, "diagonal": m, "full": m * m}[pairing]
    all_entries = {"trace": 1, "diagonal": all_m, "full": all_m * all_m}[pairing]
    kernel = kernels * item * (2 * padded(longest) ** 2 * entries + rows * longest * all_entries)
    return int(max(flight, product) + kernel)


def _priced(plan: Plan, passes: Passes, overhead: int, devices: int) -> Plan:
    """The plan with its costs, by going through the sides of all tiles as the driver will."""
    room = max(0, (plan.memory - overhead) * devices)
    cache, done, high = Cache(room), 0, 0
    need = [sum(plan.leaves[index].stored_bytes for index in group) for group in plan.groups]
    tiles, rounds = plan.count_tiles(), len(list(plan.rounds()))
    if tiles * rounds > MOST_STEPS:
        # Too many to go through: about one new side for each, unless all fit.
        lengths = [b - a for side in (plan.rows, plan.columns or ()) for a, b in itertools.pairwise(side)]
        everything = (len(plan.chunks) - 1) * sum(need) * sum(map(padded, lengths))
        once = (len(plan.chunks) - 1) * len(plan.groups) * sum(lengths)
        done = once if everything <= room else int(tiles * rounds * sum(lengths) / len(lengths)) + once
        high = int(min(everything, room))
    for i, j in plan.tiles() if tiles * rounds <= MOST_STEPS else ():
        for group, left, right in plan.rounds():
            sides = side_keys(plan, i, j, group, left, right)
            for side in sides:
                cuts = plan.rows if side[0] == "rows" else plan.columns
                length = cuts[side[1] + 1] - cuts[side[1]]
                if cache.get(side) is None:
                    cache.put(side, True, need[group] * padded(length), keep=sides[0])
                    done += length
                high = max(high, cache.used)
    # A pass for one group of many need not go all the way back; it is counted as if it did.
    pass_flops = done * (passes.forward + plan.chunks[1] * passes.backward)
    flops = pass_flops + sum(leaf.choice.flops for leaf in plan.leaves)
    return replace(plan, flops=flops, pass_flops=pass_flops, passes=done, stored_bytes=high // devices, peak_bytes=high // devices + overhead)
