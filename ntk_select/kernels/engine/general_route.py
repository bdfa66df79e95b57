"""Warning of parameters whose structure is not known, where they are a noticeable part of the cost of a kernel."""

import sys
import warnings

from ntk_select.kernels.engine.plan import choose, passes_of, sizes_of
from ntk_select.kernels.engine.structure import GeneralRouteWarning, Structure, levels_to_the_caller

QUIET_SHARE = 0.03
"""Of the predicted cost of a kernel: leaves on the general route that cost less are not warned of, such as the class token of a transformer."""


def general_share(structure: Structure, n: int) -> float:
    """Predicted share of the leaves on the general route in the cost of the kernel of n examples, held in memory, for the trace over outputs."""
    m, passes = structure.outputs, passes_of(structure)
    used = [leaf for leaf in structure.leaves if leaf.kind != "unused"]
    work = {leaf: choose(sizes_of(structure, leaf), leaf.structured, m, "trace", n, None, longest=n).work for leaf in used}
    general = sum(work[leaf] for leaf in used if leaf.kind == "general")
    return general / (sum(work.values()) + n * (passes.forward + m * passes.backward))


def warn_of_general_leaves(structure: Structure, n: int) -> None:
    """Warns where the leaves on the general route are `QUIET_SHARE` of the cost of the kernel of n examples, or more."""
    general = [leaf for leaf in structure.leaves if leaf.kind == "general"]
    if not general or (share := general_share(structure, n)) < QUIET_SHARE:
        return
    listed = "; ".join(f"{leaf.name} ({leaf.reason})" for leaf in general[:5]) + ("; ..." if len(general) > 5 else "")
    warnings.warn(
        f"{len(general)} of {len(structure.leaves)} leaves take the general route, exact but slow, about {share:.0%} of the cost: {listed}.",
        GeneralRouteWarning,
        stacklevel=levels_to_the_caller(sys._getframe()),
    )
