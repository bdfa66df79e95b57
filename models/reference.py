"""Which small networks does RSA train on a task, to lay experts beside them?"""

from typing import NamedTuple

import jax

from ntk_select.errors import ConfigError, did_you_mean
from ntk_select.expert import Expert
from ntk_select.preprocess import Preprocess

from .architectures import build, initialise, make_expert

NETWORKS = {
    "tiny": ("resnet18", {"stage_sizes": (1, 1, 1), "widths": (16, 32, 64), "stem": "small"}, Preprocess(32, (0.5,) * 3, (0.25,) * 3)),
    "resnet18": ("resnet18", {}, Preprocess(224, resize=256)),
}
"""By name: architecture, settings, and how images enter. "tiny" goes with the embedded zoo, "resnet18" is the paper's."""

LEARNING_RATES = {"tiny": 0.05, "resnet18": 0.005}
MOST_STEPS = {"tiny": 1_000, "resnet18": None}


class Untrained(NamedTuple):
    """A fresh network, the learning rate that suits it, and the number of steps of 32 images after which it has learnt enough."""

    network: Expert
    learning_rate: float
    most_steps: int | None


def untrained_network(kind: str, num_classes: int, seed: int = 0) -> Untrained:
    """A network that `ntk_select.trained_reference` can train.

    Args:
      kind: "tiny" (62 thousand parameters, 32 pixels) or "resnet18" (224 pixels).
      num_classes: outputs.
      seed: of its weights.

    Raises:
      ConfigError: `kind` is unknown.
    """
    if kind not in NETWORKS:
        raise ConfigError(f"The reference network {kind!r} is unknown.{did_you_mean(kind, NETWORKS)}")
    architecture, config, preprocess = NETWORKS[kind]
    module = build(architecture, num_classes=num_classes, **config)
    expert = make_expert(kind, module, initialise(module, jax.random.key(seed), preprocess.size), preprocess=preprocess)
    return Untrained(expert, LEARNING_RATES[kind], MOST_STEPS[kind])
