"""Leaves on the general route are warned of where they are a noticeable part of the cost, and only there."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.kernels.engine import GeneralRouteWarning
from ntk_select.kernels.engine.analyse import GENERAL_SHARE, analyse, general_share


def with_token(params, x):
    """A class token before the tokens of the example, dense layers on all of them, the class token to the head."""
    tokens = x @ params["embed"]
    h = jnp.concatenate([jnp.broadcast_to(params["token"], (len(x), 1, tokens.shape[2])), tokens], axis=1)
    for name in ("a", "b"):
        h = h + jnp.tanh(h.mean(1, keepdims=True) + h) @ params[name]
    return h[:, 0] @ params["head"]


@pytest.fixture
def transformer(oracle):
    width = 24
    params = {"embed": oracle.draw(6, width), "token": oracle.draw(width), "head": oracle.draw(width, 3)}
    return params | {name: oracle.draw(width, width, seed=3) for name in ("a", "b")}, oracle.draw(5, 8, 6, seed=4)


def test_a_class_token_of_little_cost_is_not_warned_of_and_its_kernel_is_exact(oracle, transformer):
    params, x = transformer
    structure = analyse(with_token, params, x).structure
    assert [leaf.name for leaf in structure.leaves if leaf.kind == "general"] == ["token"]
    assert 0 < general_share(structure, len(x)) < GENERAL_SHARE
    with warnings.catch_warnings():
        warnings.simplefilter("error", GeneralRouteWarning)
        oracle.agrees(with_token, params, x, spaces=(None,))
        ns.ntk_plan(with_token, params, x)
    with pytest.warns(GeneralRouteWarning, match=r"1 of 1 leaves take the general route, exact but slow, about \d+% of the cost: token \(used by "):
        ns.ntk(with_token, params, x, layers="token")


@pytest.mark.parametrize("n", [5, 200])
def test_the_share_is_that_of_the_plan(transformer, n):
    params, x = transformer
    x = np.resize(x, (n, *x.shape[1:]))
    structure, plan = analyse(with_token, params, x).structure, ns.ntk_plan(with_token, params, x)
    work = {leaf.use.name: leaf.choice.work for leaf in plan.leaves}
    assert general_share(structure, n) == pytest.approx(work["token"] / (sum(work.values()) + plan.pass_flops))
