"""The share of each layer's kernel explained by simpler kernels: the approximation of the paper's appendix A.

The gradient of a layer is a sum over positions of outer products of its input and the cotangent of its output. If both factors
varied independently over positions and pairs of examples, the kernel of the layer would be the product of two kernels, of inputs and
of cotangents, each summed over positions. The paper then replaces it by the feature kernel.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import forward, in_batches
from ntk_select.kernels.alignment import CONSTANT, feature_kernel
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.arguments import check_batch_size, count_examples, read_examples
from ntk_select.kernels.engine.factors import Stored, factors
from ntk_select.kernels.engine.ntk import ntk
from ntk_select.kernels.engine.structure import Structure
from ntk_select.linearized.network import as_network
from ntk_select.linearized.problem import AnyArray, Examples, host_only


class LayerFactors(NamedTuple):
    """A layer's share of the kernel, and the fractions of it explained by simpler kernels.

    Each `explained_by` number is the squared correlation over all pairs of examples, 0 to 1: the fraction of the kernel's
    variance explained by an affine function of the simpler kernel, to which eq. 8 is invariant.

    Attributes:
      name: path of the parameter; "all" for their sum.
      share: share of the trace.
      explained_by_features: fraction explained by the kernel of the pre-logits; None if unknown.
      explained_by_inputs: fraction explained by the kernel of the layer's inputs, summed over positions.
      explained_by_cotangents: fraction explained by the kernel of the cotangents of its outputs.
      explained_by_product: fraction explained by the product of the last two, entry by entry: exact (1) for a layer with a single
        position. The last three are None for parameters other than weights (biases, scales) and for the sum.
    """

    name: str
    share: float
    explained_by_features: float | None
    explained_by_inputs: float | None
    explained_by_cotangents: float | None
    explained_by_product: float | None

    def __repr__(self):
        known = {name.removeprefix("explained_by_"): value for name, value in self._asdict().items() if name != "name" and value is not None}
        return f"LayerFactors({self.name!r}: {', '.join(f'{name} {value:.3f}' for name, value in known.items())})"


@host_only
def layer_factors(
    expert_or_fn: Expert | Callable[[Any, Any], Any],
    x: Examples,
    *,
    params: Any = None,
    layers: Any = None,
    features: Real[AnyArray, "m d"] | None = None,
    batch_size: int | None = None,
    memory_gb: float | None = None,
) -> list[LayerFactors]:
    """Decomposes the kernel (class trace): first the sum, then every parameter, in tree order.

    Args:
      expert_or_fn, params, layers: as for `linearize`.
      x: preprocessed network inputs, at least two.
      features: pre-logits; computed by the expert if None.
      batch_size: examples per pass; 8 if None.
      memory_gb: memory budget of the kernels.

    Raises:
      ConfigError: incompatible shapes, or `layers` that match nothing.

    Reference: Deshpande et al. 2021, appendix A; the last linear layer needs no approximation, its kernel is that of the features
    (E10 in docs/equations.md).  Cost: `ntk(..., by_layer=True)` and one more backward pass per output.
    """
    network = as_network(expert_or_fn, params, layers)
    x = read_examples(x, "x")
    check_batch_size(batch_size)
    batch_size = batch_size or 8
    if count_examples(x) < 2:
        raise ConfigError("x holds one example; the variance of a kernel over pairs needs at least two.")
    if features is None and isinstance(expert_or_fn, Expert) and expert_or_fn.features_fn is not None:
        features = forward(expert_or_fn, x, batch_size=batch_size).features
    base = None if features is None else feature_kernel(features)
    if base is not None and len(base) != count_examples(x):
        raise ConfigError(f"features has {len(base)} rows for {count_examples(x)} examples.")
    kernels = ntk(network.fn, network.params, x, layers=network.layers, by_layer=True, memory_gb=memory_gb, accumulate="float64")
    total = sum(kernels.values())
    trace = float(np.trace(total))
    found = [LayerFactors("all", 1.0, None if base is None else explained(total, base), None, None, None)]
    simpler = _factor_kernels(network, x, batch_size)
    for name, kernel in kernels.items():
        parts = [None, None, None]
        if name in simpler:
            inputs, cotangents, product = simpler[name]
            parts = [explained(kernel, inputs), explained(kernel, cotangents), explained(kernel, product)]
        share = float(np.trace(kernel)) / trace if trace else 0.0
        found.append(LayerFactors(name, share, None if base is None else explained(kernel, base), *parts))
    return found


def explained(kernel: Float[AnyArray, "n n"], by: Float[AnyArray, "n n"]) -> float:
    """Squared Pearson correlation of the entries; zero if one of the two is constant up to rounding."""
    a, b = np.asarray(kernel, np.float64).ravel(), np.asarray(by, np.float64).ravel()
    centred_a, centred_b = a - a.mean(), b - b.mean()
    if centred_a @ centred_a <= CONSTANT * (a @ a) or centred_b @ centred_b <= CONSTANT * (b @ b):
        return 0.0
    return float((centred_a @ centred_b) ** 2 / ((centred_a @ centred_a) * (centred_b @ centred_b)))


def _factor_kernels(network, x, batch_size: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each weight used once: kernels of inputs and cotangents, summed over positions, and the sum over groups of their products."""
    structure, values, leaves = analyse(network.fn, network.params, x, network.layers)
    used_once = [position for position, leaf in enumerate(structure.leaves) if leaf.structured and len(leaf.taps) == 1]
    if not used_once:
        return {}
    pooled = structure.jit(_pooled, tuple(Stored(position, "patches") for position in used_once))
    flat, treedef = jax.tree.flatten(x)
    found = {}
    sums = in_batches(lambda *batch: pooled(values, leaves, jax.tree.unflatten(treedef, batch)), batch_size, *flat)
    for position, sides in zip(used_once, sums, strict=True):
        entered, left = (np.asarray(side, np.float64) for side in sides)
        n, groups = entered.shape[:2]
        each = [(feature_kernel(entered[:, g]), feature_kernel(left[:, g].reshape(n, -1))) for g in range(groups)]
        inputs, outputs = (sum(pair[side] for pair in each) for side in (0, 1))
        found[structure.leaves[position].name] = (inputs, outputs, sum(a * b for a, b in each))
    return found


def _pooled(structure: Structure, stored, values, leaves, x):
    cotangents = jnp.eye(structure.outputs, dtype=structure.dtype)[None]
    return [(entered.sum(axis=2), left.sum(axis=2)) for ((entered, left),) in factors(structure, stored, values, leaves, x, cotangents)]
