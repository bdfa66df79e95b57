"""What does one backward pass per output leave of each example?

For a weight, either the example's gradients or the two factors that they are products of: what entered the use, and
the cotangent of what left it. For any other leaf the gradients, by ordinary reverse mode. Everything is computed for
one example and mapped over examples, so that no example can influence another.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk_select.engine.program import run
from ntk_select.engine.structure import Structure


class Stored(NamedTuple):
    """What to keep of one leaf: `position` among the structure's leaves; "gradients", "patches" or "inputs".

    "gradients" is one array (n, r, m, o), of shape (r, o) for each of the m cotangents. The other two are, for each use,
    a pair: what entered, either as patches (n, g, s, k) or as it came, and the cotangents (n, g, s, m, o).
    """

    position: int
    what: str


@partial(jax.jit, static_argnums=(0, 1))
def factors(structure: Structure, stored: tuple[Stored, ...], values, leaves, x, cotangents):
    """What `stored` asks for, of every example of x (n, ...), for its cotangents (n or 1, m, c)."""
    shared = cotangents.shape[0] == 1
    if shared:
        cotangents = cotangents[0]
    one = partial(_of_example, structure, stored, values, leaves)
    return jax.vmap(one, in_axes=(0, None if shared else 0))(x, cotangents)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def fill(structure: Structure, stored: tuple[Stored, ...], buffers, start, values, leaves, x, cotangents):
    """`factors` of x, written into `buffers` from example `start` on."""
    parts = factors(structure, stored, values, leaves, x, cotangents)
    return jax.tree.map(lambda buffer, part: lax.dynamic_update_slice_in_dim(buffer, part, start, 0), buffers, parts)


def _of_example(structure: Structure, stored, values, leaves, x, cotangents):
    program, taps = structure.program, structure.taps
    wanted = [structure.leaves[leaf.position] for leaf in stored]
    reverse = [leaf.index for leaf in wanted if not leaf.structured]
    used = sorted({number for leaf in wanted for number in leaf.taps})
    number_of = {taps[number].step: number for number in used}

    def arguments(chosen, example):
        merged = list(leaves)
        for index, leaf in zip(reverse, chosen, strict=True):
            merged[index] = leaf
        return [*merged, example]

    def forward(perturbations, chosen):
        entered = {}

        def around(index, step, inputs):
            number = number_of.get(index)
            if number is None:
                return step.take(*inputs)
            side = taps[number].side
            entered[number] = inputs[side]
            inputs[1 - side] = lax.stop_gradient(inputs[1 - side])
            use = taps[number].use
            output = use.product(*inputs).astype(perturbations[number].dtype) if use.tiny else step.take(*inputs)[0]
            return [output + perturbations[number]]

        slots = run(program, values, arguments(chosen, x[None]), around)
        return slots[program.outputs[0]][0], entered

    zeros = {number: jnp.zeros(*_shape(program.shapes[program.steps[taps[number].step].outputs[0]])) for number in used}
    chosen = [leaves[index] for index in reverse]
    _, pull, entered = jax.vjp(forward, zeros, chosen, has_aux=True)
    left, gradients = jax.vmap(pull)(cotangents.astype(program.shapes[program.outputs[0]].dtype))
    # (m, g, s, o) -> (g, s, m, o): the products below then run over long rows.
    left = {number: jax.vmap(taps[number].use.outputs)(ct).transpose(1, 2, 0, 3) for number, ct in left.items()}
    gradients = dict(zip(reverse, _with_derived(structure, wanted, gradients, entered, left, values, chosen, arguments, x), strict=True))
    results = []
    for leaf, (_, what) in zip(wanted, stored, strict=True):
        if not leaf.structured:
            results.append(gradients[leaf.index].reshape(1, len(cotangents), -1))
        elif what == "gradients":
            total = sum(outer(taps[number].use.patches(entered[number]), left[number]) for number in leaf.taps)
            results.append(total.reshape(-1, *total.shape[2:]))
        else:
            keep = {"patches": lambda number: taps[number].use.patches(entered[number]), "inputs": entered.__getitem__}[what]
            results.append([(keep(number), left[number]) for number in leaf.taps])
    return results


def outer(patches, cotangents):
    """X' G: (g, s, k) and (g, s, m, o) to the gradients (g, k, m, o)."""
    g, s, m, o = cotangents.shape
    return jnp.matmul(patches.swapaxes(1, 2), cotangents.reshape(g, s, m * o)).reshape(g, -1, m, o)


def _with_derived(structure, wanted, gradients, entered, left, values, chosen, arguments, x):
    """Adds the gradients that reach a leaf through a weight computed from it."""
    numbers = sorted({number for leaf in wanted if not leaf.structured for number in leaf.taps})
    if not numbers:
        return gradients
    program, taps = structure.program, structure.taps

    def weights(chosen):
        slots = run(program, values, arguments(chosen, x[None]), only=structure.before)
        return [slots[taps[number].weight] for number in numbers]

    made, pull = jax.vjp(weights, chosen)
    cotangents = []
    for number, weight in zip(numbers, made, strict=True):
        product = outer(taps[number].use.patches(entered[number]), left[number])
        cotangents.append(jax.vmap(taps[number].use.weight, in_axes=2)(product).astype(weight.dtype))
    (through,) = jax.vmap(pull)(cotangents)
    return [gradient + more for gradient, more in zip(gradients, through, strict=True)]


def _shape(spec):
    return spec.shape, spec.dtype
