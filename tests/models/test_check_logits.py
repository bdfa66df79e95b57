"""Outputs of the original network are compared with those of the converted one before anything is written."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ntk_select.errors import ModelError
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.architectures import build, make_expert
from ntk_select.models.convert import compare_outputs, convert_checkpoint, convert_state_dict, load_outputs
from ntk_select.models.state_dict import tensor_table

NETWORK = build("resnet_small", num_classes=3)
HOW = Preprocess(size=16, resize=16)
pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture(scope="module")
def state(seeded):
    shapes = {key: row.shape for key, row in tensor_table(NETWORK).items()}
    return {key: array.astype(np.float32) for key, array in seeded.seeded_state(shapes).items()}


@pytest.fixture(scope="module")
def expert(state):
    return make_expert("a", NETWORK, convert_state_dict(state, NETWORK), preprocess=HOW)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)


def test_the_same_outputs_pass_and_the_difference_is_said(expert, images):
    x = HOW(images)
    y = np.asarray(jax.jit(expert.apply_fn)(expert.variables, x))
    for given in ({"images": images}, {"inputs": x}, {"inputs": x.astype(np.float64)}, {"inputs": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}):
        said = compare_outputs(expert, load_outputs({**given, "logits": y}))
        assert said.startswith("Compared with 5 outputs of the original: the largest difference is ")
    largest = np.abs(y).max()
    moved = y + np.float32(0.0005) * largest * (np.arange(15).reshape(5, 3) == 7)
    assert "the largest difference is 0.05 % of the largest logit" in compare_outputs(expert, load_outputs({"inputs": x, "logits": moved}))


@pytest.mark.parametrize(("kind", "allowed"), [("inputs", 0.001), ("images", 0.02)])
def test_outputs_that_differ_by_more_than_is_allowed_are_refused(expert, images, kind, allowed):
    given = images if kind == "images" else HOW(images)
    y = np.asarray(jax.jit(expert.apply_fn)(expert.variables, HOW(images)))
    place = np.unravel_index(np.abs(y).argmax(), y.shape)
    for factor, passes in ((0.9, True), (1.2, False)):
        moved = y.copy()
        moved[place] *= 1 - factor * allowed
        if passes:
            compare_outputs(expert, load_outputs({kind: given, "logits": moved}))
        else:
            with pytest.raises(ModelError, match=rf"the largest difference is [\d.]+ % of the largest logit, allowed: {100 * allowed:g} %"):
                compare_outputs(expert, load_outputs({kind: given, "logits": moved}))


def test_a_variant_of_the_same_tensors_is_refused_and_nothing_is_written(state, expert, images, tmp_path):
    """The original strides in its first convolution as "small" does not: same names and shapes, another computation."""
    from functools import partial

    from ntk_select.models import layers

    save_file(state, tmp_path / "a.safetensors")
    x = HOW(images)
    variables = convert_state_dict(state, NETWORK)
    convert = partial(convert_checkpoint, tmp_path / "a.safetensors", architecture="resnet_small", preprocess=HOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layers.STEMS, "small_strided", (4, 1, 1))
        np.savez(tmp_path / "variant.npz", inputs=x, logits=np.asarray(jax.jit(NETWORK.apply)(variables, x)))
    np.savez(tmp_path / "same.npz", inputs=x, logits=np.asarray(jax.jit(expert.apply_fn)(variables, x)))
    with pytest.raises(ModelError, match=r"The original has the same tensors but another computation .* Nothing was written\."):
        convert(out=tmp_path / "expert", check_logits=tmp_path / "variant.npz")
    assert not (tmp_path / "expert").exists()
    card = convert(out=tmp_path / "expert", check_logits=tmp_path / "same.npz")
    assert "Compared with 5 outputs" in card.training["converted_from"]["notes"][0]


def test_logits_of_another_number_of_classes_are_refused(expert, images):
    with pytest.raises(
        ModelError, match=r"The logits of check_logits have shape \(5, 4\), those of the converted network \(5, 3\)\. Nothing was written\."
    ):
        compare_outputs(expert, load_outputs({"images": images, "logits": np.ones((5, 4))}))


def test_inputs_that_the_network_cannot_take_are_refused(state):
    network = build("alexnet", num_classes=3, hidden=8)
    shapes = {key: np.zeros(row.shape, np.float32) for key, row in tensor_table(network).items()}
    expert = make_expert("a", network, convert_state_dict(shapes, network), preprocess=HOW)
    with pytest.raises(ModelError, match=r"The network does not accept the inputs \(1, 8, 8, 3\) of check_logits"):
        compare_outputs(expert, load_outputs({"inputs": np.ones((1, 8, 8, 3)), "logits": np.ones((1, 3))}))


X, Y = np.ones((2, 8, 8, 3), np.float32), np.ones((2, 3))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "check_logits contains nothing; expected logits"),
        ({"x": X, "y": Y}, "check_logits contains x, y; expected logits"),
        ({"logits": Y}, "check_logits contains logits; expected logits"),
        ({"logits": Y, "inputs": X, "images": X}, "and either images"),
        ({"logits": Y, "images": X}, r"images is float32 \(2, 8, 8, 3\)"),
        ({"logits": Y, "inputs": X.astype(np.uint8)}, r"inputs is uint8"),
        ({"logits": Y, "inputs": X[0]}, r"inputs is float32 \(8, 8, 3\)"),
        ({"logits": Y, "inputs": X[..., :1]}, r"inputs is float32 \(2, 8, 8, 1\)"),
        ({"logits": Y[0], "inputs": X}, r"and logits \(3,\)"),
        ({"logits": Y[:1], "inputs": X}, r"and logits \(1, 3\)"),
        ({"logits": Y[:0], "inputs": X[:0]}, r"and logits \(0, 3\)"),
        ({"logits": Y * np.nan, "inputs": X}, "must be finite, and logits not all zero"),
        ({"logits": Y * 0, "inputs": X}, "must be finite, and logits not all zero"),
        ({"logits": Y, "inputs": X * np.inf}, "must be finite"),
        ({"logits": [["a"]], "inputs": X}, "inputs and logits must be arrays of numbers"),
    ],
)
def test_outputs_of_another_form_are_refused(given, sentence):
    with pytest.raises(ModelError, match=sentence):
        load_outputs(given)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"The file of logits .*a\.npz cannot be read: No such file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"PK\x03\x04", r"a\.npz cannot be read as an \.npz file of numbers"),
        (b"other", r"a\.npz cannot be read as an \.npz file of numbers"),
    ],
)
def test_a_file_that_is_no_npz_is_named(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        load_outputs(tmp_path / "a.npz")


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.array([{}], object), inputs=X)
    with pytest.raises(ModelError, match=r"a\.npz cannot be read as an \.npz file of numbers"):
        load_outputs(tmp_path / "a.npz")
