"""What will the linearised network put out, on training and test examples, while and after it is trained?"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from ntk_select.errors import ConfigError
from ntk_select.linearized.curve import Kernel, checked_limits
from ntk_select.linearized.losses import CROSS_ENTROPY, check_loss, loss_value, squared_loss
from ntk_select.linearized.modes import MOST_PRODUCTS, TOLERANCE, find_modes, weighted_squares
from ntk_select.linearized.problem import Problem, check_test_outputs, checked_outputs, read_cross, read_problem
from ntk_select.linearized.rules import Rule, read_times
from ntk_select.linearized.stepped import checked_batches, flowed, limit, stepped
from ntk_select.whole import is_whole


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
        return in_one_line(self)


def in_one_line(curve: NamedTuple) -> str:
    """Times and training losses of a curve, from where to where."""
    name, times, losses = type(curve).__name__, curve.times, curve.train_losses
    if len(times) == 0:
        return f"{name}(no times)"
    return f"{name}({len(times)} times from {times[0]:g} to {times[-1]:g}; training loss {losses[0]:.4g} to {losses[-1]:.4g})"


def predict(
    kernel: Kernel,
    outputs: Float[Array, " n"] | Float[Array, "n c"],
    targets: Float[Array, " n"] | Float[Array, "n c"],
    *,
    lr: float,
    times: Float[Array, " t"] | None = None,
    steps: int | None = None,
    optimizer: str = "flow",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loss: str = "half_sum",
    cross_kernel: Float[Array, "n2 n"] | Float[Array, "n2 n c c"] | Callable | None = None,
    test_outputs: Float[Array, " n2"] | Float[Array, "n2 c"] | None = None,
    test_targets: Float[Array, " n2"] | Float[Array, "n2 c"] | None = None,
    batches: Sequence[Int[Array, " b"]] | None = None,
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
      batches: for each step the places of its training examples, to follow mini-batch training; losses are then still those
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
    rule = Rule(optimizer, lr, momentum, weight_decay)
    check_loss(loss)
    when = read_times(rule, times, steps, limit=True)
    outputs, targets = checked_pair(outputs, targets, loss, "outputs", "targets")
    problem = read_problem(kernel, outputs)
    test = _read_test(problem, cross_kernel, test_outputs, test_targets, loss)
    limits = checked_limits(tolerance, most_products)
    if batches is not None:
        if not rule.discrete:
            raise ConfigError("batches= belong to optimisers that take steps. Type: optimizer='gd'")
        batches = checked_batches(batches, len(outputs), when)
    if loss in CROSS_ENTROPY or batches is not None:
        found = _followed(problem, outputs, targets, rule, loss, when, batches)
    else:
        found = _closed(problem, outputs, targets, rule, loss, when, test, limits)
    coefficients, train, losses, distances, test_found, products = found
    if test is not None and test_found is None:
        with np.errstate(over="ignore", invalid="ignore"):
            test_found = np.stack([test.outputs + _like(test.cross(a), test.outputs) for a in coefficients])
    return Prediction(
        when,
        train,
        losses,
        distances,
        np.stack([problem.like(a) for a in coefficients]),
        test_found,
        None if test is None or test.targets is None else np.array([loss_value(loss, f, test.targets) for f in test_found]),
        products,
    )


class _Test(NamedTuple):
    cross: Callable
    outputs: np.ndarray
    targets: np.ndarray | None


def checked_pair(outputs, targets, loss: str, name: str, targets_name: str) -> tuple[np.ndarray, np.ndarray]:
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


def _read_test(problem: Problem, cross_kernel, test_outputs, test_targets, loss: str) -> _Test | None:
    if cross_kernel is None and test_outputs is None:
        if test_targets is not None:
            raise ConfigError("test_targets= need cross_kernel= and test_outputs= beside them.")
        return None
    if cross_kernel is None or test_outputs is None:
        raise ConfigError("cross_kernel= and test_outputs= belong together: the effect of training on the test examples, and where they start.")
    test_outputs = checked_outputs(test_outputs, "test_outputs")
    check_test_outputs(problem, test_outputs)
    if test_targets is not None:
        test_outputs, test_targets = checked_pair(test_outputs, test_targets, loss, "test_outputs", "test_targets")
    return _Test(read_cross(cross_kernel, problem, len(test_outputs)), test_outputs, test_targets)


def _like(values: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    return values.reshape(outputs.shape)


def _closed(problem: Problem, outputs, targets, rule: Rule, loss: str, when, test: _Test | None, limits):
    value, slope = squared_loss(loss, outputs.size)
    residual = targets - outputs

    def quantity(modes):
        finite = when[np.isfinite(when)]
        return np.concatenate([modes.squares(rule, slope, finite), modes.distances(rule, slope, finite)])

    if problem.matrix is None and not np.isfinite(when).all():
        raise ConfigError("The limit of training needs all eigenvalues: give the kernel as an array, or use kernel_ridge.")
    modes = find_modes(problem, residual, quantity, **limits)
    remaining, gained = rule.factors(modes.values, slope, when)
    losses = value * weighted_squares(remaining, modes.energy)
    distances = np.sqrt(weighted_squares(gained, modes.values * modes.energy))
    # A direction that no weight moves has no effect on other examples; what rounding leaves of one would grow with time.
    felt = np.where(modes.values > 0, gained, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        train = np.stack([targets - _like(modes.apply(factors), targets) for factors in remaining])
        coefficients = np.stack([modes.apply(factors) for factors in gained])
        test_found = None
        if test is not None and problem.matrix is not None:
            test_found = np.stack([test.outputs + _like(test.cross(modes.apply(factors)), test.outputs) for factors in felt])
        elif test is not None and len(when) > len(modes.values):
            # Fewer products: the effect of each vector, then combinations of them.
            effects = np.stack([test.cross(vector) for vector in modes.vectors.T])
            test_found = np.stack(
                [test.outputs + _like(np.tensordot(factors * modes.coordinates[:, 0], effects, 1), test.outputs) for factors in felt]
            )
    return coefficients, train, losses, distances, test_found, modes.products


def _followed(problem: Problem, outputs, targets, rule: Rule, loss: str, when, batches):
    finite = when[np.isfinite(when)]
    coefficients = np.zeros((len(when), outputs.size))
    follow = stepped if rule.discrete else flowed
    counted = Problem(problem.matrix, problem.n, problem.c, problem.row, _Counted(problem.function) if problem.function else None)
    if len(finite):
        options = {"batches": batches} if rule.discrete else {}
        coefficients[np.isfinite(when)] = follow(counted, outputs, targets, rule, loss, finite, **options)
    if len(finite) < len(when):
        if batches is not None or not rule.weight_decay:
            raise ConfigError(f"loss={loss!r} has no limit without weight decay, nor with batches. Type: weight_decay=1e-4")
        if rule.lr * rule.weight_decay >= rule.largest_rate:
            raise ConfigError(f"lr={rule.lr:g} times weight_decay={rule.weight_decay:g} is too large: training diverges. Type: a smaller lr")
        coefficients[~np.isfinite(when)] = limit(counted, outputs, targets, rule, loss)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.stack([problem.product(a) for a in coefficients])
        squares = (coefficients * moved).sum(axis=1)
        distances = np.sqrt(np.where(np.isfinite(squares), np.maximum(squares, 0.0), np.inf))
        train = np.stack([outputs + _like(change, outputs) for change in moved])
    losses = np.array([loss_value(loss, f, targets) for f in train])
    return coefficients, train, losses, distances, None, 0 if counted.function is None else counted.function.count + len(when)


class _Counted:
    """A function, and how often it was called."""

    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, v):
        self.count += 1
        return self.function(v)


def targets(labels: Int[Array, " n"], num_classes: int | None = None, *, encoding: str = "onehot") -> Float[np.ndarray, "n ..."]:
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
