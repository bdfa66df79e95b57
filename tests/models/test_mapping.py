"""Is the mapping between PyTorch's tensors and Flax's variables one to one, and does it say all that does not fit?"""

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from ntk_select.models.architectures import build, initialise
from ntk_select.models.convert import convert_state_dict, to_state_dict
from ntk_select.models.mapping import tensor_table
from ntk_select.models.weights import flatten

from ntk_select.errors import ModelError

SMALL = {
    "basic blocks": build("resnet_small", num_classes=3),
    "bottlenecks": build("resnet50", num_classes=3, stage_sizes=(1, 2), width=8),
    "dense blocks": build("densenet_small", num_classes=3),
    "alexnet": build("alexnet", num_classes=3, hidden=8),
}
NETWORK = SMALL["bottlenecks"]
TABLE = tensor_table(NETWORK)


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


@settings(max_examples=15, deadline=None)
@given(key=st.sampled_from(sorted(TABLE)))
def test_any_renamed_tensor_is_reported_as_unknown_and_as_missing(key):
    state = {name: np.ones(row.shape, np.float32) for name, row in TABLE.items()}
    state[f"{key}_ema"] = state.pop(key)
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
