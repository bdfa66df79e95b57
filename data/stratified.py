"""Which images of a set without a split of its own are for training?"""

import numpy as np


def stratified_train(labels: np.ndarray, size: int) -> np.ndarray:
    """Boolean mask of `size` training images, the same share of every class to within one image.

    Within each class images are permuted with seed 0, and training takes the first part of every class, cut so that
    the size is exact. The same labels in the same order always give the same mask.
    """
    rng = np.random.RandomState(0)  # NumPy keeps the stream of this old generator fixed for ever.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[rng.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    mask = np.zeros(len(labels), bool)
    mask[np.argsort(place, kind="stable")[:size]] = True
    return mask
