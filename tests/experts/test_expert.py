"""Experts are validated on construction, and their parts are unchanged."""

import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from ntk_select import Expert, LastConv
from ntk_select.errors import ModelError
from ntk_select.experts.expert import leaf_at

PARAMS = {"block": {"conv": {"kernel": np.zeros((3, 3, 2, 4))}}, "fc": {"kernel": np.ones((4, 5)), "bias": np.zeros(5)}}


def logits(variables, x):
    return x @ variables["params"]["fc"]["kernel"]


@pytest.mark.parametrize("wrap", [dict, freeze])
def test_parts_come_out_as_they_went_in(wrap):
    expert = Expert("e", logits, wrap(PARAMS), {"batch_stats": {"mean": 1}}, head=("fc",), last_conv=("block", "conv", "kernel"))
    assert set(expert.variables) == {"params", "batch_stats"}
    assert expert.last_conv == LastConv(("block", "conv", "kernel"))
    np.testing.assert_array_equal(expert.head_kernel, np.ones((4, 5)))
    assert expert.num_params == 3 * 3 * 2 * 4 + 4 * 5 + 5
    assert repr(expert) == "Expert('e', parameters=97)"


def test_a_last_conv_with_its_geometry_is_kept():
    last_conv = LastConv(("block", "conv", "kernel"), strides=(2, 2), padding=((1, 1), (1, 1)), pooled=(0, 4))
    assert Expert("e", logits, PARAMS, last_conv=last_conv).last_conv is last_conv


def test_an_expert_without_head_has_no_head_kernel():
    assert Expert("e", logits, PARAMS).head_kernel is None


def test_params_need_not_be_a_mapping_when_nothing_is_named_in_them():
    assert Expert("e", logits, [np.zeros(3), np.zeros((2, 2))]).num_params == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": {"params": {}}}, r"Expert 'e': state must not contain 'params'. Try: Expert\("),
        ({"head": ("head",)}, "The head of expert 'e' is 'head/kernel', but params has no 'head'. Available: block, fc"),
        ({"head": ("block",)}, "params has no 'block/kernel'. Available: conv"),
        (
            {"last_conv": ("block", "conv3", "kernel")},
            "The last_conv of expert 'e' is 'block/conv3/kernel', but params has no 'block/conv3'. Available: conv",
        ),
        ({"last_conv": LastConv(("fc", "kernel", "deeper"))}, r"params has no 'fc/kernel/deeper'. Available: \(an array\)"),
        pytest.param({"last_conv": ("block", "conv")}, "block/conv"),
        ({"last_block": "block/other"}, "The last_block of expert 'e' is 'block/other', but params has no 'block/other'. Available: conv"),
    ],
)
def test_names_that_lead_nowhere_are_refused_with_those_that_exist(options, message):
    with pytest.raises(ModelError, match=message):
        Expert("e", logits, PARAMS, **options)


def test_a_path_may_be_one_text():
    as_texts = Expert("e", logits, PARAMS, head="fc", last_conv="block/conv/kernel")
    assert (as_texts.head, as_texts.last_conv.path) == (("fc",), ("block", "conv", "kernel"))
    assert Expert("e", logits, {"outer": PARAMS}, head="outer/fc").head == ("outer", "fc")
    assert LastConv("block/conv/kernel").path == ("block", "conv", "kernel")


class Network(nnx.Module):
    def __init__(self):
        self.fc = nnx.Linear(4, 5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        (lambda: nnx.state(Network(), nnx.Param), "State"),
        (lambda: {"inner": dict(nnx.state(Network(), nnx.Param))}, "State"),
        (lambda: {"fc": {"kernel": Network().fc.kernel}}, "Param"),
        (Network, "Network"),
    ],
    ids=["state", "states in a dictionary", "a variable", "the module"],
)
def test_variables_of_nnx_are_refused_with_what_to_type(params, kind):
    with pytest.raises(ModelError, match=rf"params contains nnx variables \({kind}\), not arrays. Try: nnx.to_pure_dict\(params\), or .*nnx_expert"):
        Expert("e", logits, params())


def test_arrays_out_of_a_state_of_nnx_are_welcome():
    expert = Expert("e", logits, nnx.to_pure_dict(nnx.state(Network(), nnx.Param)), head="fc")
    assert expert.head_kernel.shape == (4, 5)


def test_leaf_at_follows_the_path():
    assert leaf_at(PARAMS, ("fc", "bias"), "x") is PARAMS["fc"]["bias"]
    with pytest.raises(ModelError, match=r"The x is 'a', but params has no 'a'. Available: \(an array\)"):
        leaf_at(np.zeros(3), ("a",), "x")


def test_other_variables_take_the_place_of_its_own_and_nothing_else_changes():
    before = Expert("mine", len, {"w": np.zeros(2)}, {"batch_stats": {"mean": np.ones(3)}})
    after = before.with_variables({"params": {"w": np.ones(2)}, "batch_stats": {"mean": np.zeros(3)}})
    assert after.variables == {"params": after.params, "batch_stats": after.state["batch_stats"]}
    np.testing.assert_array_equal(after.params["w"], np.ones(2))
    np.testing.assert_array_equal(after.state["batch_stats"]["mean"], np.zeros(3))
    assert (after.name, after.apply_fn) == ("mine", len)
    np.testing.assert_array_equal(before.params["w"], np.zeros(2))
