"""Operation counts equal those by hand, and the published count of ResNet-18."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.kernels.flops import forward_flops
from ntk_select.models.architectures import build, initialise


def test_a_dense_layer_takes_two_operations_a_weight_and_example():
    assert forward_flops(lambda w, x: jnp.tanh(x @ w) + 1, np.zeros((30, 7)), np.zeros((5, 30))) == 2 * 5 * 30 * 7


def test_batched_products_count_each():
    assert forward_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), np.zeros((4, 2, 3)), np.zeros((4, 3, 5))) == 2 * 4 * 2 * 3 * 5


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_takes_its_window_for_each_output(stride, groups):
    """Of 9 x 7 pixels without padding; a group sees its share of the channels."""

    def conv(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    outputs = 2 * len(range(0, 9 - 3 + 1, stride)) * len(range(0, 7 - 3 + 1, stride)) * 12
    assert forward_flops(conv, np.zeros((3, 3, 8 // groups, 12)), np.zeros((2, 9, 7, 8))) == 2 * outputs * 3 * 3 * 8 // groups


def test_the_layout_of_the_kernel_makes_no_difference():
    def conv(kernel, x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))

    assert forward_flops(conv, np.zeros((12, 8, 3, 3)), np.zeros((2, 8, 5, 5))) == 2 * 2 * 5 * 5 * 12 * 8 * 9


def test_nothing_but_products_counts_and_shapes_are_enough():
    assert forward_flops(lambda x: jnp.exp(x).sum(), jax.ShapeDtypeStruct((10, 10), np.float32)) == 0
    inner = jax.jit(lambda x: x @ x)
    assert forward_flops(lambda x: inner(x) + x, jax.ShapeDtypeStruct((10, 10), np.float32)) == 2000


def test_what_no_output_depends_on_is_not_counted():
    def features(w, v, x):
        hidden = x @ w
        head = hidden @ v
        return jnp.tanh(hidden), (head @ head.T)[:0]

    shapes = np.zeros((30, 7)), np.zeros((7, 4)), np.zeros((5, 30))
    assert forward_flops(lambda *given: features(*given)[0], *shapes) == 2 * 5 * 30 * 7
    assert forward_flops(features, *shapes) == 2 * 5 * (30 * 7 + 7 * 4 + 4 * 5)


@pytest.mark.parametrize(
    ("architecture", "published"),
    [("resnet18", 1.814e9), *(pytest.param(*case, marks=pytest.mark.nightly) for case in (("resnet50", 4.089e9), ("densenet121", 2.834e9)))],
)
def test_published_networks_take_twice_their_published_multiply_adds(architecture, published):
    """At 224 pixels, as torchvision publishes them ("GFLOPS" there are multiply-adds)."""
    module = build(architecture, num_classes=1000)
    variables = jax.eval_shape(lambda key: initialise(module, key, 224), jax.random.key(0))
    found = forward_flops(module.apply, variables, jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    assert found == pytest.approx(2 * published, rel=0.01)
