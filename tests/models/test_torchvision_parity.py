"""The networks reproduce stored outputs of torchvision, without torch or torchvision."""

import numpy as np
import pytest

from ntk_select.models.architectures import ARCHITECTURES, build
from ntk_select.models.state_dict import tensor_table

PUBLISHED = [name for name in ARCHITECTURES if not name.endswith("_small")]
QUICK = ("resnet18", "densenet121", "alexnet")
CASES = [("resnet18", 97, "float32"), *((name, 97, "float64") for name in QUICK)]
SLOW = [(name, 97, "float64") for name in PUBLISHED if name not in QUICK]
SLOW += [(name, 224, "float32") for name in ("resnet50", "densenet121", "densenet161", "alexnet")]


@pytest.fixture(scope="session")
def state_of(seeded):
    """The seeded state dict of an architecture, by the names that our own table says."""

    def make(architecture):
        shapes = {key: row.shape for key, row in tensor_table(build(architecture, num_classes=seeded.NUM_CLASSES)).items()}
        return seeded.seeded_state(shapes)

    return make


@pytest.mark.parametrize(("architecture", "size", "dtype"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_logits_and_pre_logits_equal_torchvisions_stored_ones(architecture, size, dtype, state_of, seeded, parity, reference):
    features, logits = parity.flax_outputs(architecture, state_of(architecture), seeded.seeded_images(size), dtype, seeded.NUM_CLASSES)
    stored = {name: reference[f"{architecture}/{size}/{name}"] for name in ("features", "norms", "logits")}
    found = {"features": features[:, : stored["features"].shape[1]], "norms": np.linalg.norm(features, axis=1), "logits": logits}
    errors = {name: parity.relative_error(found[name], stored[name]) for name in stored}
    assert max(errors.values()) < parity.TOLERANCE[dtype], errors


@pytest.mark.parametrize("architecture", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PUBLISHED])
def test_names_and_shapes_equal_torchvisions_stored_ones(architecture, seeded, reference):
    table = tensor_table(build(architecture, num_classes=seeded.NUM_CLASSES))
    assert seeded.names_digest({key: row.shape for key, row in table.items()}) == reference[f"{architecture}/names"]


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_the_stored_outputs_of_two_images_differ_far_more_than_the_tolerance(architecture, parity, reference):
    for size in (97, 224):
        for name in ("features", "logits"):
            first, second = reference[f"{architecture}/{size}/{name}"]
            assert parity.relative_error(first, second) > 1e-2
