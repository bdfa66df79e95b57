"""The three curves are those of their own functions, and discrepancies are the distances between them."""

import sys

import numpy as np
import optax
import pytest

from ntk_select.errors import ConfigError, MissingDependencyError
from ntk_select.linearized import compare, compare_training, draw_batches, network_kernel, predict, train
from ntk_select.linearized.compare import predicted_classes


def linear(params, x):
    return x @ params["w"] + params["b"]


def run(world, **options):
    given = {"lr": 0.01, "steps": 20, "params": world.params, "x_test": world.x_test, "test_targets": world.test_targets}
    return compare_training(world.fn, world.x, world.targets, **(given | options))


@pytest.fixture(scope="module")
def three(several):
    return run(several)


def test_each_curve_is_that_of_its_own_function(several, three):
    tested = {"cross_kernel": several.cross, "test_outputs": several.test_outputs, "test_targets": several.test_targets}
    formula = predict(several.kernel, several.outputs, several.targets, lr=0.01, steps=20, optimizer="gd", **tested)
    tested = {"x_test": several.x_test, "test_targets": several.test_targets}
    real = train(several.fn, several.x, several.targets, optax.sgd(0.01), params=several.params, steps=20, **tested)
    for found, expected in ((three.formula, formula), (three.real, real)):
        for name in ("train_losses", "test_losses", "train_outputs", "test_outputs", "distances"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-7, err_msg=name)
    assert (three.targets == several.targets).all()
    assert (three.test_targets == several.test_targets).all()


def test_the_formula_is_the_linearised_training(three):
    for name in ("train_losses", "test_losses", "train_outputs", "test_outputs", "distances"):
        np.testing.assert_allclose(getattr(three.formula, name), getattr(three.linear, name), rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"optimizer": "nesterov", "momentum": 0.9, "weight_decay": 0.1}, {"loss": "cross_entropy", "lr": 0.3}])
def test_a_network_that_is_linear_is_never_left(independent, several, options):
    params = {"w": independent.draw(4, 3), "b": independent.draw(3, seed=1)}
    options = {"batches": draw_batches(12, 4, 20), "lr": 0.005} | options
    found = run(several._replace(fn=linear, params=params), **options)
    assert found.real.train_losses[-1] < found.real.train_losses[0]
    for curve in ("formula", "linear"):
        gaps = found.discrepancy(curve)
        for gap in (gaps.loss, gaps.test_loss, gaps.test_outputs, gaps.distance[1:] - 1):
            np.testing.assert_allclose(gap, 0, atol=1e-9)
        assert (gaps.agreement == 1).all()


def test_discrepancies_shrink_with_the_learning_rate(several):
    """After the same few steps: the network moves less far from its tangent."""
    found = [run(several, lr=lr, steps=3, optimizer="momentum", momentum=0.5, linear=False).discrepancy() for lr in (2e-3, 1e-3, 5e-4)]
    for name in ("loss", "test_loss", "test_outputs"):
        gaps = [getattr(gap, name)[-1] for gap in found]
        assert gaps[0] > 1.5 * gaps[1] > 2.25 * gaps[2] > 0


def test_discrepancies_are_those_of_their_definitions(several, three):
    gaps = three.discrepancy()
    formula, real = three.formula, three.real
    np.testing.assert_allclose(gaps.loss, np.abs(formula.train_losses - real.train_losses) / real.train_losses)
    np.testing.assert_allclose(gaps.test_loss, np.abs(formula.test_losses - real.test_losses) / real.test_losses)
    apart, moved = (
        np.linalg.norm((a - b).reshape(21, -1), axis=1)
        for a, b in ((formula.test_outputs, real.test_outputs), (real.test_outputs, real.test_outputs[0]))
    )
    np.testing.assert_allclose(gaps.test_outputs[1:], apart[1:] / moved[1:])
    np.testing.assert_allclose(gaps.distance[1:], formula.distances[1:] / real.distances[1:])
    np.testing.assert_allclose(gaps.agreement, (formula.test_outputs.argmax(axis=2) == real.test_outputs.argmax(axis=2)).mean(axis=1))
    assert gaps.test_outputs[0] == 0
    assert gaps.distance[0] == 1
    assert gaps.loss[0] == pytest.approx(0, abs=1e-13)
    assert gaps.loss[-1] > 1e-4


def test_accuracy_is_the_share_of_right_answers(several, three):
    right = several.test_targets.argmax(axis=1)
    for curve in ("formula", "linear", "real"):
        np.testing.assert_allclose(three.accuracy(curve), (getattr(three, curve).test_outputs.argmax(axis=2) == right).mean(axis=1))
    assert (three.accuracy() == three.accuracy("real")).all()


def test_a_single_output_answers_by_its_sign(binary):
    goal, test_goal = binary.targets[:, None], binary.test_targets[:, None]
    found = compare_training(binary.fn, binary.x, goal, lr=0.01, steps=5, params=binary.params, x_test=binary.x_test, test_targets=test_goal)
    np.testing.assert_allclose(found.accuracy(), ((found.real.test_outputs > 0) == (test_goal > 0)).mean(axis=(1, 2)))
    assert (predicted_classes(np.array([[-1.0, 2.0]])) == [[0, 1]]).all()
    assert (predicted_classes(np.array([[[-1.0], [2.0]]])) == [[0, 1]]).all()
    assert (predicted_classes(np.array([[[1.0, 2.0], [3.0, 0.0]]])) == [[1, 0]]).all()


def test_outputs_that_are_not_finite_answer_nothing():
    assert (predicted_classes(np.array([[np.nan, np.inf, 2.0]])) == [[-1, -1, 1]]).all()
    assert (predicted_classes(np.array([[[np.nan, 2.0], [3.0, -np.inf], [1.0, 0.0]]])) == [[-1, -1, 0]]).all()


def test_training_that_diverges_agrees_with_nothing_and_raises_nothing(several):
    with np.errstate(all="ignore"):
        found = run(several, lr=50.0, steps=None, times=[1, 300], linear=False)
        gaps = found.discrepancy()
    assert not np.isfinite(found.formula.test_outputs[-1]).all()
    assert gaps.agreement[-1] == 0
    assert found.accuracy("formula")[-1] == 0


def test_the_start_is_recorded_as_well(several):
    found = run(several, steps=None, times=[7, 3], linear=False)
    assert (found.real.times == [0, 3, 7]).all()
    assert (found.formula.times == [0, 3, 7]).all()
    assert found.linear is None


def test_a_kernel_that_is_there_is_not_computed_again(several, monkeypatch):
    kernel = network_kernel(several.fn, several.x, several.x_test, params=several.params, method="dense")
    monkeypatch.delattr(sys.modules[compare_training.__module__], "network_kernel")
    found = run(several, kernel=kernel, linear=False)
    assert found.kernel is kernel


def test_without_test_examples_there_is_nothing_to_say_of_them(several):
    found = run(several, x_test=None, test_targets=None, linear=False)
    gaps = found.discrepancy()
    assert gaps.test_loss is gaps.test_outputs is gaps.agreement is None
    assert found.accuracy() is None
    assert found.accuracy("formula") is None
    assert len(gaps.loss) == 21
    outputs_only = run(several, test_targets=None, linear=False)
    assert outputs_only.discrepancy().test_loss is None
    assert len(outputs_only.discrepancy().agreement) == 21
    assert outputs_only.accuracy() is None


def test_layers_are_those_of_all_three(several):
    found = run(several, layers="^last/")
    np.testing.assert_allclose(found.discrepancy().loss, 0, atol=1e-9)  # linear in its last layer


def test_progress_names_what_is_done(several):
    told = []
    run(several, steps=2, progress=lambda done, total, what: told.append(what), kernel=None)
    assert {"real training", "linearised training"} <= set(told) <= {"real training", "linearised training", "kernel"}


def test_where_neither_has_moved_nothing_differs(independent, several):
    """Zeros times anything are zeros to the last digit."""
    zeros = several._replace(fn=linear, params={"w": np.zeros((4, 3)), "b": np.zeros(3)}, targets=np.zeros((12, 3)))
    gaps = run(zeros).discrepancy()
    assert (gaps.loss == 0).all()
    assert (gaps.test_outputs == 0).all()
    assert (gaps.distance == 1).all()
    assert (gaps.agreement == 1).all()


@pytest.mark.parametrize("curve", ["real", "lin", None])
def test_unknown_curves_are_refused(three, curve):
    with pytest.raises(ConfigError, match=rf"There is no curve {curve!r}. Allowed: 'formula', and 'linear' after compare_training"):
        three.discrepancy(curve)


def test_a_curve_that_was_not_asked_for_is_missed(several):
    found = run(several, linear=False, steps=1)
    with pytest.raises(ConfigError, match="There is no curve 'linear'"):
        found.discrepancy("linear")
    with pytest.raises(ConfigError, match="There is no curve 'linear'. Allowed: 'formula', 'real', and 'linear' after compare_training"):
        found.accuracy("linear")


REFUSED = {
    "flow": ({"optimizer": "flow"}, "Real training takes discrete steps. Try: optimizer='gd'"),
    "both times": ({"times": [1]}, "Give either times= or steps="),
    "lr": ({"lr": -1}, "lr=-1 must be a positive number"),
    "targets": ({"targets": np.ones(12)}, "targets has shape"),
    "test targets alone": ({"x_test": None}, "test_targets= requires x_test="),
    "kernel without test examples": ({"kernel": "own"}, "kernel= has no cross_kernel for x_test. Try: kernel=network_kernel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_compare_training_refuses(several, name):
    options, sentence = REFUSED[name]
    if options.get("kernel"):
        options = {"kernel": network_kernel(several.fn, several.x, params=several.params), "linear": False}
    world = several._replace(targets=options.pop("targets")) if "targets" in options else several
    with pytest.raises(ConfigError, match=sentence):
        run(world, **options)


def test_the_figure_is_written_in_every_form_with_and_without_a_test_set(several, three):
    pytest.importorskip("matplotlib")
    assert compare.plot_curves(run(several, x_test=None, test_targets=None, steps=3), title="costs $5").startswith(b"\x89PNG")
    assert b"<svg" in compare.plot_curves(three, loss="half_sum", file_format="svg")
    assert compare.plot_curves(run(several, test_targets=None, linear=False, steps=3), file_format="pdf").startswith(b"%PDF")


def test_what_diverged_is_left_out_of_the_figure(three):
    pytest.importorskip("matplotlib")
    broken = three.real._replace(train_losses=np.array([1.0, np.inf, np.nan] + 18 * [1.0]))
    assert compare.plot_curves(three._replace(real=broken)).startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_type(three, monkeypatch):
    import builtins

    original = builtins.__import__

    def refuse(name, *arguments, **named):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        compare.plot_curves(three)
