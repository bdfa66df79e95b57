"""Estimated time of a ranking, from the operations of a few experts and the speed of the machine, before anything is compiled."""

import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.experts.expert import Expert
from ntk_select.kernels.directions import directions_for
from ntk_select.kernels.flops import TRAINING, forward_flops
from ntk_select.ranking.inputs import PASSES
from ntk_select.ranking.rank import DEFAULT_SCORES, chosen_scores
from ntk_select.scores import Score
from ntk_select.tasks.probe_sample import PER_CLASS, probe_sample
from ntk_select.tasks.task import Task

SAMPLED_EXPERTS = 3
"""Experts that are loaded; the others are assumed to be similar."""
SHARE = 0.5
"""Speed of networks relative to a large matrix product (measured on two cores: 0.4 to 0.8)."""
COMPILING, COMPILING_FORECAST = 1.0, 3.0
"""Seconds of compilation per architecture: of the passes, and in addition of the kernel of a forecast (measured on two cores)."""
PER_SCORE, PER_FORECAST = 0.05, 0.3
"""Seconds per expert: for each score with its half-samples, and for the simulations of a forecast (measured on two cores, 250 images)."""


def expected_seconds(
    experts: Mapping[str, Callable[[], Expert]],
    task: Task,
    scores: Sequence[str] | Mapping[str, Score] = DEFAULT_SCORES,
    *,
    per_class: int = PER_CLASS,
    seed: int = 0,
    reference: Expert | str = "tiny",
) -> float | None:
    """Seconds that a ranking takes without a cache, within a factor of two if it has a forecast; None if no expert can be traced.

    Args:
      experts: functions that load one expert each, by name.
      task: target task.
      scores: scores to compute, as for `rank`.
      per_class: images per class of the probe sample.
      seed: seed of the probe sample.
      reference: reference network of RSA and DDS, as for `rank`.

    Raises:
      ConfigError: as `rank` for unknown scores and an unknown reference.

    Cost: loads and traces `SAMPLED_EXPERTS` experts, and multiplies two matrices; without tracing if no score needs the outputs of the experts.
    """
    chosen = chosen_scores(scores)
    needs = {name for score in chosen.values() for name in score.takes}
    speed, forecasts = SHARE * _speed(), "training_kernel" in needs
    seconds = len(experts) * (PER_SCORE * len(chosen) + PER_FORECAST * forecasts)
    if "reference_features" in needs and not isinstance(reference, Expert):
        seconds += _operations_of_reference(task, reference, seed) / speed
    if not needs & PASSES:
        return seconds
    names, sample, operations, architectures = list(experts), probe_sample(task, per_class=per_class, seed=seed), [], set()
    for index in np.unique(np.linspace(0, len(names) - 1, SAMPLED_EXPERTS).round().astype(int)):
        try:
            expert = experts[names[index]]()
            x = np.asarray(expert.preprocess([sample.images[0]]))
            passes = 1 + ("gradient_kernel" in needs) + (_passes_of_forecast(expert, x) if forecasts else 0)
            operations.append(forward_flops(expert.features_fn, expert.variables, x) * len(sample) * passes)
        except Exception:  # foreign code; the ranking reports the failure
            continue
        architectures.add(expert.card.architecture if expert.card else expert.name)
    if not operations:
        return None
    return seconds + len(names) * float(np.mean(operations)) / speed + (COMPILING + COMPILING_FORECAST * forecasts) * len(architectures)


def _passes_of_forecast(expert: Expert, x: np.ndarray) -> int:
    return 2 * directions_for(jax.eval_shape(expert.features_fn, expert.variables, x).shape[1])


def _operations_of_reference(task: Task, network: str, seed: int) -> float:
    """Operations of the training of the reference network."""
    from ntk_select.training.reference import BATCH, MAX_IMAGES, planned_epochs, untrained_reference  # imported here because of Optax

    expert, _, most_steps = untrained_reference(task, network, seed)
    steps = max(min(len(task.images), MAX_IMAGES) // BATCH, 1)
    image = np.zeros((1, expert.preprocess.size, expert.preprocess.size, 3), np.float32)
    return TRAINING * BATCH * steps * planned_epochs(steps, most_steps) * forward_flops(expert.features_fn, expert.variables, image)


def _speed() -> float:
    """Operations per second of a matrix product in float32."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(a, a))
    began = time.perf_counter()
    jax.block_until_ready(product(a, a))
    return 2 * size**3 / (time.perf_counter() - began)
