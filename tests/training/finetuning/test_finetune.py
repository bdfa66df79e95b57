"""Fine-tuning is SGD as written in NumPy, uses the test set once at the end, and refuses every mistake in a sentence."""

import dataclasses
import io
import sys
from collections.abc import Sequence

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError, TaskError
from ntk_select.training.finetuning import trainer as trainer_module
from ntk_select.training.finetuning.recipe import hold_out

QUICK = ns.Recipe(epochs=3, batch_size=6)


def flat_pixels(images):
    return np.asarray(images, np.float64).reshape(len(images), -1) / 255


def head_of(result):
    head = result.tuned.params["head"]
    return np.asarray(head["kernel"]), np.asarray(head["bias"])


def same(one, other):
    """Whether two fine-tuned experts hold the same bits."""
    left, right = (jax.tree.leaves(expert.tuned.variables) for expert in (one, other))
    return len(left) == len(right) and all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    "recipe",
    [
        ns.Recipe(epochs=6, batch_size=9),
        ns.Recipe(epochs=4, batch_size=12, milestones=(1,), nesterov=False, momentum=0.5, weight_decay=0.05),
        ns.Recipe(epochs=3, batch_size=100, augment="none", batch_norm="frozen"),
    ],
    ids=["the paper's", "others", "all in one batch"],
)
def test_a_linear_expert_learns_what_sgd_in_numpy_learns(made, recipe):
    task = made.spots()
    found = ns.finetune(made.linear_expert(), task, learning_rates=0.3, recipe=recipe, seed=4)
    w, b, losses = made.sgd_by_hand(flat_pixels(task.images), task.labels, 3, 0.3, recipe, 4)
    np.testing.assert_allclose(head_of(found)[0], w, rtol=0, atol=1e-10)
    np.testing.assert_allclose(head_of(found)[1], b, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.losses, losses, rtol=0, atol=1e-10)
    assert found.accuracy == ((flat_pixels(task.test_images) @ w + b).argmax(1) == task.test_labels).mean()
    assert (found.learning_rate, found.choose, found.trials[0].accuracy) == (0.3, "given", None)


def test_the_same_holds_of_images_by_this_packages_preprocessing_without_augmentation(made):
    task, recipe = made.spots(), ns.Recipe(epochs=4, batch_size=12, augment="none")
    expert = dataclasses.replace(
        made.linear_expert(),
        params={"head": {"kernel": np.zeros((3 * made.side**2, 2)), "bias": np.zeros(2)}},
        preprocess=ns.Preprocess(size=made.side, mean=(0.5,) * 3, std=(0.25,) * 3),
    )
    x = np.repeat((task.images[..., None] / 255 - 0.5) / 0.25, 3, axis=-1).reshape(36, -1)
    found = ns.finetune(expert, task, learning_rates=0.05, recipe=recipe, seed=1)
    w, b, losses = made.sgd_by_hand(x, task.labels, 3, 0.05, recipe, 1)
    np.testing.assert_allclose(head_of(found)[0], w, rtol=0, atol=1e-5)
    np.testing.assert_allclose(head_of(found)[1], b, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)


def test_validation_chooses_the_rate_and_all_images_are_trained_on_with_it_as_numpy_does(made):
    task = made.spots((10, 10, 10), noise=150)
    recipe, rates, x = ns.Recipe(epochs=3, batch_size=6), (3.0, 0.1, 1e-4), flat_pixels(task.images)
    found = ns.finetune(made.linear_expert(), task, learning_rates=rates, recipe=recipe, seed=2)
    fitted, held = hold_out(task.labels, 2)
    expected = []
    for rate in rates:
        w, b, losses = made.sgd_by_hand(x[fitted], task.labels[fitted], 3, rate, recipe, 2)
        logits, labels = x[held] @ w + b, task.labels[held]
        loss = (np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - logits[np.arange(len(held)), labels]).mean()
        expected.append([rate, (logits.argmax(1) == labels).mean(), loss, *losses])
    told = [[trial.learning_rate, trial.accuracy, trial.loss, *trial.losses] for trial in found.trials]
    np.testing.assert_allclose(told, expected, rtol=1e-9)
    best = min(expected, key=lambda row: (-row[1], row[2]))[0]
    assert (found.learning_rate, found.choose) == (best, "validation")
    w, b, losses = made.sgd_by_hand(x, task.labels, 3, best, recipe, 2)
    np.testing.assert_allclose(head_of(found)[0], w, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.losses, losses, rtol=0, atol=1e-10)


def test_choosing_on_the_test_set_trains_each_rate_on_all_images_and_reports_the_best_as_the_paper_did(made):
    task = made.spots(noise=150)
    found = ns.finetune(made.linear_expert(), task, learning_rates=(3.0, 0.1, 1e-4), choose="paper", recipe=QUICK)
    one_by_one = [ns.finetune(made.linear_expert(), task, learning_rates=rate, recipe=QUICK) for rate in (3.0, 0.1, 1e-4)]
    assert [(trial.accuracy, trial.loss) for trial in found.trials] == [(one.accuracy, one.test_loss) for one in one_by_one]
    assert found.accuracy == max(one.accuracy for one in one_by_one)
    assert same(found, next(one for one in one_by_one if one.learning_rate == found.learning_rate))
    assert (found.choose, found.images) == ("paper", 3 * 3 * 36)


class Watched(Sequence):
    """Test images that say when they are looked at."""

    def __init__(self, images, log):
        self.images, self.log = images, log

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        self.log.append(place)
        return self.images[place]


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_the_test_set_is_evaluated_once_and_after_all_training(made, search):
    if search == "optuna":
        pytest.importorskip("optuna")
    task, log = made.spots(), []
    watched = dataclasses.replace(task, test_images=Watched(task.test_images, log))
    ns.finetune(
        made.linear_expert(), watched, learning_rates=(0.3, 0.1), recipe=QUICK, search=search, trials=3, progress=lambda *now: log.append(now)
    )
    total = (4 if search == "optuna" else 3) * QUICK.epochs
    looked = [entry for entry in log if isinstance(entry, int)]
    assert sorted(looked[:12]) == list(range(12))  # the evaluation; then copies of training images are searched
    assert log[-len(looked) - 1] == (total, total, "linear")
    assert all(isinstance(entry, tuple) for entry in log[: -len(looked)])


def test_copies_of_training_images_among_test_and_validation_images_are_reported(made):
    task = made.spots((10, 10, 10), noise=150)
    options = {"learning_rates": (0.3, 0.1), "extend": False, "recipe": QUICK}
    assert ns.finetune(made.linear_expert(), task, **options).copies is None
    fitted, held = hold_out(task.labels, 0)
    images, test_images = task.images.copy(), task.test_images.copy()
    images[held[:2]] = images[fitted[0]]
    test_images[[3, 7]] = images[held[-1]], images[fitted[-1]]
    found = ns.finetune(made.linear_expert(), dataclasses.replace(task, images=images, test_images=test_images), **options)
    assert found.copies == found.notes[-1] == found.to_dict()["copies"]
    first = {held[-1]: 3, fitted[-1]: 7}
    example = min(first)
    assert found.copies == (
        f"2 of 12 test images are copies of training images, e.g. test image {first[example]} is training image {example}: accuracy is too high. "
        "2 of 6 validation images are copies of other training images: the choice of the learning rate is biased."
    )
    among_held = images.copy()
    among_held[held[:2]] = 0  # of each other: no training image tells their class
    assert ns.finetune(made.linear_expert(), dataclasses.replace(task, images=among_held), **options).copies is None


def test_other_test_labels_change_neither_the_rate_nor_the_weights(made):
    task = made.spots(noise=150)
    other = dataclasses.replace(task, test_labels=(task.test_labels + 1) % 3)
    one, two = (ns.finetune(made.linear_expert(), which, learning_rates=(3.0, 0.1, 1e-4), recipe=QUICK) for which in (task, other))
    assert same(one, two)
    assert one.trials == two.trials
    assert one.learning_rate == two.learning_rate
    assert one.accuracy != two.accuracy


def test_a_seed_gives_its_weights_bit_for_bit_and_another_seed_others(made):
    task = made.spots()
    one, again, other = (ns.finetune(made.normed_expert(), task, learning_rates=0.1, recipe=QUICK, seed=seed) for seed in (3, 3, 4))
    assert same(one, again)
    assert not same(one, other)
    assert one.losses == again.losses != other.losses


def test_the_head_is_fresh_and_the_backbone_is_the_experts(made):
    expert, task = made.normed_expert(), made.spots()
    barely = ns.finetune(expert, task, learning_rates=1e-300, recipe=ns.Recipe(epochs=1, batch_size=6, weight_decay=0.0), seed=7)
    np.testing.assert_array_equal(barely.tuned.params["backbone"]["body"], expert.params["body"])
    np.testing.assert_array_equal(barely.tuned.params["head"]["kernel"], ns.with_new_head(expert, 3, seed=7).params["head"]["kernel"])
    assert barely.tuned.params["head"]["kernel"].shape == (6, 3)
    zero = ns.finetune(expert, task, learning_rates=1e-300, recipe=ns.Recipe(epochs=1, batch_size=6, head="zero"))
    assert np.abs(zero.tuned.params["head"]["kernel"]).max() < 1e-290


def test_the_backbone_is_trained_too_and_the_expert_that_came_in_is_unchanged(made):
    expert = made.normed_expert()
    before = jax.tree.map(np.array, expert.variables)
    found = ns.finetune(expert, made.spots(), learning_rates=0.1, recipe=QUICK)
    assert np.abs(found.tuned.params["backbone"]["body"] - before["params"]["body"]).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, before, expert.variables)


@pytest.mark.parametrize(("shots", "images"), [(2, 6), (5, 15), (20, 36), ("full", 36), (None, 36)])
def test_shots_are_trained_on_with_their_own_seed_and_the_whole_test_set_judges(made, shots, images):
    task = made.spots()
    found = ns.finetune(made.linear_expert(), task, shots=shots, learning_rates=0.3, recipe=ns.Recipe(epochs=2, batch_size=3), seed=1, sample_seed=5)
    chosen = np.arange(36) if shots in ("full", None) else ns.probe_sample(task, per_class=shots, seed=5).indices
    w, _, _ = made.sgd_by_hand(flat_pixels(task.images)[chosen], task.labels[chosen], 3, 0.3, found.recipe, 1)
    np.testing.assert_allclose(head_of(found)[0], w, rtol=0, atol=1e-10)
    assert (found.train_images, found.test_images, found.seed, found.sample_seed) == (images, 12, 1, 5)
    assert (found.shots, found.images) == (None if shots == "full" else shots, 2 * images)


def test_separable_images_are_learnt_and_shuffled_labels_give_chance(made):
    task = made.spots((40, 40, 40), (100, 100, 100), noise=100)
    recipe = ns.Recipe(epochs=10, batch_size=12)
    learnt = ns.finetune(made.normed_expert(), task, learning_rates=0.1, recipe=recipe)
    assert learnt.accuracy > 0.95
    rng = np.random.default_rng(9)
    shuffled = dataclasses.replace(task, labels=rng.permutation(task.labels), test_labels=rng.permutation(task.test_labels))
    control = ns.finetune(made.normed_expert(), shuffled, learning_rates=0.1, recipe=recipe)
    assert control.losses[-1] < control.losses[0]
    # Whatever the answers are, each is right with probability 1/3: 300 of them, four standard deviations.
    assert abs(control.accuracy - 1 / 3) < 4 * np.sqrt(2 / 9 / 300)


def test_a_rate_that_diverges_is_reported_and_the_others_go_on(made):
    found = ns.finetune(made.linear_expert(), made.spots((10, 10, 10)), learning_rates=(1e9, 0.1), recipe=ns.Recipe(epochs=30, batch_size=6))
    bad, good = found.trials
    assert (bad.learning_rate, bad.accuracy, bad.loss) == (1e9, None, None)
    assert "Training diverged in epoch" in bad.diverged
    assert good.diverged is None
    assert (found.learning_rate, len(found.losses)) == (0.1, 30)
    assert "diverged" in repr(found)
    # 30 epochs of 24 images by the good rate, 30 of 30 in the end, and what the bad one saw.
    assert 30 * (24 + 30) < found.images < 30 * (24 + 24 + 30)


def test_when_every_rate_diverges_smaller_ones_are_advised(made):
    recipe = ns.Recipe(epochs=30, batch_size=6)
    with pytest.raises(ModelError, match=r"Every learning rate diverged \(1e\+10: Training diverged.*; 1e\+09: .*learning_rates=1e\+08$"):
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=(1e9, 1e10), recipe=recipe)
    with pytest.raises(ModelError, match=r"Every learning rate diverged \(1e\+09: Training diverged"):
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=1e9, recipe=recipe)


def test_when_the_best_rate_diverges_on_all_images_the_next_best_is_taken(made, monkeypatch):
    task, true_run = made.spots((10, 10, 10)), trainer_module.Trainer.run

    def run(self, places, rate, report):
        done = true_run(self, places, rate, report)
        return done._replace(expert=None, diverged="gone") if rate == 0.3 and len(places) == 30 else done

    monkeypatch.setattr(trainer_module.Trainer, "run", run)
    found = ns.finetune(made.linear_expert(), task, learning_rates=(0.3, 1e-6), extend=False, recipe=QUICK)
    assert found.trials[0].accuracy > found.trials[1].accuracy
    assert found.learning_rate == 1e-6
    assert found.images == 3 * (24 + 24 + 30 + 30)


def test_cost_is_three_forward_passes_an_image_in_units_of_one_fine_tuning_of_the_reference(made):
    task, width = made.spots((10, 10, 10)), made.side**2
    one = ns.finetune(made.normed_expert(), task, learning_rates=0.1, recipe=QUICK, reference=made.linear_expert())
    forward = 2 * (width * 6 + 6 * 3)
    assert one.images == 3 * 30
    assert one.flops == 3 * forward * one.images
    assert one.cost == pytest.approx(one.flops / (3 * 2 * width * 3 * 3 * 30), rel=1e-14)
    several = ns.finetune(made.normed_expert(), task, learning_rates=(0.2, 0.1), extend=False, recipe=QUICK, reference=made.normed_expert())
    assert several.images == 3 * (24 + 24 + 30)
    assert several.cost == pytest.approx((24 + 24 + 30) / 30, rel=1e-14)
    assert ns.finetune(made.linear_expert(), task, learning_rates=0.1, recipe=QUICK).cost is None


def test_an_expert_without_a_head_is_given_one(made):
    headless = ns.Expert("headless", made.flat, {}, features_fn=made.flat, preprocess=made.pixels)
    task = made.spots()
    found = ns.finetune(headless, task, learning_rates=0.3, recipe=QUICK)
    w, _, _ = made.sgd_by_hand(flat_pixels(task.images), task.labels, 3, 0.3, QUICK, 0)
    np.testing.assert_allclose(head_of(found)[0], w, rtol=0, atol=1e-10)


def test_a_class_without_images_in_training_or_test_is_an_output_and_has_no_accuracy(made):
    task = made.spots((12, 0, 12, 12), (4, 4, 0, 4))
    found = ns.finetune(made.linear_expert(), task, learning_rates=0.3, recipe=ns.Recipe(epochs=8, batch_size=6))
    assert head_of(found)[0].shape == (made.side**2, 4)
    assert found.per_class["b"] == 0.0
    assert found.per_class["c"] is None
    known = [value for value in found.per_class.values() if value is not None]
    assert found.balanced_accuracy == pytest.approx(np.mean(known), rel=1e-14)


@pytest.mark.parametrize("rate", [np.float32(0.25), np.array([0.25]), [0.25, 0.25]])
def test_one_rate_however_it_is_written_is_taken_as_it_is(made, rate):
    found = ns.finetune(made.linear_expert(), made.spots(), learning_rates=rate, recipe=QUICK)
    assert (found.learning_rate, found.choose, len(found.trials)) == (0.25, "given", 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"choose": "papers"}, "choose='papers' is unknown. Did you mean 'paper'"),
        ({"search": "random"}, "search='random' is unknown.*Allowed: grid, optuna"),
        ({"trials": 0}, "trials=0 must be a whole number from 1"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0"),
        ({"sample_seed": -1}, "sample_seed=-1 must be a whole number from 0"),
        ({"workers": 0}, "workers=0 must be a whole number from 1"),
        ({"shots": 0}, "shots=0 must be a whole number from 1"),
        ({"shots": "all"}, "shots='all' must be a whole number from 1, or 'full'"),
        ({"shots": 1, "learning_rates": (0.1, 0.2)}, "No class has two training images"),
        ({"extend": "yes"}, "extend='yes' must be True or False"),
        ({"progress": "bar"}, r"progress= must be a function of \(done, total, what\), None .* or False; given: 'bar'"),
        ({"learning_rates": ()}, "must be numbers above 0"),
        ({"learning_rates": None}, "must be numbers above 0"),
        ({"recipe": "paper"}, "recipe='paper' must be a Recipe"),
        ({"recipe": ns.Recipe(augment="flip")}, "augment='flip' needs a.*Preprocess.*augment='none'"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_in_a_sentence_before_the_work(made, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ns.finetune(made.linear_expert(), made.spots(), **({"progress": lambda *_: pytest.fail("it began")} | options))


@pytest.mark.parametrize("none", [{"test_images": None, "test_labels": None}, {"test_images": [], "test_labels": []}], ids=["none", "empty"])
def test_of_a_task_without_test_images_some_are_kept_for_testing_and_that_is_said(made, none):
    task = dataclasses.replace(made.spots((10, 10, 5)), **none)
    options = {"learning_rates": 0.3, "recipe": QUICK, "seed": 3}
    with pytest.warns(UserWarning, match="Task 'spots'. There was no test set: 5 of 25 images") as warned:
        found = ns.finetune(made.linear_expert(), task, **options)
    assert [warning.filename for warning in warned] == [__file__]
    split = ns.finetune(made.linear_expert(), task.with_test_split(), **options)
    assert same(found, split)
    assert (found.train_images, found.test_images, found.accuracy) == (20, 5, split.accuracy)
    assert found.test_split in task.with_test_split().details["warnings"]
    assert found.notes == (found.test_split,)
    assert found.test_split in repr(found)
    assert (split.test_split, split.notes) == (None, ())


def test_on_a_terminal_a_bar_is_drawn_unless_it_is_turned_off(made, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = {}
    for progress in (None, False):
        monkeypatch.setattr(sys, "stderr", Terminal())
        ns.finetune(made.linear_expert(), made.spots(), learning_rates=0.3, recipe=QUICK, progress=progress)
        shown[progress] = sys.stderr.getvalue()
    assert "fine-tuning linear" in shown[None]
    assert "3/3" in shown[None]
    assert shown[False] == ""


def test_a_task_that_cannot_be_split_is_refused(made):
    task = dataclasses.replace(made.spots((1, 1), (1, 1)), test_images=None, test_labels=None)
    with pytest.raises(TaskError, match="no class has two images, so none can be held out for testing"):
        ns.finetune(made.linear_expert(), task)


@pytest.mark.nightly  # quick: names that do not exist, below
@pytest.mark.filterwarnings("ignore:Task 'digits'. There was no test set")
def test_experts_and_tasks_may_be_named():
    pytest.importorskip("sklearn")
    name = "fashion_mnist-resnet_small"
    digits = dataclasses.replace(ns.load_task("digits"), test_images=None, test_labels=None)
    options = {"shots": 2, "learning_rates": 0.01, "recipe": ns.Recipe(epochs=1, batch_size=20)}
    named = ns.finetune(name, "digits", reference=name, **options)
    assert (named.expert, named.task, named.cost, named.test_images) == (name, "digits", 1.0, 797)
    assert ns.finetune(ns.open_zoo("builtin")[name](), digits, **options).test_images == 199


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"expert": 3}, ConfigError, "Expected an expert or a name of one; given: int"),
        ({"expert": "oak"}, ModelError, "There is no expert, zoo or folder 'oak'"),
        ({"reference": "oak"}, ModelError, "There is no expert, zoo or folder 'oak'"),
        ({"task": 3}, ConfigError, "task= must be a Task, or its name or path; given: int"),
        ({"task": "digitz"}, TaskError, "Did you mean 'digits'"),
    ],
)
def test_what_names_no_expert_and_no_task_is_refused(made, given, error, sentence):
    with pytest.raises(error, match=sentence):
        ns.finetune(**({"expert": made.linear_expert(), "task": made.spots()} | given))


@pytest.mark.parametrize("which", ["expert", "reference"])
@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("preprocess", "Expert 'bare' has no preprocess.*preprocess=Preprocess"), ("features_fn", "Expert 'bare' has no features_fn")],
)
def test_experts_that_cannot_be_fine_tuned_are_refused_before_any_training(made, which, missing, sentence):
    given = {"expert": made.linear_expert(), "reference": made.linear_expert()} | {which: made.linear_expert("bare", **{missing: None})}
    with pytest.raises(ModelError, match=sentence):
        ns.finetune(**given, task=made.spots(), progress=lambda *_: pytest.fail("it began"))


def test_an_expert_whose_weights_are_not_finite_is_refused_instead_of_its_rate(made):
    expert = made.normed_expert()
    broken = dataclasses.replace(expert, state={"batch_stats": expert.state["batch_stats"] | {"var": np.full(6, np.inf)}})
    with pytest.raises(ModelError, match="Weights of expert 'normed' contain NaN or infinity. Try: download or convert it again"):
        ns.finetune(broken, made.spots())


def test_features_that_no_head_can_take_are_refused_in_a_sentence(made):
    with pytest.raises(ModelError, match=r"features_fn of expert 'linear' returns \(1, 4, 4\) for one input; pre-logits must be \(1, d\)"):
        ns.finetune(made.linear_expert(features_fn=lambda variables, x: x), made.spots())
    with pytest.raises(ModelError, match="features_fn of expert 'linear' returns 4 pre-logits, but its head takes 16"):
        ns.finetune(made.linear_expert(features_fn=lambda variables, x: x[:, 0]), made.spots())
