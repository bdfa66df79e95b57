"""The estimated kernel of training against explicit Jacobians: without bias, in training mode through the statistics of the batch."""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, MemoryShrunkWarning, ModelError
from ntk_select.experts.expert import Taps
from ntk_select.forecasting import kernel as room
from ntk_select.forecasting.kernel import TrainingKernel, TrainingNetwork, training_kernel

SEEDS = 60


class Small(nn.Module):
    """A convolution, batch norm, a layer, a head."""

    classes: int = 4

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, name="norm", dtype=x.dtype)(nn.Conv(3, (3, 3), name="conv")(x)))
        x = nn.tanh(nn.Dense(5, name="layer")(x.mean(axis=(1, 2))))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x)


@lru_cache
def small(classes=4):
    """An expert with random parameters and running statistics that are not those of any batch."""
    module, rng = Small(classes), np.random.default_rng(9)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 6, 6, 3)))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / max(np.sqrt(leaf.size / leaf.shape[-1]), 1), shapes["params"])
    params["norm"]["scale"] += 1
    moved = {"norm": {"mean": np.full(3, 0.5), "var": np.full(3, 2.0)}}

    def features_fn(variables, x):
        return module.apply(variables, x, mutable=["intermediates"])[1]["intermediates"]["features"][0]

    def train_fn(variables, x):
        logits, changed = module.apply(variables, x, train=True, mutable=["batch_stats", "intermediates"])
        return Taps(logits, changed["intermediates"]["features"][0]), {"batch_stats": changed["batch_stats"]}

    return ns.Expert("small", module.apply, params, {"batch_stats": moved}, features_fn=features_fn, head="head", train_fn=train_fn)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(7, 6, 6, 3))


@pytest.fixture(scope="module")
def jacobians(x):
    """By batch-norm mode: (n, d, p), the explicit Jacobian of the pre-logits of the whole batch in all parameters but the head's."""
    return {mode: jacobian(small(), x, mode) for mode in ("train", "frozen")}


@pytest.fixture(scope="module")
def exact(jacobians):
    """By batch-norm mode: sum over pre-logits of their kernel in all parameters but the head's."""
    return {mode: np.einsum("iop,jop->ij", rows, rows) for mode, rows in jacobians.items()}


def jacobian(expert, x, batch_norm):

    def features(params):
        variables = {**expert.variables, "params": {**params, "head": expert.params["head"]}}
        return expert.features_fn(variables, x) if batch_norm == "frozen" else expert.train_fn(variables, x)[0].features

    leaves = jax.tree.leaves(jax.jit(jax.jacrev(features))({key: value for key, value in expert.params.items() if key != "head"}))
    return np.concatenate([np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_it_is_the_kernel_of_the_batch_without_bias(batch_norm, x, exact):
    """The mean over seeds, entry by entry, in units of its own standard error."""
    expected = exact[batch_norm]
    drawn = np.array([training_kernel(small(), x, batch_norm=batch_norm, directions=1, seed=seed).backbone for seed in range(SEEDS)])
    z = (drawn.mean(0) - expected) / (drawn.std(0, ddof=1) / np.sqrt(SEEDS))
    assert np.abs(z).max() < 4.5
    assert 0.5 < np.sqrt((z**2).mean()) < 1.6
    wrong = exact[{"train": "frozen", "frozen": "train"}[batch_norm]]
    z = (drawn.mean(0) - wrong) / (drawn.std(0, ddof=1) / np.sqrt(SEEDS))
    assert np.sqrt((z**2).mean()) > 2.5  # the other mode is told apart


def test_more_directions_are_the_mean_of_single_ones_and_less_noisy(x, exact):
    errors = {
        k: np.mean([np.linalg.norm(training_kernel(small(), x, directions=k, seed=s).backbone - exact["train"]) ** 2 for s in range(8)])
        for k in (2, 32)
    }
    assert 4 < errors[2] / errors[32] < 64  # 16 in expectation


def test_with_a_frozen_norm_it_is_the_engines_kernel(x, exact):
    expert = small()
    engine = 5 * ns.ntk(
        lambda params, x: expert.features_fn({**expert.variables, "params": params}, x), expert.params, x, layers="^(conv|norm|layer)/"
    )
    np.testing.assert_allclose(engine, exact["frozen"], rtol=1e-9)
    estimate = training_kernel(expert, x, batch_norm="frozen", directions=400).backbone
    assert np.linalg.norm(estimate - engine) < 0.15 * np.linalg.norm(engine)


def test_with_a_head_it_is_the_mean_over_heads(x, jacobians, exact):
    """The kernel of each of 400 outputs of a new head: the gradient in the backbone is w' J, in the head the pre-logits and 1."""
    weights = ns.with_new_head(small(), 400, seed=3).params["head"]["kernel"]
    features = np.asarray(small().features_fn(small().variables, x))
    gradients = np.einsum("do,ndp->onp", weights, jacobians["frozen"])
    kernels = gradients @ gradients.transpose(0, 2, 1) + features @ features.T + 1
    found = TrainingKernel(features, exact["frozen"], 1)
    z = (kernels.mean(0) - found.with_head("random")) / (kernels.std(0, ddof=1) / np.sqrt(len(kernels)))
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(found.with_head("zero"), features @ features.T + 1)


def test_experts_that_differ_in_their_heads_share_their_programs(x):
    programs = []
    for classes in (4, 9):
        network = TrainingNetwork(small(classes), x, "train")
        network.along(x, jax.random.key(0))
        programs.append(network._programs[x.shape][0])
    assert programs[0] is programs[1]


def test_what_is_trained_is_below_the_head(x):
    expert = small()
    network = TrainingNetwork(expert, x, "train")
    assert sorted({name.split("/")[0] for name in network.names}) == ["conv", "layer", "norm"]
    assert network.width == 5
    features, change = network.along(x, jax.random.key(0), [False] * len(network.chosen))
    np.testing.assert_allclose(features, expert.train_fn(expert.variables, x)[0].features)
    assert not np.asarray(change).any()


def test_an_expert_without_a_backbone_has_the_kernel_of_its_head(networks):
    expert = networks.linear_expert()
    x = np.random.default_rng(0).normal(size=(5, 4, 4))
    found = training_kernel(expert, x)
    np.testing.assert_allclose(found.with_head(), x.reshape(5, -1) @ x.reshape(5, -1).T + 1)
    assert found.directions == 1


def test_in_portions_a_frozen_network_gives_the_same(x, monkeypatch):
    whole = training_kernel(small(), x, batch_norm="frozen", directions=3)
    monkeypatch.setattr(room, "PIXELS", 3 * 36)
    parts = training_kernel(small(), x, batch_norm="frozen", directions=3)
    np.testing.assert_allclose(parts.backbone, whole.backbone, rtol=1e-9)
    np.testing.assert_allclose(parts.features, whole.features, rtol=1e-9)


def test_memory_that_runs_out_is_met_with_smaller_portions(x, monkeypatch):
    whole, real = training_kernel(small(), x, batch_norm="frozen", directions=2), TrainingNetwork._program

    def program(self, images):
        if len(images) > least:
            raise MemoryError("no room")
        return real(self, images)

    monkeypatch.setattr(TrainingNetwork, "_program", program)
    least = 4
    with pytest.warns(MemoryShrunkWarning, match="in 2 portions"):
        found = training_kernel(small(), x, batch_norm="frozen", directions=2)
    np.testing.assert_allclose(found.backbone, whole.backbone, rtol=1e-9)
    least = 0
    with pytest.warns(MemoryShrunkWarning), pytest.raises(ConfigError, match="with a single image"):
        training_kernel(small(), x, directions=2)


def test_progress_is_told(x):
    seen = []
    training_kernel(small(), x, directions=3, progress=lambda *now: seen.append(now))
    assert seen == [(done, 3, "kernel of small") for done in (1, 2, 3)]


def reverse_only():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
    return ns.Expert("b", lambda v, x: x, {"w": np.ones((108, 2))}, features_fn=lambda v, x: f(x.reshape(len(x), -1) @ v["params"]["w"]))


BAD = {
    "unknown mode": (lambda: (small(), {"batch_norm": "own"}), ConfigError, "batch_norm='own' is unknown. Allowed: train, frozen"),
    "no directions": (lambda: (small(), {"directions": 0}), ConfigError, "directions=0 must be a whole number from 1"),
    "bad seed": (lambda: (small(), {"seed": -1}), ConfigError, "seed=-1"),
    "no pre-logits": (lambda: (ns.Expert("b", lambda v, x: x, {"w": np.ones(2)}), {}), ModelError, "'b' has no features_fn"),
    "no training mode": (
        lambda: (ns.Expert("b", lambda v, x: x, {"w": np.ones(2)}, {"stats": np.ones(2)}, features_fn=lambda v, x: x.reshape(len(x), -1)), {}),
        ModelError,
        r"'b' has state \(stats\) but no train_fn .* Recipe\(batch_norm='frozen'\)",
    ),
    "reverse mode only": (lambda: (reverse_only(), {}), ModelError, "reverse-mode rule only .* jax.custom_jvp rule"),
    "not finite": (
        lambda: (
            ns.Expert("b", lambda v, x: x, {"w": np.full((108, 2), np.nan)}, features_fn=lambda v, x: x.reshape(len(x), -1) @ v["params"]["w"]),
            {},
        ),
        ModelError,
        "Pre-logits of expert 'b' in training, or their derivatives, contain NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_kernel_is_refused(name, x):
    make, error, sentence = BAD[name]
    expert, options = make()
    with pytest.raises(error, match=sentence):
        training_kernel(expert, x, **options)


def test_other_type_errors_are_not_hidden(x):
    def features_fn(variables, x):
        if isinstance(variables["params"]["w"], jax.core.Tracer) and x.shape[0] > 1 and seen:
            raise TypeError("something else")
        seen.append(1)
        return x.reshape(len(x), -1) @ variables["params"]["w"]

    seen = []
    with pytest.raises(TypeError, match="something else"):
        training_kernel(ns.Expert("b", lambda v, x: x, {"w": np.ones((108, 2))}, features_fn=features_fn), x)


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_a_network_that_is_linearised_once_has_the_derivatives_of_single_passes(batch_norm, x, monkeypatch):
    network = TrainingNetwork(small(), x, batch_norm)
    once = network.at(x)
    monkeypatch.setattr(network, "along", None)  # it is not called
    found = [once(jax.random.key(seed)) for seed in range(3)]
    monkeypatch.undo()
    for seed, (features, change) in enumerate(found):
        expected = network.along(x, jax.random.key(seed))
        np.testing.assert_allclose(features, expected[0], rtol=1e-12)
        np.testing.assert_allclose(change, expected[1], rtol=1e-10)


def test_without_memory_for_intermediate_results_every_direction_is_a_whole_pass(x, monkeypatch):
    whole = training_kernel(small(), x, directions=3)
    monkeypatch.setattr(room, "RESIDUALS", 0)
    monkeypatch.setattr(room, "_pushed", None)
    np.testing.assert_allclose(training_kernel(small(), x, directions=3).backbone, whole.backbone, rtol=1e-9)


def test_signs_are_those_of_each_leaf_for_its_own_key():
    """JAX draws the same numbers for the first entries of a longer vector: results do not depend on the sizes that are drawn."""
    for size in (1, 5, 64, 65, 1000):
        key = jax.random.key(3)
        long = room._signs(key, 2, 4096)[:size]
        np.testing.assert_array_equal(long, jax.random.rademacher(jax.random.fold_in(key, 2), (size,), np.float32))
