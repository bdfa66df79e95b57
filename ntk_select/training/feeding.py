"""Batches of images for training: from memory, or decoded in threads, with augmentation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from ntk_select._runtime.host import threads
from ntk_select.errors import ConfigError, missing
from ntk_select.experts.preprocess import SMALL, Preprocess
from ntk_select.training.augment import AUGMENTATIONS, RandomResizedCrop, augmented


class Feed(NamedTuple):
    """Batches of uint8 images with labels, and their conversion to network inputs.

    Attributes:
      batches: (random generator) -> the (images, labels) of one epoch; `batches.steps` is their number.
      prepare: (key, images) -> float inputs, compiled with the training step; None if the batches are inputs already.
    """

    batches: Callable[[np.random.Generator], Iterable[tuple[np.ndarray, np.ndarray]]]
    prepare: Callable[[jax.Array, Any], jax.Array] | None


def feed(
    images: Sequence[np.ndarray],
    labels: Int[np.ndarray, " n"],
    preprocess: Preprocess | Callable,
    augment: str | Mapping[str, Any],
    batch_size: int,
    *,
    remainder: bool = False,
    streams: int = 1,
) -> Feed:
    """Training batches for a network.

    Up to `SMALL` pixels, images are resized once and held in memory, and augmented on the device. Above, each epoch decodes the stored images
    again in threads (needs the package grain), and "crop" is a random resized crop.

    Args:
      images: images of the task, of any sizes.
      preprocess: preprocessing of the expert. For a callable other than `Preprocess`, inputs are computed once and not augmented.
      augment: one of `AUGMENTATIONS`, or options of `augmented` for small images.
      batch_size: images per batch, at most the number of images.
      remainder: keep the smaller last batch of an epoch.
      streams: feeds read at the same time, which share the decoding threads.

    Raises:
      ConfigError: augmentation of inputs that a callable other than `Preprocess` computes.
    """
    if not isinstance(preprocess, Preprocess):
        if augment != "none":
            raise ConfigError(f"augment={augment!r} needs a Preprocess; this expert's inputs are computed by {preprocess!r}. Try: augment='none'")
        return Feed(InMemory(np.asarray(preprocess(images)), labels, batch_size, remainder=remainder), None)
    if preprocess.size <= SMALL:
        options = AUGMENTATIONS[augment] if isinstance(augment, str) else augment
        return Feed(InMemory(preprocess.resized(images), labels, batch_size, remainder=remainder), _Prepare(preprocess, tuple(options.items())))
    crop, flip = (isinstance(augment, str) and word in augment for word in ("crop", "flip"))
    view = RandomResizedCrop(preprocess, flip=flip) if crop else _Whole(preprocess, flip)
    return Feed(Decoded(images, labels, view, batch_size, remainder=remainder, threads=max(1, threads() // streams)), _Prepare(preprocess))


@dataclass(frozen=True)
class _Prepare:
    """Augmentation and normalisation. Hashable: equal settings share compiled steps."""

    preprocess: Preprocess
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, key, images):
        images = images.astype(jnp.float32) / 255
        images = augmented(key, images, **dict(self.options)) if self.options else images
        return (images - jnp.asarray(self.preprocess.mean, jnp.float32)) / jnp.asarray(self.preprocess.std, jnp.float32)


@dataclass(frozen=True)
class _Whole:
    """The evaluation view, with an optional random horizontal flip."""

    preprocess: Preprocess
    flip: bool

    def __call__(self, image, rng):
        (view,) = self.preprocess.resized([image])
        return np.ascontiguousarray(view[:, ::-1]) if self.flip and rng.random() < 0.5 else view


class InMemory:
    """Random batches of arrays in memory.

    Args:
      images, labels: n examples.
      batch_size: examples per batch, at most n.
      remainder: keep the smaller last batch of an epoch, unless it is a single example; otherwise it is dropped.

    Attributes:
      seen: examples per epoch.
      steps: batches per epoch.
    """

    def __init__(self, images: Shaped[np.ndarray, "n ..."], labels: Int[np.ndarray, " n"], batch_size: int, *, remainder: bool = False):
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.seen, self.steps = epoch_size(len(images), batch_size, remainder)

    def __call__(self, rng: np.random.Generator) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """The batches of one epoch."""
        order = rng.permutation(len(self.images))[: self.seen]
        for first in range(0, self.seen, self.batch_size):
            chosen = order[first : first + self.batch_size]
            yield self.images[chosen], self.labels[chosen]


def epoch_size(n: int, batch_size: int, remainder: bool) -> tuple[int, int]:
    """(examples, batches) of an epoch over n examples. A last batch of one example is always dropped: it has no batch statistics."""
    left = n % batch_size if remainder and n % batch_size > 1 else 0
    return n // batch_size * batch_size + left, n // batch_size + bool(left)


class Decoded:
    """Batches of images that do not fit into memory: decoded, cropped and resized in threads, a few batches ahead.

    Args:
      images: a sequence that is safe to index from several threads.
      labels: one per image.
      view: (image, random generator) -> uint8 (size, size, 3).
      batch_size: examples per batch, at most n.
      remainder: as for `InMemory`.
      threads: number of decoding threads.
    """

    def __init__(self, images: Sequence[np.ndarray], labels, view, batch_size: int, *, remainder: bool = False, threads: int = 8):
        self.images, self.labels, self.view, self.batch_size, self.threads = images, labels, view, batch_size, threads
        self.seen, self.steps = epoch_size(len(labels), batch_size, remainder)

    def __call__(self, rng: np.random.Generator) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """The batches of one epoch. Each view depends on the epoch's generator and the image's index alone, not on threads."""
        try:
            import grain
        except ImportError as error:
            raise missing("grain", f"Training at more than {SMALL} pixels") from error
        order, seed = rng.permutation(len(self.labels))[: self.seen], int(rng.integers(2**62))
        ahead = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=max(self.threads, 2 * self.batch_size))
        yield from grain.MapDataset.source(_Views(self, order, seed)).to_iter_dataset(ahead).batch(self.batch_size)


class _Views:
    """The images of one epoch as a random-access source for grain."""

    def __init__(self, decoded: Decoded, order, seed: int):
        self.decoded, self.order, self.seed = decoded, order, seed

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place: int):
        number = int(self.order[place])
        rng = np.random.default_rng([self.seed, number])
        return self.decoded.view(self.decoded.images[number], rng), self.decoded.labels[number]
