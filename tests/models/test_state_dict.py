"""State dicts are mapped one to one to Flax variables, with every fault named; architectures are recognised by their tensors."""

import functools

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.models import ARCHITECTURES, StoredExpert, open_zoo
from ntk_select.models.architectures import build, initialise
from ntk_select.models.convert import convert_checkpoint, convert_state_dict, to_state_dict
from ntk_select.models.expert_folder import flatten
from ntk_select.models.state_dict import fitting, num_classes, tensor_table

SMALL = {
    "basic blocks": build("resnet_small", num_classes=3),
    "bottlenecks": build("resnet50", num_classes=3, stage_sizes=(1, 2), width=8),
    "dense blocks": build("densenet_small", num_classes=3),
    "alexnet": build("alexnet", num_classes=3, hidden=8),
}
NETWORK = SMALL["bottlenecks"]
TABLE = tensor_table(NETWORK)


@functools.cache
def fresh_variables(network):
    """Shapes and types of the variables that initialising makes."""
    return jax.eval_shape(lambda: initialise(network, jax.random.key(0), 64))


@pytest.fixture
def state(seeded):
    return seeded.seeded_state({key: row.shape for key, row in TABLE.items()})


@pytest.mark.parametrize("network", SMALL.values(), ids=SMALL)
def test_each_tensor_is_one_variable_and_each_variable_one_tensor(network):
    variables = set(flatten_dict(fresh_variables(network), sep="/"))
    rows = [row.variable for row in tensor_table(network).values()]
    assert len(rows) == len(set(rows))
    assert set(rows) == variables


@pytest.mark.parametrize("network", SMALL.values(), ids=SMALL)
def test_converting_there_and_back_changes_nothing(network, seeded):
    state = seeded.seeded_state({key: row.shape for key, row in tensor_table(network).items()})
    back = to_state_dict(convert_state_dict(state, network, dtype=np.float64), network)
    assert back.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize("network", SMALL.values(), ids=SMALL)
def test_converted_variables_have_the_structure_of_initialised_ones(network, seeded):
    state = seeded.seeded_state({key: row.shape for key, row in tensor_table(network).items()})
    fresh, converted = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree) for tree in (fresh_variables(network), convert_state_dict(state, network))
    )
    assert converted == fresh


def test_axes_are_in_flax_order(state):
    variables = convert_state_dict(state, NETWORK, dtype=np.float64)
    assert variables["params"]["conv1"]["kernel"][1, 2, 0, 4] == state["conv1.weight"][4, 0, 1, 2]
    assert variables["params"]["fc"]["kernel"][5, 1] == state["fc.weight"][1, 5]
    np.testing.assert_array_equal(variables["params"]["layer2_0"]["downsample_bn"]["scale"], state["layer2.0.downsample.1.weight"])
    np.testing.assert_array_equal(variables["batch_stats"]["layer2_1"]["bn3"]["var"], state["layer2.1.bn3.running_var"])


def test_counters_of_batch_norm_are_ignored(state):
    counters = {"bn1.num_batches_tracked": np.int64(5), "layer1.0.bn2.num_batches_tracked": np.int64(5)}
    found, expected = (flatten(convert_state_dict(given, NETWORK)) for given in (state | counters, state))
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32_without_loss(half, state):
    state = {key: array.astype(half) for key, array in state.items()}
    kernel = convert_state_dict(state, NETWORK)["params"]["fc"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.T.astype(half), state["fc.weight"])


def test_old_names_of_densenet_are_those_of_today(seeded):
    network = SMALL["dense blocks"]
    state = seeded.seeded_state({key: row.shape for key, row in tensor_table(network).items()})
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): v
        for key, v in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in old
    found, expected = flatten(convert_state_dict(old, network)), flatten(convert_state_dict(state, network))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_tensor_under_an_old_and_a_new_name_is_refused(seeded):
    network = SMALL["dense blocks"]
    state = seeded.seeded_state({key: row.shape for key, row in tensor_table(network).items()})
    state["features.denseblock1.denselayer1.norm.1.weight"] = state["features.denseblock1.denselayer1.norm1.weight"]
    with pytest.raises(ModelError, match=r"1 tensor given under an old and a new name: features\.denseblock1\.denselayer1\.norm1\.weight\."):
        convert_state_dict(state, network)


def test_any_renamed_tensor_is_reported_as_unknown_and_as_missing():
    complete = {name: np.broadcast_to(np.float32(1), row.shape) for name, row in TABLE.items()}
    for key in ("conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer2.1.conv3.weight", "fc.bias"):
        state = {f"{name}_ema" if name == key else name: array for name, array in complete.items()}
        with pytest.raises(ModelError) as caught:
            convert_state_dict(state, NETWORK)
        assert str(caught.value) == f"The checkpoint does not fit ResNet. 1 tensor unknown: {key}_ema; 1 tensor missing: {key}."


def test_all_that_does_not_fit_is_said_at_once(state):
    del state["bn1.bias"]
    state["surplus.weight"] = np.ones(3)
    state["fc.weight"] = state["fc.weight"].T
    state["fc.bias"] = np.ones(3, np.int32)
    state["bn1.weight"][0] = np.nan
    state["bn1.running_var"][1] = 1e300
    with pytest.raises(ModelError) as caught:
        convert_state_dict(state, NETWORK)
    assert str(caught.value) == (
        "The checkpoint does not fit ResNet. 1 tensor unknown: surplus.weight; 1 tensor missing: bn1.bias; "
        "1 tensor of the wrong shape: fc.weight (64, 3), expected (3, 64); 1 tensor not floating point: fc.bias (int32); "
        "2 tensors with NaN or infinity: bn1.running_var, bn1.weight."
    )


def test_long_lists_of_faults_are_cut_and_counted(state):
    with pytest.raises(ModelError, match=rf"{len(TABLE)} tensors missing: .* and {len(TABLE) - 10} more\."):
        convert_state_dict({}, NETWORK)


def test_variables_of_another_network_have_no_state_dict(state):
    variables = convert_state_dict(state, NETWORK)
    variables["params"]["fc"] = {"kernel": np.ones((64, 4)), "bias": np.ones(4)}
    variables["params"]["surplus"] = {"kernel": np.ones((2, 2))}
    del variables["batch_stats"]["bn1"]["mean"]
    with pytest.raises(
        ModelError,
        match=r"do not fit ResNet. 1 tensor unknown: params/surplus/kernel; 1 tensor missing: batch_stats/bn1/mean; 2 tensors of the wrong",
    ):
        to_state_dict(variables, NETWORK)


def test_a_network_without_a_table_is_refused():
    with pytest.raises(ModelError, match=r"no table of PyTorch names for Dense\. There is one for ResNet, DenseNet, AlexNet"):
        tensor_table(nn.Dense(3))


pytestmark = pytest.mark.usefixtures("quickly")


def state_of(seeded, architecture, classes=3):
    table = tensor_table(build(architecture, num_classes=classes))
    return {key: np.asarray(array, np.float32) for key, array in seeded.seeded_state({key: row.shape for key, row in table.items()}).items()}


@pytest.fixture
def small_state(seeded):
    return state_of(seeded, "resnet_small")


@pytest.fixture
def headless(small_state):
    return {key: array for key, array in small_state.items() if not key.startswith("fc.")}


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
def test_what_fits_nothing_looks_like_nothing(small_state, change):
    changed = {
        "a tensor more": small_state | {"more": np.ones(1, np.float32)},
        "a tensor less": {key: array for key, array in small_state.items() if key != "bn1.bias"},
        "another shape": small_state | {"conv1.weight": np.ones((2, 3, 3, 3), np.float32)},
        "half a head": {key: array for key, array in small_state.items() if key != "fc.bias"},
        "a head of another width": small_state | {"fc.weight": np.ones((3, 5), np.float32)},
    }[change]
    assert fitting(changed) == []


def test_a_wrong_architecture_is_answered_with_the_right_one_first_and_few_names(small_state, tmp_path):
    save_file(small_state, tmp_path / "mine.safetensors")
    with pytest.raises(
        ModelError,
        match=r"as alexnet: It looks like a resnet_small. Try: architecture='resnet_small' \(--arch resnet_small\)\. The checkpoint does not fit",
    ) as caught:
        convert_checkpoint(tmp_path / "mine.safetensors", architecture="alexnet", out=tmp_path / "expert")
    assert sum(key in str(caught.value).replace(",", " ").split() for key in (*small_state, *tensor_table(build("alexnet", num_classes=1)))) == 10


def test_where_nothing_fits_nothing_is_guessed(small_state, tmp_path):
    save_file({key: array for key, array in small_state.items() if key != "bn1.bias"}, tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"as resnet_small: The checkpoint does not fit ResNet. 1 tensor missing: bn1.bias"):
        convert_checkpoint(tmp_path / "mine.safetensors", architecture="resnet_small", out=tmp_path / "expert")


def test_a_checkpoint_without_a_head_becomes_an_expert_without_one(small_state, headless, tmp_path):
    save_file(headless, tmp_path / "mine.safetensors")
    card = convert_checkpoint(
        tmp_path / "mine.safetensors", architecture="resnet_small", out=tmp_path / "zoo" / "mine", preprocess=ns.Preprocess(size=16)
    )
    assert (card.num_classes, card.num_parameters) == (0, sum(array.size for key, array in headless.items() if "running" not in key))
    save_file(small_state, tmp_path / "whole.safetensors")
    convert_checkpoint(tmp_path / "whole.safetensors", architecture="resnet_small", out=tmp_path / "whole", preprocess=ns.Preprocess(size=16))
    expert, whole = open_zoo([tmp_path / "zoo"])["mine"](), StoredExpert(tmp_path / "whole")()
    assert expert.head is None
    assert "fc" not in expert.params
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    features = jax.jit(whole.features_fn)(whole.variables, x)
    for fn in (expert.apply_fn, expert.features_fn):
        np.testing.assert_allclose(jax.jit(fn)(expert.variables, x), features, rtol=1e-5)
    assert ns.with_new_head(expert, 4, x=x).head_kernel.shape == (features.shape[1], 4)
