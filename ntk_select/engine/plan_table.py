"""A plan as a table that a person can read."""

from ntk_select.engine.plan import LeafPlan, Plan


def plan_table(plan: Plan, rows: int = 40) -> str:
    """Totals, then one line a leaf, dearest first when there are more than `rows`."""
    n1, n2 = plan.rows[-1], (plan.columns or plan.rows)[-1]
    lines = [
        f"kernel of {n1} x {n2} examples, {plan.chunks[-1]} cotangents ({plan.pairing})" + ("" if plan.columns else ", symmetric"),
        f"operations: {_big(plan.flops)}FLOP, {_big(plan.pass_flops)} of them in {plan.passes} passes through the network"
        + (f" (each example {plan.passes / _examples(plan):.2g} times)" if plan.passes > _examples(plan) else " (each example once)"),
        f"memory: {_big(plan.peak_bytes)}B at most, {_big(plan.stored_bytes)}B of them gradients and factors; budget {_big(plan.memory)}B",
        f"portions: {_count(plan.count_tiles(), 'tile')}, {_count(len(plan.groups), 'group')} of layers, "
        f"{_count(len(plan.chunks) - 1, 'chunk')} of cotangents, {_count(plan.batch, 'example')} a pass",
        "",
    ]
    shown = plan.leaves if len(plan.leaves) <= rows else sorted(plan.leaves, key=lambda leaf: -leaf.choice.work)[:rows]
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
            return f"{number:.3g}{' ' if not unit else ' ' + unit}".rstrip() if unit == "" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} P"
