"""Which small networks does RSA train on a task, to lay experts beside them?"""

from functools import partial
from typing import Any, NamedTuple

from ntk_select.experts.expert import Expert
from ntk_select.experts.preprocess import Preprocess

from .architectures import fresh_expert


class Untrained(NamedTuple):
    """A fresh network, the learning rate that suits it, and the number of steps of 32 images after which it has learnt enough."""

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
"""By name, what `ntk_select.trained_reference` calls with (number of classes, seed). "tiny", 78 thousand parameters at 32 pixels, goes
with the embedded zoo; "resnet18" at 224 pixels is the paper's, with its learning rate."""
