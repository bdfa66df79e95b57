"""The table of scores: reference, range, direction, cost and group of each; and the scores of installed packages."""

import math
from functools import partial
from importlib.metadata import entry_points
from typing import NamedTuple

from ntk_select.errors import explained
from ntk_select.kernels.alignment import kernel_label_correlation
from ntk_select.scores import etran, feature_metrics, gbc, ncti
from ntk_select.scores.baselines import best_elsewhere, num_params, random_score, source_accuracy, source_size
from ntk_select.scores.cka import cka, cka_features_gradient, cka_gradient
from ntk_select.scores.domain_similarity import domain_similarity, domain_similarity_own
from ntk_select.scores.features import fits_any_labels
from ntk_select.scores.forecast import forecast
from ntk_select.scores.generalization import generalization, generalization_features
from ntk_select.scores.hscore import hscore, hscore_saturation, hscore_shrinkage
from ntk_select.scores.leep import leep, nce
from ntk_select.scores.lfc import lfc
from ntk_select.scores.logme import logme
from ntk_select.scores.nleep import nleep
from ntk_select.scores.ntk_evidence import ntk_evidence
from ntk_select.scores.pactran import pactran
from ntk_select.scores.parc import parc
from ntk_select.scores.probes import knn, linear_probe
from ntk_select.scores.rsa import dds, rsa
from ntk_select.scores.score import Score
from ntk_select.scores.sfda import sfda
from ntk_select.scores.transrate import transrate, transrate_saturation

PAPER = "Deshpande et al. 2021, A linearized framework and a new benchmark for model selection for fine-tuning"
CENTRED_ALIGNMENT = "Cortes et al. 2012; Kornblith et al. 2019, Similarity of neural network representations"

of_features = partial(Score, needs=("features", "labels"), cost="O(n d min(n, d))")
of_gradients = partial(Score, needs=("gradient_kernel", "labels"), cost="O(n^2)")
of_head = partial(Score, needs=("source_probs", "labels"))
of_reference = partial(Score, needs=("features", "reference_features"), max_resamples=25)
baseline = partial(Score, resampled=False, cost="none", group="baseline")

accuracy = {"range": "0 to 1", "limits": (0.0, 1.0)}
correlation = {"range": "-1 to 1", "limits": (-1.0, 1.0)}
at_least_0 = {"range": "0 or above", "limits": (0.0, math.inf)}
at_most_0 = {"range": "0 or below", "limits": (-math.inf, 0.0)}
costly = {"max_resamples": 25}
"""For scores that take more than a few milliseconds on some hundred images."""
ablation = {"group": "ablation"}


def _lgc(gradient_kernel, labels, **variant):
    return kernel_label_correlation(gradient_kernel, labels, **variant)


REVISIONS = {"forecast": 2}
"""Increased where a built-in score gives other numbers than before, so that records of both are not mixed. 1 for all others."""

# Why a score is in the group "main" or "ablation": docs/score-definitions.md#scores-that-rank-alike.
SCORES: dict[str, Score] = {
    "forecast": Score(
        fn=forecast,
        needs=("training_kernel", "labels"),
        optional=("recipe", "learning_rates", "seed"),
        reference=f"{PAPER}, Prop. 1: the recipe simulated for the linearised network, with cross-validation",
        range="any number; the accuracy after fine-tuning is a detail",
        cost="20 simulated trainings for each learning rate, O(n^3)",
        shown="accuracy",
        **costly,
    ),
    "lfc": of_features(fn=lfc, reference=f"{PAPER}, eq. 8 with the feature kernel", **correlation),
    "lgc": of_gradients(
        fn=_lgc, reference=f"{PAPER}, eq. 8 with the gradient kernel of the last convolution (without one, of the last block)", **correlation
    ),
    "leep": of_head(fn=leep, reference="Nguyen et al. 2020, LEEP", cost="O(n s c)", **at_most_0),
    "rsa": of_reference(fn=rsa, reference="Dwivedi & Roig 2019, Representation similarity analysis", cost="O(n^2 d + n^2 log n)", **correlation),
    "domain_similarity": Score(
        fn=domain_similarity,
        needs=("source_means", "source_counts", "domain_features", "labels"),
        optional=("class_counts",),
        reference="Cui et al. 2018, Large scale fine-grained categorization, eq. 3; one extractor for the zoo",
        cost="transport of s by c classes",
        **accuracy,
    ),
    "feature_metrics": Score(
        fn=feature_metrics.feature_metrics_terms,
        combine=feature_metrics.feature_metrics,
        needs=("features",),
        optional=("sparsity_weight",),
        reference="a reconstruction of Ueno & Kondo 2020, A base model selection methodology for efficient fine-tuning",
        range="about -3 to 3, mean 0 over the zoo",
        cost="O(n d)",
    ),
    "random": baseline(fn=random_score, needs=(), optional=("name", "seed", "task_key"), reference=f"{PAPER}, baseline of section 4.3", **accuracy),
    "nce": of_head(
        fn=nce,
        reference="Tran et al. 2019, Transferability and hardness of supervised classification tasks",
        range="-log c to 0",
        limits=lambda classes: (-math.log(classes), 0.0),
        cost="O(n s)",
        **ablation,
    ),
    "nleep": of_features(
        fn=nleep,
        optional=("seed",),
        reference="Li et al. 2021, Ranking neural checkpoints",
        cost="EM of 5 c clusters",
        resampled=False,
        **at_most_0,
        **ablation,
    ),
    "hscore": of_features(
        fn=hscore,
        reference="Bao et al. 2019, An information-theoretic approach to transferability",
        range="0 to min(d, c - 1)",
        limits=lambda classes: (0.0, classes - 1.0),
        saturation=hscore_saturation,
        **ablation,
    ),
    "hscore_shrinkage": of_features(
        fn=hscore_shrinkage,
        reference="Ibrahim et al. 2021, Newer is not always better",
        range="0 to (c - 1) n / (n - 1)",
        limits=(0.0, math.inf),
    ),
    "logme": of_features(fn=logme, reference="You et al. 2021, LogME, with the exact evidence", range="any number", **costly),
    "ntk_evidence": Score(
        fn=ntk_evidence,
        needs=("training_kernel", "labels"),
        reference="You et al. 2021, LogME, with the kernel of fine-tuning in place of the features",
        cost="O(n^3)",
        **at_least_0,
        **costly,
    ),
    "transrate": of_features(
        fn=transrate, reference="Huang et al. 2022, Frustratingly easy transferability estimation", saturation=transrate_saturation, **at_least_0
    ),
    "gbc": of_features(
        fn=gbc.gbc,
        reference="Pandy et al. 2022, Bhattacharyya class separability",
        range="-c (c - 1) to 0",
        limits=lambda classes: (-classes * (classes - 1.0), 0.0),
        cost="O(n d min(n, d)) + O(c^2)",
        resampled=False,
        saturation=partial(fits_any_labels, components=gbc.COMPONENTS),
    ),
    "parc": of_features(
        fn=parc,
        reference="Bolya et al. 2021, Scalable diverse model selection",
        range="-100 to 100",
        limits=(-100.0, 100.0),
        cost="O(n d min(n, d)) + O(n^2 log n)",
        **costly,
    ),
    "dds": of_reference(fn=dds, reference="Dwivedi et al. 2020, Duality diagram similarity", cost="O(n^2 d)", **correlation),
    "sfda": of_features(
        fn=sfda, reference="Shao et al. 2022, Not all models are equal", saturation=fits_any_labels, **accuracy, **costly, **ablation
    ),
    "etran": of_features(
        fn=etran.etran_terms,
        combine=etran.etran,
        reference="Gholami et al. 2023, ETran",
        range="0 to 1, relative to the zoo",
        limits=(0.0, 1.0),
        saturation=fits_any_labels,
        **costly,
        **ablation,
    ),
    "ncti": of_features(
        fn=ncti.ncti_terms,
        combine=ncti.ncti,
        reference="Wang et al. 2023, How far pre-trained models are from neural collapse",
        range="-1 to 2, relative to the zoo",
        limits=(-1.0, 2.0),
        saturation=partial(fits_any_labels, components=ncti.COMPONENTS),
    ),
    "pactran": of_features(
        fn=pactran, reference="Ding et al. 2022, PACTran, Gaussian", cost="200 steps of O(n d c)", resampled=False, **at_most_0, **ablation
    ),
    "knn": of_features(fn=knn, reference="1-NN, leave one out: Bolya et al. 2021", cost="O(n^2 d)", **accuracy, **costly),
    "knn5": of_features(fn=partial(knn, neighbours=5), reference="5-NN, leave one out", cost="O(n^2 d)", **accuracy, **costly, **ablation),
    "linear_probe": of_features(fn=linear_probe, reference="ridge classification, leave one out: Allen 1974", **accuracy, **ablation),
    "cka": of_features(fn=cka, reference=CENTRED_ALIGNMENT, **accuracy),
    "cka_gradient": of_gradients(fn=cka_gradient, reference="CKA of the gradient kernel and the label kernel", **accuracy),
    "cka_features_gradient": Score(
        fn=cka_features_gradient,
        needs=("features", "gradient_kernel"),
        reference="CKA of the feature kernel and the gradient kernel",
        cost="O(n^2 d)",
        **accuracy,
        **ablation,
    ),
    "generalization": of_gradients(
        fn=generalization,
        higher_is_better=False,
        reference=f"{PAPER}, eq. 4, in units of the mean eigenvalue",
        range="0 to 10,000",
        limits=(0.0, 10_000.0),
        cost="O(n^3)",
        resampled=False,
    ),
    "generalization_features": of_features(
        fn=generalization_features,
        higher_is_better=False,
        reference=f"{PAPER}, eq. 4 with the feature kernel, in units of the mean eigenvalue",
        range="0 to 10,000",
        limits=(0.0, 10_000.0),
        cost="O(n^3)",
        resampled=False,
        **ablation,
    ),
    "lfc_off_diagonal": of_features(fn=partial(lfc, diagonal=False), reference=f"{PAPER}, eq. 8 without the self-pairs", **correlation, **ablation),
    "lfc_centered": of_features(fn=partial(lfc, center=True), reference=f"{PAPER}, eq. 8 with centred features", **correlation, **ablation),
    "lfc_cosine": of_features(fn=partial(lfc, kernel="cosine"), reference=f"{PAPER}, eq. 8 with features of norm 1", **correlation, **ablation),
    "lgc_off_diagonal": of_gradients(fn=partial(_lgc, diagonal=False), reference=f"{PAPER}, eq. 8 without the self-pairs", **correlation, **ablation),
    "lgc_centered": of_gradients(fn=partial(_lgc, center=True), reference=f"{PAPER}, eq. 8 with the centred kernel", **correlation, **ablation),
    "lgc_cosine": of_gradients(fn=partial(_lgc, normalize=True), reference=f"{PAPER}, eq. 8 with gradients of norm 1", **correlation, **ablation),
    "domain_similarity_own": Score(
        fn=domain_similarity_own,
        needs=("own_source_means", "source_counts", "features", "labels"),
        optional=("class_counts",),
        reference="Cui et al. 2018, with the expert as the extractor",
        cost="transport of s by c classes",
        **accuracy,
        **ablation,
    ),
    "best_elsewhere": baseline(fn=best_elsewhere, needs=("accuracies_elsewhere",), reference="static leaderboard, this task left out", **accuracy),
    "source_size": baseline(fn=source_size, needs=("source_size",), reference="images of the source", **at_least_0),
    "source_accuracy": baseline(
        fn=source_accuracy, needs=("source_accuracy",), reference="Renggli et al. 2022, Which model to transfer?, task-agnostic", **accuracy
    ),
    "num_params": baseline(fn=num_params, needs=("num_params",), reference="size of the network", **at_least_0),
}

GROUPS = {"all": "main", "ablation": "ablation", "baselines": "baseline"}
"""Names that stand for all scores of a group in a ranking. In the config of a benchmark `scores = "all"` is every score of every group."""


class Known(NamedTuple):
    """Scores by name.

    Attributes:
      scores: those of this package, then those of installed packages, which cannot replace the former.
      broken: errors of the scores that could not be loaded.
    """

    scores: dict[str, Score]
    broken: dict[str, str]


def known_scores() -> Known:
    """The table of this package, and the entry points `ntk_select.scores`."""
    scores, broken = dict(SCORES), {}
    for entry in entry_points(group="ntk_select.scores"):
        if entry.name in scores:
            continue
        try:
            found = entry.load()
        except Exception as error:  # foreign code may raise anything
            broken[entry.name] = explained(error)
            continue
        if isinstance(found, Score):
            scores[entry.name] = found
        else:
            broken[entry.name] = f"it is a {type(found).__name__}, not an ntk_select.scores.Score"
    return Known(scores, broken)
