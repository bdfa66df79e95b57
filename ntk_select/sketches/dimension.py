"""How many columns does a wanted error of the score need?"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from ntk_select.sketches.estimate import SketchedKernel
from ntk_select.sketches.kinds import FORWARD, KINDS
from ntk_select.sketches.score import SketchedScore, sketched_correlation
from ntk_select.sketches.sketch import rounded_up
from ntk_select.sketches.spec import Sketch

SCORE_ERROR = 0.005
PILOT_DIM = 2048
PILOT_BLOCKS = 16  # where only blocks that disagree tell the error
MOST_DIM = 2**16
MARGIN = 1.1  # columns beyond what the pilot asks for, since it is only an estimate


def with_error(
    draw: Callable[[Sketch], SketchedKernel], labels: Int[np.ndarray, " n"], asked: Sketch, *, together: int = 1, **variant
) -> SketchedScore:
    """The score from a sketch, of as many columns as its error asks for.

    With dim="auto" a pilot of about 2,000 columns tells the error of the score, whose square falls with the columns; unless
    the pilot is good enough, a second sketch has the columns that are missing, at most 65,536. The interval then says what
    was reached.

    Args:
      draw: draw(sketch) -> the sketched kernel, for a sketch whose dimension and blocks are numbers.
      labels: class ids.
      asked: with dim="auto" or a number.
      together: columns that a direction of "jvp" fills; a block of the pilot has room for one at least.
      variant: of `sketched_correlation`.
    """
    if asked.dim != "auto":
        return sketched_correlation(draw(asked.with_blocks(2)), labels, **variant)
    wanted = SCORE_ERROR if asked.error is None else asked.error
    pilot = _pilot(asked, together if asked.kind == FORWARD else 1)
    kernel = draw(pilot)
    score = sketched_correlation(kernel, labels, **variant)
    error = score.standard_error if score.standard_error is not None else score.measured_error
    if error is None or error <= wanted:
        return score
    needed = MARGIN * pilot.dim * (error / wanted) ** 2
    if kernel.has_law:
        final = replace(pilot, dim=min(rounded_up(needed, pilot.blocks), MOST_DIM // pilot.blocks * pilot.blocks))
    else:  # blocks keep their width: more of them shrink the error as the pilot's number of them says
        blocks = min(math.ceil(needed / pilot.width), max(MOST_DIM, pilot.dim) // pilot.width)
        final = replace(pilot, dim=blocks * pilot.width, blocks=blocks)
    if final.dim <= pilot.dim:
        return score
    return sketched_correlation(draw(final), labels, **variant)


def _pilot(asked: Sketch, together: int) -> Sketch:
    has_law = asked.kind != FORWARD and KINDS[asked.kind].law
    blocks = asked.blocks or (2 if has_law else PILOT_BLOCKS)
    dim = rounded_up(PILOT_DIM, blocks)
    if together > 1:
        dim = blocks * together * math.ceil(dim / blocks / together)
    return replace(asked, dim=dim, blocks=blocks, error=None)
