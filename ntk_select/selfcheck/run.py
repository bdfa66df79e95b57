"""The laws of an exact kernel, tried on a model of one's own: one call."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Shaped

from ntk_select.engine.inputs import check_precision, checked_examples
from ntk_select.engine.selection import select
from ntk_select.engine.structure import GeneralRouteWarning, read_structure
from ntk_select.errors import ConfigError, first_line
from ntk_select.selfcheck.laws import LAWS, Law
from ntk_select.selfcheck.record import Check, Notice, SelfCheck, Skip
from ntk_select.selfcheck.subject import Subject
from ntk_select.whole import is_whole


def selfcheck(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Shaped[Array, "n ..."],
    *,
    layers: str | Callable[[str], bool] | None = None,
    precision: str = "highest",
    tolerance: float | None = None,
    seed: int = 0,
) -> SelfCheck:
    """Tries the laws of an exact kernel on your own model: `print(ns.selfcheck(fn, params, x))`.

    Most laws compare the engine behind `ntk` with ordinary JAX: `vjp`, `jvp` and values of fn, one example at a time.
    The others ask whether fn is a function that has a kernel: examples apart, derivatives that belong to its values.

    Args:
      fn, params, layers, precision: as for `ntk`.
      x: examples. The first 8 are used, fewer where 8 gradients are large. Of more than 3 outputs, 3 random
        combinations stand for all. The result says so.
      tolerance: largest difference allowed, relative to the largest number compared. None: 1e-9 where all is float64,
        1e-4 in float32, 0.1 below, and 1e-2 where `precision` lets an accelerator round. Laws that compare something
        else scale it: semi-definiteness takes a tenth, float32 against float64 at least 1e-3, central differences at
        least 1e-4 (float64) or 0.1 (float32); symmetry must be exact.
      seed: of the random directions.

    Returns:
      A `SelfCheck`. A law that fails does not raise; its line says the usual cause.

    Raises:
      ConfigError: fn, params, x or an option does not fit, as for `ntk`.

    Reference: the identities follow from the chain rule; v' Theta v = ||J' v||^2 as in Novak et al. 2022.
    Cost: about twelve kernels, nearly all of the time for compiling: seconds for a few layers, minutes for a deep
    network on a CPU. Memory of 24 gradients, at most 1 GiB of them, but never less than two examples' (6 gradients).
    """
    check_precision(precision)
    if tolerance is not None and (isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < math.inf):
        raise ConfigError(f"tolerance={tolerance!r} must be a positive number, for example tolerance=1e-6.")
    if not is_whole(seed) or seed < 0:
        raise ConfigError(f"seed={seed!r} must be a whole number from 0.")
    x = checked_examples(x, "x")
    with jax.default_matmul_precision(precision), warnings.catch_warnings():
        read_structure(fn, params, x, select(params, layers))
        warnings.simplefilter("ignore", GeneralRouteWarning)  # it was said once
        subject, checks = Subject(fn, params, x, layers, precision, tolerance, np.random.default_rng(seed)), []
        for law in LAWS:
            broken = [check.law for check in checks if check.law in law.needs and check.verdict in ("FAILS", "skipped")]
            checks.append(_tried(law, subject, broken))
    return SelfCheck(str(subject), tuple(checks))


def _tried(law: Law, subject: Subject, broken: list[str]) -> Check:
    if broken:
        return Check(law.law, law.compared, "skipped", remark=f"It needs the law: {broken[0]}.")
    try:
        difference, tolerance, remark = law.compare(subject)
    except Skip as reason:
        return Check(law.law, law.compared, "skipped", remark=str(reason))
    except Notice as notice:
        return Check(law.law, law.compared, "notice", remark=str(notice))
    except Exception as error:  # whatever goes wrong inside a model is a finding, and the other laws are still worth a try
        return Check(law.law, law.compared, "FAILS", remark=f"{type(error).__name__}: {first_line(error)}")
    holds = difference <= tolerance or math.isnan(tolerance)
    return Check(
        law.law, law.compared, "holds" if holds else "FAILS", difference, tolerance, remark if holds else f"Usual cause: {law.cause} {remark}".strip()
    )
