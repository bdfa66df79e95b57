"""Is the correction Holm's, and does it keep its promise?"""

import numpy as np
import pytest

import ntk_select.evaluate as ev
from ntk_select.errors import ConfigError


def test_a_case_by_hand():
    np.testing.assert_allclose(ev.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(ev.holm([0.6, 0.7]), [1, 1])


def test_what_is_rejected_is_what_the_step_down_rule_rejects(rng):
    for _ in range(50):
        p, level = rng.random(7) ** 4, 0.1
        rejected = np.zeros(7, bool)
        for step, test in enumerate(np.argsort(p)):
            if p[test] > level / (7 - step):
                break
            rejected[test] = True
        np.testing.assert_array_equal(ev.holm(p) <= level, rejected)


def test_nan_stays_and_is_not_counted():
    np.testing.assert_allclose(ev.holm([0.02, np.nan, 0.01]), [0.02, np.nan, 0.02])
    assert np.isnan(ev.holm([np.nan])).all()
    assert ev.holm([]).shape == (0,)


def test_false_rejections_anywhere_stay_rare(rng):
    p = rng.random((2000, 10))
    assert np.mean([ev.holm(row).min() <= 0.05 for row in p]) < 0.065
    assert np.mean(p.min(axis=1) <= 0.05) > 0.3


@pytest.mark.parametrize("p", [[0.1, 1.2], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ConfigError, match="p_values are not a row of numbers from 0 to 1"):
        ev.holm(p)
