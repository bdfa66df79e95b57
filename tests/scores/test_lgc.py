"""LGC depends on the labels and on training, for a real expert and a real task."""

import jax
import numpy as np
import pytest

from ntk_select import gradient_kernel, kernel_label_correlation, lgc, probe_sample
from ntk_select.data import load_task
from ntk_select.models import ZOO, build, initialise, make_expert
from ntk_select.scores import SCORES


@pytest.fixture(scope="module", params=["cifar10-resnet_small", "cifar10-densenet_small"])
def scored(request):
    expert, sample = ZOO[request.param](), probe_sample(load_task("digits"), per_class=8)
    return expert, expert.preprocess(sample.images), sample.labels


def test_shuffled_labels_score_lower(scored, rng):
    expert, x, labels = scored
    kernel = gradient_kernel(expert, x)
    value = kernel_label_correlation(kernel, labels, diagonal=False)
    shuffled = [kernel_label_correlation(kernel, rng.permutation(labels), diagonal=False) for _ in range(200)]
    assert value > max(shuffled)
    assert abs(np.mean(shuffled)) < 4 * np.std(shuffled) / np.sqrt(200)
    assert lgc(expert, x, labels, diagonal=False) == value
    assert SCORES["lgc"](gradient_kernel=kernel, labels=labels).value == lgc(expert, x, labels)


def test_an_untrained_expert_scores_lower_than_a_trained_one(scored):
    expert, x, labels = scored
    module = build(expert.card.architecture, num_classes=10)
    untrained = make_expert("untrained", module, initialise(module, jax.random.key(0), 32), preprocess=expert.preprocess)
    assert lgc(untrained, x, labels) < lgc(expert, x, labels)
