"""fn_lin is the first-order Taylor expansion; a network's kernel is the same as an array and as products."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, MissingDependencyError, ModelError
from ntk_select.kernels.engine.neural_tangents import import_neural_tangents
from ntk_select.kernels.engine.vector_product import padded_batches
from ntk_select.linearized import linearize, network_kernel, predict, train
from ntk_select.linearized.network import as_network
from ntk_select.models import ZOO


@pytest.fixture(scope="module")
def expert():
    return ZOO["fashion_mnist-resnet_small"]()


@pytest.fixture(scope="module")
def images(expert):
    """Six pictures of noise, as uint8 images and then as the expert's inputs."""
    return np.asarray(expert.preprocess(np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), np.uint8)))


def moved(params, size, seed=0):
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(treedef, [leaf + size * rng.normal(size=np.shape(leaf)).astype(leaf.dtype) for leaf in leaves])


def test_it_is_that_of_neural_tangents(several):
    try:
        nt = import_neural_tangents()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    theirs, params = nt.linearize(several.fn, several.params), moved(several.params, 1.0)
    np.testing.assert_allclose(linearize(several.fn, several.params)(params, several.x), theirs(params, several.x), rtol=0, atol=1e-12)


def test_value_and_gradient_at_the_start_are_those_of_the_network(several):
    def value_and_gradient(fn):
        def weighted(params):
            outputs = fn(params, several.x)
            return (several.targets * outputs).sum(), outputs

        (_, outputs), gradient = jax.jit(jax.value_and_grad(weighted, has_aux=True))(several.params)
        return outputs, gradient

    found, expected = value_and_gradient(linearize(several.fn, several.params)), value_and_gradient(several.fn)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), found, expected)


def test_it_is_linear_in_the_parameters_wherever_they_are(independent, several):
    linear = jax.jit(linearize(several.fn, several.params))
    far = moved(several.params, 10.0)
    change = np.concatenate([np.ravel(a - b) for a, b in zip(jax.tree.leaves(far), jax.tree.leaves(several.params), strict=True)])
    np.testing.assert_allclose(linear(far, several.x), several.outputs + several.jacobian @ change, rtol=0, atol=1e-10)
    assert np.abs(several.fn(far, several.x) - linear(far, several.x)).max() > 1


def test_it_leaves_the_network_at_second_order(several):
    linear, run, gaps = jax.jit(linearize(several.fn, several.params)), jax.jit(several.fn), []
    for size in (1e-2, 5e-3, 2.5e-3):
        near = moved(several.params, size)
        gaps.append(np.abs(linear(near, several.x) - run(near, several.x)).max())
    np.testing.assert_allclose(np.log2(np.array(gaps[:-1]) / gaps[1:]), 2, atol=0.1)


@pytest.mark.parametrize("layers", ["^last/", lambda path: path.startswith("last/")])
def test_only_chosen_layers_count(several, layers):
    linear = linearize(several.fn, several.params, layers=layers)
    far = moved(several.params, 1.0)
    mixed = {"first": several.params["first"], "last": far["last"]}
    np.testing.assert_allclose(linear(far, several.x), several.fn(mixed, several.x), rtol=0, atol=1e-12)
    gradient = jax.grad(lambda params: linear(params, several.x).sum())(several.params)
    assert not np.any(gradient["first"]["kernel"])
    assert np.any(gradient["last"]["kernel"])


def test_all_layers_are_all_layers(several):
    assert linearize(several.fn, several.params, layers="all").chosen == linearize(several.fn, several.params).chosen == (0, 1, 2, 3)


def test_leaves_that_are_no_numbers_to_train_are_held(independent):
    params = {"w": independent.draw(3, 2), "count": np.int32(2), "power": 2}
    linear = linearize(lambda p, x: (x @ p["w"]) ** p["power"] * p["count"], params)
    x = independent.draw(4, 3, seed=1)
    outputs = linear({"w": params["w"] + 1, "count": np.int32(5), "power": 7}, x)
    expected = 2 * (x @ params["w"]) ** 2 + 4 * (x @ params["w"]) * x.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)


def test_an_embedded_expert_is_linear_in_its_parameters_alone(expert, images):
    linear = linearize(expert)
    assert all(path.startswith("params/") for path in chosen_paths(linear))
    outputs = np.asarray(jax.jit(expert.apply_fn)(expert.variables, images))
    np.testing.assert_allclose(jax.jit(linear)(expert.variables, images), outputs, rtol=0, atol=1e-5 * np.abs(outputs).max())
    assert chosen_paths(linearize(expert, layers="last_conv")) == ["/".join(("params", *expert.last_conv.path))]


def chosen_paths(linear):
    names = ["/".join(str(key.key) for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(linear.start)]
    return [names[index] for index in linear.chosen]


@pytest.mark.slow
def test_an_embedded_expert_is_trained_by_adam(expert, images):
    goal = np.eye(10)[[0, 1, 2, 0, 1, 2]]
    start = np.asarray(expert.apply_fn(expert.variables, images))
    found = train(linearize(expert, layers="^(?!.*Conv)"), images, goal + start.astype(np.float64), optax.adam(2e-5), steps=8, loss="mean")
    assert (np.diff(found.train_losses) < 0).all()
    assert found.train_losses[-1] < 0.9 * found.train_losses[0]


def test_one_real_step_leaves_the_formula_at_second_order(several):
    """One step of gradient descent on the network itself: what the kernel says is wrong by O(lr^2)."""
    rates, gaps, run = np.array([4e-3, 2e-3, 1e-3]), [], jax.jit(several.fn)
    gradient = jax.jit(jax.grad(lambda params: 0.5 * jnp.sum((several.fn(params, several.x) - several.targets) ** 2)))(several.params)
    for lr in rates:
        real = run(jax.tree.map(lambda a, g, lr=lr: a - lr * np.asarray(g), several.params, gradient), several.x)
        formula = predict(several.kernel, several.outputs, several.targets, lr=lr, times=[1], optimizer="gd").train_outputs[0]
        gaps.append(np.abs(real - formula).max())
    slopes = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert (np.abs(slopes - 2) < 0.1).all()


@pytest.mark.parametrize("method", ["dense", "matrix-free"])
@pytest.mark.parametrize("layers", [None, "^last/"])
def test_the_kernel_of_a_network_is_that_of_its_jacobians(independent, several, method, layers):
    picked = slice(None) if layers is None else slice(30, None)  # the tree's order: 6 biases and 24 weights of the first layer
    jacobian, test_jacobian = several.jacobian[..., picked], several.test_jacobian[..., picked]
    v = independent.draw(12, 3)
    for batch_size in (None, 5):
        found = network_kernel(several.fn, several.x, several.x_test, params=several.params, layers=layers, method=method, batch_size=batch_size)
        assert found.method == method
        products = [found.kernel(v), found.cross_kernel(v)] if method == "matrix-free" else [np.einsum("ijab,jb->ia", k, v) for k in found[:2]]
        for product, left in zip(products, (jacobian, test_jacobian), strict=True):
            np.testing.assert_allclose(product, np.einsum("iap,jbp,jb->ia", left, jacobian, v), rtol=0, atol=1e-11)


def test_a_network_of_one_output_takes_rows(independent, binary):
    found = network_kernel(binary.fn, binary.x, params=binary.params, method="matrix-free")
    assert found.cross_kernel is None
    v = independent.draw(12)
    np.testing.assert_allclose(np.ravel(found.kernel(v)), binary.kernel @ v, rtol=0, atol=1e-11)
    curve = predict(found.kernel, binary.outputs, binary.targets, lr=0.01, steps=4)
    np.testing.assert_allclose(curve.train_outputs, predict(binary.kernel, binary.outputs, binary.targets, lr=0.01, steps=4).train_outputs, atol=1e-7)
    assert found.kernel.count == 1 + curve.products


def test_predictions_of_both_ways_agree(several):
    question = {"lr": 0.02, "times": [0, 10, 50], "optimizer": "gd", "test_outputs": several.test_outputs}
    found = []
    for method in ("dense", "matrix-free"):
        kernel = network_kernel(several.fn, several.x, several.x_test, params=several.params, method=method)
        found.append(predict(kernel.kernel, several.outputs, several.targets, cross_kernel=kernel.cross_kernel, **question))
    np.testing.assert_allclose(found[0].train_losses, found[1].train_losses, rtol=1e-7)
    np.testing.assert_allclose(found[0].test_outputs, found[1].test_outputs, rtol=0, atol=1e-7)


def test_the_trace_is_the_mean_over_outputs(several):
    found = network_kernel(several.fn, several.x, several.x_test, params=several.params, outputs="trace")
    assert found.method == "dense"
    np.testing.assert_allclose(found.kernel, np.einsum("ijaa->ij", several.kernel) / 3, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.cross_kernel, np.einsum("ijaa->ij", several.cross) / 3, rtol=0, atol=1e-12)


def test_the_cheaper_way_is_taken_and_says_why(independent, several):
    wide = independent.parameters(4, 400, 3)
    few = network_kernel(several.fn, several.x[:3], params=wide)
    assert few.method == "dense"
    assert few.kernel.shape == (3, 3, 3, 3)
    assert "operations for the kernel" in few.reason
    assert "matrix-free" in few.reason
    assert network_kernel(several.fn, independent.draw(400, 4), params=several.params).method == "matrix-free"
    large = network_kernel(several.fn, several.x, several.x_test, params=several.params, memory_gb=2e-5)
    assert large.method == "matrix-free"
    assert "2e-05" in large.reason
    assert callable(large.kernel)
    assert callable(large.cross_kernel)


def test_batches_are_filled_up_with_the_last_example():
    found = list(padded_batches(7, 3))
    assert [list(rows) for rows, _ in found] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [int(real.sum()) for _, real in found] == [3, 3, 1]
    assert [list(rows) for rows, _ in padded_batches(2, 64)] == [[0, 1]]


def linear_expert(**options):
    return ns.Expert("mine", lambda variables, x: x @ variables["params"]["w"], {"w": np.eye(3)}, **options)


def test_an_expert_is_a_network_of_all_its_variables():
    network = as_network(linear_expert(state={"scale": np.ones(2)}))
    assert set(network.params) == {"params", "scale"}
    assert linearize(linear_expert(state={"scale": np.ones(2)})).chosen == (0,)


def test_an_expert_takes_a_function_of_paths_below_params():
    expert = ns.Expert("mine", lambda v, x: x @ v["params"]["w"] + v["params"]["b"], {"b": np.zeros(3), "w": np.eye(3)}, {"w": np.ones(3)})
    assert linearize(expert, layers=lambda path: path == "w").chosen == (1,)
    with pytest.raises(ConfigError, match="matches no parameter"):
        linearize(expert, layers=lambda path: path == "params/w")


def test_layers_of_an_expert_that_are_no_pattern_are_refused():
    with pytest.raises(ConfigError, match="layers=3 must be 'all', 'last_conv', a regular expression, a function of the path, or None"):
        linearize(linear_expert(), layers=3)


def test_parameters_of_another_structure_are_refused(several):
    with pytest.raises(ConfigError, match="params have another tree structure than the point of expansion"):
        linearize(several.fn, several.params)([np.ones(3)], several.x)


def test_an_expert_without_last_convolution_says_so():
    with pytest.raises(ModelError, match="Expert 'mine' has no last_conv"):
        linearize(linear_expert(), layers="last_conv")


REFUSED = {
    "an expert with parameters": ((linear_expert(), {"w": np.eye(3)}), {}, "An expert has its own parameters. Try: leave params= out"),
    "no function": (("resnet", {}), {}, r"Expected an Expert or a function fn\(params, x\); given: str"),
    "no parameters": ((jnp.matmul,), {}, "A function requires its parameters. Try: params="),
    "layers that match nothing": ((jnp.matmul, {"w": np.eye(2)}), {"layers": "conv"}, "layers='conv' matches no"),
    "layers of an expert that match nothing": ((linear_expert(),), {"layers": "conv"}, "layers='conv' matches no parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_is_refused(name):
    arguments, options, sentence = REFUSED[name]
    with pytest.raises(ConfigError, match=sentence):
        linearize(*arguments, **options)


OPTIONS = {
    "method": ({"method": "lanczos"}, "method='lanczos' is unknown.*Allowed: auto, dense, matrix-free"),
    "outputs": ({"outputs": "sum"}, "outputs='sum' is unknown.*Allowed: full, trace"),
    "trace without matrix": (
        {"outputs": "trace", "method": "matrix-free"},
        "Products use the full kernel; outputs='trace' requires method='dense'",
    ),
    "precision": ({"precision": "float64"}, "precision='float64' is unknown"),
    "batch size": ({"batch_size": 0}, "batch_size=0 must be a positive number"),
    "test examples of another shape": ({"x_test": np.ones((2, 5))}, "they must be the same"),
    "no parameters": ({"params": None}, "A function requires its parameters"),
    "memory, before all else": ({"memory_gb": 0, "params": None}, "memory_gb=0 must be a positive number"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_of_networks_refuse(several, name):
    options, sentence = OPTIONS[name]
    with pytest.raises(ConfigError, match=sentence):
        network_kernel(several.fn, several.x, **({"params": several.params} | options))
