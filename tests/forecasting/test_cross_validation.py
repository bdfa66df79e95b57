"""Cross-validation of simulated trainings: nothing leaks, nothing but the kernel counts, and without a signal it finds none."""

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, TaskError, UndefinedScoreError
from ntk_select.forecasting import cross_validation as room
from ntk_select.forecasting.cross_validation import best, cross_validate

RECIPE = ns.Recipe(epochs=8, batch_size=8)


def test_every_image_is_held_out_once_in_every_division_and_never_trained_on_then():
    ids = np.array([0] * 7 + [1] * 4 + [2])
    splits = room._stratified_folds(ids, folds=3, repeats=2, seed=0)
    assert len(splits) == 6
    for split in splits:
        assert not split.held[split.trained].any()
        assert len(split.trained) + split.held.sum() == 12
    times = np.sum([split.held for split in splits], axis=0)
    assert times.tolist() == [2] * 11 + [0]  # the only image of a class stays in training
    sizes = [np.bincount(ids[split.held], minlength=3) for split in splits]
    assert np.ptp(sizes, axis=0).max() <= 1


def test_of_shots_as_many_are_trained_on_and_all_others_judge():
    ids = np.array([0] * 7 + [1] * 4 + [2] * 2 + [3])
    for split in room._random_splits(ids, shots=3, count=5, seed=0):
        assert np.bincount(ids[split.trained]).tolist() == [3, 3, 1, 1]
        np.testing.assert_array_equal(split.held, ~np.isin(np.arange(14), split.trained))


def test_what_is_held_out_does_not_count(blobs, rng):
    """Other labels of the held-out images change how they are judged, and nothing else: the outputs are of the others alone."""
    kernel, labels = blobs(each=4)
    batches, outputs = room.draw_batches([np.arange(9)], RECIPE, 12, 0), []
    for held in ([0, 1, 2], [2, 0, 0]):
        changed = np.concatenate([labels[:9], held])
        outputs.append(room.simulate(kernel, changed, batches, (0.1,), RECIPE, classes=3).outputs)
    np.testing.assert_array_equal(*outputs)


def test_neither_the_order_of_the_images_nor_the_names_of_the_classes_count(blobs, rng):
    kernel, labels = blobs()
    order = rng.permutation(len(labels))
    found = cross_validate(kernel, labels, RECIPE, (0.01, 0.003), seed=4)
    other = cross_validate(kernel[np.ix_(order, order)], np.array([40, -3, 17])[labels][order], RECIPE, (0.01, 0.003), seed=4)
    for one, two in zip(found, other, strict=True):
        assert one.accuracy == two.accuracy
        np.testing.assert_allclose(one.loss, two.loss, rtol=1e-9)
        np.testing.assert_array_equal(one.correct[order], two.correct)
        np.testing.assert_allclose(one.log_likelihoods[order], two.log_likelihoods, rtol=1e-8)


def test_the_numbers_are_means_over_the_held_out_images(blobs):
    kernel, labels = blobs()
    for one in cross_validate(kernel, labels, RECIPE, (0.01, 0.001)):
        np.testing.assert_allclose(one.accuracy, one.correct.mean())
        np.testing.assert_allclose(one.balanced_accuracy, np.mean([one.correct[labels == label].mean() for label in range(3)]))
        np.testing.assert_allclose(one.loss, -one.log_likelihoods.mean())
        np.testing.assert_allclose([one.curve.accuracies[-1], one.curve.losses[-1]], [one.accuracy, one.loss])
        assert one.curve.accuracies.shape == one.curve.losses.shape == one.curve.training_losses.shape == (8,)
        assert 0 <= one.low < one.accuracy <= one.high <= 1
        assert one.loss_low < one.loss < one.loss_high
        assert one.distance > 0
        assert not one.diverged


def test_a_signal_is_found_and_shuffled_labels_are_at_chance(blobs, rng):
    kernel, labels = blobs(each=20)
    found = best(cross_validate(kernel, labels, RECIPE, (0.01, 0.001)))
    assert found.low > 0.8
    inside = 0
    for _ in range(10):
        shuffled = best(cross_validate(kernel, rng.permutation(labels), RECIPE, (0.01, 0.001)))
        inside += shuffled.low <= 1 / 3 <= shuffled.high
    assert inside >= 8


def test_more_images_forecast_more(blobs):
    kernel, labels = blobs(each=30, signal=0.5)
    few, more = (best(cross_validate(kernel, labels, RECIPE, (0.01,), shots=shots, images=60)) for shots in (2, 20))
    assert few.accuracy < more.accuracy


def test_one_after_the_other_gives_what_all_together_give(blobs, monkeypatch):
    kernel, labels = blobs()
    together = cross_validate(kernel, labels, RECIPE, (0.01, 0.001), folds=3)
    monkeypatch.setattr(room, "MAX_NUMBERS", 1)
    for one, two in zip(together, cross_validate(kernel, labels, RECIPE, (0.01, 0.001), folds=3), strict=True):
        np.testing.assert_allclose(one.log_likelihoods, two.log_likelihoods, rtol=1e-10)
        np.testing.assert_allclose(one.curve.training_losses, two.curve.training_losses, rtol=1e-10)
        np.testing.assert_allclose(one.distance, two.distance)


def test_a_rate_that_diverges_is_told_and_never_the_best(blobs):
    kernel, labels = blobs()
    found = cross_validate(kernel, labels, RECIPE, (1e6, 0.01))
    assert [one.diverged for one in found] == [True, False]
    assert best(found) is found[1]
    assert best(found[:1]) is None


BAD = {
    "one class": (lambda k, y: (k, np.zeros_like(y), {}), UndefinedScoreError, "All images are of one class"),
    "one image each": (
        lambda k, y: (k[:3, :3], np.arange(3), {}),
        UndefinedScoreError,
        r"only one image, so none can be held out\. Try: per_class=5 \(--per-class 5\)",
    ),
    "nan": (lambda k, y: (np.where(k > 0, np.nan, k), y, {}), UndefinedScoreError, "The kernel contains NaN"),
    "shape": (lambda k, y: (k[:, :3], y, {}), TaskError, r"shape \(24, 3\)"),
    "text": (lambda k, y: (k.astype(str), y, {}), TaskError, "real numbers"),
    "labels": (lambda k, y: (k, y[:3], {}), TaskError, r"labels has shape \(3,\)"),
    "kind of labels": (lambda k, y: (k, y / 2, {}), TaskError, "one integer per image"),
    "folds": (lambda k, y: (k, y, {"folds": 1}), ConfigError, "folds=1 must be a whole number from 2"),
    "repeats": (lambda k, y: (k, y, {"repeats": 0}), ConfigError, "repeats=0"),
    "seed": (lambda k, y: (k, y, {"seed": -1}), ConfigError, "seed=-1"),
    "shots": (lambda k, y: (k, y, {"shots": 0}), ConfigError, "shots=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_judged_is_refused(name, blobs):
    make, error, sentence = BAD[name]
    kernel, labels, options = make(*blobs())
    with pytest.raises(error, match=sentence):
        cross_validate(kernel, labels, RECIPE, (0.01,), **options)


def test_whole_numbers_are_a_kernel_too(blobs):
    kernel, labels = blobs()
    assert best(cross_validate(np.round(kernel).astype(int), labels, RECIPE, (0.01,))).accuracy > 0.5
