"""A forecast of fine-tuning an embedded expert on digits."""

from collections.abc import Iterator

import numpy as np

import ntk_select as ns
from accelerator.check import Check, Values
from accelerator.setting import Setting

LOSS, ACCURACY, SHARES = (1e-4, 1e-9), (2e-3, 1e-9), (1e-4, 1e-9)
"""A test image on the border of two classes may change sides."""


def checks(setting: Setting) -> Iterator[Check]:
    """One expert of each architecture."""
    recipe = ns.Recipe(epochs=2 if setting.tiny else 15)
    options = {"per_class": 3 if setting.tiny else 25, "learning_rates": (0.01, 0.001), "folds": 2, "repeats": 1, "progress": False}
    for name in ("fashion_mnist-resnet_small",) if setting.tiny else ("fashion_mnist-resnet_small", "omniglot-densenet_small"):

        def run(name=name) -> Values:
            found = ns.forecast(setting.expert(name), setting.digits, recipe, explain=not setting.tiny, **options)
            rates = list(found.by_rate.values())
            return {
                "losses": np.array([rate.loss for rate in rates]),
                "distances of the weights": np.array([rate.distance for rate in rates]),
                "accuracies": np.array([rate.accuracy for rate in rates]),
                "shares of the layers": np.array(list((found.shares or {"all": 1.0}).values())),
            }

        allowed = {"losses": LOSS, "distances of the weights": LOSS, "accuracies": ACCURACY, "shares of the layers": SHARES}
        yield Check(name, run, allowed, drawn=True)
