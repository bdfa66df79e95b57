"""An expert of features keeps what it is given, and refuses what cannot be features of the images of a task."""

import pickle

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ntk_select import FeatureExpert
from ntk_select.errors import ModelError
from ntk_select.experts.feature_expert import Classes, classes_of, first_difference, with_network

FEATURES, LABELS = np.random.default_rng(0).normal(size=(6, 3)), np.array([4, 7, 7, 4, 9, 9])


def made(**given):
    return FeatureExpert("a", **({"features": FEATURES} | given))


def test_arrays_of_any_package_and_precision_are_kept_as_floats():
    half = FEATURES.astype(np.float16)
    assert made(features=half).features.dtype == np.float16
    assert made(features=jnp.asarray(half)).features.tolist() == half.tolist()
    rounded = FEATURES.astype(ml_dtypes.bfloat16)
    assert made(features=rounded).features.dtype == np.float32
    np.testing.assert_array_equal(made(features=rounded).features, rounded.astype(np.float64))
    assert made(features=FEATURES.tolist()).features.shape == (6, 3)
    assert made(labels=LABELS[:, None].astype(np.uint8)).labels.tolist() == LABELS.tolist()


def test_classes_without_names_are_numbered_in_the_order_of_the_labels_and_named_after_them():
    assert made().classes is None
    classes = made(labels=LABELS).classes
    assert (classes.labels.tolist(), classes.names, classes.named) == ([0, 1, 1, 0, 2, 2], ("4", "7", "9"), False)
    named = made(labels=[0, 1, 1, 0, 3, 3], class_names=np.array(["ant", "bee", "cat", "dog"])).classes
    assert (named.labels.tolist(), named.names, named.named) == ([0, 1, 1, 0, 3, 3], ("ant", "bee", "cat", "dog"), True)


def test_the_card_says_what_is_known():
    card = made(labels=LABELS, logits=np.zeros((6, 5)), source="trees", num_params=12, source_size=9, source_accuracy=0.5).card
    assert (card.name, card.images, card.features, card.source, card.architecture) == ("a", 6, 3, "trees", None)
    assert (card.num_classes, card.num_parameters, card.num_images, card.test_accuracy) == (5, 12, 9, 0.5)
    assert (card.class_names, card.class_counts) == (("4", "7", "9"), (2, 2, 2))
    assert card.given == ("features", "labels", "logits", "source", "num_params", "source_size", "source_accuracy")
    bare = made().card
    assert (bare.given, bare.num_classes, bare.class_names) == (("features",), 0, ())
    assert repr(made()) == "FeatureExpert('a', images=6, features=3)"


def test_it_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(made(labels=LABELS, source="trees")))
    np.testing.assert_array_equal(sent.features, FEATURES)
    assert (sent.labels.tolist(), sent.source) == (LABELS.tolist(), "trees")


def test_labels_are_compared_by_name_or_else_by_which_images_share_a_class():
    one = classes_of(LABELS, None)
    assert first_difference(one, classes_of(np.array([2, 0, 0, 2, 1, 1]), None)) is None
    assert first_difference(one, classes_of(np.array([2, 0, 0, 2, 1, 2]), None)) == 5
    ab, ba = Classes(np.array([0, 1, 1]), ("a", "b"), True), Classes(np.array([1, 0, 0]), ("b", "a"), True)
    swapped = Classes(np.array([0, 1, 1]), ("b", "a"), True)
    assert first_difference(ab, ba) is None
    assert first_difference(ab, swapped) == 0
    assert first_difference(ab, Classes(np.array([0, 1, 1]), ("bee", "ant"), True)) is None
    assert first_difference(ab, classes_of(np.array([1, 0, 0]), None)) is None


class Elsewhere:
    """An array on another device."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("cannot convert")


MEANS = np.zeros((2, 3))
REFUSALS = {
    "no name": ({"name": ""}, r"name='' must be text that is not empty"),
    "no features": ({"features": None}, r"Expert 'a' has no features\. Try: FeatureExpert\(name, features\)"),
    "whole numbers": (
        {"features": np.arange(6).reshape(3, 2)},
        r"features is int64; it must be floating point\. Try: features\.astype\(numpy\.float32\)",
    ),
    "complex": ({"features": FEATURES * 1j}, r"features is complex128; it must be floating point\.$"),
    "maps": ({"features": np.zeros((6, 2, 2, 3))}, r"shape \(6, 2, 2, 3\); it must have two axes.*To pool over space, try: features\.mean"),
    "empty": ({"features": np.zeros((6, 0))}, r"shape \(6, 0\); it must have two axes, not empty, one row per image"),
    "NaN": ({"features": FEATURES * np.nan}, "Expert 'a': features has NaN or infinity"),
    "elsewhere": ({"features": Elsewhere()}, r"features is no array \(TypeError\)\. Try: numpy\.asarray\(features\)"),
    "fewer logits": ({"logits": np.zeros((5, 2))}, "logits has 5 rows, for 6 rows of features; both have one row per image"),
    "half a kernel": ({"gradient_kernel": np.zeros((6, 5))}, r"gradient_kernel has shape \(6, 5\); it must be \(6, 6\)"),
    "logits and probabilities": ({"logits": np.zeros((6, 2)), "source_probs": np.full((6, 2), 0.5)}, "one is enough. Try: logits alone"),
    "logits as probabilities": ({"source_probs": np.full((6, 2), 0.7)}, "not probabilities.*try: logits in place of source_probs"),
    "negative probabilities": ({"source_probs": np.array([[1.5, -0.5]] * 6)}, "must be 0 or above and sum to 1"),
    "fewer labels": ({"labels": LABELS[:5]}, r"labels is int64 \(5,\); it must be integers \(6,\), one per image\.$"),
    "names as labels": ({"labels": list("abcabc")}, r"labels is <U1 \(6,\).*try: class_names, labels = numpy\.unique\("),
    "numbers as labels": ({"labels": np.arange(6) / 2}, r"labels is float64 \(6,\).*For other values, try: numpy\.unique\(labels, .*\[1\]"),
    "one-hot labels": ({"labels": np.eye(6)}, r"labels is float64 \(6, 6\).*try: labels\.argmax\(1\)"),
    "labels beyond the names": ({"labels": LABELS, "class_names": ["x", "y"]}, r"labels run from 4 to 9; with 2 class_names they must be 0 \.\. 1"),
    "one text for all names": ({"class_names": "xy"}, r"class_names='xy' must be one text per class, as in \('cat', 'dog'\)"),
    "numbers for names": ({"class_names": [1, 2]}, r"class_names=\[1, 2\] must be one text per class"),
    "two names": ({"class_names": ["x", "x"]}, "class_names has duplicates"),
    "a number for the source": ({"source": 3}, "source=3 must be text, or None if unknown"),
    "half a parameter": ({"num_params": 0.5}, r"num_params=0\.5 must be a whole number from 0, or None if unknown"),
    "per cent": ({"source_accuracy": 70}, "source_accuracy=70 must be a number from 0 to 1, or None if unknown"),
    "shares of the source": (
        {"source_counts": np.array([0.5, 0.5])},
        r"source_counts is float64 \(2,\); it must be integers, one per class of the source",
    ),
    "an empty source": ({"source_counts": np.array([0, 0])}, "source_counts must be numbers of images, 0 or above, and not all 0"),
    "means of other features": ({"own_source_means": np.zeros((2, 4))}, "own_source_means has 4 columns, for 3 features"),
    "means of other classes": ({"own_source_means": MEANS, "source_counts": np.array([1, 2, 3])}, "own_source_means has 2 rows, for 3 source_counts"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_features_is_refused(case):
    given, says = REFUSALS[case]
    with pytest.raises(ModelError, match=says):
        FeatureExpert(**({"name": "a", "features": FEATURES} | given))


def test_what_needs_the_network_refuses_features():
    with pytest.raises(ModelError, match="Expert 'a' is known by its features only, and this needs its network. Try: its network, as "):
        with_network(made())
    assert with_network(3) == 3
