"""The figure shows the three curves."""

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.errors import MissingDependencyError
from ntk_select.linearized import compare, compare_training


@pytest.fixture
def found(rng):
    def fn(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    params = {"a": rng.normal(size=(4, 6)), "b": rng.normal(size=(6, 2))}
    x, y = rng.normal(size=(5, 4)), np.eye(2)[[0, 1, 0, 1, 1]]

    def run(**options):
        return compare_training(fn, x, y, params=params, lr=1e-2, steps=3, **options)

    return run, x, y


def test_the_figure_is_written_in_every_form_with_and_without_a_test_set(found):
    pytest.importorskip("matplotlib")
    run, x, y = found
    assert compare.plot_curves(run(), title="costs $5").startswith(b"\x89PNG")
    whole = run(x_test=x, test_targets=y)
    assert b"<svg" in compare.plot_curves(whole, loss="half_sum", file_format="svg")
    assert compare.plot_curves(run(x_test=x, linear=False), file_format="pdf").startswith(b"%PDF")


def test_what_diverged_is_left_out_of_the_figure(found, rng):
    pytest.importorskip("matplotlib")
    run, *_ = found
    result = run()
    broken = result.real._replace(train_losses=np.array([1.0, np.inf, np.nan, 1.0]))
    assert compare.plot_curves(result._replace(real=broken)).startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_type(found, monkeypatch):
    import builtins

    original = builtins.__import__

    def refuse(name, *arguments, **named):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        compare.plot_curves(found[0]())
