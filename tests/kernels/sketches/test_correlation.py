"""A score from a sketch equals the exact one up to its standard error, over many seeds of projections by NumPy."""

import functools

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import TaskError, UndefinedScoreError

N, P, DIM, SEEDS = 45, 60, 2048, 300
VARIANTS = [{}, {"diagonal": False}, {"center": True}, {"normalize": True}, {"diagonal": False, "center": True, "normalize": True}]

LABELS = np.repeat([0, 1, 2], [21, 14, 10])


def grouped(seed, noise=1.0, spread=0.6, common=0.5, labels=LABELS):
    """Gradients of classes that differ: noise, a mean for each class, and a mean for all."""
    rng = np.random.default_rng(seed)
    return noise * rng.normal(size=(len(labels), P)) + spread * rng.normal(size=(3, P))[labels] + common * rng.normal(size=P)


GRADIENTS = grouped(5)
IN_COMMON = grouped(0, noise=0.3, common=1.5)  # cosines near one: a large mean for all


def projected(seed, dim=DIM, gradients=GRADIENTS):
    """Z (n, dim) from a matrix of independent normal numbers."""
    return gradients @ np.random.default_rng([seed, dim]).normal(size=(gradients.shape[1], dim)) / np.sqrt(dim)


def exact(gradients=GRADIENTS, labels=LABELS, **variant):
    return ns.kernel_label_correlation(gradients @ gradients.T, labels, **variant)


def scored(z, kind="gaussian", blocks=2, labels=LABELS, **variant):
    return ns.sketched_correlation(ns.SketchedKernel(z, kind, blocks), labels, **variant)


def over_seeds(seeds=SEEDS, dim=DIM, gradients=GRADIENTS, **options):
    return [scored(projected(seed, dim, gradients), **options) for seed in range(seeds)]


@functools.cache
def in_every_variant(seeds=SEEDS, dim=DIM, common=False, kind="gaussian", blocks=2):
    """As `over_seeds`, {name of the variant: scores}; all of them share the projections."""
    gradients, scores = IN_COMMON if common else GRADIENTS, {names(variant): [] for variant in VARIANTS}
    for z in (projected(seed, dim, gradients) for seed in range(seeds)):
        for variant in VARIANTS:
            scores[names(variant)].append(scored(z, kind, blocks, **variant))
    return scores


def column(scores, name):
    return np.array([getattr(score, name) for score in scores], float)


def standard_score(values, expected):
    """How many standard errors the mean over seeds is away from what is expected."""
    return (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values)))


def names(variant):
    return ", ".join(variant) or "default"


@pytest.fixture(scope="module", params=VARIANTS, ids=names)
def drawn(request):
    """A variant of the score, and its values over seeds."""
    return request.param, in_every_variant()[names(request.param)]


def test_the_value_is_unbiased(drawn):
    variant, scores = drawn
    assert abs(standard_score(column(scores, "value"), exact(**variant))) < 4


def test_the_interval_covers_the_exact_score_as_often_as_it_says(drawn):
    variant, scores = drawn
    covered = (column(scores, "low") <= exact(**variant)) & (exact(**variant) <= column(scores, "high"))
    assert 0.91 <= covered.mean() <= 0.98


def test_the_standard_error_is_the_spread_over_seeds(drawn):
    _, scores = drawn
    spread = column(scores, "value").std(ddof=1)
    predicted = column(scores, "standard_error")
    assert np.sqrt((predicted**2).mean()) == pytest.approx(spread, rel=0.12)
    assert predicted.std() < 0.2 * spread
    assert {score.dim for score in scores} == {DIM}


def test_two_blocks_measure_the_error_roughly(drawn):
    """Right on average; a single one may be anything."""
    _, scores = drawn
    measured = column(scores, "measured_error")
    assert np.sqrt((measured**2).mean()) == pytest.approx(column(scores, "value").std(ddof=1), rel=0.2)


def test_the_interval_is_the_value_and_its_standard_error(drawn):
    _, scores = drawn
    for score in scores[:20]:
        assert float(score) == score.value
        assert score.high - score.value == pytest.approx(1.96 * score.standard_error, rel=1e-4)
        assert score.value - score.low == pytest.approx(1.96 * score.standard_error, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_sixteen_blocks_measure_the_error(variant):
    scores = in_every_variant(200, blocks=16)[names(variant)]
    measured, spread = column(scores, "measured_error"), column(scores, "value").std(ddof=1)
    assert np.sqrt((measured**2).mean()) == pytest.approx(spread, rel=0.18)
    assert measured.std() < 0.35 * spread


@pytest.mark.parametrize("blocks", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_the_square_of_the_estimate_alone_is_biased_where_the_score_is_not(blocks):
    """The control of the first test: the norm of an estimate is too large, so that its correlation is too small."""
    options = {"diagonal": False}
    naive = np.array([ns.kernel_label_correlation(z @ z.T, LABELS, **options) for z in map(lambda seed: projected(seed, 512), range(SEEDS))])
    assert standard_score(naive, exact(**options)) < -10
    assert abs(standard_score(column(over_seeds(dim=512, blocks=blocks, **options), "value"), exact(**options))) < 4


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_the_error_falls_with_the_square_root_of_the_columns(variant):
    dims = [256, 1024, 4096, 16384]
    errors = [np.sqrt(((column(in_every_variant(30, dim)[names(variant)], "value") - exact(**variant)) ** 2).mean()) for dim in dims]
    slope = np.polyfit(np.log(dims), np.log(errors), 1)[0]
    assert -0.62 < slope < -0.38


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_the_standard_error_comes_from_the_derivative_of_the_exact_score(variant):
    """Var = 2 / dim tr(W K W K), the variance of a linear function of a Wishart matrix; W by central differences."""
    labels = np.arange(9) % 3
    gradients = grouped(1, labels=labels)
    kernel, weights, step = gradients @ gradients.T, np.zeros((9, 9)), 1e-4
    for i in range(9):
        for j in range(i + 1):
            change = np.zeros((9, 9))
            change[i, j] = change[j, i] = step
            ends = [ns.kernel_label_correlation(kernel + sign * change, labels, **variant) for sign in (1, -1)]
            weights[i, j] = weights[j, i] = (ends[0] - ends[1]) / (2 * step) / (1 if i == j else 2)
    product = weights @ kernel
    expected = np.sqrt(2 / 2**18 * np.trace(product @ product))
    assert scored(projected(0, 2**18, gradients), labels=labels, **variant).standard_error == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_the_interval_covers_the_exact_score_of_examples_with_much_in_common(variant):
    scores, ground_truth = in_every_variant(200, common=True)[names(variant)], exact(IN_COMMON, **variant)
    assert ((column(scores, "low") <= ground_truth) & (ground_truth <= column(scores, "high"))).mean() >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_sixteen_blocks_do_not_understate_the_error_of_examples_with_much_in_common(variant):
    """Cosines near one hardly vary, so that narrow blocks see more of the second order than all columns together."""
    scores = in_every_variant(100, common=True, blocks=16)[names(variant)]
    measured, spread = column(scores, "measured_error"), column(scores, "value").std(ddof=1)
    assert 0.75 < np.sqrt((measured**2).mean()) / spread < 4


@pytest.mark.parametrize("kind", ["kronecker", "jvp"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS, ids=names)
def test_few_blocks_without_a_law_give_no_interval(kind, blocks, variant):
    """And with one block or two nothing is measured: a single block left alone cannot tell its norm."""
    score = scored(projected(0, 1536), kind, blocks, **variant)
    assert score.low is score.high is score.standard_error is None
    assert (score.measured_error is None) == (blocks < 3)
    assert score.value == pytest.approx(exact(**variant), abs=0.1)


@pytest.mark.parametrize("blocks", [4, pytest.param(16, marks=pytest.mark.nightly)])
def test_more_blocks_give_an_interval_without_a_law(blocks):
    """Narrower than Student's where blocks are few, so that it covers less often."""
    scores = over_seeds(300, kind="kronecker", blocks=blocks)
    assert all(score.standard_error is None for score in scores)
    for score in scores[:5]:
        assert score.high - score.value == pytest.approx(1.96 * score.measured_error, rel=1e-4)
    covered = (column(scores, "low") <= exact()) & (exact() <= column(scores, "high"))
    assert {4: 0.78, 16: 0.88}[blocks] <= covered.mean() <= 0.98


def test_one_block_with_a_law_has_an_interval_and_measures_nothing():
    score = scored(projected(0), blocks=1)
    assert score.measured_error is None
    assert score.low < score.value < score.high
    assert score.value == pytest.approx(scored(projected(0), blocks=2).value, abs=score.standard_error)


def test_directions_of_forward_mode_follow_the_law():
    by_law = ns.sketched_correlation(ns.SketchedKernel(projected(0), "jvp", 2, directions=True), LABELS)
    assert by_law == scored(projected(0), "gaussian", 2)


def test_a_perfect_kernel_scores_one_and_no_more():
    """Examples of a class are the same, classes are orthogonal: errors leave the score no room above."""
    scores = over_seeds(30, 1024, gradients=np.eye(3, P)[LABELS])
    assert exact(np.eye(3, P)[LABELS]) == pytest.approx(1, abs=1e-12)
    assert column(scores, "high").max() == column(scores, "value").max() == 1
    assert column(scores, "value").min() > 0.9


def test_shuffled_labels_score_nothing(rng):
    z = projected(0)
    true = scored(z, diagonal=False)
    shuffled = np.array([scored(z, labels=rng.permutation(LABELS), diagonal=False).value for _ in range(100)])
    assert true.low > shuffled.max()
    assert abs(shuffled.mean()) < 4 * shuffled.std() / 10
    assert abs(shuffled.mean()) < 0.1 * true.value


@pytest.mark.parametrize("variant", VARIANTS, ids=names)
@pytest.mark.parametrize(("kind", "blocks"), [("gaussian", 1), ("gaussian", 2), ("kronecker", 4)])
def test_names_of_classes_order_of_examples_and_scale_do_not_count(rng, variant, kind, blocks):
    z = projected(0, 256)
    order = rng.permutation(N)
    score = scored(z, kind, blocks, **variant)
    others = [
        scored(z, kind, blocks, labels=np.array([7, -100, 3])[LABELS], **variant),
        scored(z[order], kind, blocks, labels=LABELS[order], **variant),
        scored(17.5 * z, kind, blocks, **variant),
        scored(1e-30 * z, kind, blocks, **variant),
    ]
    for other in others:
        for name in ("value", "low", "high", "standard_error", "measured_error"):
            expected, found = getattr(score, name), getattr(other, name)
            assert found == (expected if expected is None else pytest.approx(expected, rel=1e-8)), name


def test_single_precision_rows_are_summed_in_double():
    z = projected(0).astype(np.float32)
    assert scored(z) == scored(z.astype(np.float64))


def test_labels_are_a_row_of_integers():
    for labels in (LABELS.astype(float), LABELS[:, None], np.zeros(0, int)):
        with pytest.raises(TaskError, match="they must be a row of integers"):
            scored(projected(0, 64), labels=labels)


def test_every_row_has_a_label():
    with pytest.raises(TaskError, match="The sketch has 45 rows for 44 labels"):
        scored(projected(0, 64), labels=LABELS[:-1])
    with pytest.raises(TaskError, match="The sketch has 90 rows for 45 labels"):
        scored(projected(0, 64).reshape(45, 2, 32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sketch_is_finite(value):
    z = projected(0, 64)
    z[3, 5] = value
    with pytest.raises(TaskError, match="The sketch contains NaN or infinity"):
        scored(z)


def test_an_example_of_norm_zero_is_named():
    z = projected(0, 64)
    z[7] = 0
    with pytest.raises(UndefinedScoreError, match="Example 7 has norm zero, so it cannot be normalised"):
        scored(z, normalize=True)
    assert np.isfinite(scored(z).value)


def test_one_class_has_no_score():
    for diagonal in (True, False):
        with pytest.raises(UndefinedScoreError, match="All examples are of one class; a correlation with the labels needs two"):
            scored(projected(0, 64), labels=np.full(N, 3), diagonal=diagonal)


def test_without_the_diagonal_some_examples_share_a_class():
    with pytest.raises(UndefinedScoreError, match="No two examples share a class; nothing is left without the diagonal"):
        scored(projected(0, 64), labels=np.arange(N), diagonal=False)
    assert np.isfinite(scored(projected(0, 64), labels=np.arange(N)).value)


@pytest.mark.parametrize(("kind", "blocks"), [("gaussian", 2), ("kronecker", 1), ("kronecker", 4)])
def test_a_constant_kernel_has_no_score(kind, blocks):
    with pytest.raises(UndefinedScoreError, match="The kernel is constant over all pairs"):
        scored(np.ones((N, 64)), kind, blocks)
    with pytest.raises(UndefinedScoreError, match="The kernel is constant over all pairs"):
        scored(np.zeros((N, 64)), kind, blocks)


def test_a_kernel_below_the_sketching_noise_has_no_score():
    """Orthogonal examples: off the diagonal the kernel is zero, and products of two blocks fall on either side of it."""
    outcomes = set()
    for seed in range(20):
        z = projected(seed, 64, np.eye(N))
        first, second = (half @ half.T * ~np.eye(N, dtype=bool) for half in np.split(z, 2, axis=1))
        positive = (first * second).sum() > first.sum() * second.sum() / (N * (N - 1))
        outcomes.add(bool(positive))
        if positive:
            assert np.isfinite(scored(z, diagonal=False).value)
        else:
            with pytest.raises(UndefinedScoreError, match="its variance is indistinguishable from sketching noise. Try: more columns"):
                scored(z, diagonal=False)
    assert outcomes == {True, False}


def test_blocks_that_cannot_be_left_out_measure_nothing():
    """Where all blocks together have a norm and some without one of them have none."""
    found = set()
    for seed in range(200):
        try:
            score = scored(projected(seed, 64, np.eye(N)), "kronecker", 4, diagonal=False)
        except UndefinedScoreError:
            continue
        found.add(score.measured_error is None)
        if score.measured_error is None:
            assert score.low is score.high is None
    assert found == {True, False}
