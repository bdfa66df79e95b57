"""Measured predictive power of the scores: their rank correlation with the accuracy after fine-tuning."""

BENCHMARK = "the embedded benchmark (23 small experts, 7 targets of small images)"
MEASURED_AT = (5, 20)
"""Images per class, for the score and for the fine-tuning."""

SPEARMAN: dict[str, tuple[float | None, float | None]] = {
    "forecast": (0.58, 0.69),
    "lfc": (0.09, 0.22),
    "lgc": (0.16, 0.27),
    "leep": (0.30, 0.32),
    "nce": (0.25, 0.36),
    "nleep": (None, 0.22),
    "rsa": (0.10, 0.01),
    "dds": (0.14, 0.06),
    "domain_similarity": (-0.27, -0.14),
    "domain_similarity_own": (-0.13, -0.02),
    "feature_metrics": (0.16, 0.22),
    "hscore": (0.34, 0.13),
    "hscore_shrinkage": (-0.06, -0.05),
    "logme": (0.08, 0.16),
    "transrate": (0.03, -0.07),
    "gbc": (0.04, 0.15),
    "parc": (0.29, 0.22),
    "sfda": (0.17, 0.06),
    "etran": (0.25, -0.01),
    "ncti": (0.03, 0.25),
    "pactran": (0.06, 0.04),
    "knn": (0.29, 0.33),
    "knn5": (0.31, 0.31),
    "linear_probe": (0.25, 0.23),
    "cka": (0.27, 0.28),
    "cka_gradient": (0.16, 0.24),
    "cka_features_gradient": (-0.25, -0.09),
    "generalization": (-0.02, 0.01),
    "generalization_features": (-0.02, 0.01),
    "lfc_off_diagonal": (0.13, 0.24),
    "lfc_centered": (0.27, 0.28),
    "lfc_cosine": (0.27, 0.18),
    "lgc_off_diagonal": (0.22, 0.30),
    "lgc_centered": (0.16, 0.24),
    "lgc_cosine": (0.08, 0.15),
    "best_elsewhere": (0.60, 0.72),
    "source_accuracy": (-0.19, -0.12),
    "source_size": (0.15, 0.07),
    "num_params": (0.24, 0.25),
}
"""Mean over the targets for each of `MEASURED_AT`, with intervals in scripts/results/benchmark.md. None if the score had too few images."""


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
