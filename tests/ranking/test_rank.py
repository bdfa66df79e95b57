"""Experts are ordered by what their features tell about the labels; failures are contained; verdicts are honest."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ntk_select import Expert, Preprocess, Task, probe_sample, rank
from ntk_select import lgc as ns_lgc
from ntk_select.errors import ConfigError, DataError, ModelError, TaskError
from ntk_select.experts import forward as forward_module
from ntk_select.models.architectures import build, initialise, make_expert
from ntk_select.ranking import inputs
from ntk_select.ranking import rank as rank_function
from ntk_select.ranking.rank import chosen_scores
from ntk_select.scores import SCORES, ScoreResult, Unavailable, table

CLASSES, SIDE = 3, 4


def scaled(images):
    return np.stack(images).reshape(len(images), -1) / 255


def features_of(variables, x):
    return x @ variables["params"]["body"]["kernel"]


def logits_of(variables, x):
    return features_of(variables, x) @ variables["params"]["head"]["kernel"]


def raising(variables, x):
    raise RuntimeError("the forward pass broke\nand this is a second line")


def linear_expert(name, body, **changes):
    """An expert without nonlinearity, so that its features and gradients are known by hand."""
    params = {"body": {"kernel": np.asarray(body, float)}, "head": {"kernel": np.random.default_rng(9).normal(size=(np.shape(body)[1], 2))}}
    fields = {"features_fn": features_of, "head": ("head",), "last_conv": ("body", "kernel"), "preprocess": scaled} | changes
    return Expert(name, logits_of, params, **fields)


def pixels(*chosen):
    """Weights that pass on these pixels of the 16."""
    return np.eye(SIDE**2)[:, list(chosen)]


def task_of(labels, seed=0, strength=60, **options):
    """Grey images of noise; pixel c of an image of class c is brighter by `strength`."""
    labels = np.asarray(labels)
    noise = np.random.default_rng(seed).normal(110, 20, (len(labels), SIDE**2))
    noise[np.arange(len(labels)), labels] += strength
    return Task("bright", noise.round().astype(np.uint8).reshape(-1, SIDE, SIDE), labels, tuple("abcd"[:CLASSES]), **options)


LABELS = np.repeat(np.arange(CLASSES), 20)
INFORMED, PARTLY, BLIND = pixels(0, 1, 2), pixels(0, 5, 6, 7), pixels(8, 9, 10)


@pytest.fixture(scope="module")
def task():
    return task_of(LABELS)


@pytest.fixture(scope="module")
def zoo():
    return [linear_expert("blind", BLIND), linear_expert("informed", INFORMED), linear_expert("partly", PARTLY)]


def correlation_by_hand(kernel, labels):
    return np.corrcoef(kernel.ravel(), np.where(labels[:, None] == labels, 1.0, -1.0).ravel())[0, 1]


def values(ranking, score="lfc"):
    return {row.name: row.scores[score].value for row in ranking.experts}


def test_order_and_values_are_those_computed_by_hand(zoo, task):
    ranking = rank(zoo, task, ("lfc", "lgc"), per_class=9, seed=1, resamples=0)
    sample = probe_sample(task, per_class=9, seed=1)
    x = scaled(sample.images)
    expected = {expert.name: correlation_by_hand((f := x @ expert.params["body"]["kernel"]) @ f.T, sample.labels) for expert in zoo}
    assert [row.name for row in ranking.experts] == sorted(expected, key=expected.get, reverse=True) == ["informed", "partly", "blind"]
    assert [row.rank for row in ranking.experts] == [1, 2, 3]
    assert values(ranking) == pytest.approx(expected, abs=1e-9)
    # The gradient of W'B'x with respect to B is x W', whose kernel is x x' at another scale, whatever B is.
    assert values(ranking, "lgc") == pytest.approx(dict.fromkeys(expected, correlation_by_hand(x @ x.T, sample.labels)), abs=1e-9)
    assert ranking.best == "informed"


def test_the_first_score_decides_the_order(zoo, task):
    rankings = [rank(zoo, task, ("random", "lfc"), seed=seed, resamples=0) for seed in range(4)]
    orders = [[row.name for row in ranking.experts] for ranking in rankings]
    for ranking, order in zip(rankings, orders, strict=True):
        by_chance = values(ranking, "random")
        assert order == sorted(by_chance, key=by_chance.get, reverse=True)
    assert any(order != ["informed", "partly", "blind"] for order in orders)
    assert rankings[0].score_names == ("random", "lfc")
    assert rank(zoo, task, "lfc", resamples=0).score_names == rank(zoo, task, ["lfc", "lfc"], resamples=0).score_names == ("lfc",)


def test_with_shuffled_labels_the_informed_expert_loses_its_lead(zoo):
    """It still comes first more often than chance, because the diagonal, which eq. 8 keeps, lifts kernels of large variance."""
    rng = np.random.default_rng(0)

    def lead(task, seed):
        of = values(rank(zoo, task, ("lfc",), seed=seed, resamples=0))
        return of["informed"] - max(of["blind"], of["partly"])

    true = [lead(task_of(LABELS, seed=seed), seed) for seed in range(5)]
    shuffled = [lead(task_of(LABELS[rng.permutation(60)], strength=0), seed) for seed in range(5)]
    images = task_of(LABELS).images
    shuffled += [lead(Task("s", images, rng.permutation(LABELS), tuple("abc")), seed) for seed in range(20)]
    assert max(shuffled) < 0.2 * min(true)
    assert min(shuffled) < 0


def test_the_same_seed_gives_the_same_ranking_and_another_does_not(zoo, task):
    first, again, other = (rank(zoo, task, ("lfc",), per_class=9, seed=seed, resamples=20) for seed in (5, 5, 6))
    assert [row.scores for row in first.experts] == [row.scores for row in again.experts]
    assert values(first) != values(other)
    assert (first.task["seed"], first.task["per_class"], first.task["images"], first.task["classes"]) == (5, 9, 27, 3)


def test_only_training_images_are_used(zoo, task):
    with_test = task_of(LABELS, test_images=np.zeros((2, SIDE, SIDE), np.uint8), test_labels=[0, 1])
    assert values(rank(zoo, with_test, ("lfc",), resamples=0)) == values(rank(zoo, task, ("lfc",), resamples=0))


def test_a_mapping_is_loaded_one_expert_at_a_time(zoo, task):
    alive = []

    def loader(expert):
        def load():
            alive.append(expert.name)
            return expert

        return load

    loaders = {f"zoo/{expert.name}": loader(expert) for expert in zoo}
    seen = []
    ranking = rank(loaders, task, ("lfc",), resamples=0, progress=lambda done, total, name: seen.append((done, total, name, list(alive))))
    assert ranking.best == "zoo/informed"
    assert seen == [
        (0, 3, "zoo/blind", []),
        (1, 3, "zoo/informed", ["blind"]),
        (2, 3, "zoo/partly", ["blind", "informed"]),
        (3, 3, "", ["blind", "informed", "partly"]),
    ]


def test_one_expert_and_generators_are_taken(zoo, task):
    assert rank(zoo[1], task, ("lfc",), resamples=0).best == "informed"
    assert rank((expert for expert in zoo), task, ("lfc",), resamples=0).best == "informed"


def test_experts_that_fail_are_reported_and_the_rest_go_on(zoo, task):
    def absent():
        raise ModelError("The weights are gone.")

    loaders = {
        "absent": absent,
        "broken": lambda: replace(zoo[0], features_fn=raising, apply_fn=raising),
        "nan": lambda: linear_expert("nan", np.full((16, 2), np.nan)),
        "closed": lambda: replace(zoo[0], preprocess=None),
        "informed": lambda: zoo[1],
    }
    ranking = rank(loaders, task, ("lfc",), resamples=0)
    assert [row.name for row in ranking.experts] == ["informed"]
    errors = {failure.name: failure.error for failure in ranking.failures}
    assert list(errors) == ["absent", "broken", "nan", "closed"]
    assert errors["absent"] == "The weights are gone."
    assert errors["broken"] == "RuntimeError: the forward pass broke"
    assert "features hold NaN or infinity" in errors["nan"]
    assert "has no preprocess" in errors["closed"]
    assert ranking.best == "informed"


@pytest.mark.parametrize("resamples", [0, 20])
def test_when_all_fail_there_is_no_best(zoo, task, resamples):
    ranking = rank([replace(zoo[0], preprocess=None)], task, ("lfc",), resamples=resamples)
    assert (ranking.best, ranking.tied, ranking.experts, len(ranking.failures)) == (None, 0, (), 1)
    assert ranking.judgement == "No expert has the score lfc."


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_not_taken_for_a_failure_of_the_expert(task, stop):
    def stopped():
        raise stop

    with pytest.raises(stop):
        rank({"a": stopped}, task)


def test_an_expert_without_last_conv_keeps_its_lfc_and_says_why_it_has_no_lgc(zoo, task):
    ranking = rank([zoo[1], replace(zoo[0], last_conv=None)], task, resamples=20)
    with_it, without = ranking.experts
    assert isinstance(with_it.scores["lgc"], ScoreResult)
    assert isinstance(without.scores["lfc"], ScoreResult)
    assert without.scores["lgc"] == Unavailable("Expert 'blind' has no last_conv. Try: layers='all' (--layers all), or a regular expression.")
    assert ranking.failures == ()


def test_other_layers_serve_experts_without_a_last_convolution(zoo, task):
    """The gradient of these linear networks in the body is known by hand, whether it is named or all but the head."""
    expert = replace(zoo[1], last_conv=None)
    x = scaled(probe_sample(task).images)
    (row,) = rank([expert], task, ("lgc",), resamples=0, layers="body")
    assert row.scores["lgc"].value == pytest.approx(correlation_by_hand(x @ x.T, probe_sample(task).labels), abs=1e-9)
    (row,) = rank([expert], task, ("lgc",), resamples=0, layers="all")
    assert row.scores["lgc"].value == pytest.approx(ns_lgc(expert, x, probe_sample(task).labels, layers="all"), abs=1e-9)
    (row,) = rank([expert], task, ("lgc",), resamples=0, layers="nothing")
    assert "layers='nothing' matches no parameter" in row.scores["lgc"].reason
    with pytest.raises(ConfigError, match=r"layers='\(' is not a regular expression"):
        rank([expert], task, ("lgc",), layers="(")


def test_experts_zoos_and_tasks_may_be_named():
    found = rank("cifar10-resnet_small", "digits", ("num_params",), per_class=1, progress=False)
    assert (found.task["name"], [row.name for row in found]) == ("digits", ["cifar10-resnet_small"])
    with pytest.raises(ModelError, match="There is no expert, zoo or folder 'resnet_smal'"):
        rank(["resnet_smal"], "digits")


def test_an_expert_without_features_keeps_its_lgc(zoo, task):
    (row,) = rank([replace(zoo[1], features_fn=None)], task, resamples=0).experts
    assert row.scores["lfc"].reason.endswith("has no features_fn, and so no features. Try: Expert(..., features_fn=...)")
    assert isinstance(row.scores["lgc"], ScoreResult)


def test_experts_without_the_deciding_score_come_last(zoo, task):
    ranking = rank([replace(zoo[0], name="a", features_fn=None), zoo[2], zoo[1]], task, resamples=0)
    assert [row.name for row in ranking.experts] == ["informed", "partly", "a"]


def test_an_expert_without_head_is_differentiated_at_its_features(zoo, task):
    ranking = rank([replace(zoo[1], head=None)], task, ("lgc",), resamples=0)
    (row,) = ranking.experts
    assert ranking.task["warnings"] == ["Without a head, LGC is over the pre-logits, not comparable with the others: informed"]
    x = scaled(probe_sample(task).images)
    assert row.scores["lgc"].value == pytest.approx(correlation_by_hand(x @ x.T, probe_sample(task).labels), abs=1e-9)


def test_gradients_that_are_not_finite_cost_lgc_alone(zoo, task):
    params = {**zoo[1].params, "head": {"kernel": np.full((3, 2), np.nan)}}
    ranking = rank([replace(zoo[1], params=params)], task, resamples=0)
    assert [type(row.scores["lfc"]) for row in ranking.experts] == [ScoreResult]
    assert "NaN" in ranking.experts[0].scores["lgc"].reason


def test_the_random_score_alone_passes_no_image_through_any_expert(task):
    ranking = rank([linear_expert("b", BLIND, features_fn=raising, preprocess=None), linear_expert("a", BLIND)], task, ("random",))
    assert set(values(ranking, "random")) == {*"ab"}
    assert not ranking.failures


def test_the_random_order_is_another_one_for_another_task_draw_or_number_of_images(task):
    """And the same one for the same."""
    zoo = [linear_expert(name, BLIND) for name in "abcdefgh"]

    def order(of, **options):
        return tuple(sorted(found := values(rank(zoo, of, ("random",), resamples=0, **options), "random"), key=found.get))

    orders = [order(task), order(task, seed=1), order(task, per_class=2), order(replace(task, name="another"))]
    assert order(task) == orders[0]
    assert len(set(orders)) == len(orders)


# What the intervals and the verdict say


def test_intervals_surround_the_value_and_no_resamples_give_none(zoo, task):
    for row in rank(zoo, task, ("lfc", "random"), resamples=20).experts:
        result = row.scores["lfc"]
        assert result.low < result.value < result.high
        assert result.value - result.low == pytest.approx(result.high - result.value)
        assert row.scores["random"].low is None
    for row in rank(zoo, task, ("lfc",), resamples=0).experts:
        assert (row.scores["lfc"].low, row.scores["lfc"].high) == (None, None)


def test_a_copy_under_another_name_is_tied(zoo, task):
    ranking = rank([zoo[1], replace(zoo[1], name="copy")], task, ("lfc",), resamples=20)
    assert [row.name for row in ranking.experts] == ["copy", "informed"]
    assert ranking.tied == 2
    assert ranking.contenders == ("copy", "informed")
    assert ranking.judgement == ("lfc is highest for copy and 1 other of equal value on these 60 images.")


def test_an_expert_far_ahead_stands_alone(zoo, task):
    ranking = rank(zoo, task, ("lfc",), resamples=40)
    assert ranking.tied == 1
    assert (
        ranking.judgement
        == "lfc is highest for informed on these 60 images, ahead of every other expert by more than the choice of images explains (95 %)."
    )


def test_the_first_few_can_be_tied_and_the_rest_not(zoo, task):
    ranking = rank([*zoo, replace(zoo[1], name="copy")], task, ("lfc",), resamples=40)
    assert ranking.tied == 2
    assert ranking.judgement == (
        "lfc is highest for copy and 1 other of equal value on these 60 images, "
        "ahead of every other expert by more than the choice of images explains (95 %)."
    )


@pytest.mark.parametrize(
    ("scores", "resamples", "sentence"),
    [
        ("lfc", 20, "informed is the only expert; there is nothing to compare."),
        ("lfc", 0, "lfc is highest for informed on these 60 images; without half-samples (resamples=0) its uncertainty is not known."),
        ("random", 20, "random is highest for informed, and does not depend on the task."),
    ],
)
def test_one_expert_is_not_ahead_of_anything(zoo, task, scores, resamples, sentence):
    assert rank([zoo[1]], task, (scores,), resamples=resamples).judgement == sentence


def test_constant_features_leave_no_expert_with_the_score(zoo, task):
    ranking = rank([linear_expert("flat", np.zeros((16, 3)))], task, ("lfc",), resamples=20)
    assert ranking.judgement == "No expert has the score lfc."
    assert "constant" in ranking.experts[0].scores["lfc"].reason
    assert ranking.best is None


def test_one_image_a_class_is_too_few_to_claim_anything(zoo, task):
    ranking = rank(zoo, task, ("lfc",), per_class=1, resamples=20)
    assert "95 %" not in ranking.judgement
    assert all(row.scores["lfc"].low is None for row in ranking.experts)


def test_an_expert_is_not_ahead_of_those_that_have_no_score(zoo, task):
    ranking = rank([zoo[1], replace(zoo[0], features_fn=None)], task, ("lfc",), resamples=20)
    assert ranking.judgement == "informed is the only expert with the score lfc; there is nothing to compare."


def test_absent_and_single_image_classes_are_warned_of(zoo):
    images = task_of(LABELS).images
    task = Task("odd", images[:6], [0, 0, 0, 3, 3, 5], tuple("abcdefgh"), details={"warnings": ["Two images are the same."]})
    record = rank(zoo, task, ("lfc",), resamples=20).task
    assert record["warnings"] == [
        "Two images are the same.",
        "Classes without a training image, left out (5): b, c, e, g, h",
        "Classes with one image only (1): f",
    ]
    assert (record["classes"], record["images"], record["smallest_class"]) == (3, 6, 1)
    many = Task("odd", images[:6], [0, 0, 0, 3, 3, 5], [*"abcdefgh", "i"])
    assert rank(zoo, many, ("lfc",), resamples=0).task["warnings"][0].endswith("b, c, e, g, h ...")


def test_seconds_are_kept_by_step(zoo, task):
    row = rank(zoo, task, ("lfc", "lgc"), resamples=20).experts[0]
    assert list(row.seconds) == ["load", "preprocess", "cache", "forward", "backward", "scores", "intervals"]
    assert list(row.score_seconds) == ["lfc", "lgc"]
    assert row.seconds["scores"] == pytest.approx(sum(row.score_seconds.values()))
    assert row.total_seconds == pytest.approx(sum(row.seconds.values()))
    assert min(row.seconds.values()) >= 0


# Groups of scores


def test_a_group_is_its_scores_in_the_order_of_the_table_after_those_that_are_named():
    groups = {name: tuple(chosen_scores(name)) for name in ("all", "ablation", "baselines")}
    assert groups["all"][:4] == ("forecast", "lfc", "lgc", "leep")
    assert len(groups["all"]) == 19
    assert groups["baselines"] == ("random", "best_elsewhere", "source_size", "source_accuracy", "num_params")
    assert tuple(chosen_scores(["all", "ablation", "baselines"])) == tuple(SCORES)
    assert tuple(chosen_scores(["baselines", "knn5", "num_params", "lgc", "knn5"])) == ("knn5", "num_params", "lgc", *groups["baselines"][:4])
    assert chosen_scores(["ablation"])["knn5"] is SCORES["knn5"]


def test_a_score_of_a_package_belongs_to_the_group_it_names(monkeypatch):
    mine = replace(SCORES["lfc"], group="ablation")
    monkeypatch.setattr(table, "entry_points", lambda group: [SimpleNamespace(name="mine", load=lambda: mine)])
    assert chosen_scores("ablation")["mine"] is mine
    assert "mine" not in chosen_scores("all")


def test_the_old_name_of_resamples_gives_the_same_ranking_and_a_warning(zoo, task):
    with pytest.warns(DeprecationWarning, match=r"Try: rank\(..., resamples=...\)"):
        old = rank(zoo, task, ("lfc",), draws=20)
    assert [row.scores for row in old] == [row.scores for row in rank(zoo, task, ("lfc",), resamples=20)]


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scores": ("lcf",)}, ConfigError, "Score 'lcf' is unknown. Did you mean .*'lfc'.*Allowed: ablation, all, baselines, best_elsewhere"),
        ({"scores": ()}, ConfigError, "No score was named. Allowed: best_elsewhere"),
        ({"scores": ("lfc", SCORES["cka"])}, ConfigError, r"A Score among scores= has no name. Try: scores=\{'mine': score\}"),
        ({"scores": {"lfc": "lfc"}}, ConfigError, r"scores\['lfc'\] is a str, not a Score. Try: ntk_select.scores.SCORES\['lfc'\]"),
        ({"resamples": 19}, ConfigError, r"resamples=19 must be 0 \(no intervals\) or a whole number from 20. Try: resamples=100"),
        ({"resamples": -1}, ConfigError, "resamples=-1"),
        ({"batch_size": 0}, ConfigError, "batch_size=0 must be an integer of at least 1. Try: batch_size=32"),
        ({"per_class": 0}, TaskError, "per_class=0"),
        pytest.param({"seed": -1}, (ConfigError, TaskError), "seed"),
    ],
)
def test_options_out_of_range_are_refused_before_any_expert_is_loaded(task, options, error, message):
    def load():
        pytest.fail("an expert was loaded")

    with pytest.raises(error, match=message):
        rank({"a": load}, task, **options)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ([], "There is no expert to rank"),
        ({}, "There is no expert to rank"),
        ([7], r"Expected an expert.*given: int.*ntk_select.Expert\("),
        ([linear_expert("a", BLIND), linear_expert("b", BLIND), linear_expert("a", INFORMED)], "Two experts are named 'a'"),
    ],
)
def test_what_are_no_experts_is_refused(task, experts, message):
    with pytest.raises(ConfigError, match=message):
        rank(experts, task)


# How much is computed


@pytest.fixture(scope="module")
def resnet():
    network = build("resnet18", num_classes=5, stage_sizes=[1], widths=[3], stem="small")
    shapes = jax.eval_shape(partial(initialise, network, size=6), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    return make_expert("resnet", network, variables, preprocess=Preprocess(size=6))


def test_one_forward_pass_serves_lfc_and_lgc(resnet, task, monkeypatch):
    passed, one_pass = [], forward_module._to_pooled_tail

    def counted(taps_fn, last_conv, variables, x):
        passed.append(len(x))
        return one_pass(taps_fn, last_conv, variables, x)

    def another(*_):
        pytest.fail("a second kind of pass was made")

    monkeypatch.setattr(forward_module, "_to_pooled_tail", counted)
    for module, name in ((forward_module, "call"), (forward_module, "_logits_and_features")):
        monkeypatch.setattr(module, name, another)
    ranking = rank([resnet], task, ("lfc", "lgc"), per_class=10, batch_size=16, resamples=20)
    assert not ranking.failures
    assert passed == [16, 16]


def test_experts_that_share_a_geometry_share_the_resized_images(resnet, task, monkeypatch):
    resized, resize = [], Preprocess.resized

    def counted(preprocess, images):
        resized.extend([preprocess.geometry] * len(images))
        return resize(preprocess, images)

    monkeypatch.setattr(Preprocess, "resized", counted)
    brighter = replace(resnet, name="brighter", preprocess=Preprocess(size=6, mean=(0, 0, 0), std=(1, 1, 1)))
    larger = replace(resnet, name="larger", preprocess=Preprocess(size=6, resize=7))
    ranking = rank([resnet, brighter, larger], task, ("lfc",), batch_size=16, resamples=0)
    assert resized == [(6, None, "bilinear")] * 60 + [(6, 7, "bilinear")] * 60
    assert len({row.scores["lfc"].value for row in ranking.experts}) == 3


def test_the_face_of_the_package_is_this_function():
    assert rank is rank_function


def test_what_is_no_task_is_refused_in_words(zoo):
    with pytest.raises(ConfigError, match=r"must be a Task, or its name or path; given: int.*load_task\('digits'\)"):
        rank(zoo, 7)


def test_a_mapping_may_hold_experts_themselves(zoo, task):
    assert rank({"a": zoo[1]}, task, ("lfc",), resamples=0).best == "a"


def test_an_image_that_cannot_be_decoded_stops_the_ranking_with_its_name(zoo, task):
    class Broken(list):
        def __getitem__(self, index):
            raise DataError("photos/cat 1.jpg is damaged.")

    broken = Task("broken", Broken(task.images), task.labels, task.class_names)
    with pytest.raises(DataError, match=r"photos/cat 1.jpg"):
        rank([replace(zoo[1], preprocess=scaled)], broken, ("lfc",))


def test_an_expensive_kernel_is_estimated_and_the_ranking_says_so(task, monkeypatch, tmp_path):
    network = build("alexnet", num_classes=50, hidden=64)
    expert = make_expert("alexnet", network, initialise(network, jax.random.key(0), 63), preprocess=Preprocess(63))
    (exact,) = rank([expert], task, ("lgc",), per_class=5, resamples=0).experts
    monkeypatch.setattr(inputs, "MAX_PRODUCTS", 1e6)
    first, again = (rank([expert], task, ("lgc",), per_class=5, resamples=0, cache=tmp_path) for _ in range(2))
    note = "LGC is estimated from random directions, since the exact kernel is costly: alexnet (16)"
    assert note in first.task["warnings"]
    assert note in again.task["warnings"]
    estimates = [ranking["alexnet"].scores["lgc"].value for ranking in (first, again)]
    # 16 directions of 50 outputs: an error of the entries of about sqrt(2 / 800).
    assert abs(estimates[0] - exact.scores["lgc"].value) < 0.05
    assert estimates[0] != exact.scores["lgc"].value
    assert estimates[0] == estimates[1]


def test_without_a_last_convolution_lgc_is_of_the_last_block_and_the_ranking_says_so(task):
    usual, block = (linear_expert("informed", INFORMED, **given) for given in ({}, {"last_conv": None, "last_block": "body"}))
    without = linear_expert("informed", INFORMED, last_conv=None)
    expected, found, unavailable = (rank([one], task, ("lgc",), resamples=0) for one in (usual, block, without))
    assert found["informed"].scores["lgc"].value == pytest.approx(expected["informed"].scores["lgc"].value)
    note = "Without a last convolution, LGC is over the weights of the last block: informed (body)"
    assert note in found.task["warnings"]
    assert note not in expected.task["warnings"]
    assert "has no last_conv" in unavailable["informed"].scores["lgc"].reason
