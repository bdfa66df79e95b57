"""Outputs of the linearised network on training and test examples during training, from the kernel alone.

All gradients are in the span of the examples' gradients: the weights are w_0 + J' a, and an optimiser acts on the n c coefficients a
exactly as on the weights. Squared losses with full batches have a closed form; otherwise a is computed step by step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.optimize import NoConvergence, newton_krylov

from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import CROSS_ENTROPY, check_loss, loss_gradient, loss_value, read_outputs_and_targets, squared_loss
from ntk_select.linearized.optimizers import Optimizer, Scalar, read_batches, read_times
from ntk_select.linearized.problem import (
    Batches,
    CrossKernel,
    Kernel,
    Problem,
    TestValues,
    Times,
    Values,
    checked_outputs,
    host_only,
    read_cross,
    read_problem,
)
from ntk_select.linearized.spectrum import MAX_PRODUCTS, TOLERANCE, find_modes, weighted_squares

ODE_TOLERANCE = 1e-10


class Prediction(NamedTuple):
    """The linearised network at t times.

    Attributes:
      times: times of the flow, or numbers of steps.
      train_outputs: f_t on the training examples.
      train_losses: training losses, without the weight-decay term.
      distances: |w_t - w_0|.
      coefficients: a_t, with w_t = w_0 + J' a_t.
      test_outputs, test_losses: the same on the test examples; None without test examples, or without their targets.
      products: number of products of the kernel function with a vector; 0 for an array.
    """

    times: Float[np.ndarray, " t"]
    train_outputs: Float[np.ndarray, "t n ..."]
    train_losses: Float[np.ndarray, " t"]
    distances: Float[np.ndarray, " t"]
    coefficients: Float[np.ndarray, "t n ..."]
    test_outputs: Float[np.ndarray, "t n2 ..."] | None
    test_losses: Float[np.ndarray, " t"] | None
    products: int

    def __repr__(self):
        return one_line_summary(self)


def one_line_summary(curve: Any) -> str:
    """Repr of a curve: first and last time and training loss."""
    name, times, losses = type(curve).__name__, curve.times, curve.train_losses
    if len(times) == 0:
        return f"{name}(no times)"
    return f"{name}({len(times)} times from {times[0]:g} to {times[-1]:g}; training loss {losses[0]:.4g} to {losses[-1]:.4g})"


@host_only
def predict(
    kernel: Kernel,
    outputs: Values,
    targets: Values,
    *,
    lr: Scalar,
    times: Times | None = None,
    steps: int | None = None,
    optimizer: str = "flow",
    momentum: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    loss: str = "half_sum",
    cross_kernel: CrossKernel | None = None,
    test_outputs: TestValues | None = None,
    test_targets: TestValues | None = None,
    batches: Batches | None = None,
    tolerance: float = TOLERANCE,
    max_products: int = MAX_PRODUCTS,
) -> Prediction:
    """Outputs and losses of the linearised network during training.

    Squared losses with full batches have a closed form at any time. Cross-entropy and mini-batches are computed step by step in the
    span of the gradients (exact for discrete optimisers), or by SciPy's DOP853 for the flow. The limit of cross-entropy at infinite
    time, with weight decay, is computed by SciPy's Newton-Krylov method.

    Args:
      kernel: Theta of the training examples, in one of the forms of `loss_curve`.
      outputs, targets: f_0 and y on the training examples. For cross-entropy, targets are probabilities, one-hot or soft.
      lr, optimizer, momentum, weight_decay: as for `loss_curve`; the flow by default.
      times, steps: as for `loss_curve`; infinity is allowed and gives the limit of training; for cross-entropy the minimum, which
        training reaches if the learning rate is small enough.
      loss: "half_sum" (default), "sum", "mean"; "cross_entropy", the mean over examples, or "cross_entropy_sum".
      cross_kernel: Theta of test with training examples, (n2, n) or (n2, n, c, c), or a function from arrays shaped like `outputs`
        to arrays shaped like `test_outputs`.
      test_outputs, test_targets: f_0 on the test examples, required with `cross_kernel`; their targets, required for `test_losses`.
      batches: indices of the training examples of each step, for mini-batch training; reported losses are still those of all
        training examples.
      tolerance, max_products: as for `loss_curve`, for a kernel function with a closed form. The tolerance applies to losses and
        distances; outputs are accurate to about its square root.

    Returns:
      A `Prediction` in float64.

    Raises:
      ConfigError: as `loss_curve`; a loss without a limit; or arguments that must be given together and are not.

    Reference: Deshpande et al. 2021, Prop. 1; Lee et al. 2019 for test outputs.  Cost: closed form as `loss_curve`, and one
    product with the cross kernel per time; otherwise one product with the kernel per step, for the flow about
    lr x slope x largest eigenvalue x time products.
    """
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    check_loss(loss)
    when = read_times(method, times, steps, limit=True)
    outputs, targets = read_outputs_and_targets(outputs, targets, loss, "outputs", "targets")
    problem = read_problem(kernel, outputs)
    test = _read_test(problem, cross_kernel, test_outputs, test_targets, loss)
    limits = {"tolerance": tolerance, "max_products": max_products}
    if batches is not None:
        if not method.discrete:
            raise ConfigError("batches= requires a discrete optimiser. Try: optimizer='gd'")
        batches = read_batches(batches, len(outputs), when)
    with np.errstate(over="ignore", invalid="ignore"):
        if loss in CROSS_ENTROPY or batches is not None:
            found = _step_by_step(problem, outputs, targets, method, loss, when, batches, test)
        else:
            found = _closed_form(problem, outputs, targets, method, loss, when, limits, test)
        train, losses, distances, coefficients, effects = found
        test_found = None if test is None else test.outputs + np.stack(effects)
    test_losses = None if test is None or test.targets is None else np.array([loss_value(loss, f, test.targets) for f in test_found])
    coefficients = np.stack([problem.like(a) for a in coefficients])
    return Prediction(when, train, losses, distances, coefficients, test_found, test_losses, problem.products)


def _closed_form(problem: Problem, outputs, targets, method: Optimizer, loss: str, when, limits, test):
    value, slope = squared_loss(loss, outputs.size)
    finite = when[np.isfinite(when)]
    if problem.matrix is None and len(finite) < len(when):
        raise ConfigError("The limit of training needs all eigenvalues. Try: the kernel as an array, or kernel_ridge")

    def quantity(modes):
        return np.concatenate([modes.squares(method, slope, finite), modes.distances(method, slope, finite)])

    modes = find_modes(problem, targets - outputs, quantity, **limits)
    remaining, gained = method.factors(modes.values, slope, when)
    losses = value * weighted_squares(remaining, modes.energy)
    distances = np.sqrt(weighted_squares(gained, modes.values * modes.energy))
    train = np.stack([targets - modes.apply(factors).reshape(targets.shape) for factors in remaining])
    coefficients, effects = np.stack([modes.apply(factors) for factors in gained]), None
    if test is not None:
        # Directions of eigenvalue zero have no effect on other examples; their rounding errors would grow with time.
        effective = np.where(modes.values > 0, gained, 0.0)
        if problem.matrix is None and len(when) > len(modes.values):  # fewer products: cross kernel times each vector, then linear combinations
            of_vectors = np.stack([test.cross(vector) for vector in modes.vectors.T])
            effects = [np.tensordot(factors * modes.coordinates[:, 0], of_vectors, 1) for factors in effective]
        else:
            effects = [test.cross(modes.apply(factors)) for factors in effective]
    return train, losses, distances, coefficients, effects


def _step_by_step(problem: Problem, outputs, targets, method: Optimizer, loss: str, when, batches, test):
    finite = np.isfinite(when)
    coefficients = np.zeros((len(when), outputs.size))
    if finite.any():
        solve = (lambda *given: descend(*given, batches=batches)) if method.discrete else integrate_flow
        coefficients[finite] = solve(problem, outputs, targets, method, loss, when[finite])
    if not finite.all():
        if batches is not None or not method.weight_decay:
            raise ConfigError(f"loss={loss!r} has no limit without weight decay or with batches. Try: weight_decay=1e-4, without batches")
        if method.lr * method.weight_decay >= method.largest_rate:
            raise ConfigError(f"lr={method.lr:g} times weight_decay={method.weight_decay:g} is too large: training diverges. Try: a smaller lr")
        coefficients[~finite] = minimum(problem, outputs, targets, method, loss)
    moved = np.stack([problem.product(a) for a in coefficients])
    squares = (coefficients * moved).sum(axis=1)
    distances = np.sqrt(np.where(np.isfinite(squares), np.maximum(squares, 0.0), np.inf))
    train = outputs + moved.reshape(-1, *outputs.shape)
    losses = np.array([loss_value(loss, f, targets) for f in train])
    return train, losses, distances, coefficients, None if test is None else [test.cross(a) for a in coefficients]


def descend(problem: Problem, outputs, targets, method: Optimizer, loss: str, times, *, batches=None) -> Float[np.ndarray, "t size"]:
    """Coefficients after each number of steps in `times`. Cost: one product with the kernel per step."""
    a = np.zeros(outputs.size)
    velocity, recorded, found = np.zeros_like(a), set(times.astype(int)), {0: a}
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(int(times.max())):
            f = outputs + problem.product(a).reshape(outputs.shape)
            rows = slice(None) if batches is None else batches[step]
            gradient = np.zeros_like(f)
            gradient[rows] = loss_gradient(loss, f[rows], targets[rows])
            gradient = gradient.reshape(-1) + method.weight_decay * a
            velocity = method.momentum * velocity + gradient
            a = a - method.lr * (gradient + method.momentum * velocity if method.optimizer == "nesterov" else velocity)
            if step + 1 in recorded:
                found[step + 1] = a
    return np.stack([found[int(time)] for time in times])


def integrate_flow(problem: Problem, outputs, targets, method: Optimizer, loss: str, times) -> Float[np.ndarray, "t size"]:
    """Coefficients at `times` under gradient flow, by an explicit Runge-Kutta method of order 8. Raises ConfigError if the solver fails."""

    def velocity(_, a):
        f = outputs + problem.product(a).reshape(outputs.shape)
        return -method.lr * (loss_gradient(loss, f, targets).reshape(-1) + method.weight_decay * a)

    order, back = np.unique(times, return_inverse=True)
    if order[-1] == 0:
        return np.zeros((len(times), outputs.size))
    # The absolute tolerance is relative to the scale of the coefficients: lr x gradient x time.
    scale = method.lr * np.abs(loss_gradient(loss, outputs, targets)).max() * order[-1]
    absolute = ODE_TOLERANCE * max(scale, 1e-300)
    found = solve_ivp(velocity, (0.0, order[-1]), np.zeros(outputs.size), "DOP853", order, rtol=ODE_TOLERANCE, atol=absolute)
    if not found.success:
        raise ConfigError(f"The flow could not be integrated to time {order[-1]:g}: {found.message} Try: a smaller lr or shorter times")
    return found.y.T[back]


def minimum(problem: Problem, outputs, targets, method: Optimizer, loss: str) -> Float[np.ndarray, " size"]:
    """Coefficients of the minimum of loss + weight_decay/2 |w - w_0|^2: gradient + weight_decay a = 0. Raises ConfigError if not found."""

    def excess(scaled):
        f = outputs + problem.product(scaled / method.weight_decay).reshape(outputs.shape)
        return loss_gradient(loss, f, targets).reshape(-1) + scaled

    start = -loss_gradient(loss, outputs, targets).reshape(-1)
    try:
        scaled = newton_krylov(excess, np.zeros_like(start), f_tol=1e-11 * np.abs(start).max(), method="lgmres", maxiter=200)
    except NoConvergence as error:
        raise ConfigError(f"The limit of training with weight_decay={method.weight_decay:g} was not found. Try: a larger weight_decay") from error
    return scaled / method.weight_decay


class _Test(NamedTuple):
    cross: Callable
    outputs: np.ndarray
    targets: np.ndarray | None


def _read_test(problem: Problem, cross_kernel, test_outputs, test_targets, loss: str) -> _Test | None:
    if cross_kernel is None and test_outputs is None:
        if test_targets is not None:
            raise ConfigError("test_targets= requires cross_kernel= and test_outputs=.")
        return None
    if cross_kernel is None or test_outputs is None:
        raise ConfigError(
            "cross_kernel= and test_outputs= must be given together: the kernel of test with training examples, and the initial test outputs."
        )
    test_outputs = checked_outputs(test_outputs, "test_outputs")
    if test_targets is not None:
        test_outputs, test_targets = read_outputs_and_targets(test_outputs, test_targets, loss, "test_outputs", "test_targets")
    return _Test(read_cross(cross_kernel, problem, test_outputs), test_outputs, test_targets)
