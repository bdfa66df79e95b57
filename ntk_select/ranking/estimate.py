"""Estimated time of a ranking, from the operations of a few experts and the speed of the machine, before anything is compiled."""

import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.experts.expert import Expert
from ntk_select.kernels.flops import forward_flops
from ntk_select.tasks.task import Task, probe_sample

LOOKED_AT = 3
"""Experts that are loaded; the others are assumed to be similar."""
SHARE = 0.5
"""Speed of networks relative to a large matrix product (measured on two cores: 0.4 to 0.8)."""
COMPILING, OVERHEAD = 8.0, 0.6
"""Seconds of compilation per architecture; seconds per expert for scores and simulations (measured on two cores)."""


def expected_seconds(experts: Mapping[str, Callable[[], Expert]], task: Task, *, per_class: int = 25, seed: int = 0) -> float | None:
    """Seconds until all experts have a forecast, within a factor of two; None if no expert can be traced.

    Cost: loads and traces `LOOKED_AT` experts, and multiplies two matrices.
    """
    from ntk_select.forecasting.kernel import directions_for  # imported here because of Optax

    names, sample, operations, architectures = list(experts), probe_sample(task, per_class=per_class, seed=seed), [], set()
    for place in np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).round().astype(int)):
        try:
            expert = experts[names[place]]()
            x = np.asarray(expert.preprocess([sample.images[0]]))
            width = jax.eval_shape(expert.features_fn, expert.variables, x).shape[1]
            passes = 1 + 2 * directions_for(width)
            operations.append(forward_flops(expert.features_fn, expert.variables, x) * len(sample) * passes)
        except Exception:  # foreign code; the ranking reports the failure
            continue
        architectures.add(expert.card.architecture if expert.card else expert.name)
    if not operations:
        return None
    return len(names) * (np.mean(operations) / (SHARE * _speed()) + OVERHEAD) + COMPILING * len(architectures)


def _speed() -> float:
    """Operations per second of a matrix product in float32."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(a, a))
    began = time.perf_counter()
    jax.block_until_ready(product(a, a))
    return 2 * size**3 / (time.perf_counter() - began)
