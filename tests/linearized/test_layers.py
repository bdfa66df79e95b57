"""Shares and explained shares are those of explicit Jacobians, with sums over positions written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.linearized import layer_factors
from ntk_select.linearized.layers import explained
from ntk_select.models import ZOO

NAMES = ["all", "first/bias", "first/kernel", "last/bias", "last/kernel"]


def squared_correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1] ** 2


@pytest.fixture(scope="module")
def of_dense(several):
    return {layer.name: layer for layer in layer_factors(several.fn, several.x, params=several.params, features=hidden(several))}


def hidden(world):
    first = world.params["first"]
    return np.tanh(world.x @ first["kernel"] + first["bias"])


def test_every_parameter_and_first_their_sum(of_dense):
    assert list(of_dense) == NAMES


def test_shares_and_correlations_are_those_of_explicit_jacobians(oracle, several, of_dense):
    jacobian = oracle.jacobians(several.fn, several.params, several.x)
    kernels = {name: oracle.paired(rows, outputs="trace") for name, rows in jacobian.items()}
    total = sum(kernels.values())
    features = hidden(several) @ hidden(several).T
    assert of_dense["all"].share == 1
    assert of_dense["all"].explained_by_features == pytest.approx(squared_correlation(total, features), abs=1e-12)
    for name, kernel in kernels.items():
        assert of_dense[name].share == pytest.approx(np.trace(kernel) / np.trace(total), rel=1e-12)
        if name != "last/bias":  # its kernel is constant
            assert of_dense[name].explained_by_features == pytest.approx(squared_correlation(kernel, features), abs=1e-12)
    assert sum(of_dense[name].share for name in kernels) == pytest.approx(1, rel=1e-12)


def test_layers_that_see_one_position_are_the_product(several, of_dense):
    """x x' times the kernel of the cotangents, of which each output has its own."""
    left = np.einsum("nh,hc->nch", 1 - hidden(several) ** 2, several.params["last"]["kernel"])
    kernel, inputs, cotangents = several.x @ several.x.T, several.x @ several.x.T, np.einsum("iah,jah->ij", left, left)
    first = of_dense["first/kernel"]
    assert first.explained_by_product == pytest.approx(1, abs=1e-12)
    assert first.explained_by_inputs == pytest.approx(squared_correlation(kernel * cotangents, inputs), abs=1e-12)
    assert first.explained_by_cotangents == pytest.approx(squared_correlation(kernel * cotangents, cotangents), abs=1e-12)
    assert 0 < first.explained_by_inputs < 1


def test_the_last_linear_layer_is_that_of_its_features(of_dense):
    last = of_dense["last/kernel"]
    for number in (last.explained_by_features, last.explained_by_inputs, last.explained_by_product):
        assert number == pytest.approx(1, abs=1e-12)
    assert last.explained_by_cotangents == pytest.approx(0, abs=1e-12)
    assert of_dense["last/bias"].explained_by_features == pytest.approx(0, abs=1e-12)


def test_biases_and_sums_have_no_factors(of_dense):
    for name in ("all", "first/bias", "last/bias"):
        assert of_dense[name][3:] == (None, None, None)


def test_without_features_nothing_is_said_of_them(several):
    found = layer_factors(several.fn, several.x, params=several.params, layers="^last/kernel")
    assert [layer.name for layer in found] == ["all", "last/kernel"]
    assert [layer.explained_by_features for layer in found] == [None, None]
    assert found[1].share == pytest.approx(1)
    assert found[1].explained_by_product == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batches_do_not_matter(several, of_dense, batch_size):
    for layer in layer_factors(several.fn, several.x, params=several.params, features=hidden(several), batch_size=batch_size):
        for given, expected in zip(layer[1:], of_dense[layer.name][1:], strict=True):
            assert given == expected or given == pytest.approx(expected, abs=1e-10)


def convolution(params, x):
    """3 x 3, VALID, stride 1; tanh; mean over positions; linear."""
    h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(h).mean((1, 2)) @ params["head"]


def test_a_convolution_is_summed_over_its_positions(independent, oracle):
    params = {"conv": independent.draw(3, 3, 2, 4) / 4, "head": independent.draw(4, 3, seed=1)}
    x = independent.draw(6, 5, 5, 2, seed=2)
    patches = np.array([[image[i : i + 3, j : j + 3].reshape(-1) for i in range(3) for j in range(3)] for image in x])  # (n, 9 positions, 18)
    left = (1 - np.tanh(patches @ params["conv"].reshape(18, 4)) ** 2) / 9  # (n, 9 positions, 4)
    inputs = sum(np.outer(a, a) for a in patches.sum(axis=1).T)
    cotangents = sum(np.outer(a, a) for a in np.einsum("npo,oc->nco", left, params["head"]).reshape(6, -1).T)
    kernel = oracle.paired(oracle.jacobians(convolution, params, x)["conv"], outputs="trace")
    found = {layer.name: layer for layer in layer_factors(convolution, x, params=params)}["conv"]
    assert found.explained_by_inputs == pytest.approx(squared_correlation(kernel, inputs), abs=1e-10)
    assert found.explained_by_cotangents == pytest.approx(squared_correlation(kernel, cotangents), abs=1e-10)
    assert found.explained_by_product == pytest.approx(squared_correlation(kernel, inputs * cotangents), abs=1e-10)
    assert 0.01 < found.explained_by_product < 0.99


def test_the_groups_of_a_convolution_are_added(independent, oracle):
    """1 x 1 in two groups: the product of each group by itself, and their sum."""

    def grouped(params, x):
        return jnp.tanh(
            jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
        ).mean((1, 2))

    params, x = {"conv": independent.draw(1, 1, 2, 4)}, independent.draw(6, 1, 1, 4, seed=1)
    found = layer_factors(grouped, x, params=params)[1]
    assert found.explained_by_product == pytest.approx(1, abs=1e-10)
    kernel = oracle.paired(oracle.jacobians(grouped, params, x)["conv"], outputs="trace")
    assert found.explained_by_inputs == pytest.approx(squared_correlation(kernel, x[:, 0, 0] @ x[:, 0, 0].T), abs=1e-10)


def test_weights_that_are_used_twice_have_no_factors(independent):
    params = {"w": independent.draw(3, 3), "out": independent.draw(3, 2, seed=1)}
    found = layer_factors(lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["out"], independent.draw(5, 3, seed=2), params=params)
    factors = {layer.name: layer.explained_by_product for layer in found}
    assert factors["w"] is None
    assert factors["out"] == pytest.approx(1)


@pytest.mark.slow
def test_the_features_of_an_expert_are_its_own(rng):
    expert = ZOO["fashion_mnist-resnet_small"]()
    x = np.asarray(expert.preprocess(rng.integers(0, 256, (6, 28, 28, 3), np.uint8)))
    found = {layer.name: layer for layer in layer_factors(expert, x)}
    features = np.asarray(expert.features_fn(expert.variables, x), np.float64)
    total = ns.ntk(expert.apply_fn, expert.variables, x, layers="^params/")
    assert found["all"].explained_by_features == pytest.approx(squared_correlation(total, features @ features.T), abs=1e-4)
    head = found["/".join(("params", *expert.head, "kernel"))]
    assert head.explained_by_features == pytest.approx(1, abs=1e-4)
    assert head.explained_by_product == pytest.approx(1, abs=1e-4)
    assert sum(layer.share for layer in list(found.values())[1:]) == pytest.approx(1, abs=1e-4)
    assert all(name == "all" or name.startswith("params/") for name in found)


def test_the_features_of_a_small_expert_are_its_own(several):
    expert = ns.Expert(
        "mine",
        lambda variables, x: several.fn(variables["params"], x),
        several.params,
        features_fn=lambda variables, x: jnp.tanh(x @ variables["params"]["first"]["kernel"] + variables["params"]["first"]["bias"]),
        head=("last",),
    )
    found = {layer.name: layer for layer in layer_factors(expert, several.x, batch_size=5)}
    assert found["params/last/kernel"].explained_by_features == pytest.approx(1, abs=1e-12)
    assert list(found) == ["all", *(f"params/{name}" for name in NAMES[1:])]


def test_a_network_whose_gradients_vanish_has_no_shares():
    found = layer_factors(lambda p, x: 0 * (x @ p["w"]), np.ones((3, 2)), params={"w": np.ones((2, 2))})
    assert [layer.share for layer in found[1:]] == [0.0]


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 1 / 3, 1e-5 / 3])
def test_constants_explain_nothing_and_are_not_explained(independent, constant):
    kernel = independent.draw(7, 7)
    for a, b in [(kernel, np.full((7, 7), constant)), (np.full((7, 7), constant), kernel), (np.full((7, 7), constant),) * 2]:
        assert explained(a, b) == pytest.approx(0, abs=1e-12)


def test_multiples_and_constants_do_not_change_what_is_explained(independent):
    a, b = independent.draw(7, 7), independent.draw(7, 7, seed=1)
    assert explained(a, b) == pytest.approx(squared_correlation(a, b), abs=1e-14)
    assert explained(3 * a - 2, -5 * b + 1) == pytest.approx(explained(a, b), abs=1e-13)
    assert explained(a, 2 - a) == pytest.approx(1)


REFUSED = {
    "one example": ({"x": np.ones((1, 4))}, "x holds one example; the variance of a kernel over pairs needs at least two"),
    "features of others": ({"features": np.ones((5, 2))}, "features has 5 rows for 12 examples"),
    "batch size": ({"batch_size": 0}, "batch_size=0 must be a positive number"),
    "layers": ({"layers": "conv"}, "layers='conv' matches no"),
    "parameters": ({"params": None}, "A function requires its parameters"),
    "examples": ({"x": "digits"}, "x must be one array of numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_are_not_taken_apart_where(several, name):
    options, sentence = REFUSED[name]
    with pytest.raises(ConfigError, match=sentence):
        layer_factors(several.fn, **({"x": several.x, "params": several.params} | options))
