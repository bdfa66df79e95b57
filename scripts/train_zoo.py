"""Trains the experts of a zoo from a config file: seeded, resumable, one expert after another.

    python scripts/train_zoo.py scripts/configs/embedded_zoo.toml --data DIR --out models/weights

An expert that is already in the output folder is skipped; a run that was cut goes on from its last epoch and
gives the same weights, because every random draw depends on the seed, the expert's name and the epoch alone.
"""

import io
import time
import tomllib
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from ntk_select.models.architectures import build, initialise, make_expert
from ntk_select.models.weights import CARD_FILE, WEIGHTS_FILE, flatten, read_weights, unflatten, write_expert
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ntk_select.card import Card
from ntk_select.files import write_atomically
from ntk_select.preprocess import Preprocess
from ntk_select.task import Task
from ntk_select.training import TrainState, train_epochs

CONSOLE = Console()


@dataclass(frozen=True)
class Plan:
    """One expert to be trained."""

    name: str
    architecture: str
    source: str
    start: str  # "scratch" or "transfer"
    epochs: int
    learning_rate: float
    initialised_from: str | None


@dataclass(frozen=True)
class Source:
    """A source data set at the zoo's input size, uint8."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def plans(config: dict[str, Any]) -> list[Plan]:
    """All experts of the config, those that others start from first."""
    first = config["initial_source"]
    found = []
    for source in sorted(config["sources"], key=lambda s: s != first):
        for architecture in config["architectures"]:
            for start, epochs in config["sources"][source]["epochs"].items():
                parent = f"{first}-{architecture}" if start == "transfer" else None
                name = f"{source}-{architecture}" + (f"-from-{first}" if parent else "")
                epochs = epochs[architecture] if isinstance(epochs, dict) else epochs
                found.append(Plan(name, architecture, source, start, epochs, config[start]["learning_rate"], parent))
    return found


def load_source(config: dict[str, Any], source: str, data: Path, cache: Path) -> Source:
    """The source's images, resized once and kept."""
    file = cache / f"{source}.npz"
    if not file.exists():
        from ntk_select.data import load_task

        task = renamed(load_task(config["sources"][source]["uri"].format(data=data)), config["sources"][source].get("rename", {}))
        resize = preprocess_of(config).resized
        buffer = io.BytesIO()
        np.savez(
            buffer,
            images=resize(task.images),
            labels=task.labels,
            test_images=resize(task.test_images),
            test_labels=task.test_labels,
            class_names=np.array(task.class_names),
        )
        write_atomically(file, buffer.getvalue())
    with np.load(file) as stored:
        arrays = dict(stored)
    return Source(**{**arrays, "class_names": tuple(arrays["class_names"].tolist())})


def renamed(task: Task, names: dict[str, str]) -> Task:
    """The task with the classes named in `names` joined to others."""
    kept = [name for name in task.class_names if name not in names]
    ids = np.array([kept.index(names.get(name, name)) for name in task.class_names])
    return replace(task, labels=ids[task.labels], test_labels=ids[task.test_labels], class_names=tuple(kept))


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """How the zoo's inputs are made."""
    return Preprocess(config["size"], config["mean"], config["std"], interpolation=config["interpolation"])


def augment(key, images, *, shift=0, rotate=0.0, zoom=0.0, shear=0.0, brightness=0.0, flip_horizontal=False, flip_vertical=False):
    """Random affine maps of float images (n, h, w, c), bilinear, edges repeated; whole-pixel shifts stay exact."""
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 7)

    def uniform(k, limit):
        return jax.random.uniform(keys[k], (n,), minval=-limit, maxval=limit)

    angle, scale, slant = jnp.deg2rad(uniform(0, rotate)), 1 + uniform(1, zoom), uniform(2, shear)
    offsets = jax.random.randint(keys[3], (n, 2), -shift, shift + 1)
    signs = jnp.where(jax.random.bernoulli(keys[4], 0.5, (n, 2)) & jnp.array([flip_vertical, flip_horizontal]), -1.0, 1.0)

    def one(image, angle, scale, slant, offset, sign):
        rows, columns = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
        rows, columns = rows * sign[0] + offset[0], columns * sign[1] + offset[1]
        rows, columns = (
            scale * (jnp.cos(angle) * rows - jnp.sin(angle) * columns),
            scale * (jnp.sin(angle) * rows + jnp.cos(angle) * columns + slant * rows),
        )
        where = [rows + (height - 1) / 2, columns + (width - 1) / 2]
        return jax.vmap(lambda channel: jax.scipy.ndimage.map_coordinates(channel, where, 1, "nearest"), -1, -1)(image)

    images = jax.vmap(one)(images, angle, scale, slant, offsets, signs)
    return images * (1 + uniform(5, brightness))[:, None, None, None] + uniform(6, brightness)[:, None, None, None]


def train(plan: Plan, config: dict[str, Any], source: Source, folder: Path, checkpoints: Path, progress: Progress) -> float:
    """Trains one expert and writes it. Returns its test accuracy."""
    module = build(plan.architecture, num_classes=len(source.class_names))
    seed = [config["seed"], zlib.crc32(plan.name.encode())]
    batch = config["batch_size"]
    steps_per_epoch = len(source.images) // batch
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, plan.learning_rate, int(config["warmup"] * plan.epochs * steps_per_epoch), plan.epochs * steps_per_epoch
    )
    optimizer = optax.chain(optax.add_decayed_weights(config["weight_decay"]), optax.sgd(schedule, momentum=config["momentum"], nesterov=True))
    variables = initialise(module, jax.random.key(zlib.crc32(str(seed).encode())), config["size"])
    if plan.initialised_from:
        parent = flatten(read_weights(folder / plan.initialised_from / WEIGHTS_FILE))
        own = flatten(variables)
        head = "params/" + "/".join(module.head)
        variables = unflatten({name: value if name.startswith(f"{head}/") else parent[name] for name, value in own.items()})
    state = TrainState(jax.tree.map(jnp.asarray, variables), optimizer.init(variables["params"]))
    leaves, treedef = jax.tree.flatten(state)

    # A checkpoint of another plan or config must not be continued.
    settings = zlib.crc32(
        repr(("TrainState", plan, {key: value for key, value in config.items() if key != "sources"}, config["sources"][plan.source])).encode()
    )
    checkpoint, start = checkpoints / f"{plan.name}-{settings:08x}.npz", 0
    if checkpoint.exists():
        with np.load(checkpoint) as stored:
            start = int(stored["epoch"])
            state = jax.tree.unflatten(treedef, [jnp.asarray(stored[f"leaf{i}"]) for i in range(len(leaves))])

    mean, std = (jnp.asarray(config[name], jnp.float32) for name in ("mean", "std"))
    options = config["sources"][plan.source]["augment"]

    def prepare(key, images):
        return (augment(key, images.astype(jnp.float32) / 255, **options) - mean) / std

    def keep(epoch: int, state: TrainState, mean_loss: float) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, epoch=epoch, **{f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))})
        write_atomically(checkpoint, buffer.getvalue())
        progress.update(bar, advance=1, description=f"{plan.name} loss {mean_loss:.3f}")

    bar = progress.add_task(plan.name, total=plan.epochs, completed=start)
    began = time.perf_counter()
    train_fn = make_expert(plan.name, module, variables).train_fn
    schooling = {"epochs": plan.epochs, "batch_size": batch, "seed": seed, "prepare": prepare, "first_epoch": start, "after_epoch": keep}
    state = train_epochs(train_fn, state, optimizer, source.images, source.labels, **schooling)

    variables = jax.tree.map(np.asarray, dict(state.variables))
    accuracy, means = evaluate(module, variables, config, source)
    extra = {"class_means": means}
    reference_name = f"{config['initial_source']}-{config['architectures'][0]}"
    if plan.name == reference_name:
        extra["reference_class_means"] = means
    else:
        reference = read_weights(folder / reference_name / WEIGHTS_FILE)
        classes = len(reference["source"]["class_means"])
        _, extra["reference_class_means"] = evaluate(
            build(config["architectures"][0], num_classes=classes), {k: reference[k] for k in ("params", "batch_stats")}, config, source
        )
    card = Card(
        name=plan.name,
        architecture=plan.architecture,
        source=plan.source,
        preprocess=preprocess_of(config),
        sha256="",
        num_classes=len(source.class_names),
        class_names=source.class_names,
        class_counts=tuple(np.bincount(source.labels, minlength=len(source.class_names)).tolist()),
        num_images=len(source.images),
        test_accuracy=round(accuracy, 5),
        initialised_from=plan.initialised_from,
        licence=f"weights Apache-2.0; {config['sources'][plan.source]['licence']}",
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        training={
            "seed": config["seed"],
            "epochs": plan.epochs,
            "batch_size": batch,
            "learning_rate": plan.learning_rate,
            "weight_decay": config["weight_decay"],
            "momentum": config["momentum"],
            "augment": options,
            "test_images": len(source.test_images),
            "reference_extractor": reference_name,
        },
    )
    write_expert(folder / plan.name, {**variables, "source": extra}, card)
    checkpoint.unlink(missing_ok=True)
    progress.remove_task(bar)
    CONSOLE.print(f"{plan.name}: test accuracy {accuracy:.4f}, {time.perf_counter() - began:.0f} s")
    return accuracy


def evaluate(module, variables, config: dict[str, Any], source: Source) -> tuple[float, np.ndarray]:
    """Test accuracy, and the class means of the pre-logits over the training images."""
    normalise = preprocess_of(config).normalised
    forward = jax.jit(lambda v, x: module.apply(v, x, mutable=["intermediates"]))

    def batches(images, size=500):
        for first in range(0, len(images), size):
            logits, captured = forward(variables, normalise(images[first : first + size]))
            yield np.asarray(logits), np.asarray(captured["intermediates"]["features"][0])

    correct = np.concatenate([logits.argmax(1) for logits, _ in batches(source.test_images)]) == source.test_labels
    features = np.concatenate([f for _, f in batches(source.images)])
    known = len(source.class_names)
    counts = np.maximum(np.bincount(source.labels, minlength=known), 1)
    sums = np.zeros((known, features.shape[1]))
    np.add.at(sums, source.labels, features)
    return float(correct.mean()), (sums / counts[:, None]).astype(np.float32)


def main(
    config_file: tyro.conf.Positional[Path], /, *, data: Path, out: Path = Path("models/weights"), work: Path = Path("runs/zoo"), only: str = ""
) -> None:
    """Trains every expert of CONFIG_FILE that is not in `out` yet.

    Args:
      config_file: a TOML file such as scripts/configs/embedded_zoo.toml.
      data: folder of the source archives, which stands for {data} in the config.
      out: where the experts go, one folder each.
      work: resized images and checkpoints.
      only: train only experts whose name contains this text.
    """
    config = tomllib.loads(config_file.read_text())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as progress:
        for plan in plans(config):
            if only in plan.name and not (out / plan.name / CARD_FILE).exists():
                train(plan, config, load_source(config, plan.source, data, work / "data"), out, work / "checkpoints", progress)


if __name__ == "__main__":
    tyro.cli(main)
