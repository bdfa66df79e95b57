"""The stored outputs, names and shapes of torchvision equal those of the installed torchvision."""

import numpy as np
import pytest

from ntk_select.models.architectures import ARCHITECTURES, build
from ntk_select.models.state_dict import tensor_table

PUBLISHED = [name for name in ARCHITECTURES if not name.endswith("_small") and name != "conv4"]

pytestmark = [pytest.mark.oracle, pytest.mark.slow]


@pytest.mark.parametrize(("architecture", "size"), [*((name, 97) for name in PUBLISHED), ("resnet50", 224), ("densenet161", 224), ("alexnet", 224)])
def test_torchvision_gives_the_outputs_that_are_stored(architecture, size, oracle, seeded, parity, reference):
    """Those with which `test_torchvision_parity.py` compares ours; all sizes and precisions: `make_torchvision_reference.py table`."""
    table = tensor_table(build(architecture, num_classes=seeded.NUM_CLASSES))
    state = seeded.seeded_state({key: row.shape for key, row in table.items()})
    features, logits = oracle.torchvision_outputs(architecture, state, seeded.seeded_images(size), "float64", seeded.NUM_CLASSES)
    stored = {name: reference[f"{architecture}/{size}/{name}"] for name in ("features", "norms", "logits")}
    found = {"features": features[:, : stored["features"].shape[1]], "norms": np.linalg.norm(features, axis=1), "logits": logits}
    for name, value in found.items():
        assert parity.relative_error(value, stored[name]) < parity.TOLERANCE["float64"], name


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121"])
def test_logits_and_pre_logits_equal_torchvisions(architecture, oracle, seeded, parity):
    table = tensor_table(build(architecture, num_classes=seeded.NUM_CLASSES))
    state, images = seeded.seeded_state({key: row.shape for key, row in table.items()}), seeded.seeded_images(97)
    expected = oracle.torchvision_outputs(architecture, state, images, "float32", seeded.NUM_CLASSES)
    found = parity.flax_outputs(architecture, state, images, "float32", seeded.NUM_CLASSES)
    for name, ours, theirs in zip(("pre-logits", "logits"), found, expected, strict=True):
        assert parity.relative_error(ours, theirs) < parity.TOLERANCE["float32"], name


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_names_and_shapes_equal_torchvisions(architecture, oracle):
    theirs = oracle.torchvision_module(architecture, 10).state_dict()
    theirs = {key: tuple(tensor.shape) for key, tensor in theirs.items() if not key.endswith(".num_batches_tracked")}
    assert {key: row.shape for key, row in tensor_table(build(architecture, num_classes=10)).items()} == theirs


@pytest.mark.parametrize("architecture", [name for name in PUBLISHED if name != "alexnet"])
def test_names_and_shapes_equal_timms(architecture, oracle):
    oracle.import_torchvision()
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    with torch.device("meta"):
        theirs = timm.create_model(architecture, num_classes=10).state_dict()
    theirs = {key: tuple(tensor.shape) for key, tensor in theirs.items() if not key.endswith(".num_batches_tracked")}
    assert {key: row.shape for key, row in tensor_table(build(architecture, num_classes=10)).items()} == theirs
