"""Centred kernel alignment (CKA) of two kernels on the same images."""

import numpy as np
from jaxtyping import Int, Num

from ntk_select.errors import TaskError, UndefinedScoreError, not_finite
from ntk_select.kernels.alignment import CONSTANT, checked_classes, double_centred, label_kernel
from ntk_select.scores.dissimilarity import unbiased_centring
from ntk_select.scores.features import Features, as_features, class_sums, labelled


def kernel_alignment(a: Num[np.ndarray, "n n"], b: Num[np.ndarray, "n n"], *, unbiased: bool = False) -> float:
    """Centred kernel alignment: cosine of the two kernels after double centring.

    Args:
      a, b: symmetric, at any positive scales.
      unbiased: leave out the diagonal and centre without bias, so that unrelated kernels have mean 0; otherwise the value is
        biased upwards for few images and many features.

    Returns:
      0 to 1 for positive semi-definite kernels, -1 to 1 when unbiased; 1 if one is a positive multiple of the other. Unlike LFC it is
      invariant to shifts of the features.

    Raises:
      TaskError: not square, different sizes, or not finite.
      UndefinedScoreError: a kernel that is constant over all images; unbiased, fewer than 4 images, or a kernel whose entries are
        sums a_i + a_j off the diagonal (labels with one class and a single other image).

    Reference: Cortes et al. 2012, eq. 5; Kornblith et al. 2019, Similarity of neural network representations revisited.
    Cost: O(n^2).
    """
    kernels = [np.asarray(kernel, np.float64) for kernel in (a, b)]
    if kernels[0].ndim != 2 or len({*kernels[0].shape, *kernels[1].shape}) != 1 or kernels[1].ndim != 2:
        raise TaskError(f"The kernels have shapes {kernels[0].shape} and {kernels[1].shape}; both must be (n, n).")
    if not all(np.isfinite(kernel).all() for kernel in kernels):
        raise TaskError(not_finite("The kernels contain"))
    if unbiased and len(kernels[0]) < 4:
        raise UndefinedScoreError(f"{len(kernels[0])} images are too few for the unbiased alignment; 4 are needed.")
    centred = [unbiased_centring(kernel) if unbiased else double_centred(kernel) for kernel in kernels]
    norms = [np.linalg.norm(kernel) for kernel in centred]
    if any(norm**2 <= CONSTANT * (kernel**2).sum() for norm, kernel in zip(norms, kernels, strict=True)):
        raise UndefinedScoreError("A kernel is the same for all images (constant or zero features?), so its alignment is undefined.")
    return float(np.clip((centred[0] * centred[1]).sum() / (norms[0] * norms[1]), -1, 1))


def cka(features: Num[np.ndarray, "n d"] | Features, labels: Int[np.ndarray, " n"]) -> float:
    """Alignment of the feature kernel with the label kernel, computed without either matrix.

    Args:
      features: pre-logits.
      labels: class ids, any integers.

    Returns:
      0 to 1, higher is better; unchanged by scales, rotations and shifts.

    Raises:
      UndefinedScoreError: one class only, one image in every class, constant features.

    Reference: as `kernel_alignment`.  Cost: O(n d min(n, d)), shared with other scores that decompose the features.
    """
    features, ids, counts = labelled(features, labels)
    sums = class_sums(features.svd.coordinates, ids)
    # The one-hot kernel, centred, has the norm of the centred class counts' Gram matrix: sum n_c^2 - 2/n sum n_c^3 + (sum n_c^2)^2 / n^2.
    n, squares = len(ids), float((counts.astype(np.float64) ** 2).sum())
    norm = squares - 2 * float((counts.astype(np.float64) ** 3).sum()) / n + squares**2 / n**2
    return float(np.clip((sums**2).sum() / np.sqrt((features.svd.values**4).sum() * norm), 0, 1))


def cka_gradient(gradient_kernel: Num[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> float:
    """Alignment of the gradient kernel with the label kernel. Arguments, range and errors as `kernel_alignment`."""
    ids = checked_classes(labels, len(gradient_kernel), "rows of the kernel")[0]
    return kernel_alignment(gradient_kernel, label_kernel(ids))


def cka_features_gradient(features: Num[np.ndarray, "n d"] | Features, gradient_kernel: Num[np.ndarray, "n n"]) -> float:
    """Alignment of the feature kernel with the gradient kernel: how well LFC can replace LGC. Range and errors as `kernel_alignment`."""
    features = as_features(features)
    if features.constant:
        raise UndefinedScoreError("The features are constant over all images (or zero), so the alignment of their kernel is undefined.")
    return kernel_alignment(features.centred @ features.centred.T, gradient_kernel)
