"""The table of scores."""

import math
from functools import partial

from ntk_select.kernels.alignment import kernel_label_correlation
from ntk_select.scores.baselines import best_elsewhere, num_params, random_score, source_accuracy, source_size
from ntk_select.scores.cka import cka, cka_features_gradient, cka_gradient
from ntk_select.scores.domain_similarity import domain_similarity, domain_similarity_own
from ntk_select.scores.etran import etran, etran_terms
from ntk_select.scores.feature_metrics import feature_metrics, feature_metrics_terms
from ntk_select.scores.features import fits_any_labels
from ntk_select.scores.forecast import forecast
from ntk_select.scores.gbc import COMPONENTS as GBC_COMPONENTS
from ntk_select.scores.gbc import gbc
from ntk_select.scores.generalization import generalization, generalization_features
from ntk_select.scores.hscore import hscore, hscore_saturation, hscore_shrinkage
from ntk_select.scores.leep import leep, nce
from ntk_select.scores.lfc import lfc
from ntk_select.scores.logme import logme
from ntk_select.scores.ncti import COMPONENTS as NCTI_COMPONENTS
from ntk_select.scores.ncti import ncti, ncti_terms
from ntk_select.scores.nleep import nleep
from ntk_select.scores.pactran import pactran
from ntk_select.scores.parc import parc
from ntk_select.scores.probes import knn, linear_probe
from ntk_select.scores.record import Score
from ntk_select.scores.rsa import dds, rsa
from ntk_select.scores.sfda import sfda
from ntk_select.scores.transrate import transrate, transrate_saturation

PAPER = "Deshpande et al. 2021, A linearized framework and a new benchmark for model selection for fine-tuning"

FEATURES = ("features", "labels")
GRADIENTS = ("gradient_kernel", "labels")
HEAD = ("source_probs", "labels")
PAIR = ("features", "reference_features")
SVD = "O(n d min(n, d))"


def _hscore_limits(classes: int) -> tuple[float, float]:
    return 0.0, classes - 1.0


def _nce_limits(classes: int) -> tuple[float, float]:
    return -math.log(classes), 0.0


def _gbc_limits(classes: int) -> tuple[float, float]:
    return -classes * (classes - 1.0), 0.0


UNIT, CORRELATION, POSITIVE, NEGATIVE = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (-math.inf, 0.0)
"""Limits of values."""
COSTLY = 25
"""Half-samples of scores that take more than a few milliseconds on some hundred images."""


def _lgc(gradient_kernel, labels):
    return kernel_label_correlation(gradient_kernel, labels)


def _lfc_off_diagonal(features, labels):
    return lfc(features, labels, diagonal=False)


def _lfc_centered(features, labels):
    return lfc(features, labels, center=True)


def _lfc_cosine(features, labels):
    return lfc(features, labels, kernel="cosine")


def _lgc_off_diagonal(gradient_kernel, labels):
    return kernel_label_correlation(gradient_kernel, labels, diagonal=False)


def _lgc_centered(gradient_kernel, labels):
    return kernel_label_correlation(gradient_kernel, labels, center=True)


def _lgc_cosine(gradient_kernel, labels):
    return kernel_label_correlation(gradient_kernel, labels, normalize=True)


def _knn5(features, labels):
    return knn(features, labels, neighbours=5)


SCORES: dict[str, Score] = {
    "forecast": Score(
        forecast,
        ("training_kernel", "labels"),
        True,
        f"{PAPER}, Prop. 1: the recipe simulated for the linearised network, with cross-validation",
        "0 to 1, accuracy after fine-tuning",
        "20 simulated trainings for each learning rate",
        ("recipe", "learning_rates", "seed"),
        unit="accuracy",
        limits=UNIT,
    ),
    "lfc": Score(lfc, FEATURES, True, f"{PAPER}, eq. 8 with the feature kernel", "-1 to 1", SVD, limits=CORRELATION),
    "lgc": Score(_lgc, GRADIENTS, True, f"{PAPER}, eq. 8 with the gradient kernel of the last convolution", "-1 to 1", "O(n^2)", limits=CORRELATION),
    "leep": Score(leep, HEAD, True, "Nguyen et al. 2020, LEEP", "0 or below", "O(n s c)", limits=NEGATIVE),
    "rsa": Score(
        rsa,
        PAIR,
        True,
        "Dwivedi & Roig 2019, Representation similarity analysis",
        "-1 to 1",
        "O(n^2 d + n^2 log n)",
        most_draws=COSTLY,
        limits=CORRELATION,
    ),
    "domain_similarity": Score(
        domain_similarity,
        ("source_means", "source_counts", "domain_features", "labels"),
        True,
        "Cui et al. 2018, Large scale fine-grained categorization, eq. 3; one extractor for the zoo",
        "0 to 1",
        "transport of s by c classes",
        ("class_counts",),
        limits=UNIT,
    ),
    "feature_metrics": Score(
        feature_metrics_terms,
        ("features",),
        True,
        "a reconstruction of Ueno & Kondo 2020, A base model selection methodology for efficient fine-tuning",
        "about -3 to 3, mean 0 over the zoo",
        "O(n d)",
        ("sparsity_weight",),
        combine=feature_metrics,
    ),
    "random": Score(
        random_score, (), True, f"{PAPER}, baseline of section 4.3", "0 to 1", "none", ("name", "seed", "task_key"), resampled=False, limits=UNIT
    ),
    "nce": Score(
        nce,
        HEAD,
        True,
        "Tran et al. 2019, Transferability and hardness of supervised classification tasks",
        "-log c to 0",
        "O(n s)",
        limits=_nce_limits,
    ),
    "nleep": Score(
        nleep,
        FEATURES,
        True,
        "Li et al. 2021, Ranking neural checkpoints",
        "0 or below",
        "EM of 5 c clusters",
        ("seed",),
        resampled=False,
        limits=NEGATIVE,
    ),
    "hscore": Score(
        hscore,
        FEATURES,
        True,
        "Bao et al. 2019, An information-theoretic approach to transferability",
        "0 to min(d, c - 1)",
        SVD,
        limits=_hscore_limits,
        saturation=hscore_saturation,
    ),
    "hscore_shrinkage": Score(
        hscore_shrinkage, FEATURES, True, "Ibrahim et al. 2021, Newer is not always better", "0 to (c - 1) n / (n - 1)", SVD, limits=POSITIVE
    ),
    "logme": Score(logme, FEATURES, True, "You et al. 2021, LogME, with the exact evidence", "any number", SVD, most_draws=COSTLY),
    "transrate": Score(
        transrate,
        FEATURES,
        True,
        "Huang et al. 2022, Frustratingly easy transferability estimation",
        "0 or above",
        SVD,
        limits=POSITIVE,
        saturation=transrate_saturation,
    ),
    "gbc": Score(
        gbc,
        FEATURES,
        True,
        "Pandy et al. 2022, Bhattacharyya class separability",
        "-c (c - 1) to 0",
        f"{SVD} + O(c^2)",
        resampled=False,
        limits=_gbc_limits,
        saturation=partial(fits_any_labels, components=GBC_COMPONENTS),
    ),
    "parc": Score(
        parc,
        FEATURES,
        True,
        "Bolya et al. 2021, Scalable diverse model selection",
        "-100 to 100",
        f"{SVD} + O(n^2 log n)",
        most_draws=COSTLY,
        limits=(-100.0, 100.0),
    ),
    "dds": Score(dds, PAIR, True, "Dwivedi et al. 2020, Duality diagram similarity", "-1 to 1", "O(n^2 d)", most_draws=COSTLY, limits=CORRELATION),
    "sfda": Score(
        sfda, FEATURES, True, "Shao et al. 2022, Not all models are equal", "0 to 1", SVD, most_draws=COSTLY, limits=UNIT, saturation=fits_any_labels
    ),
    "etran": Score(
        etran_terms,
        FEATURES,
        True,
        "Gholami et al. 2023, ETran",
        "0 to 1, relative to the zoo",
        SVD,
        most_draws=COSTLY,
        combine=etran,
        limits=UNIT,
        saturation=fits_any_labels,
    ),
    "ncti": Score(
        ncti_terms,
        FEATURES,
        True,
        "Wang et al. 2023, How far pre-trained models are from neural collapse",
        "-1 to 2, relative to the zoo",
        SVD,
        combine=ncti,
        limits=(-1.0, 2.0),
        saturation=partial(fits_any_labels, components=NCTI_COMPONENTS),
    ),
    "pactran": Score(
        pactran, FEATURES, True, "Ding et al. 2022, PACTran, Gaussian", "0 or below", "200 steps of O(n d c)", resampled=False, limits=NEGATIVE
    ),
    "knn": Score(knn, FEATURES, True, "1-NN, leave one out: Bolya et al. 2021", "0 to 1", "O(n^2 d)", most_draws=COSTLY, limits=UNIT),
    "knn5": Score(_knn5, FEATURES, True, "5-NN, leave one out", "0 to 1", "O(n^2 d)", most_draws=COSTLY, limits=UNIT),
    "linear_probe": Score(linear_probe, FEATURES, True, "ridge classification, leave one out: Allen 1974", "0 to 1", SVD, limits=UNIT),
    "cka": Score(
        cka, FEATURES, True, "Cortes et al. 2012; Kornblith et al. 2019, Similarity of neural network representations", "0 to 1", SVD, limits=UNIT
    ),
    "cka_gradient": Score(cka_gradient, GRADIENTS, True, "CKA of the gradient kernel and the label kernel", "0 to 1", "O(n^2)", limits=UNIT),
    "cka_features_gradient": Score(
        cka_features_gradient,
        ("features", "gradient_kernel"),
        True,
        "CKA of the feature kernel and the gradient kernel",
        "0 to 1",
        "O(n^2 d)",
        limits=UNIT,
    ),
    "generalization": Score(
        generalization,
        GRADIENTS,
        False,
        f"{PAPER}, eq. 4, in units of the mean eigenvalue",
        "0 to 10,000",
        "O(n^3)",
        resampled=False,
        limits=(0.0, 10_000.0),
    ),
    "generalization_features": Score(
        generalization_features,
        FEATURES,
        False,
        f"{PAPER}, eq. 4 with the feature kernel, in units of the mean eigenvalue",
        "0 to 10,000",
        "O(n^3)",
        resampled=False,
        limits=(0.0, 10_000.0),
    ),
    "lfc_off_diagonal": Score(_lfc_off_diagonal, FEATURES, True, f"{PAPER}, eq. 8 without the self-pairs", "-1 to 1", SVD, limits=CORRELATION),
    "lfc_centered": Score(_lfc_centered, FEATURES, True, f"{PAPER}, eq. 8 with centred features", "-1 to 1", SVD, limits=CORRELATION),
    "lfc_cosine": Score(_lfc_cosine, FEATURES, True, f"{PAPER}, eq. 8 with features of norm 1", "-1 to 1", SVD, limits=CORRELATION),
    "lgc_off_diagonal": Score(_lgc_off_diagonal, GRADIENTS, True, f"{PAPER}, eq. 8 without the self-pairs", "-1 to 1", "O(n^2)", limits=CORRELATION),
    "lgc_centered": Score(_lgc_centered, GRADIENTS, True, f"{PAPER}, eq. 8 with the centred kernel", "-1 to 1", "O(n^2)", limits=CORRELATION),
    "lgc_cosine": Score(_lgc_cosine, GRADIENTS, True, f"{PAPER}, eq. 8 with gradients of norm 1", "-1 to 1", "O(n^2)", limits=CORRELATION),
    "domain_similarity_own": Score(
        domain_similarity_own,
        ("own_source_means", "source_counts", "features", "labels"),
        True,
        "Cui et al. 2018, with the expert as the extractor",
        "0 to 1",
        "transport of s by c classes",
        ("class_counts",),
        limits=UNIT,
    ),
    "best_elsewhere": Score(
        best_elsewhere, ("accuracies_elsewhere",), True, "static leaderboard, this task left out", "0 to 1", "none", resampled=False, limits=UNIT
    ),
    "source_size": Score(source_size, ("source_size",), True, "images of the source", "0 or above", "none", resampled=False, limits=POSITIVE),
    "source_accuracy": Score(
        source_accuracy,
        ("source_accuracy",),
        True,
        "Renggli et al. 2022, Which model to transfer?, task-agnostic",
        "0 to 1",
        "none",
        resampled=False,
        limits=UNIT,
    ),
    "num_params": Score(num_params, ("num_params",), True, "size of the network", "0 or above", "none", resampled=False, limits=POSITIVE),
}
