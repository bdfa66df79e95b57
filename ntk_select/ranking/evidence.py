"""Measured predictive power of the scores: their rank correlation with the accuracy after fine-tuning."""

BENCHMARK = "the evidence benchmark (28 small experts, 13 targets of small images)"
MEASURED_AT = (5, 20)
"""Images per class, for the score and for the fine-tuning."""

SPEARMAN: dict[str, tuple[float | None, float | None]] = {
    "forecast": (0.54, 0.65),
    "lfc": (0.45, 0.51),
    "lgc": (0.50, 0.54),
    "leep": (0.28, 0.32),
    "nce": (0.30, 0.38),
    "nleep": (None, 0.48),
    "rsa": (0.21, 0.33),
    "dds": (0.25, 0.39),
    "domain_similarity": (0.25, 0.22),
    "domain_similarity_own": (0.28, 0.31),
    "feature_metrics": (-0.22, -0.23),
    "hscore": (-0.08, 0.07),
    "hscore_shrinkage": (0.24, 0.33),
    "logme": (0.47, 0.57),
    "ntk_evidence": (0.58, 0.66),
    "transrate": (-0.02, -0.02),
    "gbc": (0.16, 0.26),
    "parc": (0.39, 0.46),
    "sfda": (0.12, 0.27),
    "etran": (0.05, 0.24),
    "ncti": (-0.08, 0.15),
    "pactran": (0.36, 0.43),
    "knn": (0.41, 0.44),
    "knn5": (0.34, 0.44),
    "linear_probe": (0.38, 0.48),
    "cka": (0.48, 0.56),
    "cka_gradient": (0.52, 0.57),
    "cka_features_gradient": (-0.05, -0.14),
    "generalization": (0.44, 0.52),
    "generalization_features": (0.35, 0.26),
    "lfc_off_diagonal": (0.45, 0.51),
    "lfc_centered": (0.48, 0.56),
    "lfc_cosine": (0.45, 0.50),
    "lgc_off_diagonal": (0.52, 0.55),
    "lgc_centered": (0.52, 0.57),
    "lgc_cosine": (0.49, 0.53),
    "best_elsewhere": (0.37, 0.57),
    "source_accuracy": (-0.11, -0.12),
    "source_size": (0.22, 0.24),
    "num_params": (0.11, 0.15),
}
"""Mean over the targets for each of `MEASURED_AT`, with intervals in scripts/results/evidence.md. None if the score had too few images."""


def evidence_for(score: str) -> str:
    """How well a score has predicted fine-tuned accuracy, in one sentence."""
    known = [(value, images) for value, images in zip(SPEARMAN.get(score, ()), MEASURED_AT, strict=False) if value is not None]
    if not known:
        return unmeasured(score)
    numbers = " and ".join(f"{value:.2f} at {images} images per class" for value, images in reversed(known))
    return f"Measured on {BENCHMARK}, {score} has a rank correlation with accuracy after fine-tuning of {numbers} (1 is perfect, 0 is chance)."


def unmeasured(score: str) -> str:
    """The sentence for a score without a measurement."""
    return f"How well {score} predicts accuracy after fine-tuning has not been measured."
