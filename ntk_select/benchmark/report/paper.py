"""Numbers of tables 1 to 3 as Deshpande et al. 2021 print them, for comparison with what was measured."""

from ntk_select.benchmark.config import Images

SOURCES = ("resisc45", "food101", "logo_2k", "google_landmarks", "inaturalist2019", "imaterialist", "imagenet", "places365")
"""Names in scripts/configs/paper_zoo.toml of the columns of table 1, smallest source first."""


def _row(*accuracies: float | None) -> dict[str, float]:
    return {source: accuracy for source, accuracy in zip(SOURCES, accuracies, strict=True) if accuracy is not None}


SINGLE_DOMAIN = {
    ("densenet169", "scratch"): _row(93.61, 82.38, 64.58, 82.28, 71.34, 66.59, 76.40, 55.47),
    ("densenet169", "imagenet"): _row(96.34, 87.82, 76.78, 84.89, 73.65, 67.57, None, 55.58),
    ("resnet101", "scratch"): _row(87.14, 79.20, 62.03, 78.48, 70.32, 67.95, 77.54, 55.83),
    ("resnet101", "imagenet"): _row(96.53, 87.95, 78.52, 85.64, 74.37, 68.58, None, 56.08),
}
"""Table 1: top-1 test accuracy (%) by architecture, start and source."""

REPORTED = _row(86.02, 86.99, 67.65, None, 75.40, None, 77.37, 54.74)
"""Last row of table 1: accuracy (%) reported by others."""

MULTI_DOMAIN = {
    "shared": _row(73.73, 48.12, 24.39, 65.1, 37.6, 42.15, 52.51, 41.58),
    "multi_bn": _row(96.46, 87.92, 79.06, 81.89, 65.2, 63.27, 69.03, 51.21),
    "adapters": _row(95.24, 86.35, 70.13, 76.83, 63.04, 57.5, 58.9, 47.51),
}
"""Table 2: top-1 test accuracy (%) of a ResNet-101 for all sources, by the parts that each domain has of its own, and source."""

MULTI_DOMAIN_ARCHITECTURE = "resnet101"

ALL, TWENTY = None, 20
BRUTE_FORCE: dict[Images, float] = {ALL: 48.17, TWENTY: 41.67}
"""Table 3: fine-tuning all 30 experts, in units of fine-tuning the ResNet-101 of ImageNet, by images per class."""

TOP_3: dict[Images, dict[str, float]] = {
    ALL: {"lfc": 5.15, "lgc": 3.89, "leep": 5.01, "feature_metrics": 6.02, "domain_similarity": 4.87},
    TWENTY: {"lfc": 4.35, "lgc": 3.40, "leep": 3.85, "feature_metrics": 4.86, "domain_similarity": 4.11},
}
"""Table 3: fine-tuning the three experts with the highest values of a score."""

SCORING: dict[Images, dict[str, float]] = {
    ALL: {"lfc": 0.41, "lgc": 8.65, "leep": 0.02, "feature_metrics": 0.00, "domain_similarity": 0.40},
    TWENTY: {"lfc": 1.09, "lgc": 15.26, "leep": 0.03, "feature_metrics": 0.00, "domain_similarity": 1.31},
}
"""Table 3: scores of all 30 experts."""
