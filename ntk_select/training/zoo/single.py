"""Training of one expert on one source."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ntk_select.errors import ModelError, near
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert
from ntk_select.experts.forward import batched_outputs
from ntk_select.models import fresh_expert, open_zoo
from ntk_select.models.expert_folder import flatten, write_expert
from ntk_select.tasks.probe_sample import probe_sample
from ntk_select.tasks.task import ChosenImages, Task
from ntk_select.training.checkpoints import Checkpoints, fingerprint, seed_from
from ntk_select.training.feeding import SMALL, feed
from ntk_select.training.loop import Loss, begin, cross_entropy, make_step, sgd, step_decay, train_epochs, warmup_cosine
from ntk_select.training.zoo.config import ZooConfig
from ntk_select.training.zoo.members import Member, SingleMember, members, reference_name

Progress = Callable[[int, int, str], None]

MAX_PER_CLASS = 500
"""Training images per class in class means; of small images all are used."""


class Zoo(NamedTuple):
    """A zoo in training.

    Attributes:
      config: the config of the zoo.
      folder: folder of its experts.
      source: name -> `Task`.
      checkpoints: folder of the checkpoints.
      mesh: devices that share the batches; None for one device.
      progress: called with (epochs done, epochs, name and loss).
    """

    config: ZooConfig
    folder: Path
    source: Callable[[str], Task]
    checkpoints: Path
    mesh: Any
    progress: Progress


def train_single(zoo: Zoo, member: SingleMember) -> Card:
    """Trains and writes an expert. Interrupted training resumes."""
    config, task = zoo.config, zoo.source(member.source)
    seed = seed_of(config, member.name)
    fresh = fresh_member(config, member, task.num_classes, seed=str(seed))
    variables = with_backbone(fresh, parent_of(zoo, member.initialised_from))
    batch = min(config.batch_size, len(task.labels))
    augment = config.sources[member.source].augmentation(config.preprocess, task)
    batches, prepare = feed(task.images, task.labels, config.preprocess, augment, batch)
    loss = cross_entropy(fresh.train_fn, prepare, precision=config.precision)
    with Checkpoints(zoo.checkpoints, member.name, [config, member, variables, fingerprint(task.images, task.labels)]) as checkpoints:
        trained = train(zoo, checkpoints, member.name, loss, variables, batches, learning_rate=member.learning_rate, epochs=member.epochs)
        expert = fresh.with_variables(trained)
        accuracy, means = evaluated(expert, task)
        extra = {"class_means": means, **reference_means(zoo, task, means, member.name)}
        settings = {"epochs": member.epochs, "batch_size": batch, "learning_rate": member.learning_rate}
        card = card_of(zoo, member, member.source, expert, task, accuracy, settings)
        card = write_expert(zoo.folder / member.name, {**trained, "source": extra}, card)
        checkpoints.delete()
    return card


def seed_of(config: ZooConfig, name: str) -> list[int]:
    """Seed of every random number of an expert."""
    return [config.seed, seed_from(name)]


def fresh_member(config: ZooConfig, member: Member, num_classes: int, *, seed: str) -> Expert:
    """The untrained expert of a member, with a head for `num_classes` and the name of the member."""
    architecture, settings = config.network(member.architecture)
    options = {"num_classes": num_classes, "preprocess": config.preprocess, "config": settings}
    return fresh_expert(member.name, architecture, seed=seed_from(seed), **options)


def parent_of(zoo: Zoo, name: str | None) -> Expert | None:
    """The expert that another starts from, from the zoo's own folder or the built-in zoo; None for no name. Raises ModelError if there is none."""
    if name is None:
        return None
    for uri in (str(zoo.folder / name), "builtin"):
        experts = open_zoo([uri]) if uri == "builtin" or (zoo.folder / name).is_dir() else {}
        if name in experts:
            return experts[name]()
    known = {member.name for member in members(zoo.config)}
    hint = (
        " Try: train it first, with the same config"
        if name in known
        else f"{near(name, known | {*experts})} Try: the name of an expert of the config"
    )
    raise ModelError(f"There is no expert {name!r} to start from, neither in {zoo.folder} nor built in.{hint}")


def abstract_expert(make: Callable[[], Expert]) -> Expert:
    """The expert that `make` would initialise, with shapes as variables. Nothing is computed, compiled or allocated."""
    made = []

    def variables():
        made.append(make())
        return made[0].variables

    shapes = jax.eval_shape(variables)
    return made[0].with_variables(shapes)


def with_backbone(fresh: Expert, parent: Expert | None) -> Mapping[str, Any]:
    """The variables of `parent` with the head of `fresh`; those of `fresh` if there is no parent.

    Raises:
      ModelError: their backbones have other variables.
    """
    if parent is None:
        return fresh.variables
    head = "/".join(("params", *fresh.head, ""))
    own, others = (
        {name: tuple(np.shape(leaf)) for name, leaf in flatten(expert.variables).items() if not name.startswith(head)} for expert in (fresh, parent)
    )
    if own != others:
        name = next(name for name in (*own, *others) if own.get(name) != others.get(name))
        here, there = (f"the shape {shapes[name]}" if name in shapes else "no such variable" for shapes in (own, others))
        raise ModelError(
            f"{fresh.name!r} cannot start from {parent.name!r}, which is another network: {name} has {there} there and {here} here. "
            'Try: an expert with the same network, or start = "scratch"'
        )

    def replaced(own, others, path):
        if path == fresh.head:
            return own
        return {key: replaced(own[key], others[key], (*path, key)) for key in own} if isinstance(own, Mapping) else others

    return {"params": replaced(fresh.params, parent.params, ()), **{key: parent.state[key] for key in fresh.state}}


def learning_rates(config: ZooConfig, rate: float, epochs: int, steps: int):
    """(epochs, steps) learning rates by the config's schedule."""
    return warmup_cosine(rate, epochs, steps, config.warmup) if config.schedule == "cosine" else step_decay(rate, epochs, steps, config.milestones)


def train(zoo: Zoo, checkpoints: Checkpoints, name: str, loss: Loss, variables, batches, *, learning_rate: float, epochs: int) -> dict[str, Any]:
    """The variables after training with the zoo's recipe from the last checkpoint on."""
    config = zoo.config
    optimizer = sgd(config.momentum, config.weight_decay, nesterov=config.nesterov)

    def report(epoch: int, loss: float) -> None:
        zoo.progress(epoch, epochs, f"{name} loss {loss:.3f}")

    first, state, notes = checkpoints.latest(begin(variables, optimizer))
    zoo.progress(first, epochs, name)
    state = train_epochs(
        make_step(loss, optimizer, zoo.mesh),
        state,
        batches,
        learning_rates(config, learning_rate, epochs, batches.steps),
        seed=seed_of(config, name),
        first_epoch=first,
        after_epoch=checkpoints.after_epoch(report, notes.get("losses", [])),
    )
    return jax.tree.map(np.asarray, dict(state.variables))


def card_of(
    zoo: Zoo, member: Member, source: str, expert: Expert, task: Task, accuracy: float, settings: Mapping[str, Any], name: str | None = None
) -> Card:
    """The card of an expert that was trained here.

    Args:
      zoo, member, expert: what was trained.
      source, task: the data set, by name and loaded.
      accuracy: accuracy on its test set.
      settings: what the training depends on besides the config of the zoo.
      name: name of the expert; the member's by default.
    """
    config = zoo.config
    architecture, network = config.network(member.architecture)
    recipe = ("momentum", "nesterov", "weight_decay", "schedule", "warmup", "milestones", "precision")
    augment = config.sources[source].augmentation(config.preprocess, task)
    return Card(
        name or member.name,
        architecture,
        source,
        config.preprocess,
        "",
        task.num_classes,
        config=network,
        class_names=task.class_names,
        class_counts=tuple(np.bincount(task.labels, minlength=task.num_classes).tolist()),
        num_images=len(task.labels),
        test_accuracy=round(accuracy, 5),
        initialised_from=member.initialised_from,
        licence=f"weights Apache-2.0; {config.sources[source].licence}",
        num_parameters=expert.num_params,
        training={
            "seed": config.seed,
            **settings,
            "reference_extractor": reference_name(config),
            **{key: getattr(config, key) for key in recipe},
            "augment": augment if isinstance(augment, str) else dict(augment),
            "test_images": len(task.test_labels),
        },
    )


def reference_means(zoo: Zoo, task: Task, own_means: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Class means by the zoo's common extractor; empty if there is no such expert."""
    if name == reference_name(zoo.config):
        return {"reference_class_means": own_means}
    try:
        reference = parent_of(zoo, reference_name(zoo.config))
    except ModelError:
        return {}
    return {"reference_class_means": class_means(reference, task)}


def class_means(expert: Expert, task: Task) -> np.ndarray:
    """(classes, d) means of the pre-logits over the training images."""
    labels, images = task.labels, task.images
    if expert.preprocess.size > SMALL:
        places = probe_sample(task, per_class=MAX_PER_CLASS).indices
        labels, images = labels[places], ChosenImages(images, places)
    sums, first = None, 0
    for features in batched_outputs(expert.features_fn, expert.variables, images, expert.preprocess):
        sums = np.zeros((task.num_classes, features.shape[1])) if sums is None else sums
        np.add.at(sums, labels[first : first + len(features)], features)
        first += len(features)
    return (sums / np.maximum(np.bincount(labels, minlength=task.num_classes), 1)[:, None]).astype(np.float32)


def evaluated(expert: Expert, task: Task) -> tuple[float, np.ndarray]:
    """Top-1 accuracy on the test set, and `class_means`."""
    answers = [logits.argmax(1) for logits in batched_outputs(expert.apply_fn, expert.variables, task.test_images, expert.preprocess)]
    return float((np.concatenate(answers) == task.test_labels).mean()), class_means(expert, task)
