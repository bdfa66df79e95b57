"""The kernel by definition: a loop of `jax.grad`, one example and one output after the other, then NumPy in float64.

Nothing of the engine is used here but, in `agrees`, the call that is tested.
"""

import jax
import jax.numpy as jnp
import numpy as np

import ntk_select as ns

QUICKLY = {"xla_backend_optimization_level": 0}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers in float64."""
    return np.random.default_rng(seed).normal(size=shape)


def jacobians(fn, params, x) -> dict[str, np.ndarray]:
    """The Jacobian (n, c, p) of each floating-point leaf, by its "/"-joined path. x may be a pytree, outputs (n, c) or (n,)."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params)
    leaves = [leaf for _, leaf in pairs]
    chosen = [index for index, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    gradient = _gradient(fn, treedef, leaves, chosen)
    traced = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, params)
    outputs = jax.eval_shape(lambda x: fn(traced, x), jax.tree.map(lambda leaf: leaf[:1], x)).size
    picked, n = [leaves[index] for index in chosen], len(jax.tree.leaves(x)[0])
    examples = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], x) for i in range(n)]
    rows = [[[np.asarray(g, np.float64).ravel() for g in gradient(picked, example, a)] for a in range(outputs)] for example in examples]
    names = [jax.tree_util.keystr(pairs[index][0], simple=True, separator="/") for index in chosen]
    return {name: np.array([[gradients[place] for gradients in row] for row in rows]) for place, name in enumerate(names)}


_GRADIENTS = {}  # of functions at parameters; both are kept, so that their addresses stay theirs


def _gradient(fn, treedef, leaves, chosen):
    """Compiled once for a function and its parameters, whatever the examples."""
    key = (id(fn), *map(id, leaves))
    if key not in _GRADIENTS:

        def output(picked, example, a):
            merged = list(leaves)
            for index, leaf in zip(chosen, picked, strict=True):
                merged[index] = leaf
            return fn(jax.tree.unflatten(treedef, merged), jax.tree.map(lambda leaf: leaf[None], example)).reshape(-1)[a]

        _GRADIENTS[key] = fn, leaves, jax.jit(jax.grad(output), compiler_options=QUICKLY)
    return _GRADIENTS[key][-1]


def paired(left: np.ndarray, right: np.ndarray | None = None, outputs="full") -> np.ndarray:
    """The kernel of Jacobians (n, c, p): of a leaf, or of several side by side."""
    right = left if right is None else right
    if not isinstance(outputs, str):
        first, second = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        return np.einsum("iap,ia,jbp,jb->ij", left, np.broadcast_to(first, left.shape[:2]), right, np.broadcast_to(second, right.shape[:2]))
    full = np.einsum("iap,jbp->ijab", left, right)
    return {
        "full": lambda: full,
        "diagonal": lambda: np.einsum("ijaa->ija", full),
        "trace": lambda: np.einsum("ijaa->ij", full) / left.shape[1],
        "sum": lambda: full.sum((2, 3)),
    }[outputs]()


def whole(jacobian: dict[str, np.ndarray]) -> np.ndarray:
    """All leaves side by side."""
    return np.concatenate(list(jacobian.values()), axis=-1)


def close(given, expected, tolerance: float = 1e-12) -> None:
    """Equal up to `tolerance` times the largest entry."""
    assert isinstance(given, np.ndarray | jax.Array)
    given = np.asarray(given)
    assert given.shape == expected.shape
    largest = np.abs(expected).max(initial=0)
    assert np.abs(given - expected).max(initial=0) <= tolerance * largest


def agrees(fn, params, x1, x2=None, *, outputs="full", spaces=("parameter", "sample"), tolerance: float = 1e-12, **options) -> None:
    """Each leaf's kernel, in each space, equals the one by definition. `options` are for `ns.ntk`."""
    left = jacobians(fn, params, x1)
    right = left if x2 is None else jacobians(fn, params, x2)
    for space in spaces:
        kernels = ns.ntk(fn, params, x1, x2, outputs=outputs, by_layer=True, space=space, **options)
        assert list(kernels) == list(left)
        for name, kernel in kernels.items():
            close(kernel, paired(left[name], right[name], outputs), tolerance)


def kinds(fn, params, x, **options) -> dict[str, str]:
    """How the plan says that each leaf is used."""
    plan = ns.ntk_plan(fn, params, x, **options)
    return {leaf.use.name: leaf.use.kind for leaf in plan.leaves} | dict.fromkeys(plan.unused, "unused")
