"""Is it said which architecture a checkpoint is of, and does one without a head become an expert without one?"""

import jax
import numpy as np
import pytest
from ntk_select.models import ARCHITECTURES, StoredExpert, build, open_zoo
from ntk_select.models.convert import convert_checkpoint
from ntk_select.models.guess import fitting, num_classes
from ntk_select.models.mapping import tensor_table
from safetensors.numpy import save_file

import ntk_select as ns
from ntk_select.errors import ModelError

pytestmark = pytest.mark.usefixtures("quickly")


def state_of(seeded, architecture, classes=3):
    table = tensor_table(build(architecture, num_classes=classes))
    return {key: np.asarray(array, np.float32) for key, array in seeded.seeded_state({key: row.shape for key, row in table.items()}).items()}


@pytest.fixture
def state(seeded):
    return state_of(seeded, "resnet_small")


@pytest.fixture
def headless(state):
    return {key: array for key, array in state.items() if not key.startswith("fc.")}


def shapes(architecture, classes):
    """A state dict of which only the shapes are looked at."""
    table = tensor_table(build(architecture, num_classes=classes))
    return {key: np.broadcast_to(np.float32(1), row.shape) for key, row in table.items()} | {"bn1.num_batches_tracked": np.int64(3)}


@pytest.mark.parametrize("architecture", ["resnet18", "densenet_small", "alexnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES)])
def test_an_architecture_is_known_by_its_tensors(architecture):
    found = shapes(architecture, 7)
    assert fitting(found) == [architecture]
    assert num_classes(found, architecture) == 7
    backbone = {key: array for key, array in found.items() if not key.startswith(("fc.", "classifier.weight", "classifier.bias", "classifier.6"))}
    assert len(backbone) == len(found) - 2
    assert fitting(backbone) == [architecture]
    assert num_classes(backbone, architecture) == 0


def test_names_of_older_releases_are_known(seeded):
    state = state_of(seeded, "densenet_small")
    old = {key.replace("norm1.", "norm.1.") if "denselayer" in key else key: array for key, array in state.items()}
    assert old.keys() != state.keys()
    assert fitting(old) == ["densenet_small"]


@pytest.mark.parametrize("change", ["a tensor more", "a tensor less", "another shape", "half a head", "a head of another width"])
def test_what_fits_nothing_looks_like_nothing(state, change):
    changed = {
        "a tensor more": state | {"more": np.ones(1, np.float32)},
        "a tensor less": {key: array for key, array in state.items() if key != "bn1.bias"},
        "another shape": state | {"conv1.weight": np.ones((2, 3, 3, 3), np.float32)},
        "half a head": {key: array for key, array in state.items() if key != "fc.bias"},
        "a head of another width": state | {"fc.weight": np.ones((3, 5), np.float32)},
    }[change]
    assert fitting(changed) == []


def test_a_wrong_architecture_is_answered_with_the_right_one_first_and_few_names(state, tmp_path):
    save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(
        ModelError, match=r"as alexnet: It looks like a resnet_small. Try: --arch resnet_small. The checkpoint does not fit"
    ) as caught:
        convert_checkpoint(tmp_path / "mine.safetensors", architecture="alexnet", out=tmp_path / "expert")
    assert sum(key in str(caught.value).replace(",", " ").split() for key in (*state, *tensor_table(build("alexnet", num_classes=1)))) == 10


def test_where_nothing_fits_nothing_is_guessed(state, tmp_path):
    save_file({key: array for key, array in state.items() if key != "bn1.bias"}, tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"as resnet_small: The checkpoint does not fit ResNet. 1 tensor missing: bn1.bias"):
        convert_checkpoint(tmp_path / "mine.safetensors", architecture="resnet_small", out=tmp_path / "expert")


def test_a_checkpoint_without_a_head_becomes_an_expert_without_one(state, headless, tmp_path):
    save_file(headless, tmp_path / "mine.safetensors")
    card = convert_checkpoint(
        tmp_path / "mine.safetensors", architecture="resnet_small", out=tmp_path / "zoo" / "mine", preprocess=ns.Preprocess(size=16)
    )
    assert (card.num_classes, card.num_parameters) == (0, sum(array.size for key, array in headless.items() if "running" not in key))
    save_file(state, tmp_path / "whole.safetensors")
    convert_checkpoint(tmp_path / "whole.safetensors", architecture="resnet_small", out=tmp_path / "whole", preprocess=ns.Preprocess(size=16))
    expert, whole = open_zoo([tmp_path / "zoo"])["mine"](), StoredExpert(tmp_path / "whole")()
    assert expert.head is None
    assert "fc" not in expert.params
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    features = jax.jit(whole.features_fn)(whole.variables, x)
    for fn in (expert.apply_fn, expert.features_fn):
        np.testing.assert_allclose(jax.jit(fn)(expert.variables, x), features, rtol=1e-5)
    assert ns.with_new_head(expert, 4, x=x).head_kernel.shape == (features.shape[1], 4)
