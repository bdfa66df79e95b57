"""A sketch takes as many columns as the requested error needs, in at most two draws."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.kernels.sketches.correlation import MARGIN, MAX_COLUMNS, PILOT_DIM, SCORE_ERROR, with_error
from ntk_select.kernels.sketches.projection import ALL_KINDS

N, P = 40, 50
LABELS = np.arange(N) % 4
WITH_LAW = ("countsketch", "rademacher", "gaussian", "srht")


@pytest.fixture
def gradients():
    rng = np.random.default_rng(3)
    return rng.normal(size=(N, P)) + 0.6 * rng.normal(size=(4, P))[LABELS] + 0.5 * rng.normal(size=P)


class Drawn:
    """Sketches of explicit gradients with matrices of independent normal numbers, and what was requested of them."""

    def __init__(self, gradients, directions=False):
        self.gradients, self.directions, self.sketches = gradients, directions, []

    def __call__(self, sketch):
        assert isinstance(sketch.dim, int)
        assert isinstance(sketch.blocks, int)
        self.sketches.append(sketch)
        random = np.random.default_rng([sketch.seed, sketch.dim]).normal(size=(P, sketch.dim))
        return ns.SketchedKernel(self.gradients @ random / np.sqrt(sketch.dim), sketch.kind, sketch.blocks, self.directions)

    @property
    def dims(self):
        return [sketch.dim for sketch in self.sketches]


def pilot_error(gradients, kind="countsketch", blocks=2, name="standard_error", **variant):
    """The error of the score from 2048 columns."""
    z = Drawn(gradients)(ns.Sketch(2048, kind, blocks=blocks))
    return getattr(ns.sketched_correlation(z, LABELS, **variant), name)


@pytest.mark.parametrize("kind", WITH_LAW)
def test_a_pilot_that_is_good_enough_is_the_answer(gradients, kind):
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(kind=kind, error=0.1, seed=4))
    assert draw.sketches == [ns.Sketch(2048, kind, 4, blocks=2)]
    assert score == ns.sketched_correlation(Drawn(gradients)(draw.sketches[0]), LABELS)
    assert score.standard_error <= 0.1


QUICK = (("countsketch", 2, None), ("srht", 1.2, 1), ("gaussian", 1.2, 3))
EVERY = itertools.product(WITH_LAW, [1.2, 2, 5], [None, 1, 3])


@pytest.mark.parametrize(("kind", "times", "blocks"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.nightly) for case in EVERY])
def test_otherwise_the_square_of_the_error_says_how_many_columns_are_missing(gradients, kind, times, blocks):
    wanted = pilot_error(gradients, kind) / times
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(kind=kind, error=wanted, blocks=blocks))
    pilot, final = draw.sketches
    first = ns.sketched_correlation(Drawn(gradients)(pilot), LABELS).standard_error
    needed = MARGIN * pilot.dim * (first / wanted) ** 2
    assert pilot.blocks == final.blocks == (blocks or 2)
    assert pilot.dim == 64 * pilot.blocks * math.ceil(PILOT_DIM / (64 * pilot.blocks))
    assert needed - 1e-6 <= final.dim < needed + 64 * final.blocks
    assert final == replace(pilot, dim=final.dim)
    assert score.dim == final.dim
    assert 0.85 * wanted / MARGIN**0.5 < score.standard_error < 1.05 * wanted


@pytest.mark.parametrize(
    "variant",
    [
        {"normalize": True},
        {"diagonal": False, "center": True},
        pytest.param({"diagonal": False}, marks=pytest.mark.nightly),
        pytest.param({"center": True}, marks=pytest.mark.nightly),
    ],
)
def test_the_error_is_that_of_the_variant_of_the_score(gradients, variant):
    wanted = pilot_error(gradients, **variant) / 2
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(error=wanted), **variant)
    assert draw.dims[1] == pytest.approx(4 * MARGIN * 2048, abs=128)
    assert score == ns.sketched_correlation(Drawn(gradients)(draw.sketches[1]), LABELS, **variant)
    assert 0.85 * wanted < score.standard_error < 1.05 * wanted


@pytest.mark.nightly
def test_the_value_is_within_the_error_that_was_wanted(gradients):
    exact = ns.kernel_label_correlation(gradients @ gradients.T, LABELS)
    wanted = pilot_error(gradients) / 1.5
    errors = [float(with_error(Drawn(gradients), LABELS, ns.Sketch(error=wanted, seed=seed))) - exact for seed in range(30)]
    assert 0.6 * wanted < np.sqrt(np.square(errors).mean()) < 1.3 * wanted


def test_five_thousandths_are_wanted_unless_said(gradients):
    draws = [Drawn(gradients), Drawn(gradients)]
    scores = [with_error(draw, LABELS, requested) for draw, requested in zip(draws, [ns.Sketch(), ns.Sketch(error=SCORE_ERROR)], strict=True)]
    assert SCORE_ERROR == 0.005
    assert scores[0] == scores[1]
    assert draws[0].sketches == draws[1].sketches


@pytest.mark.parametrize("blocks", [16, *(pytest.param(blocks, marks=pytest.mark.nightly) for blocks in (None, 1, 2))])
def test_there_is_an_end_to_the_columns(gradients, blocks):
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(error=1e-5, blocks=blocks))
    assert draw.dims[1:] == [score.dim] == [MAX_COLUMNS] == [65_536]
    assert score.standard_error > 1e-5


def test_the_end_holds_for_any_number_of_blocks(gradients):
    draw = Drawn(gradients)
    with_error(draw, LABELS, ns.Sketch(error=1e-5, blocks=5))
    assert 0.95 * 65_536 < draw.dims[1] <= 65_536


def test_kronecker_takes_more_blocks_of_the_same_width(gradients):
    wanted = pilot_error(gradients, "kronecker", 16, "measured_error") / 2
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(kind="kronecker", error=wanted))
    pilot, final = draw.sketches
    assert (pilot.dim, pilot.blocks, pilot.width) == (2048, 16, 128)
    assert final.width == 128
    assert final.blocks == math.ceil(4 * MARGIN * 16)
    assert score.standard_error is None
    assert score.measured_error == pytest.approx(wanted / MARGIN**0.5, rel=0.5)
    assert score.low < score.value < score.high


@pytest.mark.parametrize("kind", ["kronecker", pytest.param("jvp", marks=pytest.mark.nightly)])
def test_blocks_keep_their_width_up_to_the_end_of_the_columns(gradients, kind):
    draw = Drawn(gradients)
    with_error(draw, LABELS, ns.Sketch(kind=kind, error=1e-5))
    assert [(sketch.dim, sketch.blocks) for sketch in draw.sketches] == [(2048, 16), (65_536, 512)]


@pytest.mark.parametrize("kind", ["kronecker", "jvp"])
def test_a_pilot_without_a_law_that_is_good_enough_is_the_answer(gradients, kind):
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(kind=kind, error=0.2))
    assert draw.sketches == [ns.Sketch(2048, kind, blocks=16)]
    assert score.measured_error < 0.2


def test_directions_of_forward_mode_follow_the_law(gradients):
    draw = Drawn(gradients, directions=True)
    wanted = pilot_error(gradients) / 2
    score = with_error(draw, LABELS, ns.Sketch(kind="jvp", error=wanted))
    assert [sketch.blocks for sketch in draw.sketches] == [16, 16]
    assert 0.85 * wanted < score.standard_error < 1.05 * wanted


def test_one_block_without_a_law_cannot_ask_for_more(gradients):
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(kind="kronecker", blocks=1, error=1e-3))
    assert draw.dims == [2048]
    assert score.low is score.high is score.measured_error is None


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(("dim", "blocks"), [(96, {"kronecker": 32}), (95, {"kronecker": 19})])
def test_a_dimension_that_is_given_is_drawn_once(gradients, kind, dim, blocks):
    draw = Drawn(gradients)
    score = with_error(draw, LABELS, ns.Sketch(dim, kind, seed=9))
    assert draw.sketches == [ns.Sketch(dim, kind, 9, blocks=blocks.get(kind, 2 if dim % 2 == 0 else 1))]
    assert score == ns.sketched_correlation(Drawn(gradients)(draw.sketches[0]), LABELS)


def test_blocks_that_are_given_are_drawn(gradients):
    draw = Drawn(gradients)
    with_error(draw, LABELS, ns.Sketch(96, blocks=4))
    assert draw.sketches == [ns.Sketch(96, blocks=4)]
