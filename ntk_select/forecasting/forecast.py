"""`forecast`: the expected accuracy of one expert on one task, its learning rate, and an explanation."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select._runtime.checks import check_count
from ntk_select._runtime.progress import Progress, reporting
from ntk_select.errors import ConfigError, ModelError, UndefinedScoreError
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import call, in_batches
from ntk_select.experts.network_inputs import NetworkInputs, network_inputs
from ntk_select.forecasting.cross_validation import FOLDS, ONE_EACH, REPEATS, best, cross_validate
from ntk_select.forecasting.explanation import nonlinearity_at, shares_of_layers
from ntk_select.forecasting.kernel import TrainingNetwork, training_kernel
from ntk_select.forecasting.order_value import order_value
from ntk_select.forecasting.result import Forecast
from ntk_select.resolve import as_expert, as_task
from ntk_select.tasks.copies import distinct
from ntk_select.tasks.probe_sample import PER_CLASS, ProbeSample, probe_sample
from ntk_select.tasks.shift import remarks_on_test_images
from ntk_select.tasks.task import Task
from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe, checked_rates

BATCH_SIZE = 32
"""Images per forward pass in the comparison of test and training images."""


def forecast(
    expert: Expert | str | Path,
    task: Task | str | Path,
    recipe: Recipe | None = None,
    *,
    shots: int | None = None,
    learning_rates: float | Sequence[float] = LEARNING_RATES,
    per_class: int = PER_CLASS,
    seed: int = 0,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    directions: int | None = None,
    explain: bool = True,
    progress: Progress | bool | None = None,
) -> Forecast:
    """Forecasts a fine-tuning from the kernel: the recipe is simulated for the linearised network and cross-validated on the probe sample.

    Args:
      expert: expert with `features_fn` and `preprocess`; with batch norm also `train_fn`. Or the name of an embedded expert, the folder of one,
        or "timm:NAME".
      task: the task, or its URI, as for `load_task`. The forecast uses training images only.
      recipe: recipe of the fine-tuning, as for `finetune`; `Recipe()` by default. Augmentation is not simulated.
      shots: training images per class of the fine-tuning; by default as many as the probe sample has. If fewer, simulated trainings use random
        subsets of that size and are evaluated on all other images.
      learning_rates: learning rates to try; `LEARNING_RATES`, those of the paper, by default.
      per_class: images per class of the probe sample, the same as `probe_sample` with this seed; copies of one image count once.
      seed: seed of the probe sample, the directions, the folds and the batches.
      folds, repeats: numbers of folds and repetitions of the cross-validation; see `cross_validate`.
      directions: number of random directions for the kernel; see `training_kernel`.
      explain: whether to compute the share of each layer in the kernel and the deviation from linearity at the expected end of training, and to
        compare the probe sample with as many test images per class, if there are any. Where they differ, one of the `warnings` says that accuracies
        may be lower than forecast; the forecast itself is the same, and test labels only say which images are of the same class.
      progress: called with (done, all, what). None shows a bar on a terminal or in a notebook, False nothing.

    Returns:
      A `Forecast`, with a short report as its repr and a figure, `plot()`.

    Raises:
      ConfigError: an option is not allowed.
      TaskError: `per_class` or `seed` is out of range, or a task given by its URI cannot be loaded.
      UndefinedScoreError: no class has two images.
      ModelError: the expert has no pre-logits, preprocess or training mode, its outputs are not finite, or every learning rate diverges.

    Cost: `directions` forward-mode passes over the probe sample, each as expensive as two to three forward passes. The simulation takes `epochs` x
    n / batch steps of n c batch multiplications for each of folds x repeats x rates. `explain` adds one pass of some images per part of the
    network, a gradient, and for a task with test images a forward pass over both samples.

    Reference: Deshpande et al. 2021, Prop. 1.
    """
    expert, task = as_expert(expert), as_task(task)
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe={recipe!r} must be a Recipe. Try: Recipe(epochs=30)")
    rates = checked_rates(learning_rates)
    if shots is not None:
        check_count("shots", shots, 1)
    if expert.preprocess is None:
        raise ModelError(
            f"Expert {expert.name!r} has no preprocess, which converts images to network inputs. Try: Expert(..., preprocess=Preprocess(size=224))"
        )
    check_count("folds", folds, 2)
    check_count("repeats", repeats, 1)
    sample, remarks = distinct(probe_sample(task, per_class=per_class, seed=seed))
    if np.bincount(sample.labels).max() < 2:
        raise UndefinedScoreError(ONE_EACH)
    x = network_inputs(expert.preprocess, sample.images)
    with reporting(progress, f"forecast of {expert.name}") as shown:
        kernel = training_kernel(expert, x, batch_norm=recipe.batch_norm, directions=directions, seed=seed, progress=shown)
    counts = np.bincount(task.labels, minlength=task.num_classes)
    images = len(sample) if shots is None else int(np.minimum(counts, shots).sum())
    fewer = shots is not None and shots < np.bincount(sample.labels).max()
    with_head = kernel.with_head(recipe.head)
    forecasts = cross_validate(
        with_head,
        sample.labels,
        recipe,
        rates,
        shots=shots if fewer else None,
        images=images,
        folds=folds,
        repeats=repeats,
        seed=seed,
    )
    chosen = best(forecasts)
    if chosen is None:
        raise ModelError(
            f"The simulated training of expert {expert.name!r} diverges at every learning rate ({', '.join(f'{rate:g}' for rate in rates)}), as real "
            f"training would. Try: learning_rates={min(rates) / 10:g}"
        )
    shares, nonlinearity = None, None
    if explain:
        shares = shares_of_layers(TrainingNetwork(expert, x, recipe.batch_norm), x, kernel, recipe.head, seed=seed)
        nonlinearity = nonlinearity_at(expert, x, sample.labels, recipe, chosen.distance, seed=seed)
        remarks += _on_test_images(expert, task, sample, x, seed)
    initial_norm = float(jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(expert.params))))
    return Forecast(
        expert=expert.name,
        task=task.name,
        images=len(sample),
        classes=len(sample.class_names),
        training_images=images,
        recipe=recipe,
        by_rate={one.learning_rate: one for one in forecasts},
        best=chosen,
        order_value=order_value(forecasts, with_head, sample.labels).value,
        per_class=int(per_class),
        shots=None if shots is None else int(shots),
        seed=int(seed),
        directions=kernel.directions,
        initial_norm=initial_norm,
        shares=shares,
        nonlinearity=nonlinearity,
        warnings=tuple(remarks),
    )


def _on_test_images(expert: Expert, task: Task, sample: ProbeSample, x: np.ndarray | NetworkInputs, seed: int) -> list[str]:
    """A sentence if the test images differ from the probe sample, whose network inputs are x, in the features of the expert."""
    variables = jax.device_put(expert.variables)

    def features_of(part: ProbeSample) -> np.ndarray:
        inputs = x if part is sample else network_inputs(expert.preprocess, part.images)
        return np.asarray(in_batches(partial(call, expert.features_fn, variables), BATCH_SIZE, inputs))

    return remarks_on_test_images(task, sample, features_of, seed=seed)
