"""Architectures by name, and experts from their Flax modules: trained, fresh, and the small reference networks of RSA."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntk_select.errors import ModelError, did_you_mean
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert, LastConv, SourceStatistics, Taps
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.alexnet import AlexNet
from ntk_select.models.convnet import ConvNet
from ntk_select.models.densenet import DenseNet
from ntk_select.models.layers import STEMS, key_of_batch
from ntk_select.models.resnet import BasicBlock, Bottleneck, ResNet

ARCHITECTURES = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
    "resnet152": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck),
    "wide_resnet50_2": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck, base_width=128),
    "wide_resnet101_2": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck, base_width=128),
    "densenet121": partial(DenseNet, block_sizes=(6, 12, 24, 16)),
    "densenet161": partial(DenseNet, block_sizes=(6, 12, 36, 24), growth=48, initial=96),
    "densenet169": partial(DenseNet, block_sizes=(6, 12, 32, 32)),
    "densenet201": partial(DenseNet, block_sizes=(6, 12, 48, 32)),
    "alexnet": AlexNet,
    "conv4": ConvNet,
    "resnet_small": partial(ResNet, stage_sizes=(1, 1, 2), block=BasicBlock, widths=(32, 64, 48), stem="small_strided"),
    "densenet_small": partial(DenseNet, block_sizes=(1, 4, 4), growth=24, initial=32, bottleneck=2, stem="small_strided"),
}


# Cards are untrusted: building a network of a hundred thousand blocks would take hours.
WIDEST, DEEPEST = 2**16, 1000


def _is_size(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= WIDEST


def _are_sizes(value) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_size, value))


def _are_depths(value) -> bool:
    return _are_sizes(value) and sum(value) <= DEEPEST


SETTINGS = {
    "stage_sizes": _are_depths,
    "block_sizes": _are_depths,
    "widths": _are_sizes,
    **{key: _is_size for key in ("width", "base_width", "growth", "initial", "bottleneck", "hidden")},
    "block": lambda value: value in (BasicBlock, Bottleneck),
    "stem": lambda value: isinstance(value, str) and value in STEMS,
}
"""Settings of architectures other than the number of classes, with checks of their values."""


def build(architecture: str, *, num_classes: int, **config) -> nn.Module:
    """The Flax module of an architecture.

    Raises:
      ModelError: the name is unknown, or the architecture does not have a setting.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"Architecture {architecture!r} is unknown.{_hint(architecture)}")
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    for key, value in config.items():
        if key not in SETTINGS:
            raise ModelError(f"Architecture {architecture!r} does not take {config}.{did_you_mean(key, SETTINGS)}")
        if not SETTINGS[key](value):
            raise ModelError(f"Architecture {architecture!r} does not take {key}={value!r}.")
    try:
        module = ARCHITECTURES[architecture](num_classes=num_classes, **config)
    except TypeError as error:
        raise ModelError(f"Architecture {architecture!r} does not take {config}: {error}") from error
    if getattr(module, "widths", None) and len(module.widths) != len(getattr(module, "stage_sizes", module.widths)):
        raise ModelError(f"Architecture {architecture!r}: widths={module.widths} must have one width per entry of stage_sizes={module.stage_sizes}.")
    if isinstance(module, ConvNet) and len(module.widths) < 2:
        raise ModelError(
            f"Architecture {architecture!r}: widths={module.widths} must have two entries at least, that of the stem and that of a block."
        )
    return module


FAMILIES = r"alexnet|densenet|res(?:net|nest|next|2net|2next)"
VARIANT = re.compile(rf"(?P<before>\w*?)(?P<family>{FAMILIES})(?:(?<=alexnet)|(?P<between>\w*?)\d{{2,3}})(?P<after>\w*)")
"""Names of the form of the architectures: resnet50, seresnet50, resnetblur50, resnet50d, caffe_resnet50."""

SAME = ("", "wide", "tv", "ssl", "swsl")
"""Prefixes of names of unchanged architectures, as in older timm releases. Wide networks have similar names here."""


def is_variant(name: str) -> bool:
    """Whether a name extends a known one, as resnetblur50, seresnet50 and resnet50d do, and so is that of another network."""
    found = VARIANT.fullmatch(re.sub(r"[-./]", "_", name.lower()))
    if not found or found["family"] not in ("alexnet", "densenet", "resnet"):
        return bool(found)
    return found["before"].strip("_") not in SAME or bool(re.search("[a-z]", (found["between"] or "") + found["after"]))


OTHER_COMPUTATION = re.compile(
    r"caffe\d*|msra|detectron\d*|dilat\w*|deeplab\w*|fcn|pspnet|d8|d16|os\d+|stride\d*|blur\w*|lpf\d*|anti\w*|aa|tf|keras|preact\w*|"
    r"silu|swish|mish|gelu|elu|selu|leaky\w*|prelu|se|eca|cbam|bam|ibn|gn|ws"
)
"""Words in the name of weights that indicate other strides, dilation, blurring, padding, activations or layers."""


def architecture_in(name: str) -> str | None:
    """The architecture that is a word of a name of weights: "resnet18" in "simclr_resnet18". None without one, or with words of `OTHER_COMPUTATION`."""
    words = re.split("[^a-z0-9]+", name.lower())
    joined = f"_{'_'.join(words)}_"
    found = [] if any(map(OTHER_COMPUTATION.fullmatch, words)) else [known for known in ARCHITECTURES if f"_{known}_" in joined]
    return max(found, key=len, default=None)


def names_another(name: str, architecture: str | None) -> bool:
    """Whether a name of weights has the form of an architecture name, is not one, and does not contain this one as a word."""
    return is_variant(name) and (architecture is None or architecture_in(name) != architecture)


def _hint(architecture: str) -> str:
    """Hint for an unknown architecture: close matches, except for variants."""
    if is_variant(architecture):
        return (
            " It is not among the architectures here, and cannot be replaced by another: networks with similar names may have tensors of the same names and "
            f"shapes, but another computation. Allowed: {', '.join(sorted(ARCHITECTURES))}."
        )
    return did_you_mean(architecture, ARCHITECTURES)


def initialise(module: nn.Module, key: jax.Array, size: int) -> dict[str, Any]:
    """Fresh variables {"params": ..., "batch_stats": ...} for square inputs of `size` pixels."""
    variables = _initial(module, size, key)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


@partial(jax.jit, static_argnums=(0, 1))
def _initial(module: nn.Module, size: int, key: jax.Array):
    return module.init(key, jnp.zeros((1, size, size, 3), jnp.float32))


def fresh_expert(
    name: str, architecture: str, *, num_classes: int, preprocess: Preprocess, seed: int = 0, config: Mapping[str, Any] | None = None
) -> Expert:
    """An untrained expert.

    Args:
      architecture, num_classes, config: as for `build`.
      preprocess: preprocessing of its inputs; defines their size.
      seed: seed of the initial weights.
    """
    module = build(architecture, num_classes=num_classes, **(config or {}))
    return make_expert(name, module, initialise(module, jax.random.key(seed), preprocess.size), preprocess=preprocess)


@dataclass(frozen=True)
class _OfModule:
    """A function of a module, compared by value: equal modules share compilations."""

    module: nn.Module

    @property
    def headless(self):
        """The same function of the module without its head, whose logits are the pre-logits."""
        return replace(self, module=self.module.clone(num_classes=0))


class _Apply(_OfModule):
    def __call__(self, variables, x):
        return self.module.apply(variables, x)


class _Train(_OfModule):
    """A module in training mode. The random key of dropout (only in AlexNet) is a function of the batch."""

    def __call__(self, variables, x):
        rngs = {"dropout": key_of_batch(x)} if isinstance(self.module, AlexNet) else None
        logits, changed = self.module.apply(variables, x, train=True, mutable=["batch_stats", "intermediates"], rngs=rngs)
        features = changed.pop("intermediates")["features"][0]
        return Taps(logits, features), changed


class _Features(_OfModule):
    def __call__(self, variables, x):
        _, captured = self.module.apply(variables, x, mutable=["intermediates"])
        return captured["intermediates"]["features"][0]


@dataclass(frozen=True)
class _Taps(_OfModule):
    owner: tuple[str, ...]

    def __call__(self, variables, x, perturbation=None) -> Taps:
        if perturbation is not None:
            nested = {"last_conv": perturbation}
            for key in reversed(self.owner):
                nested = {key: nested}
            variables = {**variables, "perturbations": nested}
        logits, captured = self.module.apply(variables, x, mutable=["intermediates"])
        inner = captured["intermediates"]
        features = inner["features"][0]
        for key in self.owner:
            inner = inner[key]
        return Taps(logits, features, inner["conv_inputs"][0])


def make_expert(
    name: str,
    module: nn.Module,
    variables: dict[str, Any],
    *,
    card: Card | None = None,
    preprocess=None,
    source: SourceStatistics | None = None,
) -> Expert:
    """The expert of a module of `ARCHITECTURES` and its variables {"params": ..., "batch_stats": ...}."""
    last_conv = LastConv(**module.last_conv)
    return Expert(
        name,
        _Apply(module),
        variables["params"],
        {key: value for key, value in variables.items() if key != "params"},
        features_fn=_Features(module),
        head=module.head if module.num_classes else None,
        last_conv=last_conv,
        preprocess=preprocess or (card.preprocess if card else None),
        card=card,
        taps_fn=_Taps(module, last_conv.path[:-2]),
        train_fn=_Train(module),
        source=source,
    )


class Untrained(NamedTuple):
    """An untrained network, its learning rate, and its maximum number of training steps of 32 images."""

    network: Expert
    learning_rate: float
    most_steps: int | None


def _untrained(
    num_classes: int,
    seed: int = 0,
    *,
    name: str,
    architecture: str,
    config: dict[str, Any],
    preprocess: Preprocess,
    learning_rate: float,
    most_steps: int | None,
) -> Untrained:
    network = fresh_expert(name, architecture, num_classes=num_classes, preprocess=preprocess, seed=seed, config=config)
    return Untrained(network, learning_rate, most_steps)


REFERENCE_NETWORKS = {
    "tiny": partial(
        _untrained,
        name="tiny",
        architecture="resnet18",
        config={"stage_sizes": (1, 1, 1), "widths": (16, 32, 64), "stem": "small"},
        preprocess=Preprocess(32, (0.5,) * 3, (0.25,) * 3),
        learning_rate=0.05,
        most_steps=1_000,
    ),
    "resnet18": partial(
        _untrained,
        name="resnet18",
        architecture="resnet18",
        config={},
        preprocess=Preprocess(224, resize=256),
        learning_rate=0.005,
        most_steps=None,
    ),
}
"""Networks that RSA compares experts with, by name: functions of (number of classes, seed), called by `ntk_select.trained_reference`. "tiny"
(78 thousand parameters, 32 pixels) is for the embedded zoo; "resnet18" at 224 pixels is that of the paper, with its learning rate."""
