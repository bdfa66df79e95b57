"""How do terms of single experts become comparable within a zoo?"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ntk_select.errors import UndefinedScoreError

Terms = Sequence[Mapping[str, float]]


def column(terms: Terms, name: str) -> Float[np.ndarray, " experts"]:
    """One term of all experts."""
    return np.array([term[name] for term in terms], np.float64)


def min_max(terms: Terms) -> list[dict[str, float]]:
    """Every term stretched to 0 .. 1 over the experts; one that is equal for all becomes 0 and says nothing.

    Raises:
      UndefinedScoreError: every term is equal for all experts.
    """
    return _scaled(terms, lambda values: (values - values.min()) / (values.max() - values.min()))


def standardised_terms(terms: Terms) -> list[dict[str, float]]:
    """Every term with mean 0 and variance 1 over the experts; one that is equal for all becomes 0. Raises as `min_max`."""
    return _scaled(terms, lambda values: (values - values.mean()) / values.std())


def _scaled(terms: Terms, scale) -> list[dict[str, float]]:
    columns, differ = {}, False
    for name in terms[0]:
        values = column(terms, name)
        varied = np.ptp(values) > 1e-12 * np.abs(values).max()
        differ |= bool(varied)
        columns[name] = scale(values) if varied else np.zeros(len(values))
    if not differ:
        raise UndefinedScoreError("The experts do not differ in any term of this score, so that it cannot compare them.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
