"""Experts of features are ranked as their networks are, by all scores that need no more, and say what they lack for the others."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

import ntk_select as ns
from ntk_select import FeatureExpert, Task, probe_sample, rank
from ntk_select.benchmark.facts import expert_facts
from ntk_select.errors import ConfigError, DataError, ModelError, TaskError
from ntk_select.experts.forward import forward
from ntk_select.ranking.features import task_of_labels
from ntk_select.scores import SCORES, Input, Score, ScoreResult, Unavailable
from ntk_select.scores.table import GROUPS
from ntk_select.tasks.labels_only import NO_COPIES

CLASSES, EACH = 4, 15
LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(CLASSES), EACH))
NAMES = ("ant", "bee", "cat", "dog")
NETWORK = "cifar10-resnet_small"
NEEDS = {"features", "labels", "source_probs"}
OF_FEATURES = [name for name, score in SCORES.items() if score.needs and set(score.needs) <= NEEDS and score.combine is None]
OTHERS = ("forecast", "lgc", "rsa", "dds", "domain_similarity")


def features_of(strength=1.0, seed=0, labels=LABELS, width=12):
    """Noise, in which column c is larger by `strength` for the images of class c."""
    features = np.random.default_rng(seed).normal(size=(len(labels), width))
    features[np.arange(len(labels)), labels] += strength
    return features


def expert(name="a", strength=1.0, seed=0, **given):
    return FeatureExpert(name, features_of(strength, seed), **({"labels": LABELS} | given))


@pytest.fixture(scope="module")
def task():
    images = np.random.default_rng(0).integers(0, 200, (len(LABELS), 8, 8, 3), dtype=np.uint8)
    images[np.arange(len(LABELS)), LABELS] += 55
    return Task("bright", images, LABELS, NAMES)


@pytest.fixture(scope="module")
def network():
    return ns.open_zoo(["builtin"])[NETWORK]()


@pytest.fixture(scope="module")
def of_network(task, network):
    """The network's own features and logits on the probe sample, among those of other images."""
    sample = probe_sample(task, per_class=10)
    passes = forward(network, network.preprocess(sample.images))
    arrays = {name: np.random.default_rng(1).normal(size=(len(LABELS), getattr(passes, name).shape[1])) for name in ("features", "logits")}
    for name, array in arrays.items():
        array = arrays[name] = array.astype(np.float32)
        array[sample.indices] = np.asarray(getattr(passes, name))
    return FeatureExpert("of_network", labels=LABELS, class_names=NAMES, **arrays)


def test_features_of_a_network_have_the_scores_of_the_network_with_a_task_and_without(task, network, of_network):
    options = {"per_class": 10, "resamples": 20}
    both = rank([network, of_network], task, OF_FEATURES, **options)
    alone = rank(of_network, scores=OF_FEATURES, **options)
    assert len(OF_FEATURES) == 20
    assert not both.failures
    for name in OF_FEATURES:
        one, *others = (ranking[row].scores[name] for ranking, row in ((both, NETWORK), (both, "of_network"), (alone, "of_network")))
        for other in others:
            if isinstance(one, Unavailable):
                assert other == one
                continue
            assert other.value == pytest.approx(one.value, rel=1e-9, abs=1e-9), name
            assert (other.low is None) == (one.low is None)
            if one.low is not None:
                assert (other.low, other.high) == pytest.approx((one.low, one.high), rel=1e-9, abs=1e-9), name
    assert isinstance(both[NETWORK].scores["leep"], ScoreResult)
    assert both["of_network"].num_params is None


def test_without_images_the_sample_is_that_of_a_task_with_these_labels(task):
    given = expert(class_names=NAMES)
    for seed in range(3):
        options = {"per_class": 5, "seed": seed, "resamples": 0}
        assert rank(given, task, "lfc", **options)["a"].scores == rank(given, scores="lfc", **options)["a"].scores
        sample = probe_sample(task, per_class=5, seed=seed)
        kernel = (chosen := features_of()[sample.indices]) @ chosen.T
        by_hand = np.corrcoef(kernel.ravel(), np.where(sample.labels[:, None] == sample.labels, 1.0, -1.0).ravel())[0, 1]
        assert rank(given, scores="lfc", **options)["a"].scores["lfc"].value == pytest.approx(by_hand, abs=1e-12)


def test_the_better_features_come_first_and_with_shuffled_labels_they_do_not():
    ranking = rank([expert("weak", 0.3, 1), expert("strong", 2, 2), expert("blind", 0, 3)])
    assert [row.name for row in ranking] == ["strong", "weak", "blind"]
    assert (ranking.deciding, ranking.best) == ("lfc", "strong")
    shuffled = np.random.default_rng(4).permutation(LABELS)
    by_chance = rank([expert("strong", 2, 2, labels=shuffled), expert("blind", 0, 3, labels=shuffled)], resamples=0)
    lead = ranking["strong"].scores["lfc"].value - ranking["blind"].scores["lfc"].value
    assert abs(by_chance["strong"].scores["lfc"].value - by_chance["blind"].scores["lfc"].value) < 0.1 * lead


def test_scores_that_need_more_say_what(task):
    ranking = rank(
        [expert("a"), expert("b", 2)], scores=(*OTHERS, "leep", "num_params", "source_size", "domain_similarity_own", "best_elsewhere", "lfc")
    )
    outcomes = ranking["a"].scores
    assert outcomes["forecast"] == Unavailable("A forecast needs the network; expert 'a' is known by its features only.")
    assert outcomes["lgc"] == Unavailable(
        "The gradient kernel needs the network; expert 'a' is known by its features only. Try: gradient_kernel=... with its features"
    )
    assert (
        outcomes["rsa"]
        == outcomes["dds"]
        == Unavailable("RSA and DDS compare with a network that is trained on the images of the task; there are only features of them.")
    )
    assert outcomes["domain_similarity"].reason.endswith("Try: domain_similarity_own")
    assert outcomes["leep"].reason.endswith("LEEP and NCE are undefined. Try: logits=... with its features, or nleep")
    assert outcomes["num_params"].reason == "Expert 'a' is known by its features, without num_params. Try: num_params=... with its features"
    assert "without source_size" in outcomes["source_size"].reason
    assert "without own_source_means" in outcomes["domain_similarity_own"].reason
    assert outcomes["best_elsewhere"].reason.startswith("No accuracy on another task was given.")
    assert ranking.deciding == "lfc"
    assert NO_COPIES in ranking.task["warnings"]
    assert rank([expert()], task, "lfc").task["warnings"] == []
    single = rank(expert(logits=np.zeros((60, 1))), scores="nce")["a"].scores["nce"]
    assert single == Unavailable("The head of expert 'a' has a single output, so LEEP and NCE are undefined. Try: nleep")


def test_facts_and_kernels_that_are_given_are_used():
    rng = np.random.default_rng(5)
    gradients, logits = rng.normal(size=(60, 90)), rng.normal(size=(60, 7))
    counts, means = np.array([3, 5, 4]), rng.normal(size=(3, 12))
    facts = {"num_params": 12, "source_size": 30, "source_accuracy": 0.75, "source": "trees", "architecture": "vit"}
    given = expert(
        gradient_kernel=gradients @ gradients.T, source_probs=softmax(logits, axis=1), source_counts=counts, own_source_means=means, **facts
    )
    names = ("lgc", "nce", "num_params", "source_size", "source_accuracy", "domain_similarity_own", "best_elsewhere")
    ranking = rank([given, expert("b", logits=logits)], scores=names, per_class=9, measured={"a": {"x": 0.5}, "b": {"x": 0.25}})
    sample = probe_sample(Task("t", np.zeros((60, 1, 1), np.uint8), LABELS, NAMES), per_class=9)
    rows, found = sample.indices, ranking["a"].scores
    inputs = {"labels": sample.labels, "features": features_of()[rows], "own_source_means": means, "source_counts": counts}
    inputs |= {"gradient_kernel": (gradients @ gradients.T)[np.ix_(rows, rows)], "source_probs": softmax(logits[rows], axis=1)}
    inputs["class_counts"] = np.full(CLASSES, EACH)
    for name in ("lgc", "nce", "domain_similarity_own"):
        assert found[name].value == pytest.approx(SCORES[name](**inputs).value, rel=1e-12)
    assert {name: found[name].value for name in ("num_params", "source_size", "source_accuracy")} == {key: facts[key] for key in names[2:5]}
    assert found["best_elsewhere"].value == 0.5
    assert (ranking["a"].source, ranking["a"].architecture, ranking["a"].num_params) == ("trees", "vit", 12)
    assert ranking["b"].scores["nce"].value == pytest.approx(found["nce"].value, rel=1e-12)


def test_rounded_probabilities_count_as_their_normalised_values():
    probs = softmax(np.random.default_rng(0).normal(size=(60, 7)), axis=1)
    exact, rounded = (rank(expert(source_probs=given), scores="leep")["a"].scores["leep"].value for given in (probs, 1.005 * probs))
    assert rounded == pytest.approx(exact, rel=1e-9)


def pixels_of(variables, x):
    return x.reshape(len(x), -1) @ variables["params"]["body"]


def logits_of(variables, x):
    return pixels_of(variables, x) @ variables["params"]["head"]["kernel"]


def test_a_network_and_features_are_ranked_together_and_the_forecast_is_that_of_the_network(task):
    params = {"body": np.eye(192)[:, :4] / 9, "head": {"kernel": np.eye(4)}}
    linear = ns.Expert("linear", logits_of, params, features_fn=pixels_of, head="head", preprocess=ns.Preprocess(8))
    ranking = rank([expert(), linear], task, per_class=6, resamples=0, recipe=ns.Recipe(epochs=2))
    assert isinstance(ranking["linear"].scores["forecast"], ScoreResult)
    assert isinstance(ranking["a"].scores["forecast"], Unavailable)
    assert (ranking.deciding, ranking.best) == ("forecast", "linear")


def test_all_scores_of_a_group_can_be_asked_for():
    zoo = [replace(expert(name, strength, seed=seed), logits=features_of(seed=seed)) for seed, (name, strength) in enumerate([("a", 1), ("b", 2)])]
    ranking = rank(zoo, scores=list(GROUPS), resamples=0)
    assert not ranking.failures
    unknown = {name for name, outcome in ranking["a"].scores.items() if isinstance(outcome, Unavailable)}
    lacking = {name for name, score in SCORES.items() if set(score.needs) - NEEDS}
    assert unknown - lacking <= {"feature_metrics"}  # of which all parts may be equal
    assert {"forecast", "lgc", "cka_gradient", "generalization", "rsa", "num_params", "best_elsewhere"} <= unknown


def test_a_score_with_an_input_of_its_own_gets_the_expert():
    width = Score(lambda width: width, ("width",), inputs={"width": Input("columns", compute=lambda expert, sample: expert.features.shape[1])})
    of_net = Score(lambda out: out, ("out",), inputs={"out": Input("x", compute=lambda expert, sample: expert.apply_fn(sample.images))})
    outcomes = rank(expert(), scores={"width": width, "of_net": of_net})["a"].scores
    assert outcomes["width"].value == 12
    assert "'FeatureExpert' object has no attribute 'apply_fn'" in outcomes["of_net"].reason
    assert outcomes["of_net"].reason.endswith("(expert 'a' is known by its features only)")


# The task of the labels


def test_files_bring_their_task_and_one_without_features_fails_alone(tmp_path):
    for name, strength in (("good", 2.0), ("fair", 0.5)):
        np.savez(tmp_path / f"{name}.npz", features=features_of(strength), labels=LABELS)
    (tmp_path / "broken.npz").write_bytes(b"?")
    ranking = rank(f"features:{tmp_path}", scores="lfc")
    assert [row.name for row in ranking] == ["good", "fair"]
    assert [failure.name for failure in ranking.failures] == ["broken"]
    assert (ranking.task["name"], ranking.task["images"], ranking.task["classes"]) == (tmp_path.name, 60, 4)
    assert rank(str(tmp_path / "."), scores="lfc").best == rank([f"features:{tmp_path}/good.npz"], scores="lfc").best == "good"


def test_names_of_classes_come_from_the_expert_that_has_them(task):
    found = task_of_labels({"a": expert, "b": lambda: expert("b", class_names=NAMES), "c": lambda: expert("c", labels=LABELS + 3)})
    assert (found.name, found.class_names) == ("features", NAMES)
    np.testing.assert_array_equal(found.labels, task.labels)
    assert task_of_labels({"c": lambda: expert("c", labels=10 * LABELS)}).class_names == ("0", "10", "20", "30")


def test_labels_that_differ_are_refused_by_the_names_of_the_files(tmp_path):
    changed = LABELS.copy()
    changed[7] = (changed[7] + 1) % CLASSES
    np.savez(tmp_path / "a.npz", features=features_of(), labels=LABELS)
    np.savez(tmp_path / "b.npz", features=features_of(), labels=changed)
    differ = (
        rf"The labels of '.*a\.npz' and '.*b\.npz' differ: image 7 is '{LABELS[7]}' and '{changed[7]}'\. Without a task, all .* Try: labels in every"
    )
    with pytest.raises(TaskError, match=differ):
        rank(f"features:{tmp_path}")
    np.savez(tmp_path / "b.npz", features=features_of()[:50], labels=LABELS[:50])
    with pytest.raises(TaskError, match=r"a\.npz' and '.*b\.npz' differ: 60 and 50 images"):
        rank(f"features:{tmp_path}")
    np.savez(tmp_path / "b.npz", features=features_of())
    with pytest.raises(
        TaskError, match=r"experts need labels; '.*b\.npz' has none\. Try: labels in every file, or a task, as in rank\(experts, task\)"
    ):
        rank(f"features:{tmp_path}")


def test_what_brings_no_task_is_refused(network, tmp_path):
    with pytest.raises(
        TaskError, match=rf"only files of features with labels need none, and '{NETWORK}' is a network\. Try: task='my_images' \(--task my_images\)"
    ):
        rank([expert(), network])
    with pytest.raises(TaskError, match="one class only"):
        rank(expert(labels=np.zeros(60, int)))
    (tmp_path / "broken.npz").write_bytes(b"?")
    with pytest.raises(ModelError, match=r"broken\.npz cannot be read as an \.npz file"):
        rank(f"features:{tmp_path}")
    with pytest.raises(ConfigError, match="There is no expert to rank"):
        rank([])


# A task with images


def test_features_of_other_images_fail_and_the_others_are_ranked(task):
    changed = LABELS.copy()
    changed[9] = (changed[9] + 1) % CLASSES
    fewer = FeatureExpert("fewer", features_of()[:50])
    swapped = expert("swapped", labels=LABELS, class_names=("bee", "ant", "cat", "dog"))
    ranking = rank([expert("good"), expert("unlabelled", labels=None), fewer, expert("other", labels=changed), swapped], task, "lfc")
    assert {row.name for row in ranking} == {"good", "unlabelled"}
    errors = {failure.name: failure.error for failure in ranking.failures}
    assert errors["fewer"].startswith("Expert 'fewer' has 50 rows of features; the task 'bright' has 60 training images. Try: features of all")
    assert f"are not those of the task 'bright': image 9 is '{NAMES[LABELS[9]]}' and '{changed[9]}'." in errors["other"]
    assert "image 0 is" in errors["swapped"]


def test_the_reference_network_of_rsa_serves_features_too(task, network):
    ranking = rank([expert()], task, "rsa", reference=network, resamples=0)
    sample = probe_sample(task)
    reference = np.asarray(forward(network, network.preprocess(sample.images)).features)
    expected = SCORES["rsa"](features=features_of()[sample.indices], reference_features=reference)
    assert ranking["a"].scores["rsa"].value == pytest.approx(expected.value, abs=1e-9)


def test_copies_of_images_are_left_out_as_for_networks(task):
    images = task.images.copy()
    first, second = np.flatnonzero(LABELS == 0)[:2]
    images[second] = images[first]
    ranking = rank(expert(), replace(task, images=images), "lfc", resamples=0)
    assert (ranking.task["images"], ranking.task["copies"]) == (59, 1)


def test_what_needs_the_network_refuses_features(task, tmp_path):
    np.savez(tmp_path / "a.npz", features=features_of(), labels=LABELS)
    for run in (ns.finetune, ns.forecast):
        for given in (expert(), f"features:{tmp_path}"):
            with pytest.raises(ModelError, match="Expert 'a' is known by its features only, and this needs its network"):
                run(given, task)
    with pytest.raises(ModelError, match="Expert 'a' is known by its features only"):
        expert_facts(ns.open_zoo(str(tmp_path)))
    with pytest.raises(DataError, match="labels without images"):
        ns.rank(ns.open_zoo(["builtin"])[NETWORK](), task_of_labels({"a": expert}), "lfc")
