"""PyTorch modules as experts: structure, training mode, use in the library, and refusals. See test_torch_families.py for agreement with PyTorch."""

import importlib.util
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import MissingDependencyError, ModelError
from ntk_select.kernels.gradients import expert_inputs, narrow_inputs
from ntk_select.models import torch_module, torchax_environment
from ntk_select.models.expert_folder import flatten

if importlib.util.find_spec("torchax") is None:
    pytest.skip("torchax is not installed", allow_module_level=True)
torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = [pytest.mark.oracle]
SIZE = 8
X = np.random.default_rng(0).normal(size=(6, SIZE, SIZE, 3))
LABELS = np.array([0, 0, 0, 1, 1, 1])


class Pooled(nn.Module):
    """conv, batch norm, ReLU, pooling, dropout, head."""

    def __init__(self, dropout=0.0, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(5, classes)

    def forward(self, x):
        return self.fc(self.dropout(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


def made(module=None, **options):
    torch.manual_seed(0)
    model = (Pooled() if module is None else module).double()
    return model, ns.torch_expert("own", model, preprocess=ns.Preprocess(SIZE), **options)


def of_torch(model, x=X):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


HIDDEN = [torch.ones(3)]


def small(forward, **layers):
    """A module with a head `fc` from three features, and a forward function (self, x)."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)
            for name, layer in layers.items():
                setattr(self, name, layer)

    Module.forward = forward
    return Module()


# What an expert consists of


def test_parameters_are_nested_by_module_and_apart_from_buffers():
    model, expert = made()
    assert set(flatten(expert.params)) == {"conv/kernel", "norm/weight", "norm/bias", "fc/kernel", "fc/bias"}
    assert set(flatten(expert.state)) == {"buffers/norm/running_mean", "buffers/norm/running_var", "buffers/norm/num_batches_tracked"}
    np.testing.assert_array_equal(expert.params["fc"]["kernel"], model.fc.weight.detach().numpy().T)
    np.testing.assert_array_equal(expert.params["conv"]["kernel"], model.conv.weight.detach().numpy().transpose(2, 3, 1, 0))
    assert expert.head == ("fc",)
    assert expert.last_conv == ns.LastConv("conv/kernel", (1, 1), ((1, 1), (1, 1)), pooled=(0, 5))


def test_the_module_is_copied_and_unchanged():
    model, expert = made(Pooled(dropout=0.5))
    assert model.training
    expected = of_torch(model)
    with torch.no_grad():
        model.fc.weight.zero_()
    np.testing.assert_allclose(expert.apply_fn(expert.variables, X), expected, rtol=1e-12)
    assert not model.conv.weight.is_meta


def test_the_weights_are_copied_once(monkeypatch):
    array, copied = torch_module._array, []
    monkeypatch.setattr(torch_module, "_array", lambda tensor: (copied.append(tensor.is_meta), array(tensor))[1])
    model, _ = made()
    assert copied.count(False) == len(model.state_dict())


def test_channels_that_are_mixed_before_the_head_are_found_out():
    mixing = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(5), nn.Linear(5, 2))
    assert made(mixing)[1].last_conv.pooled is None
    with pytest.raises(ModelError, match=r"channels of last_conv='0' of expert 'own' are not only pooled"):
        made(mixing, pooled=True)


def test_without_a_last_convolution_lgc_takes_the_last_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(192, 192), nn.Linear(192, 192)

        def forward(self, x):
            return x + self.two(torch.tanh(self.one(x)))

    _, expert = made(nn.Sequential(nn.Flatten(), Block(), Block(), nn.Linear(192, 3)))
    assert expert.last_conv is None
    assert expert.last_block == ("2",)
    kernel = ns.gradient_kernel(expert, X)
    np.testing.assert_allclose(kernel, ns.gradient_kernel(expert, X, layers="^2/"), rtol=1e-10)
    assert ns.lgc(expert, X, LABELS) == pytest.approx(ns.kernel_label_correlation(kernel, LABELS))
    assert ns.with_new_head(expert, 2).last_block == ("backbone", "2")


def test_fewer_pre_logits_than_classes_give_the_same_kernel():
    _, expert = made(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 9)))
    fn, variables, outputs, layers = narrow_inputs(expert, "last_conv", "trace")
    assert jax.eval_shape(fn, variables, X).shape == (6, 4)
    usual = expert_inputs(expert, "last_conv", "trace")
    np.testing.assert_allclose(ns.ntk(fn, variables, X, outputs=outputs, layers=layers), ns.ntk(*usual[:2], X, layers=usual[3]), rtol=1e-9)
    assert narrow_inputs(expert, "all", "trace")[0] is expert.apply_fn


def test_a_head_by_name_and_a_named_convolution():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    _, expert = made(model, head="5", last_conv="0")
    assert expert.last_conv.path == ("0", "kernel")
    assert expert.last_conv.pooled is None


def test_a_model_of_timm_without_a_head(torch_and_timm):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0, layers=(1, 1, 1, 1), channels=(4, 4, 6, 8))
    expert = ns.torch_expert("bare", model, preprocess=ns.Preprocess(32))
    assert expert.head is None
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(expert.features_fn(expert.variables, x), of_torch(model, x), rtol=1e-4, atol=1e-5)
    taps, _ = expert.train_fn(expert.variables, x)
    assert taps.features.shape == (2, 8)


def test_preprocessing_of_timm_and_torchvision(oracle, torch_and_timm):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=1, embed_dim=12, num_heads=2)
    found = ns.torch_expert("vit", model).preprocess
    assert found == ns.Preprocess(224, (0.5,) * 3, (0.5,) * 3, resize=248, interpolation="bicubic")
    torchvision = oracle.import_torchvision()
    network = torchvision.models.squeezenet1_1
    with pytest.raises(ModelError, match="head of expert 'squeeze' was not found: the last layer with weights is 'classifier.1'"):
        ns.torch_expert("squeeze", network(), preprocess=torchvision.models.SqueezeNet1_1_Weights.DEFAULT)
    expert = ns.torch_expert("r18", torchvision.models.resnet18(), preprocess=torchvision.models.ResNet18_Weights.DEFAULT)
    assert expert.preprocess == ns.Preprocess(224, resize=256)


def test_tensors_that_are_neither_parameters_nor_buffers():
    scale = torch.tensor([1.0, 2.0, 3.0])
    model, expert = made(small(lambda self, x: self.fc(x.mean((2, 3)) * self.scale + torch.zeros(3) + torch.tensor(2.0)), scale=scale))
    np.testing.assert_allclose(expert.apply_fn(expert.variables, X), of_torch(model), rtol=1e-6)
    assert set(flatten(expert.state)) == {"buffers/scale"}


def test_weights_shared_below_the_head():
    shared = nn.Linear(3, 3)
    model, expert = made(small(lambda self, x: self.fc(self.b(torch.tanh(self.a(x.mean((2, 3)))))), a=shared, b=shared))
    np.testing.assert_allclose(expert.apply_fn(expert.variables, X), of_torch(model), rtol=1e-12)
    assert expert.num_params == 12 + 8


# Training mode


def test_buffers_are_updated_in_training_and_statistics_in_evaluation_are_kept():
    model, expert = made()
    taps, changed = jax.jit(expert.train_fn)(expert.variables, X)
    model.train()(torch.from_numpy(X.transpose(0, 3, 1, 2).copy()))
    found = changed["buffers"]["norm"]
    np.testing.assert_allclose(found["running_mean"], model.norm.running_mean, rtol=1e-12)
    np.testing.assert_allclose(found["running_var"], model.norm.running_var, rtol=1e-12)
    assert int(found["num_batches_tracked"]) == 1
    assert taps.features.shape == (6, 5)


def test_batch_norm_without_statistics_and_with_a_cumulative_mean():
    for norm in (nn.BatchNorm2d(5, track_running_stats=False), nn.BatchNorm2d(5, momentum=None), nn.BatchNorm2d(5, affine=False)):
        model = Pooled()
        model.norm = norm
        model, expert = made(model)
        if norm.track_running_stats:
            _, changed = expert.train_fn(expert.variables, X)
            model.train()(torch.from_numpy(X.transpose(0, 3, 1, 2).copy()))
            np.testing.assert_allclose(changed["buffers"]["norm"]["running_var"], model.norm.running_var, rtol=1e-12)


def test_dropout_is_a_function_of_the_batch():
    _, expert = made(Pooled(dropout=0.25))
    x = np.repeat(X, 200, axis=0)
    kept = [np.asarray(expert.train_fn(expert.variables, part)[0].features) for part in (x, x, x + 1e-3)]
    np.testing.assert_array_equal(kept[0], kept[1])
    dropped = kept[0] == 0
    # Positive features are zero where they were dropped: 6000 draws, a standard deviation of 0.0056.
    assert abs(dropped.mean() - 0.25) < 0.03
    assert (dropped != (kept[2] == 0)).mean() > 0.2


def test_half_precision_steps():
    from ntk_select.training.loop import cross_entropy

    _, expert = made()
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, expert.variables)
    full, half = (
        float(cross_entropy(expert.train_fn, precision=kind)(variables, (X.astype(np.float32), LABELS), None)[0]) for kind in ("float32", "bfloat16")
    )
    assert half == pytest.approx(full, rel=0.02)


# In the library


@pytest.mark.slow
def test_ranking_forecast_and_fine_tuning(torch_and_timm):
    task = ns.load_task("digits")
    torch.manual_seed(0)
    own = ns.torch_expert("own", Pooled(classes=10), preprocess=ns.Preprocess(SIZE))
    found = ns.rank([own, "cifar10-resnet_small"], task, ("lfc", "lgc", "leep", "logme", "knn", "forecast"), per_class=5, resamples=0, progress=False)
    assert found.failures == ()
    assert all(isinstance(outcome.value, float) for outcome in found["own"].scores.values())
    recipe = ns.Recipe(epochs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mode in ("train", "frozen"):
            recipe = ns.Recipe(epochs=4, batch_norm=mode)
            expected = ns.forecast(own, task, recipe, learning_rates=(0.03, 0.01), per_class=10, progress=False)
            result = ns.finetune(own, task, shots=10, recipe=recipe, learning_rates=(0.03, 0.01), extend=False, progress=False)
            assert 0.05 < result.accuracy < 0.9
            assert abs(expected.accuracy - result.accuracy) < 0.25
            moved = not np.allclose(result.tuned.state["buffers"]["norm"]["running_mean"], own.state["buffers"]["norm"]["running_mean"])
            assert moved == (mode == "train")


def test_sketch_and_linearised_dynamics_take_it_as_any_function():
    _, expert = made()
    kernel = ns.ntk(expert.apply_fn, expert.variables, X, layers="^params/")
    rows = ns.sketch(expert.apply_fn, expert.variables, X, dim=4096, seed=1, layers="^params/")
    assert np.linalg.norm(rows @ rows.T - kernel) < 0.05 * np.linalg.norm(kernel)
    fn = ns.linearized.linearize(expert, layers="all")
    change = jax.tree.map(lambda leaf: 1e-6 * jnp.ones_like(leaf), expert.params)
    moved = {**expert.variables, "params": jax.tree.map(jnp.add, expert.params, change)}
    np.testing.assert_allclose(fn(moved, X), expert.apply_fn(moved, X), atol=1e-9)


def test_experts_with_equal_identity_share_compilations():
    first, second = (ns.torch_expert(name, Pooled(), preprocess=ns.Preprocess(SIZE), identity="pooled") for name in ("a", "b"))
    other = ns.torch_expert("c", Pooled(), preprocess=ns.Preprocess(SIZE))
    assert first.apply_fn == second.apply_fn
    assert hash(first.train_fn) == hash(second.train_fn)
    assert first.apply_fn != other.apply_fn
    assert first.apply_fn != first.train_fn


def test_an_expert_can_be_sent_to_another_process():
    _, expert = made()
    again = pickle.loads(pickle.dumps(expert))
    np.testing.assert_array_equal(again.apply_fn(again.variables, X), expert.apply_fn(expert.variables, X))


# Refusals

WRONG_MODULES = {
    "the class": (lambda: Pooled, "must be a torch.nn.Module, not the class Pooled. Try: Pooled"),
    "a state dict": (lambda: Pooled().state_dict(), "must be a torch.nn.Module, not a OrderedDict. Try: the module, after model.load_state_dict"),
    "a function": (lambda: lambda x: x, "must be a torch.nn.Module, not a function. Try: torch_expert(name, model())"),
    "a number": (lambda: 3, "must be a torch.nn.Module, not a int. Allowed is an instance of torch.nn.Module"),
    "compiled": (lambda: torch.compile(Pooled()), "is compiled by torch.compile; JAX compiles it itself. Try: torch_expert('own', model._orig_mod)"),
    "wrapped": (
        lambda: type("DataParallel", (Pooled,), {})(),
        "is wrapped in DataParallel; the module itself is needed. Try: torch_expert('own', model.module)",
    ),
    "half": (lambda: Pooled().half(), "has weights of type float16 (conv.weight). Try: model.float()"),
    "complex": (lambda: Pooled().to(torch.complex64), "has weights of type complex64 (conv.weight). Allowed are float32 and float64"),
    "on meta": (lambda: Pooled().to("meta"), "has no weights: conv.weight is on the meta device"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), "has parameters without a shape (1.weight)"),
    "not finite": (lambda: with_nan(Pooled()), "has NaN or infinity in conv.weight"),
    "two inputs": (lambda: small(lambda self, x, mask: self.fc(x)), "takes 2 inputs (x, mask); it must take one batch of images"),
    "two outputs": (lambda: small(lambda self, x: (self.fc(x.mean((2, 3))), x)), "returns a tuple of 2, not one tensor of logits"),
    "softmax": (
        lambda: nn.Sequential(Pooled(), nn.Softmax(1)),
        "was not found: the last layer with weights is '0.fc' (linear). It must be a torch.nn.Linear",
    ),
    "no layer": (lambda: nn.Flatten(), "no layer with weights is called"),
    "branch": (
        lambda: small(lambda self, x: self.fc(x.mean((2, 3))) if x.sum() > 0 else self.fc(x.amax((2, 3)))),
        "has control flow or sizes that depend on the values of its input",
    ),
    "item": (lambda: small(lambda self, x: self.fc(x.mean((2, 3))) * x.sum().item()), "has control flow or sizes that depend on the values"),
    "numpy": (
        lambda: small(lambda self, x: self.fc(torch.from_numpy(x.mean((2, 3)).numpy()))),
        "has control flow or sizes that depend on the values",
    ),
    "a hidden tensor": (
        lambda: small(lambda self, x: self.fc(x.mean((2, 3)) * HIDDEN[0])),
        "combines its input with a tensor that is neither parameter, buffer nor attribute",
    ),
    "another size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "cannot be called in evaluation mode with an input of shape (1, 8, 8, 3)"),
}


def with_nan(model):
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = float("nan")
    return model


@pytest.mark.parametrize("case", WRONG_MODULES)
def test_modules_that_are_refused(case):
    make, sentence = WRONG_MODULES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    with pytest.raises(ModelError) as caught:
        ns.torch_expert("own", model, preprocess=ns.Preprocess(SIZE))
    assert sentence in str(caught.value)


def test_torchscript_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    with pytest.raises(ModelError, match=r"is a TorchScript module"):
        ns.torch_expert("own", scripted, preprocess=ns.Preprocess(SIZE))


def test_quantised_modules_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), {nn.Linear})
    with pytest.raises(ModelError, match=r"is quantised \(1\), so it has no gradients"):
        ns.torch_expert("own", model, preprocess=ns.Preprocess(SIZE))


def test_an_operator_without_translation_is_named():
    @torch.library.custom_op("ntk_select_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    with pytest.raises(ModelError, match=r"uses an operator that has no translation to JAX .*ntk_select_tests::twice"):
        made(small(lambda self, x: self.fc(twice(x).mean((2, 3)))))


def tied():
    model = small(lambda self, x: self.fc(self.other(x.mean((2, 3)))), other=nn.Linear(3, 3))
    model.fc = nn.Linear(3, 3)
    model.other.weight = model.fc.weight
    return model


@pytest.mark.parametrize(
    ("options", "make", "sentence"),
    [
        ({"head": "classifier"}, Pooled, "has no layer 'classifier'. Its linear layers: fc"),
        ({"head": "norm"}, Pooled, "is a BatchNorm2d; it must be a torch.nn.Linear"),
        ({}, tied, "shares its weight with other.weight, so it cannot be replaced alone"),
        ({"preprocess": None}, Pooled, "The input size of expert 'own' is unknown"),
        ({"preprocess": 3}, Pooled, "preprocess of expert 'own' is a int"),
        ({"x": np.zeros((1, 3, 8, 8))}, Pooled, "with channels first; here they are last. Try: x.transpose(0, 2, 3, 1)"),
        ({"x": np.zeros((8, 8, 3))}, Pooled, "is of shape (8, 8, 3); it must be one network input (1, h, w, c)"),
        ({"x": "image"}, Pooled, "is a str; it must be one network input"),
        ({"last_conv": "norm"}, Pooled, "last_conv='norm' of expert 'own' is not a convolution"),
        ({"last_conv": "other"}, Pooled, "last_conv='other' of expert 'own' is not a convolution"),
    ],
)
def test_options_that_are_refused(options, make, sentence):
    with pytest.raises(ModelError) as caught:
        ns.torch_expert("own", make(), **{"preprocess": ns.Preprocess(SIZE), **options})
    assert sentence in str(caught.value)


def test_transforms_that_are_not_of_classification():
    class Weights:
        def transforms(self):
            return object()

    with pytest.raises(ModelError, match="are not those of image classification"):
        ns.torch_expert("own", Pooled(), preprocess=Weights())


class Counts(Pooled):
    """Counts its calls in training mode."""

    calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
        return super().forward(x)


class Renormalises(Pooled):
    """Changes a parameter in training mode."""

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.fc.weight.mul_(0.5)
        return super().forward(x)


@pytest.mark.parametrize(("kind", "what"), [(Counts, "calls"), (Renormalises, "fc.weight")])
def test_training_that_changes_more_than_buffers_is_refused_and_evaluation_works(kind, what):
    _, expert = made(kind())
    assert expert.apply_fn(expert.variables, X).shape == (6, 4)
    with pytest.raises(ModelError, match=rf"changes more than its buffers in training mode \({what}\).*Recipe\(batch_norm='frozen'\)"):
        expert.train_fn(expert.variables, X)


def test_missing_and_broken_packages(monkeypatch):
    import sys

    torchax_environment.environment.cache_clear()
    try:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "torch", None)
            with pytest.raises(MissingDependencyError, match="torch_expert needs the package torch, which is not installed"):
                torchax_environment.import_torch()
        for loaded in [name for name in sys.modules if name.partition(".")[0] == "torchax"]:
            monkeypatch.delitem(sys.modules, loaded)
        with monkeypatch.context() as patched:
            patched.setattr(torchax_environment.importlib, "import_module", refusing(ModuleNotFoundError("No module", name="torchax")))
            with pytest.raises(MissingDependencyError, match="torch_expert needs the package torchax"):
                torchax_environment.environment()
            patched.setattr(torchax_environment.importlib, "import_module", refusing(AttributeError("no overload")))
            with pytest.raises(MissingDependencyError, match="torchax cannot be imported with torch .*AttributeError: no overload.*Try: pip install"):
                torchax_environment.environment()
            patched.setattr(torchax_environment.importlib, "import_module", refusing(ModuleNotFoundError("No module", name="numpy.absent")))
            with pytest.raises(ModuleNotFoundError):
                torchax_environment.environment()
    finally:
        monkeypatch.undo()
        torchax_environment.environment.cache_clear()


def refusing(error):
    def import_module(name):
        if name == "torch":
            return torch
        raise error

    return import_module


def test_pytorch_is_unchanged_by_the_import():
    torchax_environment.environment()
    with pytest.raises(AttributeError):
        torch.ops.aten.prod.no_such_overload  # noqa: B018
    assert torch.zeros(2).device.type == "cpu"
    assert isinstance(torch.relu(torch.ones(2)), torch.Tensor)
    assert torch.backends.mha.get_fastpath_enabled()
