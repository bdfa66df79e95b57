"""The kernel along random directions estimates the exact one, of the chosen layers alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.experts.expert import Expert
from ntk_select.kernels.directions import directional_kernel
from ntk_select.kernels.gradients import gradient_kernel

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture(scope="module")
def expert():
    rng = np.random.default_rng(0)

    def features(variables, x):
        return jnp.tanh(jnp.tanh(x @ variables["params"]["first"]) @ variables["params"]["last"] + variables["stats"]["shift"])

    def logits(variables, x):
        return features(variables, x) @ variables["params"]["fc"]["kernel"]

    params = {"first": rng.normal(size=(5, 6)), "last": rng.normal(size=(6, 4)) / 2, "fc": {"kernel": rng.normal(size=(4, 9))}}
    return Expert("mlp", logits, params, {"stats": {"shift": rng.normal(size=4)}}, features_fn=features, head="fc", last_block="last")


@pytest.mark.parametrize(("layers", "outputs"), [("last_conv", "trace"), ("all", "trace"), ("^first", "features")])
def test_its_mean_over_seeds_is_the_exact_kernel(expert, rng, layers, outputs):
    x = rng.normal(size=(7, 5))
    exact = gradient_kernel(expert, x, layers=layers, outputs=outputs)
    estimates = [directional_kernel(expert, x, layers=layers, outputs=outputs, seed=seed, batch_size=3) for seed in range(200)]
    kernels, count = np.array([kernel for kernel, _ in estimates]), estimates[0][1]
    assert count == 16
    spread = kernels.std(axis=0) / np.sqrt(len(kernels))
    assert (np.abs(kernels.mean(axis=0) - exact) < 5 * spread + 1e-12).all()
    errors = np.linalg.norm(kernels - exact, axis=(1, 2)) / np.linalg.norm(exact)
    assert 0.02 < errors.mean() < 0.5


def test_it_is_a_function_of_the_seed_and_not_of_the_batches(expert, rng):
    x = rng.normal(size=(7, 5))
    first, again, other = (directional_kernel(expert, x, seed=seed, batch_size=size)[0] for seed, size in ((0, 7), (0, 2), (1, 7)))
    np.testing.assert_allclose(first, again, rtol=1e-12)
    assert np.abs(first - other).max() > 1e-3
