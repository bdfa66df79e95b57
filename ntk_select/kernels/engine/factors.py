"""Per-example gradients or their factors, from one forward pass and one backward pass per cotangent.

For a weight: its gradients X' G, or the factors X (inputs of its operations) and G (cotangents of their outputs). For any
other leaf: its gradients by ordinary reverse mode. Everything is computed for one example and mapped with `vmap`, so that
no example can influence another. All functions are traceable and differentiable.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from ntk_select.kernels.engine.program import evaluate
from ntk_select.kernels.engine.structure import LeafUse, Structure


class Stored(NamedTuple):
    """What to store of one leaf: `position` among the structure's leaves; `what`: "gradients", "patches" or "inputs".

    "gradients" is one array (n, r, m, o): (r, o) for each of the m cotangents. The other two are pairs, one per operation:
    its inputs, as patches (n, g, s, k) or unchanged, and the cotangents of its outputs (n, g, s, m, o).
    """

    position: int
    what: str


def factors(
    structure: Structure, stored: tuple[Stored, ...], values: tuple, leaves: list, x: Any, cotangents: Float[ArrayLike, "_ m c"]
) -> list[Any]:
    """What `stored` specifies, for every example of x (n, ...) and its cotangents (n or 1, m, c).

    Cost: one forward pass and m backward passes per example.
    """
    weights = evaluate(structure.program, values, [*leaves, *[None] * (len(structure.program.invars) - structure.count)], only=structure.params_only)
    shared = cotangents.shape[0] == 1
    one = partial(_of_example, structure, stored, values, list(leaves), weights)
    return jax.vmap(one, in_axes=(0, None if shared else 0))(x, cotangents[0] if shared else cotangents)


def fill(structure: Structure, stored: tuple[Stored, ...], buffers: list, start, values: tuple, leaves: list, x: Any, cotangents) -> list[Any]:
    """Writes the `factors` of x into `buffers`, starting at example `start`."""
    parts = factors(structure, stored, values, leaves, x, cotangents)
    return jax.tree.map(lambda buffer, part: lax.dynamic_update_slice_in_dim(buffer, part, start, 0), buffers, parts)


def _of_example(structure: Structure, stored, values, leaves, weights, x, cotangents):
    program, taps = structure.program, structure.taps
    wanted = [structure.leaves[leaf.position] for leaf in stored]
    reverse = [leaf.index for leaf in wanted if not leaf.structured]
    number_of = {taps[number].eqn: number for leaf in wanted for number in leaf.taps}
    example = [leaf[None] for leaf in jax.tree.leaves(x)]

    def forward(perturbations, chosen):
        op_inputs = {}

        def interceptor(index, eqn, inputs):
            number = number_of.get(index)
            if number is None:
                return eqn.run(*inputs)
            tap, op = taps[number], taps[number].op
            op_inputs[number] = inputs[tap.side]
            # The weight from outside: its gradient comes from the factors and must not be added by reverse mode again.
            inputs[1 - tap.side] = weights[tap.weight]
            output = op.product(*inputs).astype(perturbations[number].dtype) if op.window_exceeds_input else eqn.run(*inputs)[0]
            return [output + perturbations[number]]

        env = evaluate(program, values, [*_merged(leaves, reverse, chosen), *example], interceptor=interceptor)
        return env[program.outvars[0]].reshape(-1), op_inputs

    out_avals = {number: program.avals[program.eqns[eqn].outvars[0]] for eqn, number in number_of.items()}
    zeros = {number: jnp.zeros(shape.shape, shape.dtype) for number, shape in out_avals.items()}
    chosen = [leaves[index] for index in reverse]
    _, pull, op_inputs = jax.vjp(forward, zeros, chosen, has_aux=True)
    op_cotangents, gradients = jax.vmap(pull)(cotangents.astype(program.avals[program.outvars[0]].dtype))
    # (m, g, s, o) -> (g, s, m, o): contiguous rows of m o numbers for the products below.
    op_cotangents = {number: jax.vmap(taps[number].op.outputs)(ct).transpose(1, 2, 0, 3) for number, ct in op_cotangents.items()}
    gradients = dict(zip(reverse, _with_derived(structure, wanted, gradients, op_inputs, op_cotangents, values, chosen, leaves), strict=True))
    results = []
    for leaf, (_, what) in zip(wanted, stored, strict=True):
        if not leaf.structured:
            results.append(gradients[leaf.index].reshape(1, len(cotangents), -1))
        elif what == "gradients":
            total = sum(outer(taps[number].op.patches(op_inputs[number]), op_cotangents[number]) for number in leaf.taps)
            results.append(total.reshape(-1, *total.shape[2:]))
        else:
            keep = {"patches": lambda number: taps[number].op.patches(op_inputs[number]), "inputs": op_inputs.__getitem__}[what]
            results.append([(keep(number), op_cotangents[number]) for number in leaf.taps])
    return results


def outer(patches: Shaped[ArrayLike, "g s k"], cotangents: Float[ArrayLike, "g s m o"]) -> Float[Array, "g k m o"]:
    """X' G: the gradients of a weight, for m cotangents."""
    g, s, m, o = cotangents.shape
    product = jnp.matmul(patches.swapaxes(1, 2), cotangents.reshape(g, s, m * o))
    return product.reshape(g, -1, m, o)


def _merged(leaves: list, indices: list[int], chosen: list) -> list:
    merged = list(leaves)
    for index, leaf in zip(indices, chosen, strict=True):
        merged[index] = leaf
    return merged


def _with_derived(structure: Structure, wanted: list[LeafUse], gradients, op_inputs, op_cotangents, values, chosen, leaves):
    """Adds, for leaves that weights are computed from, the gradients through these weights (a VJP of X' G)."""
    program, taps = structure.program, structure.taps
    reverse = [leaf for leaf in wanted if not leaf.structured]
    numbers = sorted({number for leaf in reverse for number in leaf.taps})
    if not numbers:
        return gradients
    no_example = [None] * (len(program.invars) - structure.count)

    def weights(chosen):
        env = evaluate(program, values, [*_merged(leaves, [leaf.index for leaf in reverse], chosen), *no_example], only=structure.params_only)
        return [env[taps[number].weight] for number in numbers]

    weights_now, pull = jax.vjp(weights, chosen)
    cotangents = []
    for number, weight in zip(numbers, weights_now, strict=True):
        product = outer(taps[number].op.patches(op_inputs[number]), op_cotangents[number])
        cotangents.append(jax.vmap(taps[number].op.weight, in_axes=2)(product).astype(weight.dtype))
    (pulled,) = jax.vmap(pull)(cotangents)
    return [gradient + more for gradient, more in zip(gradients, pulled, strict=True)]
