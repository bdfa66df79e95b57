"""Scaling of the terms of zoo-relative scores over the experts of a zoo, for `Score.combine`."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ntk_select.errors import UndefinedScoreError


def column(terms: Sequence[Mapping[str, float]], name: str) -> Float[np.ndarray, " experts"]:
    """One term of all experts."""
    return np.array([term[name] for term in terms], np.float64)


def min_max(terms: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Every term scaled to 0 .. 1 over the experts; a term that is equal for all becomes 0.

    Raises:
      UndefinedScoreError: every term is equal for all experts.
    """
    return _scaled(terms, lambda values: (values - values.min()) / (values.max() - values.min()))


def standardised_terms(terms: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Every term scaled to mean 0 and variance 1 over the experts; a term that is equal for all becomes 0. Raises as `min_max`."""
    return _scaled(terms, lambda values: (values - values.mean()) / values.std())


def _scaled(terms: Sequence[Mapping[str, float]], scale: Callable[[np.ndarray], np.ndarray]) -> list[dict[str, float]]:
    columns, differ = {}, False
    for name in terms[0]:
        values = column(terms, name)
        varied = np.ptp(values) > 1e-12 * np.abs(values).max()
        differ |= bool(varied)
        columns[name] = scale(values) if varied else np.zeros(len(values))
    if not differ:
        raise UndefinedScoreError("The experts do not differ in any term of this score, so it cannot compare them.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
