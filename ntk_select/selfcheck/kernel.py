"""The laws that the kernel of any function obeys, and that an engine with a defect breaks."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.engine.certificate import certify
from ntk_select.engine.routes import ntk_vector_product
from ntk_select.errors import ModelError, first_line
from ntk_select.selfcheck.record import AGREED, Outcome, Skip, relative
from ntk_select.selfcheck.subject import Subject, inner


def finite(subject: Subject) -> Outcome:
    """Neither NaN nor infinity."""
    if not (np.isfinite(subject.full).all() and np.isfinite(subject.trace).all()):
        return math.nan, 0.0, ""
    return AGREED


def textbook_full(subject: Subject) -> Outcome:
    """All outputs against all: per-example gradients, one contraction."""
    return relative(subject.full, subject.kernel("full", method="jacobian")), subject.tolerance, ""


def textbook_trace(subject: Subject) -> Outcome:
    """The mean over the outputs: per-example gradients, one contraction."""
    return relative(subject.trace, subject.kernel("trace", method="jacobian")), subject.tolerance, ""


def spaces(subject: Subject) -> Outcome:
    """All weights contracted by gradients, and all by inputs and cotangents."""
    return _worst(*(relative(subject.kernel(space=space), subject.trace) for space in ("sample", "parameter"))), subject.tolerance, ""


def form(subject: Subject) -> Outcome:
    """v' Theta v is the squared norm of the gradient of sum v f."""
    form = np.einsum("ia,ijab,jb->", subject.v, subject.full, subject.v)
    gradient = [sum(leaves[1:], start=leaves[0]) for leaves in zip(*subject.gradients(), strict=True)]
    return relative([form], [inner(gradient, gradient)]), subject.tolerance, ""


def product(subject: Subject) -> Outcome:
    """Theta v is what pulling v back and pushing it forward gives."""
    product = ntk_vector_product(subject.fn, subject.params, subject.x, subject.v, layers=subject.layers, precision=subject.precision, batch_size=1)
    return relative(np.einsum("ijab,jb->ia", subject.full, subject.v), product), subject.tolerance, ""


def norms(subject: Subject) -> Outcome:
    """The diagonal holds the squared norms of gradients."""
    n, k = subject.v.shape
    gradients = ([subject.pulled(i, row) for row in np.eye(k)] for i in range(n))
    norms = [[inner(gradient, gradient) for gradient in rows] for rows in gradients]
    return relative(np.einsum("iiaa->ia", subject.full), norms), subject.tolerance, ""


def layers(subject: Subject) -> Outcome:
    """The kernels of the leaves add up."""
    return relative(sum(subject.kernel(by_layer=True).values()), subject.trace), subject.tolerance, ""


def parts(subject: Subject) -> Outcome:
    """The mean of the diagonal over outputs is the trace, the sum over outputs the sum."""
    full = subject.full
    mean, total = np.einsum("ijaa->ij", full) / full.shape[2], full.sum((2, 3))
    return _worst(relative(subject.trace, mean), relative(subject.kernel("sum"), total)), subject.tolerance, ""


def doubled(subject: Subject) -> Outcome:
    """Twice the outputs, in another order: four times the kernel, in that order."""
    kernel = subject.kernel("full", fn=lambda params, x: 2 * subject.fn(params, x)[:, ::-1])
    return relative(kernel, 4 * subject.full[:, :, ::-1, ::-1]), subject.tolerance, ""


def reordered(subject: Subject) -> Outcome:
    """The examples in another order and other batches."""
    order = np.arange(len(subject.x))[::-1]
    kernel = subject.kernel(x1=subject.x[order], batch_size=3 if len(order) > 3 else 1)
    return relative(kernel, subject.trace[np.ix_(order, order)]), subject.tolerance, ""


def swapped(subject: Subject) -> Outcome:
    """The two sides in exchange; both are part of the whole."""
    few = subject.x[: max(1, len(subject.x) // 2)]
    wide, tall = subject.kernel(x2=few), subject.kernel(x1=few, x2=subject.x)
    return _worst(relative(wide, subject.trace[:, : len(few)]), relative(tall, wide.T)), subject.tolerance, ""


def symmetric(subject: Subject) -> Outcome:
    """To the last bit."""
    return _worst(certify(subject.full).asymmetry, certify(subject.trace).asymmetry), 0.0, ""


def definite(subject: Subject) -> Outcome:
    """No eigenvalue below zero, rounding apart."""
    found = certify(subject.full)
    remark = f"Eigenvalues {found.smallest:.2g} to {found.largest:.2g}, rank {found.rank} of {found.n}."
    return max(0.0, -found.smallest) / (found.largest or 1.0), subject.tolerance / 10, remark


def other_type(subject: Subject) -> Outcome:
    """The kernel in the other of float32 and float64, or with its sums in float64 where JAX has float32 only."""
    if not jax.config.jax_enable_x64:
        remark = "Only the sums were in float64: float64 throughout needs JAX_ENABLE_X64=1."
        return relative(subject.trace, subject.kernel(accumulate="float64")), subject.tolerance, remark
    kind = np.float32 if subject.epsilon < 1e-12 else np.float64

    def cast(leaf):
        return jnp.asarray(leaf, kind) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    try:
        other = subject.kernel(params=jax.tree.map(cast, subject.params), x1=np.asarray(cast(subject.x)))
    except ModelError:
        raise
    except Exception as error:  # whatever JAX says of a function that mixes its own types with these
        raise Skip(f"fn does not take {np.dtype(kind)}: {first_line(error)}") from error
    pair = (other, subject.trace) if kind == np.float32 else (subject.trace, other)
    return relative(*pair), max(subject.tolerance, 1e-3), ""


def _worst(*differences: float) -> float:
    """The largest; NaN if one is."""
    return float(np.max(differences))
