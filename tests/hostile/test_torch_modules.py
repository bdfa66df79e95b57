"""PyTorch modules whose forward function does more than compute: one sentence, the module and PyTorch's settings as before, the others ranked."""

import importlib.util
import sys
import threading

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ModelError

if importlib.util.find_spec("torchax") is None:
    pytest.skip("torchax is not installed", allow_module_level=True)
torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = [pytest.mark.oracle]
X = np.random.default_rng(0).normal(size=(3, 8, 8, 3))


class Pooled(nn.Module):
    """conv, ReLU, pooling, head; `meddle(self, x)` is called first."""

    def __init__(self, meddle=lambda self, x: None):
        super().__init__()
        self.conv, self.fc, self.meddle = nn.Conv2d(3, 5, 3), nn.Linear(5, 4), meddle
        self.register_buffer("scale", torch.full((5,), 2.0))

    def forward(self, x):
        changed = self.meddle(self, x)
        return self.fc(torch.relu(self.conv(x if changed is None else changed)).mean((2, 3)) * self.scale)


def expert_of(model, **options):
    return ns.torch_expert("own", model, **{"preprocess": ns.Preprocess(8), **options})


def of_torch(model):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(X.transpose(0, 3, 1, 2).copy()).float()).numpy()


def raises(error):
    def meddle(self, x):
        raise error

    return lambda: Pooled(meddle)


def having(**tensors):
    """A module with further buffers."""

    def make():
        model = Pooled()
        for name, tensor in tensors.items():
            model.register_buffer(name, tensor())
        return model

    return make


def holding(value):
    """A module with a further attribute."""

    def make():
        model = Pooled()
        model.held = value
        return model

    return make


def named(name, layer=""):
    def make():
        model = Pooled()
        model.get_submodule(layer).register_parameter(name, nn.Parameter(torch.ones(1)))
        return model

    return make


def without_classes():
    model = Pooled()
    model.fc = nn.Linear(5, 0)
    return model


class Mute(Exception):
    """Has no message that can be shown."""

    def __str__(self):
        raise RuntimeError


class Unusual(BaseException):
    """Not an `Exception`."""


class Single(Pooled):
    """Is its own copy."""

    def __deepcopy__(self, memo):
        return self


class Masked(Pooled):
    """Needs a further argument by keyword."""

    def forward(self, x, *, mask):
        return super().forward(x * mask)


REFUSED = {
    "sys.exit": (lambda: Pooled(lambda self, x: sys.exit(3)), "ends the program when it is called (SystemExit: 3). Try: a module without sys.exit"),
    "an exit while JAX traces": (
        lambda: Pooled(lambda self, x: None if type(x) is torch.Tensor else sys.exit()),
        "ends the program when it is called (SystemExit). Try: ",
    ),
    "an error that is no Exception": (raises(Unusual("odd")), "(Unusual: odd). Try: "),
    "an error without a word": (raises(AssertionError()), "(AssertionError). Try: "),
    "an error that cannot be shown": (raises(Mute()), "(Mute). Try: "),
    "an error of a megabyte": (raises(ValueError("x" * 2**20)), "x [...]). Try: "),
    "recursion": (lambda: Pooled(lambda self, x: self.forward(x)), "(RecursionError: maximum recursion depth exceeded"),
    "the default device": (
        lambda: Pooled(lambda self, x: torch.set_default_device("meta")),
        "calls torch.set_default_device. Try: device=x.device",
    ),
    "as many values as are positive": (lambda: Pooled(lambda self, x: x + x[x > 0].sum()), "has control flow or sizes that depend on the values"),
    "a coroutine": (lambda: with_forward(coroutine), "returns a coroutine, not one tensor of logits"),
    "a further argument": (Masked, "takes 2 inputs (x, mask); it must take one batch of images"),
    "no class": (without_classes, "returns no numbers, but (1, 0). Try: a head with at least one class"),
    "NaN": (lambda: Pooled(lambda self, x: x * float("nan")), "by PyTorch have NaN or infinity"),
    "a lock": (lambda: holding(threading.Lock())(), "cannot be copied (TypeError: cannot pickle '_thread.lock' object). Try: copy.deepcopy(model)"),
    "its own copy": (Single, "cannot be copied (TypeError: its __deepcopy__ returns the module itself)"),
    "a slash": (named("a/b"), "has a tensor called 'a/b'; slashes separate groups of parameters here. Try: a name without a slash"),
    "two kernels": (named("kernel", "fc"), "has a parameter 'fc.kernel' next to a weight, which has this name here. Try: another name"),
    "bfloat16": (
        having(b=lambda: torch.ones(3, dtype=torch.bfloat16)),
        "has a tensor of type bfloat16 (b), which NumPy does not have. Try: model.float();",
    ),
    "float8": (holding(torch.ones(3).to(torch.float8_e5m2)), "has a tensor of type float8_e5m2 (held), which NumPy does not have"),
    "sparse": (having(b=lambda: torch.eye(3).to_sparse()), "has a tensor that is sparse_coo (b). Allowed are dense arrays"),
    "quantised": (having(b=lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)), "has a tensor that is quantised (b)"),
    "a buffer on meta": (having(b=lambda: torch.ones(3, device="meta")), "has no weights: b is on the meta device"),
    "a word as configuration": (lambda: configured("resnet"), "pretrained_cfg of expert 'own' is a str; it must be a dictionary. Try: preprocess="),
    "part of a pixel": (lambda: configured({"input_size": (3, 8.5, 8.5)}), "the input size 3 x 8.5 x 8.5 is not 3 x size x size. Try: preprocess="),
    "no crop": (lambda: configured({"input_size": (3, 8, 8), "crop_pct": 1e-300}), "crop_pct is 1e-300; it must be a number from 0.05 to 1"),
}


def coroutine(self, x):
    """A closed one, which does not warn later that nobody waited for it."""

    async def logits():
        return x

    made = logits()
    made.close()
    return made


def with_forward(forward):
    return type("Module", (Pooled,), {"forward": forward})()


def configured(settings):
    model = Pooled()
    model.pretrained_cfg = settings
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_a_module_is_refused_with_a_sentence(case):
    make, sentence = REFUSED[case]
    model = make()
    with pytest.raises(ModelError) as caught:
        expert_of(model, **({"preprocess": None} if hasattr(model, "pretrained_cfg") else {}))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_an_interruption_and_a_lack_of_memory_are_not_faults_of_the_module(error):
    with pytest.raises(type(error)):
        expert_of(raises(error)())


def settings():
    """Those settings of PyTorch that hold for a process or a thread."""
    return {
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random": torch.get_rng_state().tolist(),
    }


def changes_settings(self, x):
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(not torch.is_grad_enabled())
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(7)


def uses_random_numbers(self, x):
    torch.rand(3)


def fails_with_changed_settings(self, x):
    changes_settings(self, x)
    torch.set_autocast_enabled("cpu", True)
    sys.exit()


@pytest.mark.parametrize("meddle", [changes_settings, uses_random_numbers, fails_with_changed_settings])
def test_settings_and_random_state_are_as_before(meddle):
    model = Pooled(meddle)
    before = settings()
    try:
        expert = expert_of(model)
        assert settings() == before
        expert.train_fn(expert.variables, X)
    except ModelError:
        assert meddle is fails_with_changed_settings
    assert settings() == before


def changes_itself(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    self.seen.append(x)
    self.scale.add_(1)
    self.extra = nn.Linear(2, 2)
    with torch.no_grad():
        self.conv.weight.mul_(0.5)
    self.train()


def test_the_given_module_is_unchanged_and_each_call_finds_it_so():
    model = Pooled(changes_itself)
    model.seen = []
    weights, attributes, layers = {key: value.clone() for key, value in model.state_dict().items()}, set(vars(model)), list(model.children())
    expert = expert_of(model)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert (set(vars(model)), list(model.children()), model.seen, model.training) == (attributes, layers, [], True)
    first, again = (np.asarray(expert.apply_fn(expert.variables, X)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, of_torch(model), atol=1e-5)


def remembers_an_attribute(self, x):
    if getattr(self, "shape", None) != x.shape:
        self.shape, self.grid = x.shape, torch.linspace(0, 1, x.shape[-1])
    return x * self.grid


def remembers_in_a_dictionary(self, x):
    return x * self.__dict__.setdefault("grids", {}).setdefault(tuple(x.shape), torch.linspace(0, 1, x.shape[-1]))


def remembers_a_buffer(self, x):
    if not hasattr(self, "grid"):
        self.register_buffer("grid", torch.linspace(0, 1, x.shape[-1]))
    return x * self.grid


@pytest.mark.parametrize("meddle", [remembers_an_attribute, remembers_in_a_dictionary, remembers_a_buffer])
def test_tensors_that_a_module_makes_at_the_first_call_and_keeps(meddle):
    model = Pooled(meddle)
    expert = expert_of(model)
    for function in (expert.apply_fn, jax.jit(expert.apply_fn)):
        np.testing.assert_allclose(function(expert.variables, X), of_torch(model), atol=1e-5)


def test_tensors_that_are_views_of_other_signs():
    model = Pooled()
    model.register_buffer("scale", torch.complex(torch.ones(5), torch.full((5,), -2.0)).conj().imag)
    assert model.scale.is_neg()
    expert = expert_of(model)
    np.testing.assert_array_equal(expert.state["buffers"]["scale"], [2.0] * 5)


def test_a_module_that_exits_later_is_reported_and_the_others_are_ranked():
    mine, other = Pooled(lambda self, x: sys.exit(5) if len(x) > 1 else None), Pooled()
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    task = ns.Task("eight", images, np.arange(8) % 2, ("a", "b"))
    found = ns.rank([expert_of(mine), ns.torch_expert("other", other, preprocess=ns.Preprocess(8))], task, ("lfc",), resamples=0, progress=False)
    assert found.best == "other"
    assert [failure.name for failure in found.failures] == ["own"]
    assert "ends the program when it is called (SystemExit: 5)" in found.failures[0].error


def test_a_setting_that_pytorch_refuses_to_tell_is_no_obstacle(monkeypatch):
    """As torch.get_float32_matmul_precision does once an `fp32_precision` has been set."""

    def refused():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refused)
    before = torch.get_num_threads()
    from ntk_select.models.torch_isolation import isolated

    with isolated("mine", (1, 3)):
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before
