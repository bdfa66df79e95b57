"""The table of scores."""

import zlib

import numpy as np

from ntk_select.kernels import kernel_label_correlation
from ntk_select.scores.lfc import lfc
from ntk_select.scores.record import Score

PAPER = "Deshpande et al. 2021, A linearized framework and a new benchmark for model selection for fine-tuning"


def _lgc(gradient_kernel, labels):
    return kernel_label_correlation(gradient_kernel, labels)


def random_score(name: str = "", seed: int = 0) -> float:
    """A uniform number in [0, 1) that depends on the expert's name and the seed alone: what guessing achieves."""
    return float(np.random.default_rng([seed, zlib.crc32(name.encode())]).random())


SCORES: dict[str, Score] = {
    "lfc": Score(lfc, ("features", "labels"), True, f"{PAPER}, eq. 8 with the feature kernel", "-1 to 1"),
    "lgc": Score(_lgc, ("gradient_kernel", "labels"), True, f"{PAPER}, eq. 8 with the gradient kernel of the last convolution", "-1 to 1"),
    "random": Score(random_score, (), True, f"{PAPER}, baseline of section 5", "0 to 1", ("name", "seed"), resampled=False),
}
