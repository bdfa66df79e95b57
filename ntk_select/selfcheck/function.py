"""The laws that fn must obey to have a kernel at all: examples apart, derivatives that are those of its values."""

import re

import numpy as np

from ntk_select.selfcheck.differences import differenced
from ntk_select.selfcheck.record import AGREED, Notice, Outcome, Skip, relative
from ntk_select.selfcheck.subject import Subject, inner

STATISTICS = {"mean", "var", "variance", "stats"}


def no_statistics(subject: Subject) -> Outcome:
    """The names of the parameters are not those of batch statistics."""
    found = [name for name in subject.names if STATISTICS.intersection(re.split(r"[/_.]", name.lower()))]
    if found:
        more = ", ..." if len(found) > 3 else ""
        raise Notice(
            f"{', '.join(found[:3])}{more}: if these are batch statistics, leave them out of params (or of layers=); the kernel is not theirs."
        )
    return AGREED


def apart(subject: Subject) -> Outcome:
    """fn of all examples at once is fn of each alone."""
    return relative(subject.together(), subject.values()), subject.tolerance, ""


def adjoint(subject: Subject) -> Outcome:
    """<J u, v> = <u, J'v>. Each example's own gradient is its direction: then nothing cancels."""
    gradients = subject.gradients()
    try:
        forward = [subject.pushed(index, u) @ v for index, (u, v) in enumerate(zip(gradients, subject.v, strict=True))]
    except TypeError as error:
        if "custom_vjp" in str(error):
            raise Skip("a custom_vjp in fn leaves no forward mode; a custom_jvp would.") from error
        raise
    return relative(forward, [inner(u, u) for u in gradients]), subject.tolerance, ""


def slopes(subject: Subject) -> Outcome:
    """J u is the limit of central differences; by reverse mode where forward mode gives no numbers."""
    try:
        forward = all(np.isfinite(subject.pushed(index, subject.leaves)).all() for index in range(len(subject.x)))
    except TypeError:
        forward = False
    return differenced(subject, forward)


def euler(subject: Subject) -> Outcome:
    """Outputs that are linear and homogeneous in some leaves are <leaves, gradient>."""
    chosen = homogeneous(subject)
    if chosen is None:
        raise Skip("no leaves found in which the outputs are linear and homogeneous.")
    reverse = [inner([gradient[index] for index in chosen], [subject.leaves[index] for index in chosen]) for gradient in subject.gradients()]
    values = (subject.values() * subject.v).sum(1)
    return relative(reverse, values), subject.tolerance, f"Tried on {', '.join(subject.names[index] for index in chosen)}."


def homogeneous(subject: Subject) -> list[int] | None:
    """Leaves whose doubling doubles the outputs: the last linear layer with its bias, if it is found."""
    last = [tap for tap in subject.structure.taps if len(tap.leaves) == 1][-1:]
    positions = [position for position, leaf in enumerate(subject.structure.leaves) if last and leaf.index in last[0].leaves]
    if not positions:
        return None
    weight, values = positions[0], subject.values()
    parent = subject.names[weight].rpartition("/")[0]
    siblings = [position for position, name in enumerate(subject.names) if name.rpartition("/")[0] == parent]
    biases = [[weight, position] for position, leaf in enumerate(subject.leaves) if leaf.shape == (subject.all_outputs,)]
    for group in (siblings, [weight], *biases):
        doubled = subject.values([leaf * 2 if position in group else leaf for position, leaf in enumerate(subject.leaves)])
        if np.abs(values).max() > 0 and relative(doubled, 2 * values) <= subject.tolerance:
            return group
    return None
