"""Multi-domain networks are composed of their parts; a parallel adapter is added to the centre of a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.errors import ConfigError, ModelError
from ntk_select.experts.multi_domain import SHARINGS, check_sharing, compose, split
from ntk_select.models.architectures import build, initialise
from ntk_select.models.expert_folder import flatten

NETWORKS = {
    "resnet": build("resnet18", num_classes=3, stage_sizes=(1, 1), widths=(3, 4), stem="small"),
    "densenet": build("densenet121", num_classes=3, block_sizes=(1, 2), growth=3, initial=4, stem="small"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """(module, variables in which nothing is left at its initial value)."""
    module, rng = NETWORKS[request.param], np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: initialise(module, key, 8), jax.random.key(0))
    return module, jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape), shapes)


def same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_parts_put_together_are_the_network(network, sharing):
    module, variables = network
    same(compose(*split(variables, sharing, module.head)), variables)


def kind_of(name, leaf, head):
    if name.startswith(f"params/{'/'.join(head)}/"):
        return "head"
    layer = name.split("/")[-2]
    if name.startswith("batch_stats/") or layer.startswith(("bn", "norm")) or layer == "downsample_bn":
        return "norm"
    return "3x3" if leaf.shape[:2] == (3, 3) else "other"


@pytest.mark.parametrize("sharing", SHARINGS)
def test_each_leaf_lies_where_the_sharing_says(network, sharing):
    module, variables = network
    common, own = map(flatten, split(variables, sharing, module.head))
    wanted = {name: kind_of(name, leaf, module.head) for name, leaf in flatten(variables).items()}
    assert set(wanted.values()) == {"head", "norm", "3x3", "other"}
    own_kinds = {"head"} if sharing == "shared" else {"head", "norm"}
    adapters = {name.removesuffix("kernel") + "adapter" for name, kind in wanted.items() if kind == "3x3"} if sharing == "adapters" else set()
    assert common.keys() == {name for name, kind in wanted.items() if kind not in own_kinds}
    assert own.keys() == {name for name, kind in wanted.items() if kind in own_kinds} | adapters
    for name in adapters:
        kernel = flatten(variables)[name.removesuffix("adapter") + "kernel"]
        assert own[name].shape == (1, 1, *kernel.shape[2:])
        assert own[name].dtype == kernel.dtype
        assert not own[name].any()


def conv(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def norm(x, params, stats):
    return (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def adapted_block(x, common, own, stats, stride):
    """A basic block whose two 3x3 convolutions have parallel 1x1 convolutions of the same stride."""
    out = conv(x, common["conv1"]["kernel"], stride, 1) + conv(x, own["conv1"]["adapter"], stride, 0)
    out = jax.nn.relu(norm(out, own["bn1"], stats["bn1"]))
    out = conv(out, common["conv2"]["kernel"], 1, 1) + conv(out, own["conv2"]["adapter"], 1, 0)
    out = norm(out, own["bn2"], stats["bn2"])
    if "downsample_conv" in common:
        x = norm(conv(x, common["downsample_conv"]["kernel"], stride, 0), own["downsample_bn"], stats["downsample_bn"])
    return jax.nn.relu(out + x)


def test_adapters_are_1x1_convolutions_beside_those_of_3x3(rng):
    """The whole network written out: its first block has stride 1, its second stride 2."""
    module = NETWORKS["resnet"]
    shapes = jax.eval_shape(lambda key: initialise(module, key, 8), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape), shapes)
    common, own = split(variables, "adapters", module.head)
    own = jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape) if not np.any(leaf) else leaf, own)
    for size in (8, 7):
        x = rng.normal(size=(2, size, size, 3))
        shared, mine, stats = common["params"], own["params"], own["batch_stats"]
        out = conv(x, shared["conv1"]["kernel"], 1, 1) + conv(x, mine["conv1"]["adapter"], 1, 0)
        out = jax.nn.relu(norm(out, mine["bn1"], stats["bn1"]))
        for block, stride in (("layer1_0", 1), ("layer2_0", 2)):
            out = adapted_block(out, shared[block], mine[block], stats[block], stride)
        expected = out.mean((1, 2)) @ mine["fc"]["kernel"] + mine["fc"]["bias"]
        np.testing.assert_allclose(module.apply(compose(common, own), x), expected, rtol=1e-10)
        without = module.apply(variables, x)
        assert np.abs(without - expected).max() > 1e-3 * np.abs(expected).max()


def test_the_gradient_of_an_adapter_is_that_of_the_middle_of_the_kernel(network, quickly):
    module, variables = network
    common, own = split(variables, "adapters", module.head)
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3))

    def loss(common, own):
        return (module.apply(compose(common, own), x) ** 2).sum()

    of_kernels, of_own = jax.jit(jax.grad(loss, (0, 1)))(common, own)
    of_kernels, of_own = flatten(of_kernels), flatten(of_own)
    adapters = [name for name in of_own if name.endswith("/adapter")]
    assert adapters
    for name in adapters:
        middle = of_kernels[name.removesuffix("adapter") + "kernel"][1:2, 1:2]
        np.testing.assert_allclose(of_own[name], middle, rtol=1e-10)


def test_a_dense_layer_of_three_by_three_has_no_adapter():
    variables = {"params": {"dense": {"kernel": np.ones((3, 3))}, "head": {"kernel": np.ones((3, 2))}}}
    common, own = split(variables, "adapters", ("head",))
    assert own == {"params": {"head": variables["params"]["head"]}}
    assert compose(common, own).keys() == {"params"}


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 3, 4), (3, 3, 2, 3), (1, 1, 2)])
def test_an_adapter_of_another_shape_is_refused(shape):
    with pytest.raises(ModelError, match=r"An adapter of shape .* does not fit a kernel of shape \(3, 3, 2, 3\)"):
        compose({"conv": {"kernel": np.zeros((3, 3, 2, 3))}}, {"conv": {"adapter": np.ones(shape)}})


@pytest.mark.parametrize("refuse", [check_sharing, lambda sharing: split({}, sharing, ("fc",))])
def test_a_sharing_that_does_not_exist_is_refused(refuse):
    with pytest.raises(ConfigError, match="sharing='multi_bm' is unknown. Did you mean 'multi_bn'.*Allowed: adapters, multi_bn, shared"):
        refuse("multi_bm")
