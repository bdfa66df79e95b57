"""Do the derivatives belong to the values? Central differences along two directions, with kinks and rounding told apart."""

import jax.numpy as jnp
import numpy as np

from ntk_select.selfcheck.record import Outcome, Skip, relative
from ntk_select.selfcheck.subject import Subject, inner

STEPS = {"float64": 10.0 ** -np.arange(3, 10), "float32": 10.0 ** -np.arange(1, 5.25, 0.5)}


def differenced(subject: Subject, forward: bool) -> Outcome:
    """(f(w + e u) - f(w - e u)) / 2e against J u, u along the gradient and along random shares of the parameters.

    The best of several steps counts: large ones cross kinks, small ones round. Where no step agrees, but the slopes on
    either side of w differ as much, w lies on a kink.

    Args:
      subject: the model.
      forward: take J u by forward mode; otherwise its product with the cotangents, by reverse mode.

    Returns:
      The difference, the tolerance, and how much halving the first step helps.
    """
    if subject.epsilon > 1e-6:
        raise Skip("differences of numbers this coarse say nothing.")
    steps = STEPS["float64" if subject.epsilon < 1e-12 else "float32"]
    tolerance = max(subject.tolerance, 1e-4 if subject.epsilon < 1e-12 else 0.1)
    gradients, size = subject.gradients(), inner(subject.leaves, subject.leaves) ** 0.5 or 1.0
    along = [sum(leaves[1:], start=leaves[0]) for leaves in zip(*gradients, strict=True)]
    shares = [leaf * jnp.asarray(subject.rng.normal(size=leaf.shape), leaf.dtype) for leaf in subject.leaves]
    found, order = [], None
    for direction in (along, shares):
        length = inner(direction, direction) ** 0.5
        if not length > 0:
            continue
        u = [leaf * jnp.asarray(size / length, leaf.dtype) for leaf in direction]
        if forward:
            slopes = np.stack([subject.pushed(index, u) for index in range(len(subject.x))])
        else:
            slopes = np.array([inner(gradient, u) for gradient in gradients])
        error, kink = _best(subject, u, slopes, steps, tolerance)
        if error is None:
            continue
        if error > tolerance and kink >= error:
            raise Skip(
                "kinks lie nearer than any step that rounding leaves (inputs of a relu at zero), where differences and derivatives need not agree."
            )
        found.append(error)
        order = order or _halved(subject, u, slopes, steps[0])
    if not found:
        raise Skip("the outputs hardly depend on the parameters, so that differences are lost in rounding.")
    return float(np.max(found)), tolerance, order


def _best(subject: Subject, u: list, slopes: np.ndarray, steps, tolerance: float):
    """Smallest error of all steps that rounding leaves, and how far the slopes of both sides differ at that step."""
    here, best = _taken(subject, slopes, subject.values()), (None, 0.0)
    for step in steps:
        after, before = (_taken(subject, slopes, _moved(subject, u, sign * step)) for sign in (1, -1))
        central = (after - before) / (2 * step)
        noise, scale = 8 * subject.epsilon * np.abs(here).max() / step, max(np.abs(slopes).max(), np.abs(central).max())
        if scale == 0 or noise > tolerance * scale:
            continue
        error = float(np.abs(central - slopes).max() / scale)
        if best[0] is None or error < best[0]:
            best = error, float(np.abs(after - 2 * here + before).max() / step / scale)
    return best


def _halved(subject: Subject, u: list, slopes: np.ndarray, step: float) -> str:
    errors = []
    for size in (step, step / 2):
        after, before = (_taken(subject, slopes, _moved(subject, u, sign * size)) for sign in (1, -1))
        errors.append(relative((after - before) / (2 * size), slopes))
    if not np.isfinite(errors).all():
        return ""
    if errors[0] < 1e3 * subject.epsilon / step or not errors[1]:
        return "Differences are exact: along the step fn is linear or quadratic."
    return f"Halving the step divides the error by {errors[0] / errors[1]:.1f} (4 where fn is smooth)."


def _moved(subject: Subject, u: list, step: float) -> np.ndarray:
    return subject.values([leaf + jnp.asarray(step, leaf.dtype) * change for leaf, change in zip(subject.leaves, u, strict=True)])


def _taken(subject: Subject, slopes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values as they are, or their products with the cotangents where the slopes are of those."""
    return values if slopes.ndim == 2 else (values * subject.v).sum(1)
