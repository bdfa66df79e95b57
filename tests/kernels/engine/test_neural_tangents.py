"""neural-tangents, imported on a current JAX without TensorFlow, gives the same kernels and leaves no trace."""

import subprocess
import sys

import jax
import jax.core
import numpy as np
import pytest
from jax.interpreters import ad

from ntk_select.errors import ConfigError, MissingDependencyError
from ntk_select.kernels.engine import neural_tangents as bridge
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.arguments import read_outputs, select
from ntk_select.kernels.engine.jacobian import jacobian_kernel
from ntk_select.kernels.engine.neural_tangents import import_neural_tangents, neural_tangents_kernel

C = 3
RUNNING = ["JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


PARAMS = {"in": draw(4, 5), "count": np.int32(2), "out": {"w": draw(5, C), "b": draw(C)}}
X1, X2 = draw(5, 4, seed=1), draw(3, 4, seed=2)


def network(params, x):
    return (x @ params["in"]) ** 2 @ params["out"]["w"] * params["count"] + params["out"]["b"]


def convolution(params, x):
    h = jax.lax.conv_general_dilated(x, params["in"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(h).mean((1, 2)) @ params["out"]


def expected(fn, params, x1, x2, outputs, chosen):
    return jacobian_kernel(analyse(fn, params, x1, chosen=chosen), x1, x2, outputs)


def close(given, kernel, tolerance=1e-10):
    assert given.shape == kernel.shape
    assert given.dtype == kernel.dtype
    assert np.linalg.norm(given - kernel) <= tolerance * np.linalg.norm(kernel)


@pytest.mark.parametrize("implementation", [RUNNING[0], pytest.param(RUNNING[1], marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("outputs", "x2"),
    [("trace", None), ("full", X2), ("diagonal", X2), ("sum", None), (draw(C), X2), (draw(5, C), None), ((draw(5, C), draw(3, C)), X2)],
    ids=["trace", "full", "diagonal", "sum", "shared", "own", "pair"],
)
def test_neural_tangents_gives_the_same_kernel(implementation, outputs, x2):
    outputs, chosen = read_outputs(outputs, 5, None if x2 is None else 3, C, np.float64), select(PARAMS, None)
    kernel = neural_tangents_kernel(network, PARAMS, X1, x2, outputs, chosen, implementation=implementation)
    assert isinstance(kernel, np.ndarray)
    close(kernel, expected(network, PARAMS, X1, x2, outputs, chosen))


@pytest.mark.parametrize(("word", "x2"), [("trace", None), ("full", None), ("diagonal", None), ("full", X2)])
def test_blocks_give_the_same_kernel_of_the_chosen_leaves(word, x2):
    outputs, chosen = read_outputs(word, 5, None if x2 is None else 3, C, np.float64), select(PARAMS, "in")
    kernel = neural_tangents_kernel(network, PARAMS, X1, x2, outputs, chosen, batch_size=2)
    close(kernel, expected(network, PARAMS, X1, x2, outputs, chosen))


@pytest.mark.parametrize("implementation", RUNNING)
def test_in_single_precision_too(implementation):
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.ndim else leaf, PARAMS)
    outputs, chosen = read_outputs("trace", 5, None, C, np.float32), select(PARAMS, None)
    kernel = neural_tangents_kernel(network, params, X1.astype(np.float32), None, outputs, chosen, implementation=implementation)
    close(kernel, expected(network, params, X1.astype(np.float32), None, outputs, chosen), 1e-5)


@pytest.mark.parametrize("implementation", RUNNING)
def test_convolutions_too(implementation):
    params, x = {"in": draw(3, 3, 2, 4), "out": draw(4, C)}, draw(3, 5, 5, 2, seed=1)
    arguments = (convolution, params, x, None, read_outputs("full", 3, None, C, np.float64), (0, 1))
    close(neural_tangents_kernel(*arguments, implementation=implementation), expected(*arguments))


def test_a_single_output_with_cotangents_on_one_side_only_that_are_not_one():
    """The identity on the left alone must not be taken for outputs without cotangents."""
    fn, v = lambda p, x: network(p, x)[:, :1], draw(3, 1)
    outputs, chosen = read_outputs(([1.0], v), 5, 3, 1, np.float64), select(PARAMS, None)
    close(neural_tangents_kernel(fn, PARAMS, X1, X2, outputs, chosen), expected(fn, PARAMS, X1, X2, outputs, chosen))


def test_examples_may_be_a_tree_and_outputs_a_vector():
    tree = {"tokens": X1, "scale": draw(5, seed=3)}
    fn = lambda p, x: (network(p, x["tokens"]) * x["scale"][:, None])[:, 0]  # noqa: E731
    outputs, chosen = read_outputs("full", 5, None, 1, np.float64), select(PARAMS, None)
    rows = jax.jacobian(lambda p: fn(PARAMS | p, tree))({name: PARAMS[name] for name in ("in", "out")})
    rows = np.concatenate([np.reshape(leaf, (5, -1)) for leaf in jax.tree.leaves((rows["in"], rows["out"]))], 1)
    for batch_size in (None, 2):
        close(neural_tangents_kernel(fn, PARAMS, tree, None, outputs, chosen, batch_size=batch_size)[..., 0, 0], rows @ rows.T)


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_the_active_precision_is_that_of_its_products(precision, monkeypatch):
    seen, block = [], bridge._block

    def spy(*arguments):
        seen.append(jax.config.jax_default_matmul_precision)
        return block(*arguments)

    monkeypatch.setattr(bridge, "_block", spy)
    with jax.default_matmul_precision(precision):
        neural_tangents_kernel(network, PARAMS, X1, None, read_outputs("trace", 5, None, C, np.float64), select(PARAMS, None))
    assert seen == [precision]


def test_unknown_implementation_is_named():
    with pytest.raises(ConfigError, match=r"implementation='AUTO' is unknown.* Allowed: JACOBIAN_CONTRACTION, NTK_VECTOR_PRODUCTS, STRUCTURED"):
        neural_tangents_kernel(network, PARAMS, X1, None, None, (0,), implementation="AUTO")


def test_structured_derivatives_name_the_jax_they_need(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.10.2")
    with pytest.raises(ConfigError, match=r"needs jax 0\.4\.23.*installed is jax 0\.10\.2.*Try: method='structured'"):
        neural_tangents_kernel(network, PARAMS, X1, None, None, (0,), implementation="STRUCTURED_DERIVATIVES")


def test_import_leaves_jax_as_it_was_without_tensorflow():
    code = """
import sys
import jax, jax.core, numpy as np
from jax.interpreters import ad
from ntk_select.kernels.engine.neural_tangents import import_neural_tangents, neural_tangents_kernel
from ntk_select.kernels.engine.arguments import read_outputs
state = lambda: [dict(vars(module)) for module in (jax.core, ad, jax.extend.core)] + ["jax.util" in sys.modules, hasattr(jax, "util")]
before = state()
nt = import_neural_tangents()
assert state() == before
assert nt is import_neural_tangents()
assert not hasattr(nt, "experimental") and "neural_tangents.experimental" not in sys.modules
for implementation in ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"):
    for word in ("trace", "full"):
        outputs = read_outputs(word, 4, None, 2, np.float32)
        kernel = neural_tangents_kernel(lambda p, x: x @ p, np.ones((3, 2)), np.ones((4, 3)), None, outputs, (0,), implementation=implementation)
        assert (kernel == (3 if word == "trace" else 3 * np.eye(2))).all()
assert not {"tensorflow", "tf2jax", "torch"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


class Refuse:
    """Stops the import of one module."""

    def __init__(self, name, error):
        self.name, self.error = name, error

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise self.error


@pytest.fixture
def not_imported(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield
    bridge._forget()


def imported():
    return [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]


@pytest.mark.usefixtures("not_imported")
def test_import_that_fails_half_way_says_why_and_leaves_nothing_behind():
    before = [dict(vars(jax.core)), dict(vars(ad)), "jax.util" in sys.modules]
    sys.meta_path.insert(0, Refuse("neural_tangents._src.stax", AttributeError("jax.core.Gone has gone\nlong ago")))
    sentence = r"cannot be imported on jax [\d.]+ \(AttributeError: jax.core.Gone has gone\); it was tested with jax 0.4.23, 0.10.2, 0.12.0.1\. Try: method='structured'"
    with pytest.raises(MissingDependencyError, match=sentence):
        import_neural_tangents()
    assert not imported()
    assert [dict(vars(jax.core)), dict(vars(ad)), "jax.util" in sys.modules] == before
    sys.meta_path.pop(0)
    assert import_neural_tangents().__version__ == "0.6.5"


@pytest.mark.usefixtures("not_imported")
def test_import_that_is_interrupted_leaves_nothing_behind():
    before = [dict(vars(jax.core)), dict(vars(ad)), "jax.util" in sys.modules]
    sys.meta_path.insert(0, Refuse("neural_tangents._src.batching", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        import_neural_tangents()
    assert not imported()
    assert [dict(vars(jax.core)), dict(vars(ad)), "jax.util" in sys.modules] == before


@pytest.mark.usefixtures("not_imported")
@pytest.mark.parametrize("blocked", [True, False])
def test_a_package_that_is_not_installed_is_named(blocked, monkeypatch):
    if blocked:
        monkeypatch.setitem(sys.modules, "neural_tangents", None)
    else:
        sys.meta_path.insert(0, Refuse("neural_tangents", ModuleNotFoundError("No module named 'neural_tangents'")))
    with pytest.raises(MissingDependencyError, match=r"method='neural-tangents' needs the package neural-tangents.*pip install neural-tangents"):
        import_neural_tangents()
