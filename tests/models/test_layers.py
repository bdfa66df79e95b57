"""Do the layers compute what PyTorch's definitions say?"""

import numpy as np
import pytest
from ntk_select.models.layers import adaptive_average_pool


@pytest.mark.parametrize("size", [(2, 2), (6, 6), (7, 5), (13, 12), (1, 9)])
def test_adaptive_pooling_averages_the_windows_of_its_definition(size, rng):
    image, bins = rng.normal(size=(2, *size, 3)), 6
    expected = np.empty((2, bins, bins, 3))
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * size[0] // bins, -(-(i + 1) * size[0] // bins))
            columns = slice(j * size[1] // bins, -(-(j + 1) * size[1] // bins))
            expected[:, i, j] = image[:, rows, columns].mean(axis=(1, 2))
    np.testing.assert_allclose(adaptive_average_pool(image, bins), expected, rtol=1e-12, atol=1e-14)
