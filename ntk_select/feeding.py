"""How do images reach a network in training: batch by batch, each time in another view?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntk_select.augment import AUGMENTATIONS, RandomResizedCrop, augmented
from ntk_select.errors import missing
from ntk_select.expert import Variables
from ntk_select.preprocess import Preprocess
from ntk_select.training import InMemory

SMALL = 64
"""Pixels a side up to which images are kept in memory, resized once, and varied on the device."""


class Feed(NamedTuple):
    """Batches of uint8 images with labels, and how they become network inputs.

    Attributes:
      batches: (generator of random numbers) -> one epoch of (images, labels); `batches.steps` says how many.
      prepare: (key, images) -> float inputs, to be compiled with the training step.
    """

    batches: Callable[[np.random.Generator], Iterable[tuple[np.ndarray, np.ndarray]]]
    prepare: Callable[[jax.Array, Any], jax.Array]


def feed(
    images: Sequence[np.ndarray], labels: Int[np.ndarray, " n"], preprocess: Preprocess, augment: str | Mapping[str, Any], batch_size: int
) -> Feed:
    """Training batches for a network.

    Up to `SMALL` pixels the images are resized once and lie in memory; crops and flips happen on the device. Above, each view is cut out of
    the image as it was stored, decoded anew, in threads (needs the package grain); "crop" then is a random resized crop.

    Args:
      images: of the task, of any sizes.
      preprocess: of the expert.
      augment: one of `AUGMENTATIONS`, or options of `augmented` for small images.
      batch_size: at most the number of images.
    """
    if preprocess.size <= SMALL:
        options = AUGMENTATIONS[augment] if isinstance(augment, str) else augment
        return Feed(InMemory(preprocess.resized(images), labels, batch_size), _Prepare(preprocess, tuple(options.items())))
    crop, flip = (isinstance(augment, str) and word in augment for word in ("crop", "flip"))
    view = RandomResizedCrop(preprocess, flip=flip) if crop else _Whole(preprocess, flip)
    return Feed(Decoded(images, labels, view, batch_size), _Prepare(preprocess))


@dataclass(frozen=True)
class _Prepare:
    """Augmented and normalised, equal for equal settings, so that compilations are shared."""

    preprocess: Preprocess
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, key, images):
        images = images.astype(jnp.float32) / 255
        images = augmented(key, images, **dict(self.options)) if self.options else images
        return (images - jnp.asarray(self.preprocess.mean, jnp.float32)) / jnp.asarray(self.preprocess.std, jnp.float32)


@dataclass(frozen=True)
class _Whole:
    """The view of evaluation, perhaps mirrored."""

    preprocess: Preprocess
    flip: bool

    def __call__(self, image, rng):
        (view,) = self.preprocess.resized([image])
        return np.ascontiguousarray(view[:, ::-1]) if self.flip and rng.random() < 0.5 else view


class Decoded:
    """Batches of images that do not fit into memory: decoded, cut and resized in threads, a few batches ahead.

    Args:
      images: fetched one by one; the sequence must be safe to read from threads.
      labels: of them.
      view: (image, generator of random numbers) -> uint8 (size, size, 3).
      batch_size: at most n; what is left over of an epoch is dropped.
      threads: that decode.
    """

    def __init__(self, images: Sequence[np.ndarray], labels, view, batch_size: int, *, threads: int = 8):
        self.images, self.labels, self.view, self.batch_size, self.threads = images, labels, view, batch_size, threads
        self.steps = len(labels) // batch_size

    def __call__(self, rng: np.random.Generator) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """One epoch. Each view depends on the epoch's generator and the image's number alone, not on the threads."""
        try:
            import grain
        except ImportError as error:
            raise missing("grain", f"Training at more than {SMALL} pixels") from error
        order, seed = rng.permutation(len(self.labels))[: self.steps * self.batch_size], int(rng.integers(2**62))
        ahead = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=max(self.threads, 2 * self.batch_size))
        yield from grain.MapDataset.source(_Views(self, order, seed)).to_iter_dataset(ahead).batch(self.batch_size)


class _Views:
    """The images of one epoch by their place in it, as grain reads them."""

    def __init__(self, decoded: Decoded, order, seed: int):
        self.decoded, self.order, self.seed = decoded, order, seed

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place: int):
        number = int(self.order[place])
        rng = np.random.default_rng([self.seed, number])
        return self.decoded.view(self.decoded.images[number], rng), self.decoded.labels[number]


def outputs_of(
    fn: Callable[[Variables, Any], Any], variables: Variables, images: Sequence[np.ndarray], preprocess: Callable, batch_size: int = 256
) -> Float[np.ndarray, "n d"]:
    """fn(variables, inputs) of all images in the view of evaluation, a batch in memory at a time; the last one is filled up, so that there is one program."""
    n, parts = len(images), []
    size, call = min(batch_size, n), jax.jit(fn)
    variables = jax.device_put(dict(variables))
    for first in range(0, n, size):
        inputs = preprocess([images[place] for place in range(first, min(first + size, n))])
        short = size - len(inputs)
        inputs = np.concatenate([inputs, np.repeat(inputs[:1], short, axis=0)]) if short else inputs
        parts.append(np.asarray(call(variables, inputs))[: size - short])
    return np.concatenate(parts)
