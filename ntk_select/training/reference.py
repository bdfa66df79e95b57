"""The reference network of RSA and DDS: a small network trained from scratch on the target task."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ntk_select._runtime.checks import check_count
from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.tasks.task import Task
from ntk_select.training.feeding import InMemory
from ntk_select.training.loop import TrainState, begin, cross_entropy, make_step, sgd, train_epochs

EPOCHS, BATCH = 30, 32
MIN_STEPS = 500
MAX_IMAGES = 20_000


def check_reference(network: str) -> None:
    """Raises ConfigError if there is no reference network of this name."""
    from ntk_select.models.architectures import REFERENCE_NETWORKS

    if network not in (known := REFERENCE_NETWORKS):
        raise ConfigError(f"The reference network {network!r} is unknown.{did_you_mean(str(network), known)}")


def untrained_reference(task: Task, network: str, seed: int):
    """The initial network of `trained_reference`: (expert, learning rate, maximal number of steps). Raises as that does."""
    from ntk_select.models.architectures import REFERENCE_NETWORKS

    check_count("seed", seed, 0)
    check_reference(network)
    return REFERENCE_NETWORKS[network](task.num_classes, seed)


def recipe() -> str:
    """The fixed settings of the training as a string, for cache keys."""
    return f"{EPOCHS} epochs, batches of {BATCH}, {MIN_STEPS} steps, {MAX_IMAGES} images"


def planned_epochs(steps: int, most_steps: int | None) -> int:
    """Number of epochs of `steps` batches each: `EPOCHS`, more for fewer than `MIN_STEPS` steps in total, fewer for more than `most_steps`."""
    epochs = max(EPOCHS, -(-MIN_STEPS // steps))
    return epochs if most_steps is None else max(1, min(epochs, most_steps // steps))


def trained_reference(task: Task, network: str = "tiny", *, seed: int = 0, progress: Callable[[int, int, str], None] | None = None) -> Expert:
    """A small network trained from scratch on the training images of a task.

    The recipe is that of the paper's fine-tuning: batches of 32, Nesterov momentum 0.9, weight decay 1e-4, 30 epochs, the learning rate divided
    by ten after 1/2 and 5/6 of them. The number of epochs is raised to give at least 500 steps, and lowered to give at most 1,000 for "tiny".

    Args:
      task: the task, of which at most 20,000 training images are used, and no test images.
      network: "tiny" (seconds to a minute on a CPU), or "resnet18" as in the paper, at learning rate 0.005.
      seed: seed of the initial weights, the choice of images and the order of batches.
      progress: called with (epochs done, epochs, name).

    Returns:
      The trained expert, named after the network.

    Raises:
      ConfigError: `network` is unknown, or `seed` is not a non-negative integer.
      ModelError: training diverged.

    Reference: Dwivedi & Roig 2019; Deshpande et al. 2021, section 4.2 and appendix C.
    """
    expert, learning_rate, most_steps = untrained_reference(task, network, seed)
    chosen = np.sort(np.random.default_rng([seed, 1]).permutation(len(task.images))[:MAX_IMAGES])
    preprocess = expert.preprocess
    pixels, labels = preprocess.resized([task.images[int(place)] for place in chosen]), task.labels[chosen]
    batches = InMemory(pixels, labels, min(BATCH, len(pixels)))
    epochs = planned_epochs(batches.steps, most_steps)
    rates = np.full(epochs * batches.steps, learning_rate)
    rates[len(rates) // 2 :] *= 0.1
    rates[len(rates) * 5 // 6 :] *= 0.1
    optimizer = sgd()
    mean, std = (jnp.asarray(values, jnp.float32) * 255 for values in (preprocess.mean, preprocess.std))

    def report(epoch: int, _state: TrainState, _loss: float) -> None:
        if progress:
            progress(epoch, epochs, network)

    loss = cross_entropy(expert.train_fn, lambda _key, images: (images.astype(jnp.float32) - mean) / std)
    start = begin(expert.variables, optimizer)
    state = train_epochs(make_step(loss, optimizer), start, batches, rates.reshape(epochs, -1), seed=[seed], after_epoch=report)
    return expert.with_variables(state.variables)
