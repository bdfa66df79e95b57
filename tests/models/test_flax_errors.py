"""Errors of Flax modules become error messages with the remedy."""

import types

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.models import linen_expert, nnx_expert

X = np.zeros((1, 8, 8, 3), np.float32)
pytestmark = pytest.mark.usefixtures("quickly")


class Trains(nn.Module):
    """In training mode unless it is told otherwise."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(3, name="head")(nn.relu(x).mean((1, 2)))


class Drops(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False):
        return nn.Dense(3, name="head")(nn.Dropout(0.5, deterministic=deterministic)(x.mean((1, 2))))


class Asks(nn.Module):
    @nn.compact
    def __call__(self, x, train, *, scale):
        return nn.Dense(3, name="head")(scale * x.mean((1, 2)))


class Field(nn.Module):
    training: bool = True

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.BatchNorm(use_running_average=not self.training)(x).mean((1, 2)))


class Counts(nn.Module):
    """Changes a variable in any mode."""

    @nn.compact
    def __call__(self, x):
        count = self.variable("cache", "count", lambda: np.zeros(()))
        if not self.is_initializing():
            count.value = count.value + 1
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class Breaks(nn.Module):
    @nn.compact
    def __call__(self, x):
        assert x.shape[1] == 16, "images of 16 pixels"
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(x.mean((1, 2)))


class NnxAsks(Nnx):
    def __call__(self, x, train):
        return self.head(x.mean((1, 2)))


class NnxDrops(Nnx):
    def __init__(self, rngs, dropout=None):
        super().__init__(rngs)
        self.dropout = nnx.Dropout(0.5, rngs=dropout)

    def __call__(self, x):
        return self.head(self.dropout(x.mean((1, 2))))


def variables_of(module, **arguments):
    return module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X, **arguments)


TRAINS = variables_of(Trains())
EVALUATE = {"train": False}


def linen(module=None, variables=TRAINS, x=X, **changes):
    return linen_expert("mine", Trains() if module is None else module, variables, x, **{"head": "head"} | changes)


def of_nnx(module, x=X):
    return nnx_expert("mine", module, x, head="head")


def state_of_training():
    return TrainState.create(apply_fn=Trains().apply, params=TRAINS["params"], tx=optax.sgd(0.1))


CASES = {
    "training by default": (lambda: linen(), r"changes its variables in evaluation mode .*BatchNorm_0.* Try: evaluate=\{'train': False\}"),
    "training by an int": (lambda: linen(evaluate={"train": 1}), r"Try: evaluate=\{'train': False\}"),
    "training by a text": (lambda: linen(evaluate={"train": "False"}), r"Try: evaluate=\{'train': False\}"),
    "dropout": (lambda: linen(Drops(), variables_of(Drops())), r"draws random numbers in evaluation mode.* Try: evaluate=\{'deterministic': True\}"),
    "training by a field": (lambda: linen(Field(), variables_of(Field())), r"Try: module\.clone\(training=False\) as the module"),
    "a cache": (lambda: linen(Counts(), variables_of(Counts())), r"changes its variables.* Try: the arguments of its __call__ for evaluation mode"),
    "params alone": (
        lambda: linen(variables=TRAINS["params"], evaluate=EVALUATE),
        r"have no 'params' but Conv_0, BatchNorm_0, head, which looks like the params alone\. Try: \{'params': variables\}",
    ),
    "no variables": (lambda: linen(variables={}, evaluate=EVALUATE), r"have no 'params' but nothing"),
    "no statistics": (
        lambda: linen(variables={"params": TRAINS["params"]}, evaluate=EVALUATE),
        r"needs further variable collections .*batch_stats.* Try: all collections that module\.init returns",
    ),
    "params twice": (lambda: linen(variables={"params": TRAINS}, evaluate=EVALUATE), r"Try: variables, not \{'params': variables\}"),
    "of another module": (
        lambda: linen(variables={**TRAINS, "params": {"Conv_9": {}}}, evaluate=EVALUATE),
        r"does not find its variables .*Conv_0.*: they belong to another module",
    ),
    "a state of training": (
        lambda: linen(variables=state_of_training(), evaluate=EVALUATE),
        r"are a TrainState, not .* Try: \{'params': variables\.params\}",
    ),
    "a tuple": (lambda: linen(variables=(TRAINS,), evaluate=EVALUATE), r"are a tuple, not a dictionary .* Try: the result of module\.init"),
    "shapes": (
        lambda: linen(variables=jax.eval_shape(lambda: variables_of(Trains())), evaluate=EVALUATE),
        r"contain a ShapeDtypeStruct at .*, not an array",
    ),
    "other channels": (lambda: linen(x=X[..., :1], evaluate=EVALUATE), r"has variables whose shapes do not match x of shape \(1, 8, 8, 1\)"),
    "no axis of examples": (lambda: linen(x=X[0], evaluate=EVALUATE), r"x of shape \(8, 8, 3\) .* with a leading axis of length 1"),
    "x is a list": (lambda: linen(x=X.tolist(), evaluate=EVALUATE), r"x of expert 'mine' is a list, not an array"),
    "x is nothing": (lambda: linen(x=None, evaluate=EVALUATE), r"x of expert 'mine' is a NoneType, not an array"),
    "x is a class": (lambda: linen(x=np.ndarray, evaluate=EVALUATE), r"x of expert 'mine' is the class ndarray, not an array"),
    "arguments are missing": (
        lambda: linen(Asks(), variables_of(Asks(), train=True, scale=1)),
        r"needs further arguments .* Try: evaluate=\{'train': False, 'scale': \.\.\.\}",
    ),
    "one argument is missing": (
        lambda: linen(Asks(), variables_of(Asks(), train=True, scale=1), evaluate={"scale": 2}),
        r"Try: evaluate=\{'train': False, 'scale': 2\}",
    ),
    "in training as well": (
        lambda: linen(Asks(), variables_of(Asks(), train=True, scale=1), evaluate={"train": False, "scale": 2}, train={"scale": 2}),
        r"Try: train=\{'train': True, 'scale': 2\}",
    ),
    "an unknown argument": (lambda: linen(evaluate={"training": False}), r"does not take evaluate=\{'training': False\} .* It takes: train\."),
    "an unknown argument of none": (lambda: linen(Field(training=False), variables_of(Field()), evaluate=EVALUATE), r"It takes: only x\."),
    "an unknown argument in training": (lambda: linen(evaluate=EVALUATE, train={"training": True}), r"does not take train=\{'training': True\}"),
    "its own check": (
        lambda: linen(Breaks(), {"params": {}}),
        r"cannot be called with x of shape \(1, 8, 8, 3\) \(AssertionError: images of 16 pixels\)\. Try: x of another shape, or another evaluate=",
    ),
    "arguments in a list": (lambda: linen(evaluate=[1]), r"evaluate=\[1\] must be a dictionary of arguments by name"),
    "a flag alone": (lambda: linen(evaluate=EVALUATE, train=True), r"train=True must be a dictionary of arguments by name"),
    "arguments by number": (lambda: linen(evaluate={0: False}), r"evaluate=\{0: False\} must be a dictionary of arguments by name"),
    "a class": (lambda: linen(Trains), r"must be a linen module, not the class Trains\. Try: Trains\(\.\.\.\), an instance of it"),
    "nnx": (lambda: linen(Nnx(nnx.Rngs(0))), r"must be a linen module, not a Nnx\. Try: nnx_expert"),
    "a wrapper": (
        lambda: linen(types.SimpleNamespace(module=Trains(), params={})),
        r"Try: its \.module, a linen module, with \{'params': its \.params\}",
    ),
    "a function": (lambda: linen(lambda x: x), r"must be a linen module, not a function\. Allowed is an instance of flax\.linen\.Module"),
    "linen as nnx": (lambda: of_nnx(Trains()), r"must be an nnx module, not a Trains\. Try: linen_expert"),
    "a class of nnx": (lambda: of_nnx(Nnx), r"must be an nnx module, not the class Nnx\. Try: Nnx\(\.\.\.\)"),
    "a function as nnx": (lambda: of_nnx(len), r"Allowed is an instance of flax\.nnx\.Module"),
    "other channels in nnx": (
        lambda: of_nnx(Nnx(nnx.Rngs(0)), X[..., :1]),
        r"cannot be called with x of shape \(1, 8, 8, 1\) .*Try: x of another shape",
    ),
    "arguments of nnx": (lambda: of_nnx(NnxAsks(nnx.Rngs(0))), r"It is called with x only\. Try: a wrapper module"),
    "x without images": (
        lambda: linen(x=X[:0], evaluate=EVALUATE),
        r"x of expert 'mine' has the shape \(0, 8, 8, 3\) and no values\. Try: one input",
    ),
    "x without images in nnx": (lambda: of_nnx(Nnx(nnx.Rngs(0)), X[:0]), r"has the shape \(0, 8, 8, 3\) and no values"),
    "x without pixels": (lambda: of_nnx(Nnx(nnx.Rngs(0)), X[:, :0]), r"has the shape \(1, 0, 8, 3\) and no values"),
    "no head": (lambda: linen(head=None), r"None is not a path of a layer"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_become_an_expert_is_answered_with_the_fix(case):
    make, sentence = CASES[case]
    with pytest.raises(ModelError, match=sentence) as caught:
        make()
    assert "readthedocs" not in str(caught.value)


def test_the_fixes_are_right():
    assert linen(evaluate=EVALUATE, train={"train": True}).num_params > 0
    assert linen(Drops(), variables_of(Drops()), evaluate={"deterministic": True}).num_params > 0
    assert linen(Field().clone(training=False), variables_of(Field())).num_params > 0


def test_partitioned_variables_are_taken_out_of_their_boxes():
    boxed = jax.tree.map(lambda leaf: nn.Partitioned(leaf, names=(None,) * leaf.ndim), TRAINS)
    assert linen(variables=boxed, evaluate=EVALUATE).head_kernel.shape == (4, 3)


def test_whatever_draws_in_training_draws():
    class Depth(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            y = x.mean((1, 2))
            if train:
                y = y * jax.random.bernoulli(self.make_rng("stochastic_depth"), 0.5, (len(x), 1))
            return nn.Dense(3, name="head")(y)

    expert = linen(Depth(), Depth().init(jax.random.key(0), X), train={"train": True})
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    features = expert.train_fn(expert.variables, x)[0].features
    assert 0 < (features == 0).all(1).sum() < 16


def test_an_nnx_module_that_cannot_be_trained_is_an_expert_and_says_so_where_it_is_trained():
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    expert = of_nnx(NnxDrops(nnx.Rngs(0)))
    assert expert.apply_fn(expert.variables, x).shape == (4, 3)
    with pytest.raises(
        ModelError, match=r"of expert 'mine' cannot be called in training mode, .*no `rngs` .* as in nnx\.Dropout\(0\.5, rngs=nnx\.Rngs"
    ):
        jax.eval_shape(expert.train_fn, expert.variables, x)
    sound = of_nnx(NnxDrops(nnx.Rngs(0), nnx.Rngs(0)))
    assert (sound.train_fn(sound.variables, x)[0].features == 0).any(), "the fix is right"


def test_fine_tuning_an_nnx_module_that_cannot_be_trained_is_refused():
    expert = nnx_expert("mine", NnxDrops(nnx.Rngs(0)), X, head="head", preprocess=ns.Preprocess(8))
    images, labels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8), np.arange(8) % 2
    task = ns.Task("noise", images, labels, ("a", "b"), images, labels)
    with pytest.raises(ModelError, match="of expert 'mine' cannot be called in training mode"):
        ns.finetune(expert, task, learning_rates=(0.01,), recipe=ns.Recipe(epochs=1))
