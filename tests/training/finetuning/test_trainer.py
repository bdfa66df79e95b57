"""Training at one learning rate: batch norm, resumption, threads, devices, augmentation; and accuracy as in scikit-learn."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError
from ntk_select.training.finetuning.recipe import hold_out
from ntk_select.training.finetuning.trainer import accuracy, train_fn_of

QUICK = ns.Recipe(epochs=4, batch_size=6)


def bits(result):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result.tuned.variables)]


def told(result):
    """All that must not depend on how the work was done."""
    record = result.to_dict()
    return {name: value for name, value in record.items() if name not in ("seconds", "images_per_second")}


def test_in_training_mode_running_statistics_follow_the_batches_and_frozen_ones_stay_bit_for_bit(made):
    expert, task = made.normed_expert(), made.spots()
    one_step = ns.Recipe(epochs=1, batch_size=36, weight_decay=0.0)
    trained = ns.finetune(expert, task, learning_rates=0.1, recipe=one_step)
    h = task.images.reshape(36, -1) / 255 @ expert.params["body"]
    before, after = expert.state["batch_stats"], trained.tuned.state["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * h.mean(0), rtol=1e-12)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * h.var(0, ddof=1), rtol=1e-12)
    frozen = ns.finetune(expert, task, learning_rates=0.1, recipe=ns.Recipe(epochs=3, batch_size=6, batch_norm="frozen"))
    for name in ("mean", "var"):
        assert np.asarray(frozen.tuned.state["batch_stats"][name]).tobytes() == before[name].tobytes()
    assert np.abs(frozen.tuned.params["backbone"]["body"] - expert.params["body"]).max() > 1e-4


def test_frozen_batch_norm_is_trained_through_the_function_of_evaluation(made):
    without = made.normed_expert(train_fn=None)
    recipe = ns.Recipe(epochs=2, batch_size=6, batch_norm="frozen")
    one, two = (ns.finetune(expert, made.spots(), learning_rates=0.1, recipe=recipe) for expert in (without, made.normed_expert()))
    assert bits(one) == bits(two)


def test_state_without_a_train_fn_is_refused_in_training_mode_and_no_state_needs_none(made):
    with pytest.raises(ModelError, match=r"has state \(batch_stats\) but no train_fn.*or Recipe\(batch_norm='frozen'\)"):
        ns.finetune(made.normed_expert(train_fn=None), made.spots(), learning_rates=0.1, recipe=QUICK)
    taps, changed = train_fn_of(made.linear_expert(), "train")(made.linear_expert().variables, np.zeros((2, 4, 4)))
    assert taps.logits.shape == (2, 5)
    assert changed == {}


def test_an_expert_that_has_been_fine_tuned_can_be_fine_tuned_again(made):
    first = ns.finetune(made.normed_expert(), made.spots((12, 12), (4, 4)), learning_rates=0.1, recipe=QUICK)
    again = ns.finetune(first.tuned, made.spots(name="more"), learning_rates=0.1, recipe=QUICK)
    assert again.tuned.params["head"]["kernel"].shape == (6, 3)
    assert again.accuracy > 0.5
    assert np.abs(again.tuned.state["batch_stats"]["mean"] - first.tuned.state["batch_stats"]["mean"]).max() > 0


@pytest.mark.parametrize("choose", ["validation", "paper"])
def test_three_workers_find_bit_for_bit_what_one_finds(made, choose):
    task = made.spots(noise=150)
    options = {"learning_rates": (0.3, 0.1, 0.01), "recipe": QUICK, "choose": choose}
    one, three = (ns.finetune(made.normed_expert(), task, workers=workers, **options) for workers in (1, 3))
    assert bits(one) == bits(three)
    assert told(one) == told(three)


@pytest.mark.parametrize("workers", [1, 3])
def test_progress_never_falls_and_ends_with_all_epochs(made, workers):
    seen = []
    ns.finetune(
        made.linear_expert(), made.spots(), learning_rates=(0.3, 0.2, 0.1), recipe=QUICK, workers=workers, progress=lambda *now: seen.append(now)
    )
    done = [now[0] for now in seen]
    assert done == sorted(done)
    assert {now[1:] for now in seen} == {(16, "linear")}
    assert set(done) == set(range(17))


CUTS = {"in the first rate": 2, "in the second": 5, "in the last training": 9, "near its end": 11}


@pytest.mark.parametrize(
    "after",
    [pytest.param(after, id=name, marks=() if name in ("in the second", "near its end") else pytest.mark.nightly) for name, after in CUTS.items()],
)
def test_a_search_that_was_cut_goes_on_to_the_same_weights_bit_for_bit(made, tmp_path, every_epoch, cut, after):
    task = made.spots(noise=150)
    options = {"learning_rates": (0.3, 0.1), "recipe": QUICK, "workers": 1}
    whole = ns.finetune(made.normed_expert(), task, **options)
    with pytest.raises(KeyboardInterrupt):
        ns.finetune(made.normed_expert(), task, checkpoints=tmp_path, progress=cut(after), **options)
    seen = []
    resumed = ns.finetune(made.normed_expert(), task, checkpoints=tmp_path, progress=lambda *now: seen.append(now[0]), **options)
    assert bits(resumed) == bits(whole)
    assert told(resumed) == told(whole)
    finished = after // QUICK.epochs * QUICK.epochs  # trainings that were done before the cut report once
    assert all(epoch not in seen for epoch in range(1, min(finished, QUICK.epochs)))


def test_what_was_finished_is_not_trained_again_and_then_there_is_no_speed(made, tmp_path):
    options = {"learning_rates": (0.3, 0.1), "recipe": QUICK, "checkpoints": tmp_path, "workers": 1}
    first = ns.finetune(made.linear_expert(), made.spots(), **options)
    seen = []
    second = ns.finetune(made.linear_expert(), made.spots(), progress=lambda *now: seen.append(now[0]), **options)
    assert seen == [4, 8, 12]
    assert bits(first) == bits(second)
    assert told(first) == told(second)
    assert first.images_per_second > 0
    assert second.images_per_second is None
    json.dumps(second.to_dict(), allow_nan=False)
    repr(second)


def small_images(made):
    """A linear expert on images by this package's preprocessing, which are augmented."""
    return made.linear_expert(preprocess=ns.Preprocess(size=8), params={"head": {"kernel": np.zeros((192, 2)), "bias": np.zeros(2)}})


def test_augmentation_does_not_depend_on_workers_or_cuts_either(made, tmp_path, every_epoch, cut):
    task = made.spots(noise=150)
    options = {"learning_rates": (0.03, 0.01), "recipe": QUICK}
    whole = ns.finetune(small_images(made), task, workers=1, **options)
    with pytest.raises(KeyboardInterrupt):
        ns.finetune(small_images(made), task, workers=1, checkpoints=tmp_path, progress=cut(6), **options)
    for resumed in (ns.finetune(small_images(made), task, workers=2, checkpoints=place, **options) for place in (tmp_path, None)):
        assert bits(resumed) == bits(whole)
        assert told(resumed) == told(whole)


def test_small_images_are_cropped_and_mirrored_unless_told_otherwise(made):
    found = {
        augment: bits(ns.finetune(small_images(made), made.spots(), learning_rates=0.01, recipe=ns.Recipe(epochs=1, batch_size=6, augment=augment)))
        for augment in ("auto", "crop_flip", "crop", "none")
    }
    assert found["auto"] == found["crop_flip"]
    assert len({tuple(value) for value in found.values()}) == 3


@pytest.mark.slow
def test_images_above_64_pixels_are_fed_by_threads_and_the_result_does_not_depend_on_them(made):
    pytest.importorskip("grain")
    task = made.spots(noise=150)
    expert = made.linear_expert(preprocess=ns.Preprocess(size=72), params={"head": {"kernel": np.zeros((3 * 72**2, 2)), "bias": np.zeros(2)}})
    options = {"learning_rates": (0.001, 0.0001), "recipe": ns.Recipe(epochs=2, batch_size=6)}
    one, two = (ns.finetune(expert, task, workers=workers, **options) for workers in (1, 2))
    assert bits(one) == bits(two)
    assert told(one) == told(two)


def test_a_search_by_optuna_that_was_cut_goes_on_to_the_same_weights(made, tmp_path, every_epoch, cut):
    pytest.importorskip("optuna")
    options = {"learning_rates": 0.1, "recipe": QUICK, "search": "optuna", "trials": 3}
    whole = ns.finetune(made.linear_expert(), made.spots(), **options)
    with pytest.raises(KeyboardInterrupt):
        ns.finetune(made.linear_expert(), made.spots(), checkpoints=tmp_path, progress=cut(10), **options)
    resumed = ns.finetune(made.linear_expert(), made.spots(), checkpoints=tmp_path, **options)
    assert bits(resumed) == bits(whole)
    assert told(resumed) == told(whole)


def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Checkpoints cannot be written to"):
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=0.1, recipe=QUICK, checkpoints=tmp_path / "file")


def test_outputs_of_held_out_images_that_are_not_finite_though_the_weights_are_count_as_diverged(made):
    task = made.spots((10, 10, 10))
    spoilt = task.images[hold_out(task.labels, 0)[1]]

    def preprocess(images):
        found = made.pixels(images)
        return np.where([[[any((image == other).all() for other in spoilt)]] for image in images], np.nan, found)

    with pytest.raises(ModelError, match="Every learning rate diverged.*Outputs of the fine-tuned expert 'linear' contain NaN or infinity"):
        ns.finetune(made.linear_expert(preprocess=preprocess), task, learning_rates=(0.2, 0.1), recipe=QUICK)


def test_a_batch_that_devices_cannot_share_is_refused_before_training(made):
    class Three:
        size = 3

    with pytest.raises(ConfigError, match=r"A batch of 7 images cannot be shared evenly by 3 devices. Try: Recipe\(batch_size=6\)"):
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=0.1, recipe=ns.Recipe(batch_size=7), mesh=Three())


def test_one_device_in_a_mesh_is_as_none(made):
    mesh = Mesh(np.array(jax.devices()[:1]), ("examples",))
    one, two = (ns.finetune(made.normed_expert(), made.spots(), learning_rates=0.1, recipe=QUICK, mesh=which) for which in (None, mesh))
    np.testing.assert_allclose(one.tuned.params["backbone"]["body"], two.tuned.params["backbone"]["body"], rtol=0, atol=1e-12)


PROGRAM = """
import importlib.util
import json
import sys
import warnings

import jax
import numpy as np
from jax.sharding import Mesh

import ntk_select as ns

jax.config.update("jax_enable_x64", True)
warnings.simplefilter("error")
spec = importlib.util.spec_from_file_location("made", sys.argv[1])
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
mesh = Mesh(np.array(jax.devices()), ("examples",))
assert mesh.size == 2
recipe = ns.Recipe(epochs=4, batch_size=6)
results = [ns.finetune(made.normed_expert(), made.spots((10, 10, 10)), learning_rates=(0.3, 0.1), recipe=recipe, mesh=which) for which in (None, mesh)]
one, two = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result.tuned.variables)]) for result in results)
print(json.dumps([float(np.abs(one - two).max()), float(np.abs(one).max()), *(result.learning_rate for result in results)]))
"""


def test_two_devices_that_share_each_batch_find_what_one_finds():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    helpers = os.path.join(os.path.dirname(__file__), "conftest.py")
    done = subprocess.run([sys.executable, "-c", PROGRAM, helpers], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    difference, size, *rates = json.loads(done.stdout.splitlines()[-1])
    assert difference < 1e-10 * size
    assert rates[0] == rates[1]


@pytest.mark.parametrize(("flips_keep_class", "stands_for"), [(False, "crop"), (True, "crop_flip"), (None, "crop_flip")])
def test_auto_does_not_flip_where_the_task_says_that_flips_change_the_class(made, tmp_path, flips_keep_class, stands_for):
    task = replace(made.spots(), flips_keep_class=flips_keep_class)
    auto, named = (
        ns.finetune(small_images(made), task, learning_rates=0.01, recipe=ns.Recipe(epochs=1, batch_size=6, augment=augment), checkpoints=tmp_path)
        for augment in ("auto", stands_for)
    )
    assert bits(auto) == bits(named)
    assert auto.recipe.augment == stands_for
    assert named.images_per_second is None  # one training, which was resumed
    flipped = ns.finetune(small_images(made), task, learning_rates=0.01, recipe=ns.Recipe(epochs=1, batch_size=6, augment="crop_flip"))
    assert (bits(auto) == bits(flipped)) is (stands_for == "crop_flip")


def test_auto_leaves_inputs_of_another_preprocessing_alone_whatever_the_task_says(made):
    task = replace(made.spots(), flips_keep_class=False)
    found = ns.finetune(made.linear_expert(), task, learning_rates=0.01, recipe=ns.Recipe(epochs=1, batch_size=6))
    assert found.recipe.augment == "none"


metrics = pytest.importorskip("sklearn.metrics")


def drawn(seed, n=40, classes=5, absent=()):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.setdiff1d(np.arange(classes), absent), n)
    return rng.normal(size=(n, classes)) * 3, labels


@pytest.mark.parametrize("absent", [(), (4,), (0, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_all_four_are_those_of_scikit_learn_also_where_classes_have_no_test_images(seed, absent):
    logits, labels = drawn(seed, absent=absent)
    found, answers, present = accuracy(logits, labels), logits.argmax(1), np.unique(labels)
    assert found.top1 == metrics.accuracy_score(labels, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # answers of classes that have no images
        expected = metrics.balanced_accuracy_score(labels, answers)
    assert found.balanced == pytest.approx(expected, rel=1e-14)
    recall = metrics.recall_score(labels, answers, labels=present, average=None)
    np.testing.assert_allclose(found.per_class[present], recall, rtol=1e-14)
    assert np.isnan(found.per_class[list(absent)]).all()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.loss == pytest.approx(metrics.log_loss(labels, chances, labels=np.arange(5)), rel=1e-12)


def test_equal_logits_are_an_answer_for_the_first_class():
    found = accuracy(np.zeros((4, 2)), np.array([0, 0, 0, 1]))
    assert (found.top1, found.balanced, found.per_class.tolist()) == (0.75, 0.5, [1.0, 0.0])
    assert found.loss == pytest.approx(np.log(2), rel=1e-15)


def test_huge_logits_of_float32_give_a_finite_loss_that_is_not_below_nothing():
    found = accuracy(np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32), np.array([0, 1]))
    assert (found.top1, found.loss) == (1.0, 0.0)
    wrong = accuracy(np.array([[3e38, -3e38]], np.float32), np.array([1]))
    assert wrong.loss == pytest.approx(6e38, rel=1e-6)
