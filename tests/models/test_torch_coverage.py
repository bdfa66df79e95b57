"""What networks of timm and torchvision need: operators, kinds of heads, and the choice of the last convolution or block. Measured over all
families by scripts/benchmarks/timm_coverage.py."""

import copy
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.experts.new_head import in_place
from ntk_select.models.expert_folder import flatten

if importlib.util.find_spec("torchax") is None:
    pytest.skip("torchax is not installed", allow_module_level=True)
torch = pytest.importorskip("torch")
from ntk_select.models.torch_errors import check_outputs  # noqa: E402
from ntk_select.models.torchax_environment import run  # noqa: E402

nn, F = torch.nn, torch.nn.functional
pytestmark = [pytest.mark.oracle]
SIZE = 8
X = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3))


def opened(model, **options):
    return ns.torch_expert("own", model, preprocess=ns.Preprocess(SIZE), **options)


def seeded(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return model.double()


def of_torch(model, x=X):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


# Operators

OPERATORS = {
    "linear by keywords": lambda x: F.linear(x, weight=torch.ones(4, 7, dtype=x.dtype), bias=torch.arange(4.0).double()),
    "linear without bias": lambda x: F.linear(x, torch.ones(4, 7, dtype=x.dtype)),
    "cropping by negative padding": lambda x: F.pad(x, (-1, 2, -2, -1), value=3.0),
    "reflection": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), output_size=(9, 7), kernel_size=3, padding=1, stride=2),
    "maxima of cells": lambda x: F.adaptive_max_pool2d(x, (4, 2)),
    "positions of maxima": lambda x: F.adaptive_max_pool2d(x, (4, 2), return_indices=True)[1],
    "maxima of images": lambda x: F.adaptive_max_pool2d(x[0], 1),
    "mean with a divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "mean of one image": lambda x: F.avg_pool2d(x[0], (3, 2), 2),
    "inverse real Fourier transform": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), s=(9, 7), norm="ortho"),
    "antialiasing, bilinear": lambda x: F.interpolate(x, size=(5, 4), mode="bilinear", antialias=True),
    "antialiasing, bicubic": lambda x: F.interpolate(x, size=(5, 14), mode="bicubic", antialias=True),
    "antialiasing by a factor": lambda x: F.interpolate(x, scale_factor=0.7, mode="bicubic", antialias=True),
}


def by_jax(function, x):
    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    return np.asarray(run(Module(), {}, jnp.asarray(x))[0])


@pytest.mark.parametrize("case", OPERATORS)
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_operators_are_those_of_pytorch(case):
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 7))
    expected = OPERATORS[case](torch.from_numpy(x)).numpy()
    found = by_jax(OPERATORS[case], x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # scales of a resize are float32


def test_mean_pooling_is_that_of_pytorch():
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 7))
    for size, stride in ((2, 1), (2, 2), (3, 2), (3, 3), ((3, 2), None)):
        for padding in (0, 1):
            for options in ({}, {"ceil_mode": True}, {"ceil_mode": True, "count_include_pad": False}, {"count_include_pad": False}):
                expected = F.avg_pool2d(torch.from_numpy(x), size, stride, padding, **options).numpy()
                found = by_jax(
                    lambda x, size=size, stride=stride, padding=padding, options=options: F.avg_pool2d(x, size, stride, padding, **options), x
                )
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_an_operator_that_cannot_be_replaced_is_named():
    model = nn.Sequential(Resized(), nn.Flatten(), nn.Linear(3 * 16, 2))
    with pytest.raises(ModelError, match="uses an operator that has no translation to JAX .*_upsample_bilinear2d_aa"):
        opened(model)


class Resized(nn.Module):
    def forward(self, x):
        return F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True, align_corners=True)


# Heads


def body(channels=5):
    return [nn.Conv2d(3, channels, 3, bias=False), nn.ReLU()]


def test_a_convolution_as_head():
    model = seeded(nn.Sequential(*body(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 4, 1), nn.Flatten()))
    expert = opened(model, head="3")
    np.testing.assert_allclose(expert.apply_fn(expert.variables, X), of_torch(model), rtol=1e-9)
    np.testing.assert_allclose(expert.features_fn(expert.variables, X), of_torch(model[:3])[:, :, 0, 0], rtol=1e-9)
    assert expert.params["3"]["kernel"].shape == (5, 4)
    assert expert.last_conv.path == ("0", "kernel")
    assert expert.last_conv.pooled == (0, 5)
    new = ns.with_new_head(expert, 2)
    assert jax.eval_shape(expert.apply_fn, in_place(new, expert), X).shape == (4, 2)


def test_a_convolution_as_head_before_the_pooling():
    model = seeded(nn.Sequential(*body(), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    expert = opened(model, head="2")
    np.testing.assert_allclose(expert.features_fn(expert.variables, X), of_torch(model[:2]).mean((2, 3)), rtol=1e-9)
    with pytest.raises(ModelError, match="the head must be the final linear layer"):
        opened(nn.Sequential(*body(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), head="2")
    with pytest.raises(ModelError, match=r"is a Conv2d; it must be a torch.nn.Linear, or a 1 x 1 torch.nn.Conv2d"):
        opened(model, head="0")


class Timm(nn.Module):
    """A network with timm's interface, whose head is `classifier`."""

    def __init__(self, classifier, pool=True):
        super().__init__()
        self.body, self.num_classes = nn.Sequential(*body(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4
        self.classifier = classifier

    def get_classifier(self):
        return self.classifier

    def reset_classifier(self, num_classes):
        self.num_classes, self.classifier = num_classes, nn.Identity()

    def forward(self, x):
        return self.classifier(self.body(x))


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 4), nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))

    def forward(self, x):
        return (self.one(x) + self.two(x)) / 2


def test_a_linear_layer_within_a_head():
    model = seeded(Timm(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))))
    expert = opened(model)
    assert expert.head == ("classifier", "1")
    assert expert.last_conv.path == ("body", "0", "kernel")
    np.testing.assert_allclose(expert.apply_fn(expert.variables, X), of_torch(model), rtol=1e-9)


def test_networks_of_timm_with_averaged_heads_are_experts_of_their_pre_logits():
    model = seeded(Timm(Averaged())).train()
    expert = opened(model)
    assert expert.head is None
    assert set(flatten(expert.params)) == {"body/0/kernel"}
    np.testing.assert_allclose(expert.features_fn(expert.variables, X), of_torch(model.body), rtol=1e-9)
    assert model.num_classes == 4
    assert isinstance(model.classifier, Averaged)
    assert all(module.training for module in model.modules())
    assert ns.with_new_head(expert, 2, x=X[:1]).params["head"]["kernel"].shape == (5, 2)


def test_averaged_heads_of_other_networks_are_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.heads = nn.Sequential(*body(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), Averaged()

        def forward(self, x):
            return self.heads(self.body(x))

    with pytest.raises(ModelError, match=r"was not found: the last layer with weights is 'heads.two.1' \(linear\)"):
        opened(Own())


def test_a_head_with_a_computed_weight():
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 2)))
    with pytest.raises(ModelError, match=r"The weight of the head '1' of expert 'own' is computed .*remove_parametrizations\(model.1, 'weight'\)"):
        opened(model, head="1")


# Outputs


def test_outputs_other_than_those_of_pytorch_are_refused():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    with pytest.raises(ModelError, match=r"The outputs of expert 'own' by JAX differ from those by PyTorch by .* it draws random numbers"):
        opened(nn.Sequential(nn.Flatten(), Noise(), nn.Linear(192, 2)))
    with pytest.raises(ModelError, match=r"returns \(1, 3\) by JAX and \(1, 2\) by PyTorch"):
        check_outputs("own", np.zeros((1, 2)), np.zeros((1, 3)))
    check_outputs("own", np.ones((1, 2)), np.ones((1, 2)) + 1e-5)


def test_auxiliary_outputs_in_training_mode_are_refused_there():
    class Auxiliary(nn.Sequential):
        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    expert = opened(Auxiliary(nn.Flatten(), nn.Linear(192, 2)))
    assert expert.apply_fn(expert.variables, X).shape == (4, 2)
    with pytest.raises(ModelError, match=r"returns a tuple of 2 in training mode, .*model.aux_logits = False, .*Recipe\(batch_norm='frozen'\)"):
        expert.train_fn(expert.variables, X)


def test_modes_of_the_modules_are_kept():
    model = nn.Sequential(*body(), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)).train()
    model[2].eval()
    opened(model)
    assert [module.training for module in model] == [True, True, False, True, True, True]


# The last convolution and the last block


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(5, 2, 1), nn.Conv2d(2, 5, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.se, self.downsample = nn.Conv2d(5, 5, 1), SqueezeExcite(), nn.Sequential(nn.Conv2d(5, 5, 1))

    def forward(self, x):
        return torch.relu(self.se(self.conv1(x)) + self.downsample(x))


class MLPBlock(nn.Sequential):
    pass


class EncoderBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = MLPBlock(nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 12))

    def forward(self, x):
        return x + self.mlp(x)


class Encoder(nn.Module):
    """A transformer without attention: patches, blocks, an aggregation, a head."""

    def __init__(self, aggregate):
        super().__init__()
        self.patches, self.aggregate = nn.Conv2d(3, 12, 4, 4), aggregate
        self.blocks = nn.Sequential(EncoderBlock(), EncoderBlock())
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.aggregate(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1)))


POOLED = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


@pytest.mark.parametrize(
    ("make", "conv", "block"),
    [
        (lambda: nn.Sequential(*body(), Bottleneck(), *POOLED, nn.Linear(5, 2)), "2.conv1", None),
        (lambda: nn.Sequential(*body(), nn.Sequential(*POOLED, nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))), "0", None),
        (lambda: Encoder(nn.Identity()), None, "blocks.1"),
        (lambda: Encoder(nn.Linear(12, 12)), None, "blocks.1"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, 2)), None, "1"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), None, None),
    ],
    ids=["gate and shortcut", "hidden layers of the head", "blocks of blocks", "a layer after the blocks", "no blocks", "a head alone"],
)
def test_the_last_convolution_or_block_is_what_a_person_would_name(make, conv, block):
    expert = opened(make())
    assert (expert.last_conv and ".".join(expert.last_conv.path[:-1])) == conv
    assert (expert.last_block and ".".join(expert.last_block)) == block
