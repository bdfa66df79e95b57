"""Random words equal those of scheme 1 in NumPy and JAX, and pass the statistical tests that sketches rely on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from ntk_select.kernels.sketches.hashing import SCHEME, flipped, leaf_keys, mix, normals, permuted, word_table, words

EDGES = [0, 1, 2, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
SAMPLE = np.concatenate([np.array(EDGES), np.random.default_rng(0).integers(0, 2**32, 200)]).astype(np.uint32)
KEY = np.array([0x01234567, 0x89ABCDEF, 0xDEADBEEF, 0x0BADF00D], np.uint32)


def keys_of(seeds, name="w", blocks=1, cotangents=(0,)):
    """Keys (seeds, t, blocks, 4)."""
    return np.stack([leaf_keys(seed, name, blocks, np.array(cotangents)) for seed in seeds])


def signs(found) -> np.ndarray:
    """+1 or -1 for each word."""
    return np.asarray(flipped(found, np.ones(found.shape, np.float32)))


def unmixed(word: int) -> int:
    """The inverse of the mixing function: odd factors have inverses, shifts onto themselves are undone step by step."""

    def unshifted(word, by):
        found = word
        for _ in range(32 // by + 1):
            found = word ^ found >> by
        return found

    word = unshifted(word, 16) * pow(0x846CA68B, -1, 2**32) % 2**32
    word = unshifted(word, 15) * pow(0x7FEB352D, -1, 2**32) % 2**32
    return unshifted(word, 16)


# The numbers of scheme 1.


def test_the_scheme_that_these_numbers_belong_to_is_the_first():
    assert SCHEME == 1


def test_mixing_is_undone_by_its_inverse():
    assert [unmixed(int(word)) for word in mix(SAMPLE)] == SAMPLE.tolist()


def test_mixed_neighbours_are_all_different():
    assert len(np.unique(mix(np.arange(2**20, dtype=np.uint32)))) == 2**20


def test_words_are_those_of_the_explicit_arithmetic(explicit):
    key = KEY.tolist()
    assert mix(SAMPLE).tolist() == [explicit.mix(word) for word in SAMPLE.tolist()]
    assert words(KEY[:2], SAMPLE).tolist() == [explicit.word(key, index) for index in SAMPLE.tolist()]
    assert words(KEY[2:], SAMPLE).tolist() == [explicit.word(key[2:], index) for index in SAMPLE.tolist()]
    columns = SAMPLE[:20]
    expected = [[explicit.table_word(key, index, column) for column in columns.tolist()] for index in SAMPLE.tolist()]
    assert word_table(KEY[:2], SAMPLE, columns).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, -1, 2**70, np.int64(7)], ids=str)
@pytest.mark.parametrize("name", ["", "params/conv1/kernel", "Schicht/ß#2"])
def test_keys_of_leaves_are_those_of_the_explicit_arithmetic(explicit, seed, name):
    cotangents = [0, 3, 999]
    found = leaf_keys(seed, name, 4, np.array(cotangents))
    assert found.dtype == np.uint32
    assert found.shape == (3, 4, 4)
    for place, cotangent in enumerate(cotangents):
        assert [tuple(one) for one in found[place].tolist()] == [explicit.key(int(seed), name, block, cotangent) for block in range(4)]


def test_words_are_the_same_in_numpy_and_in_jax():
    key, sample, columns = jnp.asarray(KEY), jnp.asarray(SAMPLE), SAMPLE[:20]
    for function in (lambda x: x, jax.jit):
        np.testing.assert_array_equal(function(mix)(sample), mix(SAMPLE))
        np.testing.assert_array_equal(function(words)(key[:2], sample), words(KEY[:2], SAMPLE))
        np.testing.assert_array_equal(function(word_table)(key[:2], sample, jnp.asarray(columns)), word_table(KEY[:2], SAMPLE, columns))
    assert words(key, sample).dtype == jnp.uint32


def test_a_permutation_is_that_of_the_explicit_arithmetic(explicit):
    for count in (0, 1, 2, 3, 5, 8, 11):
        index = np.arange(2**count, dtype=np.uint32)
        found = permuted(jnp.asarray(KEY[:2]), jnp.asarray(index), count)
        assert found.tolist() == [explicit.permuted(KEY.tolist(), int(one), count) for one in index]


def test_a_sign_is_the_first_bit_of_its_word():
    expected = np.where(SAMPLE < 2**31, 1, -1)
    values = np.random.default_rng(1).normal(size=(3, len(SAMPLE)))
    np.testing.assert_array_equal(flipped(jnp.asarray(SAMPLE), jnp.asarray(values)), values * expected)


def test_normal_numbers_are_the_quantiles_of_the_upper_bits():
    found = normals(jnp.asarray(SAMPLE))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, ndtri(((SAMPLE >> 9).astype(float) + 0.5) / 2**23), rtol=2e-5)


# Keys.


def test_keys_differ_by_seed_name_block_and_cotangent():
    found = [leaf_keys(seed, name, 5, np.arange(6)) for seed in (0, 1, -1, 10) for name in ("", "w", "w2", "0", "a/w", "a/w#2")]
    rows = np.concatenate([keys.reshape(-1, 4) for keys in found])
    assert len(rows) == 4 * 6 * 6 * 5
    for place in range(4):
        assert len(np.unique(rows[:, place])) == len(rows)
    # What a sketch draws from one key must not be drawn from another: entries from the first two words, the rest from the last two.
    assert len(np.unique(np.concatenate([rows[:, :2], rows[:, 2:]]), axis=0)) == 2 * len(rows)


def test_block_and_cotangent_do_not_change_places():
    found = leaf_keys(0, "w", 6, np.arange(6))
    assert not (found == found.swapaxes(0, 1))[~np.eye(6, dtype=bool)].any()


def test_a_key_does_not_depend_on_what_else_is_generated():
    alone = leaf_keys(5, "w", 1, np.array([3]))[0, 0]
    np.testing.assert_array_equal(leaf_keys(5, "w", 8, np.array([7, 3, 0]))[1, 0], alone)
    np.testing.assert_array_equal(leaf_keys(5, "w", 1, np.arange(10))[3, 0], alone)
    together = leaf_keys(5, "w", 4, np.arange(10))
    np.testing.assert_array_equal(leaf_keys(5, "w", 3, np.arange(4, 9)), together[4:9, :3])


# Randomness.


@pytest.mark.parametrize("start", ["neighbours", "random words"])
def test_every_bit_of_the_input_changes_every_bit_of_the_output_half_of_the_time(start):
    count = 2**15
    before = np.arange(count, dtype=np.uint32) if start == "neighbours" else np.random.default_rng(2).integers(0, 2**32, count).astype(np.uint32)
    changed = mix(before) ^ mix(before ^ np.uint32(1) << np.arange(32, dtype=np.uint32)[:, None])
    share = (changed[:, :, None] >> np.arange(32, dtype=np.uint32) & 1).mean(1)
    assert share.shape == (32, 32)
    assert np.abs(share - 0.5).max() < 0.02
    assert abs(share.mean() - 0.5) < 0.001


def series() -> dict[str, np.ndarray]:
    """Sequences of signs (many, 2^14) that must not know of each other."""
    index, columns = np.arange(2**14, dtype=np.uint32), np.arange(4, dtype=np.uint32)
    by_block = [signs(words(key[:2], index)) for key in leaf_keys(0, "w", 40, np.array([0]))[0]]
    by_cotangent = [signs(words(key[:2], index)) for key in leaf_keys(0, "w", 1, np.arange(1, 40))[:, 0]]
    by_seed = [signs(words(key[:2], index)) for key in keys_of(range(1, 40))[:, 0, 0]]
    by_name = [signs(words(leaf_keys(0, name, 1, np.array([0]))[0, 0, :2], index)) for name in map(str, range(40))]
    second_half = [signs(words(key[2:], index)) for key in leaf_keys(0, "w", 20, np.array([0]))[0]]
    table = word_table(leaf_keys(0, "w", 1, np.array([0]))[0, 0, :2], index, columns)
    return {
        "words": np.stack(by_block + by_cotangent + by_seed + by_name + second_half),
        "bits of a table": np.stack([1 - 2 * (table[:, c] >> np.uint32(bit) & 1).astype(np.float32) for c in columns for bit in range(32)]),
        "neighbours": np.stack([np.roll(by_block[0], -lag) for lag in range(128)]),
    }


@pytest.mark.parametrize("which", ["words", "bits of a table", "neighbours"])
def test_signs_are_balanced_and_pairwise_uncorrelated(which):
    rows = series()[which].astype(np.float64)
    many, n = rows.shape
    assert np.abs(rows.mean(1)).max() < 5 * n**-0.5
    correlations = (rows @ rows.T / n)[np.triu_indices(many, 1)]
    assert np.abs(correlations).max() < 5.5 * n**-0.5
    # Mean square of as many correlations: 1 / n, up to sqrt(2 / pairs) of that; along one series lags share their pairs.
    pairs = many - 1 if which == "neighbours" else len(correlations)
    assert abs(n * (correlations**2).mean() - 1) < 5 * np.sqrt(2 / pairs)


def test_words_are_uniform_in_every_byte():
    found = words(KEY[:2], np.arange(2**16, dtype=np.uint32))
    for shift in (0, 8, 16, 24):
        assert stats.chisquare(np.bincount(found >> np.uint32(shift) & 255, minlength=256)).pvalue > 1e-4


def test_normal_numbers_have_the_moments_of_the_normal():
    n = 2**20
    table = np.asarray(normals(word_table(KEY[:2], np.arange(2**14, dtype=np.uint32), np.arange(64, dtype=np.uint32)))).astype(np.float64)
    assert table.size == n
    assert abs(table.mean()) < 5 * n**-0.5
    # The moments of order k have variances E x^2k - (E x^k)^2.
    assert abs((table**2).mean() - 1) < 5 * np.sqrt(2 / n)
    assert abs((table**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((table**4).mean() - 3) < 5 * np.sqrt(96 / n)
    columns = (table.T @ table / len(table))[np.triu_indices(64, 1)]
    assert np.abs(columns).max() < 5.5 * len(table) ** -0.5
    assert stats.kstest(table.ravel()[:100_000], "norm").pvalue > 1e-4


@pytest.mark.parametrize("function", [normals, jax.jit(normals)], ids=["at once", "compiled"])
def test_the_most_extreme_words_give_finite_normal_numbers_of_either_sign(function):
    low, high = map(float, function(jnp.array([0, 2**32 - 1], jnp.uint32)))
    assert np.isfinite([low, high]).all()
    assert low == -high
    assert 5 < high < 6


@pytest.mark.parametrize("count", range(13))
def test_permutations_are_permutations(count):
    index = np.arange(2**count, dtype=np.uint32)
    for key in keys_of(range(5))[:, 0, 0]:
        assert sorted(np.asarray(permuted(key[:2], index, count)).tolist()) == index.tolist()


@pytest.fixture(scope="module")
def many_keys():
    """The first two words of the keys of many seeds."""
    return jnp.asarray(keys_of(range(4000))[:, 0, 0, :2])


def places(keys, size: int, count: int) -> np.ndarray:
    """Where the first `size` numbers go, key by key."""
    return np.asarray(jax.jit(jax.vmap(lambda key: permuted(key, jnp.arange(size, dtype=jnp.uint32), count)))(keys))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_over_keys_every_number_goes_everywhere_equally_often(many_keys, count):
    found = places(many_keys, 2**count, count)
    assert min(stats.chisquare(np.bincount(found[:, number], minlength=2**count)).pvalue for number in range(2**count)) > 1e-5


@pytest.mark.parametrize(("count", "tolerance"), [(4, 0.1), (6, 0.05), (8, 0.05)])
def test_over_keys_differences_in_a_sample_are_spread_over_all_numbers(many_keys, count, tolerance):
    """What the variance of a sampled Hadamard transform depends on: the products of two rows are another row, and which one must be uniform."""
    found, size = places(many_keys, 2 ** (count - 1), count), 2**count
    seen = sum(np.bincount(found[:, i] ^ found[:, j], minlength=size) for i, j in itertools.combinations(range(size // 2), 2))
    assert seen[0] == 0
    np.testing.assert_allclose(seen[1:] / seen[1:].mean(), 1, rtol=tolerance)
