"""The slower routes equal a loop of `jax.grad`, and the product with a vector the kernel's own product."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.arguments import read_outputs, select
from ntk_select.kernels.engine.jacobian import jacobian_kernel, vector_product_kernel
from ntk_select.kernels.engine.vector_product import ntk_vector_product

C = 3
ROUTES = [jacobian_kernel, vector_product_kernel]
WORDS = ["trace", "full", "diagonal", "sum"]


def network(params, x):
    """A weight used twice, a number that counts, and a scale that is a plain Python number."""
    h = (x @ params["in"]["w"] + params["in"]["b"]) ** 2 * params["in"]["b"]
    return params["scale"] * params["count"] * h @ params["out"]


_draw = np.random.default_rng(1).normal
PARAMS = {
    "in": {"w": _draw(size=(4, 5)), "b": _draw(size=5)},
    "out": _draw(size=(5, C)),
    "count": np.int32(2),
    "scale": 0.7,
}
SINGLE = jax.tree.map(lambda leaf: leaf.astype(np.float32) if isinstance(leaf, np.ndarray) else leaf, PARAMS)
X1, X2 = _draw(size=(5, 4)), _draw(size=(3, 4))


def jacobian(fn, params, x):
    """Gradient of each output of each example with respect to each floating-point leaf, one `jax.grad` after the other."""
    leaves, treedef = jax.tree.flatten(params)

    def output(picked, example, a):
        merged = [picked.get(index, leaf) for index, leaf in enumerate(leaves)]
        return fn(jax.tree.unflatten(treedef, merged), example[None])[0, a]

    picked = {index: leaves[index] for index in select(params, None)}
    rows = [[jax.grad(output)(picked, example, a) for a in range(C)] for example in x]
    return {index: np.array([[np.ravel(row[index]) for row in example] for example in rows]) for index in picked}


JACOBIANS = functools.cache(lambda right: jacobian(network, PARAMS, X2 if right else X1))


def paired(left, right, outputs, chosen):
    """The kernel that two Jacobians give, by NumPy."""

    def gradients(jacobian, cotangents):
        rows = np.concatenate([jacobian[index] for index in chosen], axis=-1)
        return np.array([v @ row for v, row in zip(np.broadcast_to(cotangents, (len(rows), *cotangents.shape[1:])), rows, strict=True)])

    full = np.tensordot(gradients(left, outputs.left), gradients(right, outputs.right), (-1, -1)).transpose(0, 2, 1, 3)
    if outputs.pairing == "full":
        return full
    diagonal = np.diagonal(full, axis1=2, axis2=3)
    return diagonal.mean(-1) if outputs.pairing == "trace" else diagonal


def by_grad(x2, outputs, chosen):
    return paired(JACOBIANS(False), JACOBIANS(x2 is not None), outputs, chosen)


def close(given, expected, tolerance=1e-12):
    assert given.shape == expected.shape
    assert np.linalg.norm(given - expected) <= tolerance * np.linalg.norm(expected)


def draw(*shape):
    return np.random.default_rng(2).normal(size=shape)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("route", ROUTES)
def test_each_word_of_outputs_equals_a_loop_of_grad(route, word):
    outputs, chosen = read_outputs(word, 5, None, C, np.float64), select(PARAMS, None)
    kernel = route(analyse(network, PARAMS, X1, chosen=chosen), X1, None, outputs)
    assert isinstance(kernel, np.ndarray)
    assert kernel.dtype == np.float64
    assert kernel.shape == outputs.kernel_shape(5, 5)
    close(kernel, by_grad(None, outputs, chosen))


@pytest.mark.parametrize("word", ["trace", "full"])
@pytest.mark.parametrize("route", ROUTES)
def test_other_examples_on_the_right_give_a_rectangle(route, word):
    outputs, chosen = read_outputs(word, 5, 3, C, np.float64), select(PARAMS, None)
    close(route(analyse(network, PARAMS, X1, chosen=chosen), X1, X2, outputs), by_grad(X2, outputs, chosen))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", [(C,), (5, C)])
def test_cotangents_equal_a_loop_of_grad(route, shape):
    outputs, chosen = read_outputs(draw(*shape), 5, None, C, np.float64), select(PARAMS, None)
    close(route(analyse(network, PARAMS, X1, chosen=chosen), X1, None, outputs), by_grad(None, outputs, chosen))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shapes", [((5, C), (3, C)), ((C,), (3, C))])
def test_pairs_of_cotangents_equal_a_loop_of_grad(route, shapes):
    outputs, chosen = read_outputs(tuple(draw(*shape) for shape in shapes), 5, 3, C, np.float64), select(PARAMS, None)
    close(route(analyse(network, PARAMS, X1, chosen=chosen), X1, X2, outputs), by_grad(X2, outputs, chosen))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("layers", ["out|in/b", "scale"])
def test_only_the_chosen_leaves_are_differentiated(route, layers):
    outputs, chosen = read_outputs("full", 5, None, C, np.float64), select(PARAMS, layers)
    close(route(analyse(network, PARAMS, X1, chosen=chosen), X1, None, outputs), by_grad(None, outputs, chosen))


@pytest.mark.parametrize("route", ROUTES)
def test_batches_give_the_same_kernel(route):
    outputs, chosen = read_outputs((draw(5, C), draw(3, C)), 5, 3, C, np.float64), select(PARAMS, None)
    close(route(analyse(network, PARAMS, X1, chosen=chosen), X1, X2, outputs, batch_size=2), by_grad(X2, outputs, chosen))


@pytest.mark.parametrize("route", ROUTES)
def test_single_precision_stays_single_and_near_double(route):
    outputs, chosen = read_outputs("trace", 5, None, C, np.float32), select(PARAMS, None)
    kernel = route(analyse(network, SINGLE, X1.astype(np.float32), chosen=chosen), X1.astype(np.float32), None, outputs)
    assert kernel.dtype == np.float32
    close(kernel, by_grad(None, outputs, chosen), 1e-5)


@pytest.mark.parametrize("route", ROUTES)
def test_params_may_be_a_list_with_a_size_and_indices_in_it(route):
    params = [draw(4, 6), 2, np.arange(4)[::-1].copy()]
    fn = lambda p, x: ((x[:, p[2]] @ p[0]) ** 3).reshape(len(x), p[1], -1).sum(1)  # noqa: E731
    outputs, rows = read_outputs("full", 5, None, C, np.float64), jacobian(fn, params, X1)
    close(route(analyse(fn, params, X1, chosen=(0,)), X1, None, outputs), paired(rows, rows, outputs, (0,)))


def product_by_grad(v, x2=None, layers=None):
    outputs = read_outputs("full", 5, None if x2 is None else len(x2), C, np.float64)
    return np.einsum("ijab,jb->ia", by_grad(x2, outputs, select(PARAMS, layers)), v)


@pytest.mark.parametrize(("batch_size", "layers"), [(None, None), (1, None), (2, "in/b|out"), (7, None)])
def test_product_with_a_vector_is_the_full_kernels(batch_size, layers):
    product = ntk_vector_product(network, PARAMS, X1, draw(5, C), layers=layers, batch_size=batch_size)
    close(product, product_by_grad(draw(5, C), layers=layers))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_product_with_a_vector_on_other_examples_is_the_rectangles(batch_size):
    product = ntk_vector_product(network, PARAMS, X1, draw(3, C), x2=X2, batch_size=batch_size)
    close(product, product_by_grad(draw(3, C), X2))


def test_quadratic_form_is_the_squared_norm_of_one_gradient():
    v, weights = draw(5, C), {name: PARAMS[name] for name in ("in", "out", "scale")}
    gradient = jax.jit(jax.grad(lambda p: (v * network(p | {"count": PARAMS["count"]}, X1)).sum()))(weights)
    form = (v * ntk_vector_product(network, PARAMS, X1, v)).sum()
    np.testing.assert_allclose(form, sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(gradient)), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_product_with_a_vector_can_be_jitted(batch_size):
    jitted = jax.jit(partial(ntk_vector_product, network, batch_size=batch_size))
    close(jitted(PARAMS, X1, draw(5, C)), product_by_grad(draw(5, C)))


def test_product_with_a_vector_may_couple_examples_when_taken_at_once():
    """Centred outputs: every column of the Jacobian loses its mean over the examples."""
    v = draw(5, C)
    product = ntk_vector_product(lambda p, x: network(p, x) - network(p, x).mean(0), PARAMS, X1, v)
    expected = product_by_grad(v - v.mean(0))
    close(product, expected - expected.mean(0))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_product_with_a_vector_takes_one_output_an_example_and_pytrees_of_examples(batch_size):
    fn = lambda p, x: (network(p, x["a"]) * x["b"][:, None]).sum(1)  # noqa: E731
    weights, v = draw(5), _draw(size=5)
    product = ntk_vector_product(fn, PARAMS, {"a": X1, "b": weights}, v, batch_size=batch_size)
    close(product, product_by_grad((v * weights)[:, None] * np.ones(C)).sum(1) * weights)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_product_with_a_vector_differentiates(batch_size):
    """v' Theta v is the squared norm of one gradient; its own gradient is taken through that, and by the product."""
    v, weights = draw(5, C), {name: PARAMS[name] for name in ("in", "out")}
    held = {name: PARAMS[name] for name in ("count", "scale")}

    def form(p):
        return (v * ntk_vector_product(network, p | held, X1, v, layers="^(in|out)", batch_size=batch_size)).sum()

    def norm(p):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(jax.grad(lambda p: (v * network(p | held, X1)).sum())(p)))

    for given, expected in zip(*(jax.tree.leaves(jax.jit(jax.grad(function))(weights)) for function in (form, norm)), strict=True):
        close(given, expected)


@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_precision_reaches_the_products(precision):
    lowered = jax.jit(partial(ntk_vector_product, lambda p, x: x @ p, precision=precision)).lower(draw(4, C), X1, draw(5, C)).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert len(products) == 2
    assert all(f"precision = [{precision.upper()}, {precision.upper()}]" in line for line in products)


def test_vector_of_whole_numbers_gives_the_type_of_the_outputs():
    product = ntk_vector_product(network, SINGLE, X1.astype(np.float32), np.ones((5, C), np.int64))
    assert product.dtype == np.float32
    close(product, product_by_grad(np.ones((5, C))), 1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"v": np.ones((4, C))}, r"v is float64 \(4, 3\); give an array of real numbers \(5, 3\)"),
        ({"v": np.ones(5)}, r"v is float64 \(5,\)"),
        ({"v": np.ones((5, C), complex)}, r"v is complex128"),
        ({"v": [[1.0] * C] * 5}, r"v is list"),
        ({"x": [[1.0] * 4] * 5}, r"x is a list; give one array"),
        ({"x": np.float64(1)}, r"x is an array \(\)"),
        ({"x": np.ones((0, 4))}, r"x is an array \(0, 4\)"),
        ({"x2": {"image": "a file"}}, r"x2 is a dict; give one array"),
        ({"fn": lambda p, x: network(p, x).sum()}, r"fn\(params, x\) gives float64 \(\); it must give floating-point outputs \(5, c\)"),
        ({"fn": lambda p, x: network(p, x)[:1]}, r"fn\(params, x\) gives float64 \(1, 3\)"),
        ({"fn": lambda p, x: (network(p, x), x)}, r"fn\(params, x\) gives tuple"),
        ({"fn": lambda p, x: network(p, x).astype(complex)}, r"fn\(params, x\) gives complex128"),
        ({"fn": lambda p, x: network(p, x)[:, : len(x) - 2], "x2": np.ones((4, 4))}, r"another number or dtype of outputs for x2"),
        ({"precision": "bfloat16"}, r"precision='bfloat16' is unknown.* Allowed: default, high, highest"),
        ({"batch_size": 0}, r"batch_size=0 must be a positive number of examples"),
        ({"batch_size": 2.0}, r"batch_size=2.0"),
        ({"batch_size": True}, r"batch_size=True"),
        ({"layers": "head"}, r"layers='head' matches no floating-point parameter"),
    ],
)
def test_bad_input_is_named_in_a_sentence(change, sentence):
    given = {"fn": network, "params": PARAMS, "x": X1, "v": np.ones((5, C))} | change
    with pytest.raises(ConfigError, match=sentence):
        ntk_vector_product(**given)


@pytest.mark.parametrize("method", ["structured", "jacobian", "vector-product", "neural-tangents"])
def test_every_method_traces_the_function_in_the_precision_that_was_asked_for(method):
    seen = set()

    def watched(params, x):
        seen.add(jax.config.jax_default_matmul_precision)
        return jnp.tanh(x @ params["w"])

    params, x = {"w": np.linspace(-1, 1, 6).reshape(3, 2)}, np.linspace(-1, 1, 12).reshape(4, 3)
    for precision in ("high", "highest", "default"):
        seen.clear()
        ns.ntk(watched, params, x, method=method, precision=precision)
        assert seen == {precision}
