"""How do images reach a network in training: batch by batch, each time in another view?"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntk_select.errors import ConfigError, missing
from ntk_select.experts.expert import Variables
from ntk_select.experts.preprocess import Preprocess
from ntk_select.experts.probe import call
from ntk_select.training.augment import AUGMENTATIONS, RandomResizedCrop, augmented
from ntk_select.training.step import InMemory, epoch_of

SMALL = 64
"""Pixels a side up to which images are kept in memory, resized once, and varied on the device."""


class Feed(NamedTuple):
    """Batches of uint8 images with labels, and how they become network inputs.

    Attributes:
      batches: (generator of random numbers) -> one epoch of (images, labels); `batches.steps` says how many.
      prepare: (key, images) -> float inputs, to be compiled with the training step.
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
    rest: bool = False,
    streams: int = 1,
) -> Feed:
    """Training batches for a network.

    Up to `SMALL` pixels the images are resized once and lie in memory; crops and flips happen on the device. Above, each view is cut out of
    the image as it was stored, decoded anew, in threads (needs the package grain); "crop" then is a random resized crop.

    Args:
      images: of the task, of any sizes.
      preprocess: of the expert. Of a callable that is no `Preprocess` the inputs are computed once and left as they are.
      augment: one of `AUGMENTATIONS`, or options of `augmented` for small images.
      batch_size: at most the number of images.
      rest: keep the smaller batch that is left over at the end of an epoch.
      streams: feeds that are read at the same time, and share the threads.

    Raises:
      ConfigError: an augmentation is asked of inputs of which only a callable knows what they are.
    """
    if not isinstance(preprocess, Preprocess):
        if augment != "none":
            raise ConfigError(f"augment={augment!r} needs a Preprocess; the inputs of this expert are made by {preprocess!r}. Say augment='none'.")
        return Feed(InMemory(np.asarray(preprocess(images)), labels, batch_size, rest=rest), None)
    if preprocess.size <= SMALL:
        options = AUGMENTATIONS[augment] if isinstance(augment, str) else augment
        return Feed(InMemory(preprocess.resized(images), labels, batch_size, rest=rest), _Prepare(preprocess, tuple(options.items())))
    crop, flip = (isinstance(augment, str) and word in augment for word in ("crop", "flip"))
    view = RandomResizedCrop(preprocess, flip=flip) if crop else _Whole(preprocess, flip)
    return Feed(Decoded(images, labels, view, batch_size, rest=rest, threads=max(1, threads() // streams)), _Prepare(preprocess))


def threads() -> int:
    """Threads that decode images: two for each core, sixteen at most."""
    return min(2 * (os.cpu_count() or 1), 16)


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
      batch_size: at most n.
      rest: as for `InMemory`.
      threads: that decode.
    """

    def __init__(self, images: Sequence[np.ndarray], labels, view, batch_size: int, *, rest: bool = False, threads: int = 8):
        self.images, self.labels, self.view, self.batch_size, self.threads = images, labels, view, batch_size, threads
        self.seen, self.steps = epoch_of(len(labels), batch_size, rest)

    def __call__(self, rng: np.random.Generator) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """One epoch. Each view depends on the epoch's generator and the image's number alone, not on the threads."""
        try:
            import grain
        except ImportError as error:
            raise missing("grain", f"Training at more than {SMALL} pixels") from error
        order, seed = rng.permutation(len(self.labels))[: self.seen], int(rng.integers(2**62))
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
    fn: Callable[[Variables, Any], Any], variables: Variables, images: Sequence[np.ndarray], preprocess: Callable, batch_size: int | None = None
) -> Iterator[Float[np.ndarray, "b d"]]:
    """fn(variables, inputs) of all images in the view of evaluation, batch after batch.

    The last batch is filled up, so that there is one program. Images that are decoded when asked for are decoded in threads, one batch ahead.

    Args:
      batch_size: images in a pass; 256 up to `SMALL` pixels, else 32.
    """
    if batch_size is None:
        batch_size = 256 if getattr(preprocess, "size", SMALL) <= SMALL else 32
    n, size = len(images), min(batch_size, len(images))
    variables = jax.device_put(dict(variables))
    with ThreadPoolExecutor(threads()) as pool:

        def fetch(first: int):
            places = range(first, min(first + size, n))
            return [images[place] for place in places] if isinstance(images, np.ndarray) else [pool.submit(images.__getitem__, p) for p in places]

        waiting = fetch(0)
        for first in range(0, n, size):
            batch, waiting = waiting, fetch(first + size) if first + size < n else []
            inputs = preprocess([each.result() if isinstance(each, Future) else each for each in batch])
            short = size - len(inputs)
            inputs = np.concatenate([inputs, np.repeat(inputs[:1], short, axis=0)]) if short else inputs
            yield np.asarray(call(fn, variables, inputs))[: size - short]
