"""Outputs, losses and distances are those of the linearised network when it is really trained, step by step and in the limit."""

import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import kernel_ridge, loss_curve, predict, targets

OPTIMIZERS = [("gd", 0.0), ("momentum", 0.8), ("nesterov", 0.8)]
SQUARED = ["half_sum", "sum", "mean"]
CROSS_ENTROPY = ["cross_entropy", "cross_entropy_sum"]


def with_test(world):
    return {"cross_kernel": world.cross, "test_outputs": world.test_outputs, "test_targets": world.test_targets}


def same_as_training(independent, world, found, path, loss, tolerance=1e-11):
    steps = found.times.astype(int)
    test_outputs = world.test_outputs + np.einsum("...p,tp->t...", world.test_jacobian, path.moved)
    for given, expected in [(found.train_outputs, path.outputs), (found.test_outputs, test_outputs), (found.distances, path.distances)]:
        assert given.dtype == np.float64
        assert given.shape == expected[steps].shape
        np.testing.assert_allclose(given, expected[steps], rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))
    np.testing.assert_allclose(found.train_losses, path.losses[steps], rtol=1e-8)
    np.testing.assert_allclose(found.test_losses, independent.losses(loss, test_outputs, world.test_targets)[steps], rtol=1e-8)
    moved = np.einsum("ti,ip->tp" if world.jacobian.ndim == 2 else "tia,iap->tp", found.coefficients, world.jacobian)
    np.testing.assert_allclose(moved, path.moved[steps], rtol=0, atol=tolerance * max(1.0, np.abs(path.moved).max()))


def rates(independent, world, loss, share=0.6, decay=0.02):
    speed = largest_speed(independent, world, loss)
    return {"lr": 2 * share / (speed * (1 + decay)), "weight_decay": decay * speed}


def largest_speed(independent, world, loss):
    """Largest curvature of the loss along the kernel; that of softmax is a half at most."""
    slope = {"cross_entropy": 0.5 / len(world.outputs), "cross_entropy_sum": 0.5}.get(loss) or independent.slope(loss, world.outputs.size)
    return slope * independent.largest(world.kernel)


@pytest.mark.parametrize("loss", ["half_sum", pytest.param("sum", marks=pytest.mark.slow), "mean"])
@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_outputs_losses_and_distances_are_those_of_training(independent, world, optimizer, momentum, decay, loss):
    options = rates(independent, world, loss, decay=decay) | {"momentum": momentum}
    path = independent.train(world, loss, nesterov=optimizer == "nesterov", steps=200, **options)
    found = predict(world.kernel, world.outputs, world.targets, optimizer=optimizer, loss=loss, steps=200, **with_test(world), **options)
    same_as_training(independent, world, found, path, loss)
    assert found.products == 0


@pytest.mark.parametrize("loss", CROSS_ENTROPY)
@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_cross_entropy_is_followed_step_by_step(independent, several, optimizer, momentum, decay, loss):
    options = rates(independent, several, loss, decay=decay) | {"momentum": momentum}
    path = independent.train(several, loss, nesterov=optimizer == "nesterov", steps=200, **options)
    found = predict(
        several.kernel, several.outputs, several.targets, optimizer=optimizer, loss=loss, times=[200, 0, 3, 50, 3], **with_test(several), **options
    )
    assert path.losses[-1] < 0.8 * path.losses[0]
    same_as_training(independent, several, found, path, loss)


def test_soft_targets_are_learnt(independent, several):
    soft = several._replace(targets=np.full_like(several.targets, 0.1) + 0.7 * several.targets)
    options = rates(independent, several, "cross_entropy")
    path = independent.train(soft, "cross_entropy", steps=100, **options)
    found = predict(soft.kernel, soft.outputs, soft.targets, optimizer="gd", loss="cross_entropy", steps=100, **with_test(soft), **options)
    same_as_training(independent, soft, found, path, "cross_entropy")


@pytest.mark.parametrize("loss", [*SQUARED, *CROSS_ENTROPY])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_mini_batches_are_followed(independent, several, optimizer, momentum, decay, loss):
    batches = [np.random.default_rng(step).permutation(12)[:4] for step in range(60)]
    options = rates(independent, several, loss, share=0.2, decay=decay) | {"momentum": momentum}
    path = independent.train(several, loss, nesterov=optimizer == "nesterov", steps=60, batches=batches, **options)
    found = predict(
        several.kernel, several.outputs, several.targets, optimizer=optimizer, loss=loss, steps=60, batches=batches, **with_test(several), **options
    )
    same_as_training(independent, several, found, path, loss)


def test_mini_batches_of_a_single_output(independent, binary):
    batches = [np.random.default_rng(step).permutation(12)[:5] for step in range(60)]
    options = rates(independent, binary, "mean", share=0.2)
    path = independent.train(binary, "mean", steps=60, batches=batches, **options)
    found = predict(
        binary.kernel, binary.outputs, binary.targets, optimizer="gd", loss="mean", steps=60, batches=batches, **with_test(binary), **options
    )
    same_as_training(independent, binary, found, path, "mean")


@pytest.mark.parametrize(("optimizer", "momentum"), OPTIMIZERS)
def test_batches_of_all_examples_are_the_closed_form(independent, several, optimizer, momentum):
    options = rates(independent, several, "sum") | {"momentum": momentum, "optimizer": optimizer, "loss": "sum", "steps": 40}
    batches = [np.random.default_rng(step).permutation(12) for step in range(40)]
    followed = predict(several.kernel, several.outputs, several.targets, batches=batches, **options)
    closed = predict(several.kernel, several.outputs, several.targets, **options)
    np.testing.assert_allclose(followed.train_outputs, closed.train_outputs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(followed.coefficients, closed.coefficients, rtol=0, atol=1e-12 * np.abs(closed.coefficients).max())


@pytest.mark.parametrize("loss", CROSS_ENTROPY)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_flow_of_cross_entropy_is_the_limit_of_small_steps(independent, several, loss, decay):
    options, errors = rates(independent, several, loss, 0.4, decay), []
    lr, times = options.pop("lr"), np.array([2, 4, 8])
    question = (several.kernel, several.outputs, several.targets)
    flow = predict(*question, lr=lr, times=times, loss=loss, **options)
    for halved in (4, 5, 6):
        found = predict(*question, lr=lr / 2**halved, times=times * 2**halved, optimizer="gd", loss=loss, **options)
        errors.append([np.abs(found.train_outputs - flow.train_outputs).max(), np.abs(found.train_losses - flow.train_losses).max()])
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 0.9).all()
    assert (orders < 1.1).all()


def test_the_flow_of_cross_entropy_starts_at_the_start_and_takes_times_in_any_order(several):
    question, options = (several.kernel, several.outputs, several.targets), {"lr": 0.1, "loss": "cross_entropy"}
    whole = predict(*question, times=[0, 1, 2.5], **options)
    mixed = predict(*question, times=[2.5, 0, 1, 2.5], **options)
    assert (whole.train_outputs[0] == several.outputs).all()
    np.testing.assert_allclose(mixed.train_outputs, whole.train_outputs[[2, 0, 1, 2]], rtol=1e-12)
    assert (predict(*question, times=0, **options).coefficients == 0).all()


def logistic(independent, decay):
    """A linear model without bias, whose kernel is X X' times the identity, and its minimum by scikit-learn."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, x_test = independent.draw(30, 4), independent.draw(6, 4, seed=1)
    labels = (x @ independent.draw(4, 3, seed=2) + independent.draw(30, 3, seed=3)).argmax(axis=1)
    model = linear_model.LogisticRegression(C=1 / decay, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(x, labels)
    return x, x_test, labels, model.coef_.T


@pytest.mark.parametrize("decay", [0.3, 3.0])
def test_the_limit_of_cross_entropy_is_logistic_regression(independent, decay):
    x, x_test, labels, weights = logistic(independent, decay)
    zeros, test_zeros = np.zeros((30, 3)), np.zeros((6, 3))
    for kernel, cross in [(x @ x.T, x_test @ x.T), [np.einsum("ij,ab->ijab", left @ x.T, np.eye(3)) for left in (x, x_test)]]:
        found = predict(
            kernel,
            zeros,
            np.eye(3)[labels],
            lr=0.1,
            times=np.inf,
            weight_decay=decay,
            loss="cross_entropy_sum",
            cross_kernel=cross,
            test_outputs=test_zeros,
        )
        np.testing.assert_allclose(found.train_outputs[0], x @ weights, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.test_outputs[0], x_test @ weights, rtol=0, atol=1e-5)
        np.testing.assert_allclose(x.T @ found.coefficients[0], weights, rtol=0, atol=1e-5)
        assert found.distances[0] == pytest.approx(np.linalg.norm(weights), abs=1e-5)


def test_the_mean_of_cross_entropy_has_the_limit_of_the_sum_at_n_times_the_decay(independent):
    x, _, labels, weights = logistic(independent, 3.0)
    found = predict(
        x @ x.T, np.zeros((30, 3)), np.eye(3)[labels], lr=0.1, times=[0, np.inf], weight_decay=3.0 / 30, loss="cross_entropy", optimizer="gd"
    )
    assert (found.train_outputs[0] == 0).all()
    np.testing.assert_allclose(found.train_outputs[1], x @ weights, rtol=0, atol=1e-5)


def test_long_training_of_cross_entropy_comes_to_the_limit(independent, several):
    options = rates(independent, several, "cross_entropy", 0.8, 0.05) | {"loss": "cross_entropy"}
    question = (several.kernel, several.outputs, several.targets)
    found = predict(*question, times=[0, 3000, np.inf], optimizer="gd", **with_test(several), **options)
    assert np.abs(found.train_outputs[2] - found.train_outputs[0]).max() > 0.1
    np.testing.assert_allclose(found.train_outputs[1], found.train_outputs[2], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.test_outputs[1], found.test_outputs[2], rtol=0, atol=1e-7)
    assert found.distances[1] == pytest.approx(found.distances[2], abs=1e-7)


def test_where_the_gradient_is_nothing_the_limit_is_the_start(several):
    found = predict(several.kernel, np.zeros((12, 3)), np.full((12, 3), 1 / 3), lr=0.1, times=[np.inf], weight_decay=0.1, loss="cross_entropy")
    np.testing.assert_allclose(found.train_outputs[0], 0, atol=1e-12)


@pytest.mark.parametrize("loss", SQUARED)
@pytest.mark.parametrize("optimizer", ["flow", "gd", "momentum"])
def test_the_limit_of_squared_losses_is_ridge_regression(independent, world, optimizer, loss):
    options = rates(independent, world, loss, 0.5, 0.03)
    found = predict(world.kernel, world.outputs, world.targets, optimizer=optimizer, times=[5, np.inf], loss=loss, **with_test(world), **options)
    ridge = options["weight_decay"] / independent.slope(loss, world.outputs.size)
    expected = kernel_ridge(
        world.kernel, world.targets, ridge=ridge, outputs=world.outputs, cross_kernel=world.cross, test_outputs=world.test_outputs
    )
    np.testing.assert_allclose(found.coefficients[1], expected.coefficients, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.train_outputs[1], expected.train_outputs, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.test_outputs[1], expected.test_outputs, rtol=1e-10, atol=1e-12)


def test_without_decay_the_limit_has_the_shortest_way(independent):
    """Seven examples in a model of four weights: the limit is the least-squares solution of least norm."""
    jacobian, residual = independent.draw(7, 4), independent.draw(7, seed=1)
    found = predict(jacobian @ jacobian.T, np.zeros(7), residual, lr=0.01, times=[np.inf])
    weights = np.linalg.lstsq(jacobian, residual)[0]
    np.testing.assert_allclose(jacobian.T @ found.coefficients[0], weights, rtol=1e-10)
    np.testing.assert_allclose(found.train_outputs[0], jacobian @ weights, rtol=1e-10)
    assert found.distances[0] == pytest.approx(np.linalg.norm(weights), rel=1e-10)


def test_the_losses_are_those_of_the_curve(independent, world):
    options = {"lr": 0.01, "times": [0, 1.5, 40], "weight_decay": 0.2}
    for loss in SQUARED:
        found = predict(world.kernel, world.outputs, world.targets, loss=loss, **options)
        np.testing.assert_allclose(found.train_losses, loss_curve(world.kernel, world.targets - world.outputs, loss=loss, **options), rtol=1e-12)
        assert found.test_outputs is None
        assert found.test_losses is None


def test_test_outputs_without_targets_have_no_losses(world):
    found = predict(world.kernel, world.outputs, world.targets, lr=0.01, steps=2, cross_kernel=world.cross, test_outputs=world.test_outputs)
    assert found.test_outputs.shape == (3, *world.test_outputs.shape)
    assert found.test_losses is None


def test_one_cross_kernel_serves_all_outputs(independent, several):
    trace, cross = (np.einsum("ijaa->ij", kernel) / 3 for kernel in (several.kernel, several.cross))
    question = (several.outputs, several.targets)
    shared = predict(trace, *question, lr=0.02, steps=9, optimizer="gd", cross_kernel=cross, test_outputs=several.test_outputs)
    whole = [np.einsum("ij,ab->ijab", kernel, np.eye(3)) for kernel in (trace, cross)]
    spread = predict(whole[0], *question, lr=0.02, steps=9, optimizer="gd", cross_kernel=whole[1], test_outputs=several.test_outputs)
    np.testing.assert_allclose(shared.test_outputs, spread.test_outputs, rtol=0, atol=1e-13)
    np.testing.assert_allclose(shared.distances, spread.distances, rtol=1e-12)


@pytest.mark.parametrize("options", [{"loss": "cross_entropy"}, {"loss": "sum", "optimizer": "gd", "batches": [[0, 1]] * 6}, {"loss": "sum"}])
@pytest.mark.parametrize("times", [[6], list(range(7))])
def test_a_function_as_kernel_gives_the_same_and_counts_its_products(several, options, times):
    matrix, cross = (kernel.transpose(0, 2, 1, 3).reshape(3 * len(kernel), 36) for kernel in (several.kernel, several.cross))
    calls = []

    def product(v):
        assert v.shape == (12, 3)
        calls.append(0)
        return (matrix @ v.reshape(-1)).reshape(12, 3)

    options = options | {"lr": 0.01, "times": times, "test_outputs": several.test_outputs, "test_targets": several.test_targets}
    found = predict(product, several.outputs, several.targets, cross_kernel=lambda v: (cross @ v.reshape(-1)).reshape(5, 3), **options)
    expected = predict(several.kernel, several.outputs, several.targets, cross_kernel=several.cross, **options)
    assert found.products == len(calls) > 0
    for name in ("train_outputs", "train_losses", "distances", "coefficients", "test_outputs", "test_losses"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-8, err_msg=name)


def test_nothing_to_learn_is_no_training(several):
    for kernel in (several.kernel, lambda v: v):
        found = predict(kernel, several.outputs, several.outputs, lr=0.1, steps=3)
        assert (found.train_outputs == several.outputs).all()
        assert (found.distances == 0).all()
        assert (found.train_losses == 0).all()


@pytest.mark.parametrize("options", [{}, {"batches": [np.arange(12)] * 3000}, {"momentum": 0.5, "optimizer": "momentum"}])
def test_diverging_losses_are_not_finite(several, options):
    found = predict(several.kernel, several.outputs, several.targets, lr=10.0, times=[0, 5, 3000], **({"optimizer": "gd"} | options))
    assert found.train_losses[0] < found.train_losses[1] < np.inf
    assert not np.isfinite(found.train_losses[2])


def test_labels_become_numbers_to_regress_on():
    assert (targets([2, 0, 1]) == np.eye(3)[[2, 0, 1]]).all()
    assert targets(np.array([1, 0], np.uint8), 4).shape == (2, 4)
    assert (targets([0, 1, 1], encoding="pm1") == [-1, 1, 1]).all()
    assert (targets([0, 0], 2, encoding="pm1") == [-1, -1]).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (([0.0, 1.0],), r"labels has type float64 and shape \(2,\); give class ids"),
        (([[0, 1]],), r"shape \(1, 2\); give class ids"),
        (([],), "give class ids"),
        (([True, False],), "labels has type bool"),
        (([0, 3], 3), r"labels run from 0 to 3; allowed are 0 to 2. Try: num_classes=4"),
        (([-1, 1],), "labels run from -1 to 1; allowed are 0 to 1"),
    ],
)
def test_labels_are_class_ids(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        targets(*given)


def test_encodings_are_two():
    with pytest.raises(ConfigError, match="encoding='binary' is unknown. Allowed: onehot, pm1"):
        targets([0, 1], encoding="binary")
    with pytest.raises(ConfigError, match="encoding='pm1' requires two classes; there are 3"):
        targets([0, 1, 2], encoding="pm1")


ONES = np.ones((3, 2))
ONE_HOT = np.eye(2)[[0, 1, 0]]
TEST = {"cross_kernel": np.ones((2, 3)), "test_outputs": np.ones((2, 2))}
SAY_NO = {
    "loss": ({"loss": "crossentropy"}, "loss='crossentropy' is unknown. Did you mean 'cross_entropy'"),
    "shapes": ({"targets": np.ones(3)}, r"targets has shape \(3,\) for outputs \(3, 2\); they must be equal.*targets\(labels\)"),
    "cross-entropy of one output": ({"outputs": ONES[:, :1], "targets": ONES[:, :1], "loss": "cross_entropy"}, "needs at least two outputs"),
    "cross-entropy of a row": ({"outputs": ONES[:, 0], "targets": ONES[:, 0], "loss": "cross_entropy_sum"}, "needs at least two outputs"),
    "cross-entropy of no probabilities": ({"targets": ONES, "loss": "cross_entropy"}, "needs targets whose rows are probabilities"),
    "cross-entropy of negative ones": ({"targets": ONES - [0, 2] + [1, 0], "loss": "cross_entropy"}, "needs targets whose rows are probabilities"),
    "test targets that are no probabilities": ({**TEST, "test_targets": np.ones((2, 2)), "loss": "cross_entropy"}, "needs test_targets whose rows"),
    "test targets alone": ({"test_targets": np.ones((2, 2))}, "test_targets= requires cross_kernel= and test_outputs="),
    "cross kernel alone": ({"cross_kernel": np.ones((2, 3))}, "cross_kernel= and test_outputs= must be given together"),
    "test outputs alone": ({"test_outputs": np.ones((2, 2))}, "cross_kernel= and test_outputs= must be given together"),
    "columns of test outputs": (
        {**TEST, "test_outputs": np.ones((2, 3))},
        r"test_outputs has shape \(2, 3\); it must have as many columns as outputs: 2",
    ),
    "a row of test outputs": ({**TEST, "test_outputs": np.ones(2)}, r"test_outputs has shape \(2,\); it must have as many columns as outputs: 2"),
    "test targets of another shape": ({**TEST, "test_targets": np.ones((3, 2))}, r"test_targets has shape \(3, 2\) for test_outputs \(2, 2\)"),
    "batches under flow": ({"batches": [[0]] * 3, "optimizer": "flow"}, "batches= requires a discrete optimiser. Try: optimizer='gd'"),
    "no limit of cross-entropy": (
        {"loss": "cross_entropy", "steps": None, "times": [np.inf]},
        "loss='cross_entropy' has no limit without weight decay",
    ),
    "no limit with batches": (
        {"batches": [[0]], "steps": None, "times": [1, np.inf], "weight_decay": 0.1},
        "loss='half_sum' has no limit without weight decay or with batches",
    ),
    "limit of a function": ({"kernel": lambda v: v, "steps": None, "times": [np.inf]}, "The limit of training needs all eigenvalues.*kernel_ridge"),
    "tolerance": ({"tolerance": 2.0}, "tolerance=2.0 must be"),
}


@pytest.mark.parametrize("name", SAY_NO)
def test_a_prediction_refuses(name):
    given, sentence = SAY_NO[name]
    with pytest.raises(ConfigError, match=sentence):
        predict(**({"kernel": np.eye(3), "outputs": ONES, "targets": ONE_HOT, "lr": 0.1, "steps": 3, "optimizer": "gd"} | given))
