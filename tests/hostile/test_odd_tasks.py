"""Unusual labels, images and experts give a value that can be computed by hand, or an error message."""

import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, DataError, ModelError, TaskError
from ntk_select.scores import SCORES, ScoreResult

N = ("ash", "beech", "cedar")
IMAGES = np.random.default_rng(0).integers(0, 255, (12, 4, 4, 3), dtype=np.uint8)
LABELS = np.repeat([0, 1, 2], 4)
WEIGHTS = np.random.default_rng(1).normal(size=(48, 5))


def flat(variables, x):
    return x.reshape(len(x), -1) @ variables["params"]["w"]


def expert(features_fn=flat, name="odd", **options) -> ns.Expert:
    options = {"preprocess": ns.Preprocess(size=4)} | options
    return ns.Expert(name, features_fn, {"w": WEIGHTS}, features_fn=features_fn, **options)


def task(images=IMAGES, labels=LABELS, names=N) -> ns.Task:
    return ns.Task("odd", images, labels, names)


def lfc_by_hand(images, labels) -> float:
    """Correlation over all pairs of the kernel of the features with +1 and -1, from the pixels on."""
    x = (np.asarray(images, np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    features = x.reshape(len(x), -1) @ WEIGHTS
    same = np.where(labels[:, None] == labels[None], 1.0, -1.0)
    return np.corrcoef((features @ features.T).ravel(), same.ravel())[0, 1]


def lfc_of(task: ns.Task, *, per_class: int = 25):
    (row,) = ns.rank([expert()], task, ["lfc"], per_class, resamples=0).experts
    return row.scores["lfc"]


# Labels


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros(12, int), r"one class only \('ash'\). Scores compare classes"),
        (LABELS * 5, r"labels contains 5, but there are 3 class names; .*np.unique\(labels, return_inverse=True\)"),
        (LABELS - 1, "labels contains -1, but there are 3 class names"),
        (LABELS.astype(np.uint64) + 2**63, "labels contains 9223372036854775808"),
        (LABELS.astype(float), "labels is float64; class ids must be integers 0 .. 2"),
        (np.full(12, np.nan), "labels is float64; class ids must be integers"),
        (np.array(list("aabbccaabbcc")), "labels is <U1; class ids must be integers"),
        (LABELS > 0, "labels is bool; class ids must be integers"),
        (np.array([0, None] * 6), "labels is object; class ids must be integers"),
        (LABELS[:5], r"labels has shape \(5,\) for 12 images"),
        (LABELS[:, None], r"labels has shape \(12, 1\) for 12 images"),
        (None, r"labels has shape \(\) for 12 images"),
        ([[1], [1, 2]] * 6, r"labels are not one number per image; the shape must be \(12,\)"),
    ],
    ids=["one class", "gaps", "negative", "huge", "float", "NaN", "texts", "bool", "None among them", "too few", "a column", "None", "ragged"],
)
def test_labels_that_are_no_class_ids_are_refused(labels, sentence):
    with pytest.raises(TaskError, match=sentence):
        task(labels=labels)


@pytest.mark.parametrize("kind", [list, np.uint8, np.int64])
def test_whole_numbers_of_any_kind_are_class_ids(kind):
    labels = LABELS.tolist() if kind is list else LABELS.astype(kind)
    assert lfc_of(task(labels=labels)).value == pytest.approx(lfc_by_hand(IMAGES, LABELS), rel=1e-5)


def test_a_class_without_images_is_no_class_and_is_named():
    with_gap = np.where(LABELS == 1, 3, LABELS)
    ranking = ns.rank([expert()], task(labels=with_gap, names=(*N, "dogwood")), ["lfc"], resamples=0)
    assert ranking.experts[0].scores["lfc"].value == pytest.approx(lfc_by_hand(IMAGES, LABELS), rel=1e-5)
    assert ranking.task["classes"] == 3
    assert any("left out (1): beech" in warning for warning in ranking.task["warnings"])


# Images


@pytest.mark.parametrize(
    ("images", "error", "sentence"),
    [
        (IMAGES[:0], TaskError, "has no training images. A task needs at least two classes"),
        (np.full((12, 4, 4, 3), np.nan), TaskError, "images are float64; they must be uint8"),
        (IMAGES.astype(np.uint16), TaskError, "images are uint16; they must be uint8"),
        (IMAGES[..., :2], TaskError, r"images have shape \(12, 4, 4, 2\); allowed are"),
        (IMAGES[None], TaskError, r"images have shape \(1, 12, 4, 4, 3\); allowed are"),
        (IMAGES[:, :0], TaskError, "with no pixels"),
        (None, TaskError, "images are of type NoneType; expected an array"),
        ([image / 255 for image in IMAGES], DataError, r"type float64 and shape \(4, 4, 3\); allowed: uint8"),
        ([image[..., :2] for image in IMAGES], DataError, r"type uint8 and shape \(4, 4, 2\); allowed: "),
        ([image[:0] for image in IMAGES], DataError, r"shape \(0, 4, 3\)"),
        ([None] * 12, DataError, "type object"),
    ],
    ids=["none", "NaN", "uint16", "two channels", "five axes", "no pixels", "None", "floats", "list of two channels", "empty ones", "list of None"],
)
def test_images_that_are_no_images_are_refused(images, error, sentence):
    with pytest.raises(error, match=sentence):
        lfc_of(task(images, LABELS if images is None or len(images) == 12 else LABELS[: len(images)]))


@pytest.mark.parametrize(
    ("images", "entering"),
    [
        (IMAGES[:, :1, :1], np.repeat(np.repeat(IMAGES[:, :1, :1], 4, 1), 4, 2)),
        (IMAGES[..., 0], np.repeat(IMAGES[..., :1], 3, 3)),
        (IMAGES[..., :1], np.repeat(IMAGES[..., :1], 3, 3)),
        (list(IMAGES), IMAGES),
    ],
    ids=["one pixel", "grey", "one channel", "a list"],
)
def test_small_and_grey_images_give_what_their_pixels_say(images, entering):
    assert lfc_of(task(images)).value == pytest.approx(lfc_by_hand(entering, LABELS), rel=1e-5)


def test_images_that_are_not_square_are_squeezed():
    wide = np.repeat(IMAGES[:, :, :1], 9, axis=2)  # each row of one colour: squeezing changes nothing
    assert lfc_of(task(wide)).value == pytest.approx(lfc_by_hand(np.repeat(IMAGES[:, :, :1], 4, axis=2), LABELS), rel=1e-5)


def test_one_image_a_class_has_a_value_and_no_interval():
    few = task(IMAGES[[0, 4]], np.array([0, 1]), N[:2])
    ranking = ns.rank([expert()], few, ["lfc", "knn"])
    assert ranking.experts[0].scores["lfc"].value == pytest.approx(lfc_by_hand(IMAGES[[0, 4]], np.array([0, 1])), rel=1e-5)
    assert ranking.experts[0].scores["lfc"].low is None
    assert "one image only" in ranking.experts[0].scores["knn"].reason


OF_FEATURES = [name for name, score in SCORES.items() if set(score.needs) <= {"features", "labels", "seed"} and "features" in score.needs]


@pytest.mark.parametrize("kind", ["constant", "duplicates", "one image a class"])
def test_every_score_of_features_has_a_finite_value_or_a_reason(kind):
    images = {"constant": np.full_like(IMAGES, 7), "duplicates": IMAGES[LABELS * 4], "one image a class": IMAGES[[0, 4, 8]]}[kind]
    labels = LABELS if len(images) == 12 else np.arange(3)
    found = ns.rank([expert(), expert(lambda v, x: jnp.tanh(flat(v, x)), "other")], task(images, labels), OF_FEATURES, resamples=0)
    assert not found.failures
    for row in found.experts:
        for name, outcome in row.scores.items():
            assert np.isfinite(outcome.value) if isinstance(outcome, ScoreResult) else len(outcome.reason) > 20, name
    if kind == "constant":
        assert all("constant" in row.scores["lfc"].reason for row in found.experts)
    if kind == "duplicates":
        assert found.task["images"] == 3
        assert any("9 of 12 images are copies of others" in warning for warning in found.task["warnings"])
        assert all("one image only" in row.scores["knn"].reason for row in found.experts)


CLASSES = 5000


def test_five_thousand_classes_are_ranked():
    colours = np.random.default_rng(2).integers(0, 255, (CLASSES, 1, 1, 3), dtype=np.uint8)
    images, labels = np.repeat(colours, 2, axis=0), np.repeat(np.arange(CLASSES), 2)
    many = ns.Task("many", images, labels, tuple(map(str, range(CLASSES))))
    pixel = ns.Expert("pixel", first_pixel, {}, features_fn=first_pixel, preprocess=lambda images: np.stack([image[0, 0] / 255 for image in images]))
    (row,) = ns.rank([pixel], many, ["lfc", "num_params"], resamples=0, batch_size=4096).experts
    x = images[:, 0, 0].astype(np.float32) / np.float32(255)
    gram, n = x.astype(np.float64).T @ x, len(x)
    sums, total = 2.0 * x[::2].astype(np.float64), x.sum(0, dtype=np.float64)
    with_labels = 2 * (sums**2).sum() - total @ total  # of the kernel with +1 and -1, entry by entry
    k, y = total @ total / n**2, (4.0 * n - n * n) / n**2
    by_hand = (with_labels / n**2 - k * y) / np.sqrt(((gram**2).sum() / n**2 - k**2) * (1 - y**2))
    assert row.scores["lfc"].value == pytest.approx(by_hand, rel=1e-4)


def first_pixel(variables, x):
    return x


# Experts


@pytest.mark.parametrize(
    ("features_fn", "sentence"),
    [
        (lambda v, x: jnp.full((len(x), 3), jnp.nan), "hold NaN or infinity"),
        (lambda v, x: jnp.full((len(x), 3), jnp.inf), "hold NaN or infinity"),
        (lambda v, x: jnp.zeros((len(x), 3)).at[0, 0].set(jnp.nan), "hold NaN or infinity"),
        (lambda v, x: jnp.ones((len(x) + 1, 3)), "returns 13 rows for 12 examples; expected one per example"),
        (lambda v, x: jnp.ones((1, 3)), "returns 1 rows for 12 examples"),
        (lambda v, x: jnp.ones((len(x), 0)), r"shape \(12, 0\); they must be \(n, d\)"),
        (lambda v, x: x[:, 0, 0, 0], r"shape \(12,\); they must be \(n, d\)"),
        (lambda v, x: x, r"shape \(12, 4, 4, 3\); they must be \(n, d\)"),
        (lambda v, x: flat(v, x) * 1j, "must be real numbers"),
        (lambda v, x: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["NaN", "infinity", "one NaN", "a row too many", "one row", "no features", "one axis", "four axes", "complex", "raises"],
)
def test_an_expert_with_impossible_features_fails_alone(features_fn, sentence):
    ranking = ns.rank([expert(features_fn), expert(name="good")], task(), ["lfc"], resamples=0)
    (failure,) = ranking.failures
    assert failure.name == "odd"
    assert re.search(sentence, failure.error)
    assert ranking.best == "good"
    assert ranking.experts[0].scores["lfc"].value == pytest.approx(lfc_by_hand(IMAGES, LABELS), rel=1e-5)


def test_features_that_are_constant_are_a_reason_and_no_value():
    (row,) = ns.rank([expert(lambda v, x: jnp.ones((len(x), 3)))], task(), ["lfc", "knn"], resamples=0).experts
    assert "constant" in row.scores["lfc"].reason
    assert "constant" in row.scores["knn"].reason


def test_an_expert_that_mixes_the_examples_of_a_batch_fails_alone():
    mixing = expert(lambda v, x: flat(v, x) - flat(v, x).mean(0))
    ranking = ns.rank([mixing, expert(name="good")], task(), ["lfc"], resamples=0)
    assert ranking.best == "good"
    assert "Expert 'odd': its outputs for an image depend on the rest of the batch" in ranking.failures[0].error
    (alone,) = ns.rank([mixing], task(), ["lfc"], resamples=0, batch_size=1).experts
    assert "constant" in alone.scores["lfc"].reason


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("apply_fn", lambda v, x: (flat(v, x), 1), r"apply_fn of expert 'odd' must return an array \(n, c\); it returned a tuple of 2\."),
        ("apply_fn", lambda v, x: {"logits": flat(v, x)}, r"must return an array \(n, c\); it returned a dict of 1\."),
        ("features_fn", lambda v, x: None, r"features_fn of expert 'odd' must return an array \(n, d\); it returned a NoneType\."),
    ],
    ids=["tuple", "dictionary", "nothing"],
)
def test_an_expert_that_returns_no_array_is_said_so(name, given, sentence):
    (failure,) = ns.rank([replace(expert(), **{name: given})], task(), ["lfc"], resamples=0).failures
    assert re.search(sentence, failure.error)


@pytest.mark.parametrize(
    ("preprocess", "sentence"),
    [(None, "has no preprocess"), (lambda images: np.ones((3, 48)), "3 rows of features for 12 labels"), (lambda images: 1 / 0, "ZeroDivisionError")],
    ids=["none", "too few", "raises"],
)
def test_a_preprocess_that_cannot_be_is_said(preprocess, sentence):
    ranking = ns.rank([expert(preprocess=preprocess)], task(), ["lfc"], resamples=0)
    said = [failure.error for failure in ranking.failures] + [row.scores["lfc"].reason for row in ranking.experts]
    assert len(said) == 1
    assert sentence in said[0]
    assert ranking.best is None


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        ([], "There is no expert to rank"),
        ([expert(), expert()], "Two experts are named 'odd'; names must differ"),
        ([3], "Expected an expert or a name of one; given: int"),
        (None, "Expected an expert or a name of one; given: NoneType"),
        ("built in", "There is no expert, zoo or folder 'built in'. Did you mean 'builtin'"),
    ],
    ids=["none", "two of one name", "numbers", "None", "a text"],
)
def test_experts_that_are_none_are_refused(experts, sentence):
    with pytest.raises((ConfigError, ModelError), match=sentence):
        ns.rank(experts, task())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"per_class": "x"}, "per_class='x' must be an integer of at least 1"),
        ({"per_class": 2.5}, "per_class=2.5 must be an integer of at least 1 .*"),
        ({"per_class": None}, "per_class=None"),
        ({"seed": 1.5}, "seed=1.5 must be an integer of at least 0"),
        ({"resamples": float("nan")}, "resamples=nan must be 0"),
        ({"resamples": 25.5}, "resamples=25.5 must be 0"),
        ({"batch_size": None}, "batch_size=None must be an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"measured": 3}, "measured must be {expert"),
        ({"cache": 3}, "cache is of type int; it must be the path of a folder"),
        ({"progress": 3}, "progress= must be a function of .* or False; given: 3"),
        ({"scores": None}, "scores is of type NoneType; it must be names"),
        ({"scores": [3]}, "Score 3 is unknown. Allowed"),
        ({"scores": {"mine": 3}}, "not a Score"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_of_a_wrong_kind_are_a_sentence(options, sentence):
    with pytest.raises((ConfigError, TaskError), match=sentence):
        ns.rank([expert()], task(), **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ns.lfc("x", [0]), "must be real numbers, one array"),
        (lambda: ns.lfc([[1, 2], [3]], [0, 1]), "must be real numbers, one array"),
        (lambda: ns.lfc(np.ones((2, 2)) * 1j, [0, 1]), "must be real numbers"),
        (lambda: ns.ntk(lambda p, x: x @ p, np.ones((2, 1)), np.ones((3, 2)), method=None), "method=None is unknown"),
        (lambda: ns.ntk(lambda p, x: x @ p, np.ones((2, 1)), np.ones((3, 2)), out=""), "an empty text"),
        (lambda: ns.finetune(None, task()), "Expected an expert or a name of one; given: NoneType"),
        (lambda: ns.finetune(expert(), 3), "task= must be a Task, or its name or path; given: int"),
        (lambda: ns.linearized.loss_curve(np.eye(2), np.ones(2), lr=0.1, steps=10**12), "is a curve of more than"),
        (lambda: ns.Preprocess(4, mean=None), "mean=None, .* both need three numbers"),
        (lambda: ns.Preprocess(4, interpolation=3), "interpolation 3 is unknown"),
    ],
    ids=["text", "ragged", "complex", "method", "out", "no expert", "no task", "steps", "mean", "interpolation"],
)
def test_functions_say_what_they_take(call, sentence):
    with pytest.raises((ConfigError, TaskError), match=sentence):
        call()
