"""Outputs of the linearised network on training and test examples while it is trained, from the kernel alone.

Every gradient lies in the span of the examples' gradients: the weights are w_0 + J' a, and an optimiser does to the n c coefficients
a exactly what it does to the weights. Squared losses of full batches have a closed form; else a is followed step by step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.integrate import solve_ivp
from scipy.optimize import NoConvergence, newton_krylov

from ntk_select._runtime.checks import is_whole
from ntk_select.errors import ConfigError
from ntk_select.linearized.losses import CROSS_ENTROPY, check_loss, loss_gradient, loss_value, squared_loss
from ntk_select.linearized.optimizers import Optimizer, Scalar, read_times
from ntk_select.linearized.problem import (
    AnyArray,
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
from ntk_select.linearized.spectrum import MOST_PRODUCTS, TOLERANCE, find_modes, weighted_squares

ODE_TOLERANCE = 1e-10


class Prediction(NamedTuple):
    """The linearised network at each of t times.

    Attributes:
      times: or numbers of steps.
      train_outputs: f_t on the training examples.
      train_losses: without the term of the weight decay.
      distances: |w_t - w_0|.
      coefficients: a_t, with w_t = w_0 + J' a_t.
      test_outputs, test_losses: None where there were no test examples, or no targets for them.
      products: of the kernel function with a vector; 0 for an array.
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
    """Times and training losses of a curve, first and last."""
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
    most_products: int = MOST_PRODUCTS,
) -> Prediction:
    """Outputs and losses of the linearised network under training.

    Squared losses of full batches have a closed form, at any time. Cross-entropy and mini-batches are followed step by step in
    the span of the gradients (optimisers that take steps: exact), or by SciPy's DOP853 (flow); the limit of cross-entropy at
    infinite time, with weight decay, is found by SciPy's Newton-Krylov.

    Args:
      kernel: Theta of the training examples, in one of the forms of `loss_curve`.
      outputs, targets: f_0 and y on the training examples. For cross-entropy, targets are probabilities, one-hot or soft.
      lr, optimizer, momentum, weight_decay: as for `loss_curve`.
      times, steps: as for `loss_curve`; infinity is allowed and gives the limit of training, for cross-entropy the minimum, which
        training reaches where its learning rate is small enough.
      loss: "half_sum", "sum", "mean"; "cross_entropy", the mean over examples, or "cross_entropy_sum".
      cross_kernel: Theta of test with training examples, (n2, n) or (n2, n, c, c), or a function from arrays like `outputs` to
        arrays like `test_outputs`.
      test_outputs, test_targets: f_0 on the test examples, needed with `cross_kernel`; their targets, for `test_losses`.
      batches: for each step the indices of its training examples, to follow mini-batch training; losses are then still those
        of all training examples.
      tolerance, most_products: as for `loss_curve`, where the kernel is a function and there is a closed form. The tolerance
        is that of losses and distances; outputs are good to about its root.

    Returns:
      A `Prediction`, everything in float64.

    Raises:
      ConfigError: as `loss_curve`; or a loss that has no limit; or arguments that belong together and are not.

    Reference: Deshpande et al. 2021, Prop. 1; Lee et al. 2019 for test outputs.  Cost: closed form as `loss_curve` and one
    product with the cross kernel a time; else one product with the kernel a step, for flow about one for each unit of
    lr times slope times largest eigenvalue times time.
    """
    method = Optimizer(optimizer, lr, momentum, weight_decay)
    check_loss(loss)
    when = read_times(method, times, steps, limit=True)
    outputs, targets = read_outputs_and_targets(outputs, targets, loss, "outputs", "targets")
    problem = read_problem(kernel, outputs)
    test = _read_test(problem, cross_kernel, test_outputs, test_targets, loss)
    limits = {"tolerance": tolerance, "most_products": most_products}
    if batches is not None:
        if not method.discrete:
            raise ConfigError("batches= belong to optimisers that take steps. Type: optimizer='gd'")
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
        raise ConfigError("The limit of training needs all eigenvalues: give the kernel as an array, or use kernel_ridge.")

    def quantity(modes):
        return np.concatenate([modes.squares(method, slope, finite), modes.distances(method, slope, finite)])

    modes = find_modes(problem, targets - outputs, quantity, **limits)
    remaining, gained = method.factors(modes.values, slope, when)
    losses = value * weighted_squares(remaining, modes.energy)
    distances = np.sqrt(weighted_squares(gained, modes.values * modes.energy))
    train = np.stack([targets - modes.apply(factors).reshape(targets.shape) for factors in remaining])
    coefficients, effects = np.stack([modes.apply(factors) for factors in gained]), None
    if test is not None:
        # A direction that no weight moves has no effect on other examples; what rounding leaves of one would grow with time.
        effective = np.where(modes.values > 0, gained, 0.0)
        if problem.matrix is None and len(when) > len(modes.values):  # fewer products: the effect of each vector, then combinations of them
            of_vectors = np.stack([test.cross(vector) for vector in modes.vectors.T])
            effects = [np.tensordot(factors * modes.coordinates[:, 0], of_vectors, 1) for factors in effective]
        else:
            effects = [test.cross(modes.apply(factors)) for factors in effective]
    return train, losses, distances, coefficients, effects


def _step_by_step(problem: Problem, outputs, targets, method: Optimizer, loss: str, when, batches, test):
    finite = np.isfinite(when)
    coefficients = np.zeros((len(when), outputs.size))
    if finite.any():
        follow = (lambda *given: descend(*given, batches=batches)) if method.discrete else integrate_flow
        coefficients[finite] = follow(problem, outputs, targets, method, loss, when[finite])
    if not finite.all():
        if batches is not None or not method.weight_decay:
            raise ConfigError(f"loss={loss!r} has no limit without weight decay, nor with batches. Type: weight_decay=1e-4")
        if method.lr * method.weight_decay >= method.largest_rate:
            raise ConfigError(f"lr={method.lr:g} times weight_decay={method.weight_decay:g} is too large: training diverges. Type: a smaller lr")
        coefficients[~finite] = minimum(problem, outputs, targets, method, loss)
    moved = np.stack([problem.product(a) for a in coefficients])
    squares = (coefficients * moved).sum(axis=1)
    distances = np.sqrt(np.where(np.isfinite(squares), np.maximum(squares, 0.0), np.inf))
    train = outputs + moved.reshape(-1, *outputs.shape)
    losses = np.array([loss_value(loss, f, targets) for f in train])
    return train, losses, distances, coefficients, None if test is None else [test.cross(a) for a in coefficients]


def descend(problem: Problem, outputs, targets, method: Optimizer, loss: str, times, *, batches=None) -> Float[np.ndarray, "t size"]:
    """Coefficients after each number of steps in `times`. Cost: one product with the kernel a step."""
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
    """Coefficients at `times` under gradient flow, by an explicit method of order 8. Raises ConfigError if the solver gives up."""

    def velocity(_, a):
        f = outputs + problem.product(a).reshape(outputs.shape)
        return -method.lr * (loss_gradient(loss, f, targets).reshape(-1) + method.weight_decay * a)

    order, back = np.unique(times, return_inverse=True)
    if order[-1] == 0:
        return np.zeros((len(times), outputs.size))
    # Coefficients are as large as lr times gradient times time: what is below that by the tolerance does not count.
    scale = method.lr * np.abs(loss_gradient(loss, outputs, targets)).max() * order[-1]
    absolute = ODE_TOLERANCE * max(scale, 1e-300)
    found = solve_ivp(velocity, (0.0, order[-1]), np.zeros(outputs.size), "DOP853", order, rtol=ODE_TOLERANCE, atol=absolute)
    if not found.success:
        raise ConfigError(f"The flow could not be followed to time {order[-1]:g}: {found.message} Type: a smaller lr or shorter times")
    return found.y.T[back]


def minimum(problem: Problem, outputs, targets, method: Optimizer, loss: str) -> Float[np.ndarray, " size"]:
    """Coefficients where loss + weight_decay/2 |w - w_0|^2 is least: gradient + weight_decay a = 0. Raises ConfigError if none are found."""

    def excess(scaled):
        f = outputs + problem.product(scaled / method.weight_decay).reshape(outputs.shape)
        return loss_gradient(loss, f, targets).reshape(-1) + scaled

    start = -loss_gradient(loss, outputs, targets).reshape(-1)
    try:
        scaled = newton_krylov(excess, np.zeros_like(start), f_tol=1e-11 * np.abs(start).max(), method="lgmres", maxiter=200)
    except NoConvergence as error:
        raise ConfigError(f"The limit of training with weight_decay={method.weight_decay:g} was not found. Type: a larger weight_decay") from error
    return scaled / method.weight_decay


def read_batches(batches, n: int, times: Float[np.ndarray, " t"]) -> list[Int[np.ndarray, " b"]]:
    """One array of indices a step. Raises ConfigError for examples that do not exist, or too few batches."""
    rows = [np.asarray(batch) for batch in batches]
    last = times[np.isfinite(times)].max(initial=0)
    if len(rows) < last:
        raise ConfigError(f"There are {len(rows)} batches for {int(last)} steps; give one a step.")
    for batch in rows:
        if batch.ndim != 1 or not batch.size or batch.dtype.kind not in "iu" or batch.min() < 0 or batch.max() >= n:
            raise ConfigError(f"Each batch must be a row of places among the {n} training examples, 0 to {n - 1}; given: {batch!r}.")
        if len(np.unique(batch)) < len(batch):
            raise ConfigError("A batch names an example twice.")
    return rows


def read_outputs_and_targets(outputs, targets, loss: str, name: str, targets_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets of one shape. Raises ConfigError otherwise, or for targets that cross-entropy does not take."""
    outputs, targets = checked_outputs(outputs, name), checked_outputs(targets, targets_name)
    if outputs.shape != targets.shape:
        raise ConfigError(
            f"{targets_name} has shape {targets.shape} for {name} {outputs.shape}; they must be alike. "
            "For class ids type: ntk_select.linearized.targets(labels)"
        )
    if loss in CROSS_ENTROPY:
        if outputs.ndim == 1 or outputs.shape[1] < 2:
            raise ConfigError(f"loss={loss!r} needs two outputs at least; {name} has shape {outputs.shape}.")
        if (targets < 0).any() or np.abs(targets.sum(axis=1) - 1).max() > 1e-6:
            raise ConfigError(f"loss={loss!r} needs {targets_name} whose rows are probabilities. Type: ntk_select.linearized.targets(labels)")
    return outputs, targets


class _Test(NamedTuple):
    cross: Callable
    outputs: np.ndarray
    targets: np.ndarray | None


def _read_test(problem: Problem, cross_kernel, test_outputs, test_targets, loss: str) -> _Test | None:
    if cross_kernel is None and test_outputs is None:
        if test_targets is not None:
            raise ConfigError("test_targets= need cross_kernel= and test_outputs= beside them.")
        return None
    if cross_kernel is None or test_outputs is None:
        raise ConfigError("cross_kernel= and test_outputs= belong together: the effect of training on the test examples, and where they start.")
    test_outputs = checked_outputs(test_outputs, "test_outputs")
    if test_targets is not None:
        test_outputs, test_targets = read_outputs_and_targets(test_outputs, test_targets, loss, "test_outputs", "test_targets")
    return _Test(read_cross(cross_kernel, problem, test_outputs), test_outputs, test_targets)


@host_only
def targets(
    labels: Integer[AnyArray, " n"] | Sequence[int], num_classes: int | None = None, *, encoding: str = "onehot"
) -> Float[np.ndarray, "n ..."]:
    """Class ids as numbers to regress on.

    Args:
      labels: (n,), 0 .. num_classes - 1.
      num_classes: one more than the largest label if None.
      encoding: "onehot": (n, c) of zeros and ones; "pm1": for two classes, (n,) of -1 for class 0 and +1 for class 1, as the
        paper's binary case has it.

    Raises:
      ConfigError: labels that are not such integers, an unknown encoding, or "pm1" for other than two classes.
    """
    given = np.asarray(labels)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise ConfigError(f"labels has type {given.dtype} and shape {given.shape}; give class ids, integers (n,).")
    c = int(given.max()) + 1 if num_classes is None else num_classes
    if not is_whole(c):
        raise ConfigError(f"num_classes={num_classes!r} must be a whole number, or None.")
    if given.min() < 0 or given.max() >= c:
        raise ConfigError(f"labels run from {given.min()} to {given.max()}; allowed are 0 to {c - 1}. Type: num_classes={int(given.max()) + 1}")
    if encoding == "onehot":
        return np.eye(c)[given]
    if encoding != "pm1":
        raise ConfigError(f"encoding={encoding!r} is unknown. Allowed: onehot, pm1.")
    if c != 2:
        raise ConfigError(f"encoding='pm1' is for two classes; there are {c}. Type: encoding='onehot'")
    return 2.0 * given - 1.0
