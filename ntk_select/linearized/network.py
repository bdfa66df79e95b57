"""The linearised network as a function, and the kernel of a network as an array or as a matrix-free product."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.kernels.engine.analyse import GeneralRouteWarning, analyse, check_independent
from ntk_select.kernels.engine.arguments import (
    available_memory,
    check_batch_size,
    check_precision,
    count_examples,
    read_two_sides,
    select,
    some_examples,
)
from ntk_select.kernels.engine.costs import BALANCE, passes_of
from ntk_select.kernels.engine.ntk import ntk, ntk_plan
from ntk_select.kernels.engine.plan import DISPATCH
from ntk_select.kernels.engine.structure import Structure
from ntk_select.kernels.engine.vector_product import BatchedProduct, hold
from ntk_select.kernels.gradients import expert_inputs
from ntk_select.linearized.problem import Examples, TestExamples, host_only

KERNEL_METHODS = ("auto", "dense", "matrix-free")
EXPECTED_PRODUCTS = 30
"""Assumed number of products with the kernel per curve, for the choice between the two methods."""
EIGEN_FLOPS = 12
"""Operations of a symmetric eigendecomposition with vectors, in units of its size cubed."""
DEFAULT_BATCH = 64


class Network(NamedTuple):
    """fn(params, x), and the selection of trained leaves of params: a function of the "/"-joined path, or None for all."""

    fn: Callable[[Any, Any], Any]
    params: Any
    layers: Any

    @property
    def chosen(self) -> tuple[int, ...]:
        """Indices of the trained leaves."""
        return select(self.params, self.layers)


def as_network(expert_or_fn: Expert | Callable, params: Any = None, layers: Any = None) -> Network:
    """An expert with all its variables, of which only parameters are trained, or a function with its parameters.

    Raises:
      ConfigError: a function without parameters, or `layers` that match nothing.
      ModelError: "last_conv" for an expert without `last_conv`.
    """
    if isinstance(expert_or_fn, Expert):
        if params is not None:
            raise ConfigError("An expert has its own parameters. Try: leave params= out, or pass its apply_fn instead of the expert")
        fn, variables, _, chosen = expert_inputs(expert_or_fn, "all" if layers is None else layers, "trace")
        network = Network(fn, variables, chosen)
    elif not callable(expert_or_fn):
        raise ConfigError(f"Expected an Expert or a function fn(params, x); given: {type(expert_or_fn).__name__}.")
    elif params is None:
        raise ConfigError("A function requires its parameters. Try: params=")
    else:
        network = Network(expert_or_fn, params, layers)
    select(network.params, network.layers)
    return network


@dataclass(frozen=True, eq=False)
class Linearized:
    """fn_lin(params, x) = fn(params_0, x) + J(x) (params - params_0): linear in params, and trainable like any network."""

    fn: Callable[[Any, Any], Any]
    start: Any
    chosen: tuple[int, ...]

    def __repr__(self):
        leaves = jax.tree.leaves(self.start)
        linear, every = sum(int(np.size(leaves[index])) for index in self.chosen), sum(map(int, map(np.size, leaves)))
        return f"Linearized({getattr(self.fn, '__name__', type(self.fn).__name__)}, linear in {linear:,} of {every:,} numbers)"

    def __call__(self, params: Any, x: Examples) -> Float[Array, "n c"]:
        """The outputs. Leaves that are not trained are held at their initial values."""
        call, picked, held = hold(self.fn, self.start, self.chosen)
        leaves, treedef = jax.tree.flatten(params)
        if treedef != jax.tree.structure(self.start):
            raise ConfigError("params have another tree structure than the point of expansion. Try: the structure of linearized.start")
        moved = [jnp.asarray(leaves[index], leaf.dtype) - leaf for index, leaf in zip(self.chosen, picked, strict=True)]
        with jax.default_matmul_precision("highest"):
            outputs, change = jax.jvp(lambda leaves: call(leaves, held, x), (picked,), (moved,))
        return outputs + change


def linearize(expert_or_fn: Expert | Callable[[Any, Any], Any], params: Any = None, *, layers: Any = None) -> Linearized:
    """The network linearised at its current parameters: fn_lin of the paper's appendix A.

    Args:
      expert_or_fn: an `Expert`, whose function is then of its variables {"params": ..., **state}; or fn(params, x).
      params: parameters of a function: the point of expansion.
      layers: parameters in which it is linear: None or "all", "last_conv" (of an expert), a regular expression over the paths,
        or a function path -> bool. The others are constants.

    Returns:
      A function fn_lin(params, x) that can be differentiated, compiled, and trained with any Optax optimiser.

    Raises:
      ConfigError: `layers` matches nothing, or a function has no parameters.
      ModelError: layers="last_conv" for an expert without `last_conv`.

    Reference: `neural_tangents.linearize`; `jax.linearize` for a fixed x.  Cost: two to three forward passes.
    """
    network = as_network(expert_or_fn, params, layers)
    return Linearized(network.fn, network.params, network.chosen)


class NetworkProduct:
    """v -> Theta v of a network, one batch at a time, for Lanczos and conjugate gradients. Outputs must not depend on the rest of the batch.

    Cost per product: a backward pass and a forward-mode pass over x; for `cross`, the latter over x_test.
    """

    def __init__(self, network: Network, x, x_test=None, *, batch_size: int = DEFAULT_BATCH, precision: str = "highest"):
        call, picked, held = hold(network.fn, network.params, network.chosen)
        self._product, self._precision = BatchedProduct(call, picked, held, batch_size), precision
        self.x, self.x_test, self.count = x, x_test, 0
        output = jax.eval_shape(partial(call, picked, held), some_examples(x, slice(1)))
        self._shape, self._dtype = (count_examples(x), *output.shape[1:]), output.dtype

    def __call__(self, v: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """Theta v."""
        return self.push(self.pull(v), self.x)

    def cross(self, v: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n2 ..."]:
        """Theta(test, training) v."""
        return self.push(self.pull(v), self.x_test)

    def pull(self, v: Float[np.ndarray, "n ..."]) -> list[Float[Array, "..."]]:
        """J' v, one array per trained leaf."""
        self.count += 1
        with jax.default_matmul_precision(self._precision):
            return self._product.pull(self.x, np.asarray(v, self._dtype).reshape(self._shape))

    def push(self, direction: list[Float[Array, "..."]], x) -> Float[np.ndarray, "n ..."]:
        """J(x) times a direction in the space of the trained leaves."""
        with jax.default_matmul_precision(self._precision):
            return np.asarray(self._product.push(x, direction))


def check_network(fn: Callable, params: Any, chosen: tuple[int, ...], x: Examples) -> Structure:
    """The structure of a network. Raises ModelError if outputs depend on the rest of the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeneralRouteWarning)  # no kernel is computed here
        structure = analyse(fn, params, x, chosen=chosen).structure
    check_independent(fn, params, x, structure)
    return structure


class NetworkKernel(NamedTuple):
    """The kernel of a network in a form that `loss_curve` and `predict` take.

    Attributes:
      kernel: (n, n, c, c), (n, n), or a function.
      cross_kernel: (n2, n, c, c), (n2, n), or a function; None without test examples.
      method: "dense" or "matrix-free".
      reason: estimated costs of both methods, in words.
    """

    kernel: Any
    cross_kernel: Any
    method: str
    reason: str

    def __repr__(self):
        shapes = [name for name in ("kernel", "cross_kernel") if getattr(self, name) is not None]
        parts = (f"{name} {getattr(getattr(self, name), 'shape', 'as a function')}" for name in shapes)
        return f"NetworkKernel({self.method}: {', '.join(parts)})"

    @property
    def why(self) -> str:
        """Deprecated name of `reason`."""
        warnings.warn("NetworkKernel.why is deprecated. Try: NetworkKernel.reason", DeprecationWarning, stacklevel=2)
        return self.reason


@host_only
def network_kernel(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Examples,
    x_test: TestExamples | None = None,
    *,
    params: Any = None,
    layers: Any = None,
    outputs: str = "full",
    method: str = "auto",
    memory_gb: float | None = None,
    batch_size: int | None = None,
    precision: str = "highest",
    progress: Callable[[int, int, str], None] | None = None,
) -> NetworkKernel:
    """The kernel of training examples, and of test with training examples, as arrays or as functions.

    Args:
      expert_or_fn, params, layers: as for `linearize`.
      x, x_test: preprocessed network inputs.
      outputs: "full": (n, n, c, c), exact; "trace": (n, n), the mean over outputs, shared by all of them.
      method: "dense": the kernel as an array; "matrix-free": a function v -> Theta v with the full kernel; "auto": dense if kernel and
        eigenvectors fit into memory and cost less than `EXPECTED_PRODUCTS` products.
      memory_gb: budget of the dense method; half of the free memory if None.
      batch_size: examples per pass.
      precision: precision of matrix products: "highest", "high" or "default".
      progress: called with (done, all, what).

    Raises:
      ConfigError: an option that is not allowed, "trace" with "matrix-free", or incompatible shapes.
      ModelError: outputs for one example depend on other examples.

    Cost: see `ntk` and `NetworkProduct`.
    """
    if method not in KERNEL_METHODS:
        raise ConfigError(f"method={method!r} is unknown.{did_you_mean(str(method), KERNEL_METHODS)}")
    if outputs not in ("full", "trace"):
        raise ConfigError(f"outputs={outputs!r} is unknown.{did_you_mean(str(outputs), ('full', 'trace'))}")
    if outputs == "trace" and method == "matrix-free":
        raise ConfigError("Products use the full kernel; outputs='trace' requires method='dense'.")
    check_precision(precision)
    check_batch_size(batch_size)
    memory = available_memory(memory_gb)
    network = as_network(expert_or_fn, params, layers)
    x, x_test = read_two_sides(x, x_test)
    structure = check_network(network.fn, network.params, network.chosen, x)
    dense, products, reason = _costs(network, structure, x, x_test, outputs, memory)
    chosen = method if method != "auto" else "dense" if outputs == "trace" or dense <= products else "matrix-free"
    if chosen == "matrix-free":
        product = NetworkProduct(network, x, x_test, batch_size=batch_size or DEFAULT_BATCH, precision=precision)
        return NetworkKernel(product, None if x_test is None else product.cross, chosen, reason)
    options = {"outputs": outputs, "layers": network.layers, "memory_gb": memory_gb, "batch_size": batch_size, "precision": precision}
    options["progress"] = progress
    kernel = ntk(network.fn, network.params, x, **options)
    cross = None if x_test is None else ntk(network.fn, network.params, x_test, x, **options)
    return NetworkKernel(kernel, cross, chosen, reason)


def _costs(network: Network, structure: Structure, x, x_test, outputs: str, memory: int) -> tuple[float, float, str]:
    """Operations of the dense (infinite if it does not fit into memory) and the matrix-free method, and a sentence on both."""
    n, n2, c = count_examples(x), 0 if x_test is None else count_examples(x_test), structure.outputs
    size = n * c if outputs == "full" else n
    passes = passes_of(structure)
    product = (2 * passes.forward + passes.backward) * n + 2 * passes.forward * (n + n2)
    products = EXPECTED_PRODUCTS * (product + DISPATCH * -(-(2 * n + n2) // DEFAULT_BATCH))
    need = 3 * 8 * size**2 + 8 * (size // n) ** 2 * n * n2
    question = {"outputs": outputs, "layers": network.layers, "memory_gb": memory / 1e9}
    try:
        flops = ntk_plan(network.fn, network.params, x, **question).flops
        if n2:
            flops += ntk_plan(network.fn, network.params, x_test, x, **question).flops
    except ConfigError:  # not even one example fits into memory
        flops = np.inf
    eigen = EIGEN_FLOPS * float(size) ** 3 + BALANCE * need
    room = f"{need / 1e9:.2g} GB" + (f" where {memory / 1e9:.2g} are allowed" if need > memory else "")
    words = f"dense: {flops:.2g} operations for the kernel, {eigen:.2g} for its eigenvectors, {room}"
    dense = np.inf if need > memory else flops + eigen
    return dense, products, f"{words}; matrix-free: {products:.2g} operations in about {EXPECTED_PRODUCTS} products"
