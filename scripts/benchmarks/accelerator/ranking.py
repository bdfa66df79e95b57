"""A ranking of embedded experts on digits: the scores and the order."""

from collections.abc import Iterator

import numpy as np

import ntk_select as ns
from accelerator.check import Check, Values
from accelerator.setting import Setting

ALLOWED = (2e-5, 1e-10)
SCORES = ("lfc", "lgc", "logme", "hscore_shrinkage")
EXPERTS = (
    "fashion_mnist-resnet_small",
    "omniglot-densenet_small",
    "cifar10-resnet_small",
    "cifar10-densenet_small",
    "neu_steel-resnet_small",
    "grocery-resnet_small",
)


def checks(setting: Setting) -> Iterator[Check]:
    """The ranking by each of a few scores. Nothing is cached: a cache would return the numbers of another device."""
    names, scores = (EXPERTS[:2], SCORES[:2]) if setting.tiny else (EXPERTS, SCORES)

    def run() -> Values:
        experts = [setting.expert(name) for name in names]
        ranking = ns.rank(experts, setting.digits, scores, per_class=3 if setting.tiny else 25, resamples=0, cache=None, progress=False)
        if ranking.failures:
            raise RuntimeError(f"{ranking.failures[0].name}: {ranking.failures[0].error}")
        found = {score: np.array([ranking[name].scores[score].value for name in names]) for score in scores}
        return {**found, "places": np.array([ranking[name].rank for name in names])}

    yield Check(f"{len(names)} experts, {', '.join(scores)}", run, dict.fromkeys(scores, ALLOWED), order={"places": scores[0]})
