"""Wilson's interval of a share agrees with SciPy and contains the share about 95 times in 100."""

import numpy as np
import pytest

from ntk_select.evaluate.intervals import wilson


def test_the_interval_of_a_share_is_that_of_wilson():
    assert wilson(0.0, 10)[0] == 0
    assert 0.2 < wilson(0.0, 10)[1] < 0.35
    np.testing.assert_allclose(wilson(1.0, 10)[1], 1)
    np.testing.assert_allclose(wilson(0.5, 1e6), [0.5 - 1.96 * 0.5e-3, 0.5 + 1.96 * 0.5e-3], atol=1e-6)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 7), (352, 411), (411, 411)])
def test_it_is_the_interval_of_scipy(right, n):
    from scipy.stats import binomtest

    np.testing.assert_allclose(wilson(right / n, n), binomtest(right, n).proportion_ci(method="wilson"), rtol=1e-9, atol=1e-12)


def test_an_interval_holds_the_share_it_is_for():
    rng = np.random.default_rng(0)
    for share, n in ((0.5, 30), (0.9, 30), (0.97, 100)):
        intervals = [wilson(np.mean(rng.random(n) < share), n) for _ in range(2000)]
        assert 0.92 < np.mean([low <= share <= high for low, high in intervals]) < 0.985


def test_of_411_images_at_85_percent_it_reaches_three_and_a_half_points_either_way():
    low, high = wilson(352 / 411, 411)
    assert 100 * (high - low) / 2 == pytest.approx(3.4, abs=0.1)
