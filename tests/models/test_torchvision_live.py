"""Do the networks compute what torchvision, run here and now, computes?"""

import pytest
from ntk_select.models.architectures import ARCHITECTURES, build
from ntk_select.models.mapping import tensor_table

PUBLISHED = [name for name in ARCHITECTURES if not name.endswith("_small")]

pytestmark = [pytest.mark.oracle, pytest.mark.slow]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [97, 224])
@pytest.mark.parametrize("architecture", PUBLISHED)
def test_logits_and_pre_logits_equal_torchvisions(architecture, size, dtype, oracle, seeded, parity):
    table = tensor_table(build(architecture, num_classes=seeded.NUM_CLASSES))
    state, images = seeded.seeded_state({key: row.shape for key, row in table.items()}), seeded.seeded_images(size)
    expected = oracle.torchvision_outputs(architecture, state, images, dtype, seeded.NUM_CLASSES)
    found = parity.flax_outputs(architecture, state, images, dtype, seeded.NUM_CLASSES)
    for name, ours, theirs in zip(("pre-logits", "logits"), found, expected, strict=True):
        assert parity.relative_error(ours, theirs) < parity.TOLERANCE[dtype], name


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
