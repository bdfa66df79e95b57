"""Scores get their inputs from each expert, computed once, or the reason why there is none."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from ntk_select import Card, Expert, Preprocess, SourceStatistics, Taps, Task, probe_sample, rank
from ntk_select._runtime.cache import Cache
from ntk_select.data import load_task
from ntk_select.errors import ConfigError, DataError, ModelError
from ntk_select.experts.forward import ProbePass, forward
from ntk_select.models import ZOO
from ntk_select.ranking import inputs as inputs_module
from ntk_select.scores import SCORES, Input, Score, ScoreResult, Unavailable
from ntk_select.scores.lfc import lfc

SIDE, CLASSES = 4, 3
LABELS = np.repeat(np.arange(CLASSES), 12)


def pixels(images):
    return np.stack(images).reshape(len(images), -1) / 255


def features_of(variables, x):
    return np.maximum(0, 1) * x @ variables["params"]["body"]["kernel"]


def logits_of(variables, x):
    return features_of(variables, x) @ variables["params"]["head"]["kernel"] + variables.get("domain", {}).get("bias", 0)


def expert(name, seed=0, **changes):
    rng = np.random.default_rng(seed)
    params = {"body": {"kernel": rng.random((SIDE**2, 5))}, "head": {"kernel": rng.normal(size=(5, 4))}}
    fields = {"features_fn": features_of, "head": ("head",), "last_conv": ("body", "kernel"), "preprocess": pixels} | changes
    return Expert(name, logits_of, params, **fields)


@pytest.fixture
def task():
    images = np.random.default_rng(0).integers(0, 200, (len(LABELS), SIDE, SIDE), dtype=np.uint8)
    images[np.arange(len(LABELS)), 0, LABELS] += 55
    return Task("bright", images, LABELS, ("a", "b", "c"))


def one(ranking, score):
    return ranking.experts[0].scores[score]


def test_leep_sees_the_softmax_of_the_experts_own_head(task):
    sample, subject = probe_sample(task), expert("a")
    probs = softmax(np.asarray(logits_of(subject.variables, pixels(sample.images))), axis=1)
    for name in ("leep", "nce"):
        expected = SCORES[name](source_probs=probs, labels=sample.labels)
        assert one(rank([subject], task, (name,), resamples=0), name).value == pytest.approx(expected.value, abs=1e-12)


def test_each_domain_of_a_multi_domain_network_is_an_expert_with_its_own_predictions(task):
    domains = {
        f"shared@{domain}": lambda domain=domain: expert(f"shared@{domain}", state={"domain": {"bias": np.eye(4)[domain] * 3}}) for domain in (0, 1)
    }
    ranking = rank(domains, task, ("leep", "lfc", "etran"), resamples=20)
    rows = {row.name: row.scores for row in ranking.experts}
    assert set(rows) == set(domains)
    assert rows["shared@0"]["leep"].value != rows["shared@1"]["leep"].value
    assert rows["shared@0"]["lfc"] == rows["shared@1"]["lfc"]  # the features are shared
    assert "do not differ" in rows["shared@0"]["etran"].reason


def test_an_expert_without_head_says_so_where_predictions_are_needed(task):
    outcome = one(rank([expert("a", head=None)], task, ("leep",), resamples=0), "leep")
    assert outcome == Unavailable("Expert 'a' has no head, so LEEP and NCE are undefined. Try: nleep")


def single(variables, x):
    return features_of(variables, x)[:, :1]


def test_a_head_with_one_output_predicts_no_classes(task):
    outcome = one(rank([replace(expert("a"), apply_fn=single)], task, ("nce",), resamples=0), "nce")
    assert "single output" in outcome.reason


def test_zoo_relative_scores_are_compared_and_have_intervals(task):
    ranking = rank([expert("a", 1), expert("b", 2), expert("c", 3)], task, ("etran", "ncti", "feature_metrics"), resamples=20)
    sample = probe_sample(task)
    features = {
        row.name: np.asarray(features_of(expert(row.name, "abc".index(row.name) + 1).variables, pixels(sample.images))) for row in ranking.experts
    }
    for name in ("etran", "ncti", "feature_metrics"):
        expected = SCORES[name].over([{"features": features[row.name], "labels": sample.labels} for row in ranking.experts])
        for row, result in zip(ranking.experts, expected, strict=True):
            assert row.scores[name].value == pytest.approx(result.value, abs=1e-9)
            low, high = SCORES[name].limits
            assert max(low, row.scores[name].low) <= row.scores[name].value <= min(high, row.scores[name].high)
            assert row.scores[name].low < row.scores[name].high
    assert [row.rank for row in ranking.experts] == [1, 2, 3]


def test_static_scores_come_from_the_card_and_pass_no_image(task):
    card = Card("a", "resnet18", "trees", Preprocess(4), "", 4, num_images=70, test_accuracy=0.6)
    ranking = rank([expert("a", card=card, features_fn=None, preprocess=None)], task, ("source_size", "source_accuracy", "num_params"), resamples=0)
    assert {name: outcome.value for name, outcome in ranking.experts[0].scores.items()} == {
        "source_size": 70,
        "source_accuracy": 0.6,
        "num_params": SIDE**2 * 5 + 20,
    }
    without = rank([expert("a")], task, ("source_size", "source_accuracy"), resamples=0)
    assert one(without, "source_size") == Unavailable("The card of expert 'a' does not have it.")


def test_the_static_leaderboard_leaves_this_task_out_and_keeps_to_tasks_that_all_were_tried_on(task):
    measured = {"a": {"bright": 1.0, "x": 0.5, "y": 0.7}, "b": {"x": 0.9, "y": 0.5, "z": 1.0}}
    ranking = rank([expert("a"), expert("b"), expert("c")], task, ("best_elsewhere",), measured=measured)
    values = {row.name: row.scores["best_elsewhere"] for row in ranking.experts}
    assert values["a"].value == pytest.approx(0.6)
    assert values["b"].value == pytest.approx(0.7)
    assert "No accuracy on another task was given" in values["c"].reason
    assert ranking.judgement == "best_elsewhere is highest for b, and does not depend on the task."


# Domain similarity and RSA


def statistics(extractor, means=None):
    means = np.arange(10.0).reshape(2, 5) if means is None else means
    return SourceStatistics(np.array([10, 30]), means + 1, means, extractor, "extractor")


def test_domain_similarity_passes_the_task_through_the_extractor_once_for_the_zoo(task):
    loaded = []

    def extractor():
        loaded.append(1)
        return expert("extractor", 7)

    zoo = [expert("a", 1, source=statistics(extractor)), expert("b", 2, source=statistics(extractor, np.ones((2, 5))))]
    ranking = rank([*zoo, expert("c", 3)], task, ("domain_similarity", "domain_similarity_own"), resamples=0)
    rows, sample = {row.name: row.scores for row in ranking.experts}, probe_sample(task)
    x = pixels(sample.images)
    of = {"labels": sample.labels, "class_counts": np.array([12, 12, 12])}
    for subject in zoo:
        source = subject.source
        fixed = SCORES["domain_similarity"](
            source_means=source.reference_class_means,
            source_counts=source.class_counts,
            domain_features=np.asarray(features_of(expert("", 7).variables, x)),
            **of,
        )
        own = SCORES["domain_similarity_own"](
            own_source_means=source.class_means, source_counts=source.class_counts, features=np.asarray(features_of(subject.variables, x)), **of
        )
        assert rows[subject.name]["domain_similarity"].value == pytest.approx(fixed.value, abs=1e-12)
        assert rows[subject.name]["domain_similarity_own"].value == pytest.approx(own.value, abs=1e-12)
    assert loaded == [1]
    assert "has no source statistics" in rows["c"]["domain_similarity"].reason
    assert "has no source statistics" in rows["c"]["domain_similarity_own"].reason
    assert ranking.shared_seconds["extractor"] > 0


def test_experts_of_two_extractors_are_warned_of_and_one_that_cannot_be_had_is_a_reason(task):
    def broken():
        raise ModelError("The weights are gone.")

    named = replace(statistics(lambda: expert("x", 7)), reference_name="another")
    ranking = rank(
        [
            expert("a", source=statistics(lambda: expert("e", 8))),
            expert("b", source=named),
            expert("c", source=statistics(broken)),
            expert("d", source=statistics(None)),
            expert("e", source=statistics(lambda: expert("e", 8, features_fn=None))),
        ],
        task,
        ("domain_similarity",),
        resamples=0,
    )
    reasons = {row.name: getattr(row.scores["domain_similarity"], "reason", None) for row in ranking.experts}
    assert reasons == {
        "a": None,
        "b": None,
        "c": "The extractor 'extractor' cannot be used: The weights are gone.",
        "d": "The extractor behind the source means of expert 'd' is not available.",
        "e": "Expert 'e' has no features_fn, and so no features. Try: Expert(..., features_fn=...)",
    }
    assert any("different extractors: extractor, another" in warning for warning in ranking.task["warnings"])


@pytest.mark.parametrize(("means", "message"), [(np.ones(3), "(3,)"), (np.ones((3, 2)), "(3, 2)"), (np.full((2, 2), np.nan), "finite")])
def test_source_statistics_that_do_not_fit_are_refused(means, message):
    with pytest.raises(ModelError, match="must be finite, .classes, features.") as caught:
        SourceStatistics(np.array([1, 2]), means)
    assert message in str(caught.value)


def test_rsa_and_dds_lay_the_expert_beside_a_reference_that_is_given(task):
    reference = expert("reference", 9)
    x = pixels(probe_sample(task).images)
    ranking = rank([expert("a")], task, ("rsa", "dds"), resamples=0, reference=reference)
    for name in ("rsa", "dds"):
        expected = SCORES[name](features=features_of(expert("a").variables, x), reference_features=features_of(reference.variables, x))
        assert one(ranking, name).value == pytest.approx(expected.value, abs=1e-9)
    assert "'r' has no features_fn" in one(rank([expert("a")], task, ("rsa",), resamples=0, reference=expert("r", features_fn=None)), "rsa").reason


def schooled(variables, x):
    return Taps(x.reshape(len(x), -1)[:, : SIDE**2] @ variables["params"]["body"]["kernel"], None), {}


@pytest.fixture
def trained(monkeypatch):
    """Trainings of a reference, as (task, its number of classes, network, seed); none takes place."""
    seen = []

    def untrained(task, network, seed):
        params = {"body": {"kernel": np.full((SIDE**2, task.num_classes), seed + 0.5)}}
        return Expert(network, logits_of, params, train_fn=schooled, preprocess=Preprocess(SIDE)), 0.1, 5

    def train(task, network, *, seed, progress):
        seen.append((task.name, task.num_classes, network, seed))
        return expert("tiny", 9)

    monkeypatch.setattr("ntk_select.training.reference.untrained_reference", untrained)
    monkeypatch.setattr("ntk_select.training.reference.trained_reference", train)
    return seen


def test_a_reference_is_trained_once_for_the_zoo_and_kept(task, tmp_path, trained):
    first = rank([expert("a"), expert("b", 1)], task, ("rsa",), seed=4, resamples=0, cache=tmp_path)
    again = rank([expert("a"), expert("b", 1)], task, ("rsa",), seed=4, resamples=0, cache=tmp_path)
    assert trained == [("bright", 3, "tiny", 4)]
    assert [row.scores for row in first.experts] == [row.scores for row in again.experts]
    changed = Task("bright", task.images[::-1], LABELS[::-1], ("a", "b", "c"))
    rank([expert("a")], changed, ("rsa",), seed=4, resamples=0, cache=tmp_path)
    rank([expert("a")], task, ("rsa",), seed=5, resamples=0, cache=tmp_path)
    assert len(trained) == 3


def test_an_unknown_reference_is_refused_before_any_expert_is_loaded(task):
    def load():
        pytest.fail("an expert was loaded")

    with pytest.raises(ConfigError, match=r"The reference network 'small' is unknown. Allowed: resnet18, tiny"):
        rank({"a": load}, task, ("lfc", "rsa"), reference="small")


def broken_features(variables, x):
    raise ValueError("boom")


def test_a_reference_or_extractor_that_fails_costs_its_own_scores_alone(task):
    broken = expert("broken", features_fn=broken_features)
    zoo = [expert("a", source=statistics(lambda: broken)), expert("b", 1, source=statistics(lambda: broken))]
    for row in rank(zoo, task, ("lfc", "rsa", "domain_similarity"), resamples=0, reference=broken).experts:
        assert isinstance(row.scores["lfc"], ScoreResult)
        assert row.scores["rsa"].reason == "The reference network of RSA and DDS is not available: ValueError: boom"
        assert row.scores["domain_similarity"].reason == "The extractor 'extractor' cannot be used: ValueError: boom"


# The cache


@pytest.fixture
def passes(monkeypatch):
    """Names of the experts that images were passed through."""
    seen = []

    def counted(subject, x, **options):
        seen.append(subject.name)
        return forward(subject, x, **options)

    monkeypatch.setattr(inputs_module, "forward", counted)
    return seen


def test_a_second_score_costs_no_forward_pass(task, tmp_path, passes):
    zoo = [expert("a", 1), expert("b", 2)]
    first = rank(zoo, task, ("lfc", "lgc"), resamples=20, cache=tmp_path)
    assert passes == ["a", "b"]
    again = rank([replace(one, name=f"renamed {one.name}") for one in zoo], task, ("lgc", "leep", "logme"), resamples=20, cache=tmp_path)
    assert passes == ["a", "b"]
    assert {row.name: row.scores["lgc"] for row in first.experts} == {row.name.removeprefix("renamed "): row.scores["lgc"] for row in again.experts}
    assert "forward" not in again.experts[0].seconds
    uncached = rank(zoo, task, ("lgc", "leep", "logme"), resamples=20)
    assert [row.scores for row in again.experts] == [row.scores for row in uncached.experts]


def score_inputs(task, *scores, **options):
    given = {"seed": 0, "batch_size": 8, "cache": Cache(None)} | options
    return inputs_module.ScoreInputs(task, probe_sample(task), {name: SCORES[name] for name in scores}, **given)


def test_features_of_any_images_are_cached_and_those_of_the_probe_sample_are_of_the_scores(task, tmp_path, passes):
    subject, others = expert("a"), list(255 - task.images[:10])
    expected = [pixels(images) @ subject.params["body"]["kernel"] for images in (task.images, others)]
    rank([subject], task, ("lfc",), resamples=0, cache=tmp_path)
    for _ in range(2):
        inputs = score_inputs(task, "lfc", cache=Cache(tmp_path))
        for images, rows in zip((None, others), expected, strict=True):
            np.testing.assert_allclose(inputs.features_of(subject, images), rows, rtol=1e-12)
    assert passes == ["a", "a"]
    assert score_inputs(task, "lfc").features_of(replace(subject, features_fn=None)) is None


@pytest.mark.parametrize(
    ("scores", "layers", "pooled"), [(("lfc",), "last_conv", False), (("lfc", "lgc"), "last_conv", True), (("lgc",), "all", False)]
)
def test_features_come_from_the_program_that_the_scores_compiled(monkeypatch, scores, layers, pooled):
    seen = []

    def noted(_, x, *, last_conv, batch_size):
        seen.append((last_conv, batch_size))
        return ProbePass(np.zeros((len(x), 2)), np.ones((len(x), 3)))

    monkeypatch.setattr(inputs_module, "forward", noted)
    inputs = score_inputs(load_task("digits"), *scores, layers=layers)
    assert inputs.features_of(ZOO["cifar10-resnet_small"](), [np.zeros((8, 8), np.uint8)] * 5).shape == (5, 3)
    assert seen == [(pooled, 8)]


def test_a_kernel_that_cannot_be_had_does_not_cost_the_forward_pass_again(task, tmp_path, passes, monkeypatch):
    def unavailable(*_, **__):
        raise ModelError("No kernel.")

    monkeypatch.setattr(inputs_module, "gradient_kernel", unavailable)
    first, again = (rank([expert("a")], task, ("lgc", "lfc"), resamples=0, cache=tmp_path) for _ in range(2))
    assert passes == ["a"]
    assert one(first, "lgc") == one(again, "lgc") == Unavailable("No kernel.")


def brighter(images):
    return pixels(images) + 1


def other_logits(variables, x):
    return 2 * logits_of(variables, x)


@pytest.mark.parametrize(
    "change",
    [
        {"params": expert("a", 2).params},
        {"state": {"domain": {"bias": np.ones(4)}}},
        {"preprocess": brighter},
        {"apply_fn": other_logits},
        {"last_conv": ("head", "kernel")},
        {"head": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_numbers_is_computed_anew(task, tmp_path, passes, change):
    rank([expert("a")], task, ("lgc",), resamples=0, cache=tmp_path)
    changed = replace(expert("a"), **change)
    cached = rank([changed], task, ("lgc", "lfc"), resamples=0, cache=tmp_path)
    assert len(passes) == (1 if change.keys() & {"last_conv", "head"} else 2)  # which leave features and logits as they are
    assert cached.experts[0].scores == rank([changed], task, ("lgc", "lfc"), resamples=0).experts[0].scores
    again = rank([changed], task, ("lgc", "lfc"), resamples=0, cache=tmp_path)
    assert "backward" not in again.experts[0].seconds


def test_other_images_are_other_keys_and_a_damaged_file_is_computed_anew(task, tmp_path, passes):
    rank([expert("a")], task, ("lfc",), resamples=0, cache=tmp_path)
    rank([expert("a")], task, ("lfc",), per_class=6, resamples=0, cache=tmp_path)
    assert len(passes) == 2
    for file in tmp_path.glob("*/*.npz"):
        file.write_bytes(b"cut")
    assert isinstance(one(rank([expert("a")], task, ("lfc",), resamples=0, cache=tmp_path), "lfc"), ScoreResult)
    assert len(passes) == 3


def test_a_cache_that_cannot_be_written_is_said(task, tmp_path):
    (tmp_path / "file").write_text("in the way")
    ranking = rank([expert("a")], task, ("lfc",), resamples=0, cache=tmp_path / "file")
    assert isinstance(one(ranking, "lfc"), ScoreResult)
    assert any("cannot be written" in warning for warning in ranking.task["warnings"])


def test_a_real_expert_gives_from_the_cache_what_it_gave_before(tmp_path, passes):
    name, digits = "cifar10-resnet_small", load_task("digits")
    first = rank({name: ZOO[name]}, digits, ("lgc", "leep", "domain_similarity"), per_class=3, resamples=0, cache=tmp_path)
    again = rank({name: ZOO[name]}, digits, ("lgc", "leep", "domain_similarity"), per_class=3, resamples=0, cache=tmp_path)
    assert first.experts[0].scores == again.experts[0].scores
    assert all(isinstance(outcome, ScoreResult) for outcome in first.experts[0].scores.values())
    assert len(passes) == 1  # as expert; as the zoo's extractor the same pass serves
    assert json.loads(json.dumps(first.to_dict(), allow_nan=False))["experts"][0]["scores"]["leep"]["details"]["label_entropy"] > 2


# Scores of one's own, and those that fail


def test_a_score_of_ones_own_stands_beside_the_others(task):
    def spread(features):
        return float(features.centred.std())

    mine = Score(spread, ("features",), False, "mine", "0 or above")
    ranking = rank([expert("a", 1), expert("b", 2)], task, {"spread": mine, "lfc": SCORES["lfc"]}, resamples=20)
    values = [row.scores["spread"].value for row in ranking.experts]
    assert values == sorted(values)
    assert ranking.score_names == ("spread", "lfc")
    assert ranking.higher_is_better == {"spread": False, "lfc": True}
    assert ranking.experts[0].scores["spread"].low is not None


def test_an_input_of_a_scores_own_is_computed_once_per_expert_and_resampled(task):
    """Like `features`, but computed by the score: LFC of it equals LFC of the features, with the same interval."""
    asked = []

    def own(expert, sample):
        asked.append(expert.name)
        return np.asarray(features_of(expert.variables, pixels(sample.images)))

    given = {"mine": Input("features (n, d) again", 1, own)}
    of_own = Score(lambda mine, labels: lfc(mine, labels), ("mine", "labels"), inputs=given)
    other = Score(lambda mine: float(mine.sum()), ("mine",), inputs=given)
    ranking = rank([expert("a", 1), expert("b", 2)], task, {"own": of_own, "lfc": SCORES["lfc"], "sum": other}, resamples=20)
    assert sorted(asked) == ["a", "b"]
    assert of_own.needs_images
    for row in ranking.experts:
        assert row.scores["own"].value == pytest.approx(row.scores["lfc"].value, abs=1e-12)
        assert row.scores["own"].low == pytest.approx(row.scores["lfc"].low, abs=1e-12)
        assert row.scores["own"].low < row.scores["own"].value
        assert "inputs" in row.seconds


def test_an_input_of_a_scores_own_that_fails_is_a_reason_and_costs_this_score_alone(task):
    def own(expert, sample):
        raise KeyError("gone")

    mine = Score(lambda mine: 1.0, ("mine",), inputs={"mine": Input("a number", compute=own)})
    ranking = rank([expert("a")], task, {"own": mine, "lfc": SCORES["lfc"]}, resamples=0)
    assert one(ranking, "own") == Unavailable("KeyError: 'gone'")
    assert isinstance(one(ranking, "lfc"), ScoreResult)


def test_two_inputs_of_one_name_are_refused(task):
    first, second = (Score(lambda mine: 1.0, ("mine",), inputs={"mine": Input("a number", axes, lambda *_: 1.0)}) for axes in (0, 1))
    with pytest.raises(ConfigError, match="Two scores define different inputs named 'mine'"):
        rank([expert("a")], task, {"first": first, "second": second}, resamples=0)


@pytest.mark.parametrize(("error", "reason"), [(KeyError("gone"), "KeyError: 'gone'"), (ModelError("No."), "No.")])
def test_a_score_that_raises_costs_itself_alone(task, error, reason):
    def raising(features):
        raise error

    ranking = rank([expert("a")], task, {"bad": Score(raising, ("features",), True, "x", "x"), "lfc": SCORES["lfc"]}, resamples=20)
    assert one(ranking, "bad") == Unavailable(reason)
    assert isinstance(one(ranking, "lfc"), ScoreResult)
    assert not ranking.failures


def test_an_image_of_the_task_that_cannot_be_decoded_stops_the_training_of_a_reference():
    class Broken(list):
        def __getitem__(self, place):
            raise DataError("The image is cut.")

    broken = Task("broken", Broken([0] * 6), np.arange(6) % 2, ("a", "b"))
    with pytest.raises(DataError, match="cut"):
        rank([expert("a")], broken, ("rsa",))


def test_a_combination_that_raises_costs_its_own_score_alone(task):
    bad = Score(lambda features: {"t": 1.0}, ("features",), True, "x", "x", combine=lambda terms: 1 / 0)
    short = Score(lambda features: {"t": 1.0}, ("features",), True, "x", "x", combine=lambda terms: [1.0])
    ranking = rank([expert("a"), expert("b", 1)], task, {"bad": bad, "short": short, "lfc": SCORES["lfc"]}, resamples=20)
    assert [row.scores["bad"] for row in ranking.experts] == [Unavailable("ZeroDivisionError: division by zero")] * 2
    assert all("ValueError" in row.scores["short"].reason for row in ranking.experts)
    assert all(isinstance(row.scores["lfc"], ScoreResult) for row in ranking.experts)


def test_an_expert_that_images_cannot_enter_keeps_the_scores_that_need_none(task):
    ranking = rank([expert("a", preprocess=None)], task, ("num_params", "lfc"), resamples=0)
    assert one(ranking, "num_params").value == SIDE**2 * 5 + 20
    assert "has no preprocess" in one(ranking, "lfc").reason
    assert rank([expert("a", preprocess=None)], task, ("lfc", "lgc"), resamples=0).failures


def test_accuracies_on_tasks_that_not_all_share_are_said_to_be_so(task):
    measured = {"a": {"x": 0.9}, "b": {"y": 0.8}, "stranger": {"z": 1.0}}
    ranking = rank([expert("a"), expert("b", 1)], task, ("best_elsewhere",), measured=measured)
    assert "no other task on which all of these experts were fine-tuned" in one(ranking, "best_elsewhere").reason
    assert rank([expert("a")], task, ("best_elsewhere",), measured=measured).experts[0].scores["best_elsewhere"].value == 0.9


def called_back(weights):
    """Features that a function of Python computes, out of sight of JAX."""

    def fn(variables, x):
        shape = jax.ShapeDtypeStruct((len(x), 5), np.float64)
        return jax.pure_callback(lambda y: np.asarray(y, np.float64) @ weights, shape, x)

    return fn


def test_experts_that_call_back_to_python_are_not_kept(task, tmp_path):
    rng = np.random.default_rng(0)
    zoo = [replace(expert(name), features_fn=called_back(rng.random((SIDE**2, 5)))) for name in "ab"]
    ranking = rank(zoo, task, ("lfc",), resamples=0, cache=tmp_path)
    assert [row.scores for row in ranking.experts] == [row.scores for row in rank(zoo, task, ("lfc",), resamples=0).experts]
    assert len({row.scores["lfc"].value for row in ranking.experts}) == 2
    assert not list(tmp_path.glob("*/*.npz"))
    assert "Not cached, because they call back to Python or cannot be traced: a, b" in ranking.task["warnings"]


def in_half(variables, x):
    return features_of(variables, x).astype(jnp.bfloat16)


@pytest.mark.parametrize(
    "change",
    [{"features_fn": in_half}, {"params": {**expert("a").params, "steps": np.int32(3)}}],
    ids=["bfloat16", "whole numbers among the parameters"],
)
def test_unusual_numbers_come_back_from_the_cache(task, tmp_path, change):
    subject = replace(expert("a"), **change)
    first, again, never = (rank([subject], task, ("lfc", "leep"), resamples=0, cache=folder) for folder in (tmp_path, tmp_path, None))
    assert first.experts[0].scores == again.experts[0].scores == never.experts[0].scores
    assert isinstance(one(first, "lfc"), ScoreResult)
    assert "forward" not in again.experts[0].seconds


def test_a_trained_reference_is_another_where_classes_or_recipe_are(task, tmp_path, trained, monkeypatch):
    rank([expert("a")], task, ("rsa",), resamples=0, cache=tmp_path)
    rank([expert("a")], Task("bright", task.images, LABELS, ("a", "b", "c", "d")), ("rsa",), resamples=0, cache=tmp_path)
    monkeypatch.setattr("ntk_select.training.reference.EPOCHS", 3)
    rank([expert("a")], task, ("rsa",), resamples=0, cache=tmp_path)
    assert [classes for _, classes, _, _ in trained] == [3, 4, 3]


def test_a_score_without_intervals_gives_no_verdict_of_95_percent(task):
    few = Task("few", task.images[::4], LABELS[::4], ("a", "b", "c"))
    ranking = rank([expert("a"), expert("b", 1)], few, ("hscore_shrinkage",), resamples=20)
    assert ranking.experts[0].scores["hscore_shrinkage"].low is None
    assert ranking.tied == 1
    assert "some classes have too few of them to estimate the uncertainty" in ranking.judgement


def test_unbalanced_tasks_are_warned_of():
    images = np.random.default_rng(0).integers(0, 255, (33, SIDE, SIDE), dtype=np.uint8)
    labels = np.repeat([0, 1], [30, 3])
    warnings = rank([expert("a")], Task("odd", images, labels, ("a", "b")), ("knn",), per_class=30, resamples=0).task["warnings"]
    assert any(warning.startswith("Unbalanced: 30 images of the largest class, 3 of the smallest.") for warning in warnings)
