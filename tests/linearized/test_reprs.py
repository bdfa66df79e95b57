"""Results of `ns.linearized` are printed readably."""

import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.linearized import (
    Comparison,
    LayerFactors,
    NetworkKernel,
    Prediction,
    Trajectory,
    compare,
    kernel_ridge,
    label_spectrum,
    linearize,
    predict,
)

TIMES = np.arange(21.0)


def losses(rate):
    return 3 * np.exp(-rate * TIMES)


@pytest.fixture
def found():
    """Nothing of it was computed: only how it is printed is asked."""
    outputs = np.zeros((21, 12, 3))
    test = np.zeros((21, 7, 3))
    formula = Prediction(TIMES, outputs, losses(0.1), np.sqrt(TIMES), outputs, test, None, 0)
    linear = Trajectory(TIMES, outputs, losses(0.1), np.sqrt(TIMES), test, None, {})
    real = linear._replace(train_losses=losses(0.12))
    return Comparison(formula, linear, real, NetworkKernel(np.eye(12), np.ones((7, 12)), "dense", "cheap"), np.zeros((12, 3)), None)


def test_three_curves_are_a_table_of_what_they_hold(found):
    title, header, *rows = repr(found).splitlines()
    sentences = found.regime().sentences()
    assert rows[-4:] == sentences
    rows = rows[:-4]
    assert title == "Training loss of 12 examples, 7 test examples; error: of the formula, relative to real training"
    assert header.split() == ["steps", "formula", "linearised", "real", "error"]
    assert [row.split()[0] for row in rows] == ["0", "2", "5", "8", "10", "12", "15", "18", "20"]
    for row in rows:
        step, *losses, error, _ = map(float, row.replace("%", "0").split())
        for loss, part in zip(losses, (found.formula, found.linear, found.real), strict=True):
            assert loss == pytest.approx(part.train_losses[int(step)], rel=1e-3)
        apart = abs(found.formula.train_losses[int(step)] / found.real.train_losses[int(step)] - 1)
        assert error == pytest.approx(100 * apart, rel=0.1, abs=1e-7)


def test_ridge_regression_is_printed_as_shapes():
    found = kernel_ridge(np.eye(3), np.ones((3, 2)), ridge=1.0)
    assert repr(found) == "Ridge(coefficients (3, 2), train_outputs (3, 2), test_outputs None)"


def test_what_was_not_asked_for_has_no_column(found):
    assert repr(found._replace(linear=None)).splitlines()[1].split() == ["steps", "formula", "real", "error"]


def test_training_that_overflowed_is_printed_as_well(found):
    broken = found.real._replace(train_losses=np.full(21, np.inf))
    assert repr(found._replace(real=broken)).splitlines()[10].endswith("inf %")


def test_the_report_is_the_figure_of_the_curves(found, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = found.report(tmp_path / "new" / "curves.svg", title="mine", loss="mean")
    assert b"<svg" in path.read_bytes()
    with pytest.raises(ConfigError, match=r"allowed are .png, .svg and .pdf"):
        found.report(tmp_path / "curves.txt")
    monkeypatch.setattr(compare, "plot_curves", lambda found, **given: repr(given).encode())
    assert found.report(tmp_path / "a.pdf", loss="sum").read_text() == "{'title': '', 'loss': 'sum', 'file_format': 'pdf'}"


def test_records_of_whole_arrays_are_one_line(found):
    assert repr(found.kernel) == "NetworkKernel(dense: kernel (12, 12), cross_kernel (7, 12))"
    assert repr(found.kernel._replace(kernel=len, cross_kernel=None)) == "NetworkKernel(dense: kernel as a function)"
    assert repr(found.real) == "Trajectory(21 times from 0 to 20; training loss 3 to 0.2722)"
    assert repr(found.formula) == "Prediction(21 times from 0 to 20; training loss 3 to 0.406)"


def mine(params, x):
    return x @ params["a"] @ params["b"]


def test_a_linearised_network_says_in_what_it_is_linear():
    params = {"a": np.ones((4, 6)), "b": np.ones((6, 200))}
    assert repr(linearize(mine, params)) == "Linearized(mine, linear in 1,224 of 1,224 numbers)"
    assert repr(linearize(mine, params, layers="^a")) == "Linearized(mine, linear in 24 of 1,224 numbers)"


def test_a_prediction_of_no_time_is_printed(found):
    nothing = found.formula._replace(times=np.zeros(0), train_losses=np.zeros(0))
    assert repr(nothing) == "Prediction(no times)"
    limit = predict(np.eye(2), [0.0, 0.0], [1.0, 2.0], lr=0.1, times=[0, np.inf])
    assert repr(limit) == "Prediction(2 times from 0 to inf; training loss 2.5 to 0)"


def test_a_spectrum_says_how_much_the_first_hold():
    spectrum = label_spectrum(np.diag(np.arange(1.0, 21)), np.ones(20))
    assert repr(spectrum) == "LabelSpectrum(20 eigenvalues from 20 to 1; the first 10 hold 50 % of the labels)"


def test_a_layer_says_what_is_known_of_it():
    assert repr(LayerFactors("all", 1.0, None, None, None, None)) == "LayerFactors('all': share 1.000)"
    layer = LayerFactors("head/kernel", 1 / 3, 0.5, 1.0, 0.25, 1.0)
    assert repr(layer) == "LayerFactors('head/kernel': share 0.333, features 0.500, inputs 1.000, cotangents 0.250, product 1.000)"
