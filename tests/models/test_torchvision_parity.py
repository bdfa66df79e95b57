"""The networks reproduce stored outputs of torchvision, and small ones its definition in NumPy, without torch or torchvision."""

import jax
import numpy as np
import pytest

from ntk_select.models.architectures import ARCHITECTURES, build, make_expert
from ntk_select.models.convert import convert_state_dict
from ntk_select.models.state_dict import tensor_table

PUBLISHED = [name for name in ARCHITECTURES if not name.endswith("_small") and name != "conv4"]
QUICK = ("resnet18", "densenet121", "alexnet")
CASES = [("resnet18", 97, "float64")]
NIGHTLY = [("resnet18", 97, "float32"), ("densenet121", 97, "float64"), ("alexnet", 97, "float64")]
SLOW = [(name, 97, "float64") for name in PUBLISHED if name not in QUICK]
SLOW += [(name, 224, "float32") for name in ("resnet50", "densenet121", "densenet161", "alexnet")]


@pytest.fixture(scope="session")
def state_of(seeded):
    """The seeded state dict of an architecture, by the names that our own table says."""

    def make(architecture):
        shapes = {key: row.shape for key, row in tensor_table(build(architecture, num_classes=seeded.NUM_CLASSES)).items()}
        return seeded.seeded_state(shapes)

    return make


@pytest.mark.parametrize(
    ("architecture", "size", "dtype"),
    [
        *CASES,
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
    ],
)
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


SMALL = {
    "resnet18": ("resnet", {"stage_sizes": (2, 1, 2), "widths": (4, 5, 6)}),
    "resnet50": ("resnet", {"stage_sizes": (1, 2), "width": 4, "base_width": 96}),
    "densenet121": ("densenet", {"block_sizes": (2, 3), "growth": 3, "initial": 4, "bottleneck": 2}),
    "alexnet": ("alexnet", {"hidden": 8}),
}


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        *((name, "float64") for name in SMALL),
        *(pytest.param(name, "float32", marks=() if name == "alexnet" else pytest.mark.nightly) for name in SMALL),
    ],
)
def test_small_networks_equal_torchvisions_definition_in_numpy(architecture, dtype, seeded, parity, loaded):
    family, config = SMALL[architecture]
    module = build(architecture, num_classes=3, **config)
    state = seeded.seeded_state({key: row.shape for key, row in tensor_table(module).items()})
    images = seeded.seeded_images(67)
    expected = getattr(loaded("models/numpy_networks.py"), family)(images.transpose(0, 3, 1, 2), state)
    expert = make_expert("small", module, convert_state_dict(state, module, dtype=dtype))
    logits = jax.jit(expert.apply_fn)(expert.variables, images.astype(dtype))
    assert logits.dtype == dtype
    assert parity.relative_error(np.asarray(logits), expected) < parity.TOLERANCE[dtype]
    assert parity.relative_error(expected[0], expected[1]) > 1e-2
