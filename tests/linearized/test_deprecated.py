"""Old names of the linearised theory work with a `DeprecationWarning`."""

import numpy as np
import pytest

from ntk_select import linearized
from ntk_select.linearized import NetworkKernel, loss_curve, time_to_loss


@pytest.mark.parametrize(("old", "new"), [("beside", "compare_training"), ("Beside", "Comparison")])
def test_old_names_of_the_comparison(old, new):
    with pytest.warns(DeprecationWarning, match=rf"linearized\.{old} is deprecated\. Try: ntk_select\.linearized\.{new}"):
        found = getattr(linearized, old)
    assert found is getattr(linearized, new)
    assert not hasattr(linearized, "nothing")


def test_old_names_of_arguments():
    kernel, residual = np.diag([1.0, 2.0]), np.ones(2)
    with pytest.warns(DeprecationWarning, match="most_products= is deprecated. Try: max_products="):
        curve = loss_curve(lambda v: kernel @ v, residual, lr=0.1, times=[1.0], most_products=9)
    np.testing.assert_allclose(curve, loss_curve(kernel, residual, lr=0.1, times=[1.0]), rtol=1e-7)
    with pytest.warns(DeprecationWarning, match="most_steps= is deprecated. Try: max_steps="):
        assert time_to_loss(kernel, residual, 0.0, lr=0.1, optimizer="momentum", momentum=0.5, most_steps=3) == np.inf


def test_the_old_name_of_the_reason():
    with pytest.warns(DeprecationWarning, match=r"NetworkKernel\.reason"):
        assert NetworkKernel(np.eye(1), None, "dense", "cheap").why == "cheap"
