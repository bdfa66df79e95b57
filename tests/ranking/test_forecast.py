"""The forecast in a ranking: it decides the order, speaks in accuracies, and does without where an expert has none."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.cli import main
from ntk_select.errors import ConfigError
from ntk_select.evaluate.intervals import half_samples
from ntk_select.experts.network_inputs import network_inputs
from ntk_select.forecasting.cross_validation import cross_validate
from ntk_select.forecasting.kernel import training_kernel
from ntk_select.forecasting.order_value import order_value
from ntk_select.kernels.flops import forward_flops
from ntk_select.ranking import expected_time
from ntk_select.ranking.expected_time import expected_seconds
from ntk_select.scores import Score, ScoreResult, Unavailable
from ntk_select.tasks.probe_sample import probe_sample
from ntk_select.training.reference import untrained_reference


@pytest.fixture(scope="module")
def networks(loaded):
    """Makers of experts and tasks, of the tests of fine-tuning."""
    return loaded("training/finetuning/conftest.py")


@pytest.fixture(scope="module")
def task(networks):
    return networks.spots(noise=200)


def experts(networks):
    """One that sees the column, one that sees noise alone."""
    good = networks.linear_expert("good")
    blind = replace(good, name="blind", features_fn=lambda v, x: x.reshape(len(x), -1)[:, 12:] % 0.004, head=None)
    return [blind, good]


@pytest.fixture(scope="module")
def ranking(networks, task):
    return ns.rank(experts(networks), task, per_class=10, learning_rates=(0.1, 0.01))


def test_by_default_it_comes_first_and_decides(ranking):
    assert ranking.score_names == ("forecast", "lfc", "lgc")
    assert [row.name for row in ranking.experts] == ["good", "blind"]
    values = [row.scores["forecast"].value for row in ranking.experts]
    assert values == sorted(values, reverse=True)
    assert ranking.higher_is_better["forecast"]


def test_the_verdict_says_what_to_expect_with_which_learning_rate(ranking):
    found = ranking.experts[0].scores["forecast"].details
    reached, low, high = (f"{100 * found[name]:.0f} %" for name in ("accuracy", "accuracy_low", "accuracy_high"))
    assert ranking.judgement.startswith("forecast is highest for good on these 30 images, ahead of every other expert")
    assert (
        f"good is expected to classify {reached} of new images correctly after fine-tuning on these (95 %: {low} to {high}), "
        f"with learning rate {found['learning_rate']:g}."
    ) in ranking.judgement


def test_its_interval_is_that_of_half_samples_of_answers_and_kernel(networks, task):
    """Trainings are not simulated again on a half-sample."""
    found = ns.rank([networks.normed_expert("good")], task, ("forecast",), per_class=10, learning_rates=(0.1, 0.01), resamples=25)
    sample = probe_sample(task, per_class=10, seed=0)
    expert = networks.normed_expert("good")
    kernel = training_kernel(expert, network_inputs(expert.preprocess, sample.images)).with_head()
    known = order_value(cross_validate(kernel, sample.labels, ns.Recipe(), (0.1, 0.01)), kernel, sample.labels)
    halves = half_samples(sample.labels, resamples=25, seed=0)
    margin = halves.margin(np.array([known.on_subset(rows) for rows in halves.rows]))
    score = found.experts[0].scores["forecast"]
    assert score.value == pytest.approx(known.value, rel=1e-5)
    assert (score.low, score.high) == (pytest.approx(score.value - margin, rel=1e-4), pytest.approx(score.value + margin, rel=1e-4))


def test_tables_and_files_have_the_accuracy_and_the_value(ranking, tmp_path):
    score = ranking.experts[0].scores["forecast"]
    assert f"{100 * score.details['accuracy']:.1f}" in repr(ranking)
    assert f"({score.value:.2f})" in repr(ranking)
    assert "forecast: accuracy to expect after fine-tuning; in ( ) the value that orders the experts." in repr(ranking)
    assert score.on_subset is None  # it would keep the kernel
    ranking.save(tmp_path)
    with open(tmp_path / "ranking.csv", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert float(row["forecast"]) == pytest.approx(score.value)
    assert float(row["forecast_accuracy"]) == pytest.approx(score.details["accuracy"])
    assert {"forecast_accuracy_low", "forecast_accuracy_high", "forecast_low", "forecast_high"} <= row.keys()


def test_two_experts_are_told_apart_by_the_images_that_they_answer(networks, task):
    """The same answers: nothing tells them apart, and no training is simulated again."""
    one = networks.normed_expert("one")
    found = ns.rank([one, replace(one, name="two")], task, ("forecast",), per_class=10)
    assert found.tied == 2
    assert [row.scores["forecast"].value for row in found.experts] == [found.experts[0].scores["forecast"].value] * 2


def test_an_expert_without_it_comes_last_and_the_others_scores_go_on(networks, task):
    lame = replace(networks.normed_expert("lame"), train_fn=None)
    found = ns.rank([lame, *experts(networks)], task, per_class=10)
    assert [row.name for row in found.experts][-1] == "lame"
    outcome = found.experts[-1].scores
    assert isinstance(outcome["forecast"], Unavailable)
    assert "no train_fn" in outcome["forecast"].reason
    assert isinstance(outcome["lfc"], ScoreResult)
    frozen = ns.rank([lame], task, ("forecast",), per_class=10, recipe=ns.Recipe(batch_norm="frozen"))
    assert isinstance(frozen.experts[0].scores["forecast"], ScoreResult)


def test_where_no_expert_has_it_the_next_score_decides(networks, task):
    lame = [replace(networks.normed_expert(name), train_fn=None) for name in ("one", "two")]
    found = ns.rank(lame, task, per_class=10)
    assert found.judgement.startswith("lfc is highest for")
    assert found.best is not None


def test_one_image_of_each_class_has_no_forecast_but_a_reason(networks, task):
    found = ns.rank(experts(networks), task, ("forecast", "lfc"), per_class=1)
    for row in found.experts:
        assert "only one image" in row.scores["forecast"].reason


def test_rates_that_all_diverge_are_a_reason(networks, task):
    found = ns.rank([networks.linear_expert()], task, ("forecast",), per_class=10, learning_rates=1e9, recipe=ns.Recipe(weight_decay=0.1))
    assert "--lr 1e+08" in found.experts[0].scores["forecast"].reason


def test_the_kernel_is_kept_and_another_recipe_uses_it_again(networks, task, tmp_path, monkeypatch):
    options = {"scores": ("forecast",), "per_class": 6, "cache": tmp_path}
    first = ns.rank([networks.normed_expert()], task, **options)

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("ntk_select.forecasting.kernel.TrainingNetwork", refuse)
    again = ns.rank([networks.normed_expert()], task, **options)
    assert again.experts[0].scores == first.experts[0].scores
    longer = ns.rank([networks.normed_expert()], task, recipe=ns.Recipe(epochs=60), **options)
    assert longer.experts[0].scores["forecast"].details["loss"] != first.experts[0].scores["forecast"].details["loss"]
    frozen = ns.rank([networks.normed_expert()], task, recipe=ns.Recipe(batch_norm="frozen"), **options)
    assert "computed again" in frozen.experts[0].scores["forecast"].reason


@pytest.mark.parametrize(
    ("options", "message"), [({"recipe": {"epochs": 3}}, "must be a Recipe"), ({"learning_rates": ()}, "must be numbers above 0")]
)
def test_a_fine_tuning_that_is_none_is_refused(networks, task, options, message):
    with pytest.raises(ConfigError, match=message):
        ns.rank(experts(networks), task, **options)


def test_the_expected_time_is_in_proportion_to_images_passes_and_experts(networks, task, monkeypatch):
    """None where a score needs a pass and no expert can be traced."""
    monkeypatch.setattr(expected_time, "_speed", lambda: 1e3)
    one = {"a": networks.normed_expert}
    few, more = (expected_seconds(one, task, ["forecast"], per_class=count) for count in (3, 6))
    compiling = expected_time.COMPILING + expected_time.COMPILING_FORECAST
    fixed = expected_time.PER_SCORE + expected_time.PER_FORECAST + compiling
    assert (more - fixed) / (few - fixed) == pytest.approx(2)
    many = expected_seconds({name: networks.normed_expert for name in "abcd"}, task, ["forecast"], per_class=3)
    assert many - compiling == pytest.approx(4 * (few - compiling))
    assert expected_seconds({"broken": lambda: None}, task) is None
    monkeypatch.undo()
    assert 1e8 < expected_time._speed() < 1e15
    assert np.isfinite(expected_seconds(one, task))


def test_the_expected_time_is_of_the_scores_that_are_computed(networks, task, monkeypatch):
    monkeypatch.setattr(expected_time, "_speed", lambda: 1e3)
    one = {"a": networks.normed_expert}
    alone, both = (expected_seconds(one, task, scores, per_class=3) - expected_time.COMPILING for scores in (["lfc"], ["lfc", "lgc"]))
    assert (both - 2 * expected_time.PER_SCORE) == pytest.approx(2 * (alone - expected_time.PER_SCORE))
    forecast = expected_seconds(one, task, ["forecast"], per_class=3) - expected_time.COMPILING - expected_time.COMPILING_FORECAST
    assert forecast > 2 * alone
    assert expected_seconds({"broken": lambda: None}, task, ["num_params", "random"]) == pytest.approx(2 * expected_time.PER_SCORE)


def test_the_training_of_the_reference_network_is_part_of_the_expected_time(networks, task, monkeypatch):
    """500 steps of 32 images, three forward passes each, once for the zoo; none for a reference that is given."""
    monkeypatch.setattr(expected_time, "_speed", lambda: 1e3)
    zoo = {name: networks.normed_expert for name in "ab"}
    given = expected_seconds(zoo, task, ["dds"], per_class=3, reference=networks.normed_expert())
    trained = expected_seconds(zoo, task, ["dds"], per_class=3)
    expert = untrained_reference(task, "tiny", 0)[0]
    size = expert.preprocess.size
    flops = forward_flops(expert.features_fn, expert.variables, np.zeros((1, size, size, 3), np.float32))
    assert trained - given == pytest.approx(3 * 32 * 500 * flops / (expected_time.SHARE * 1e3), rel=0.07)
    with pytest.raises(ConfigError, match="'tinny' is unknown"):
        expected_seconds(zoo, task, ["dds"], reference="tinny")


def test_without_half_samples_nobody_is_called_tied(networks, task):
    """With resamples=0, or two images of each class, nothing can be said; the accuracy is told all the same."""
    for options, sentence in (
        ({"resamples": 0}, "without half-samples (resamples=0) its uncertainty is not known"),
        ({"per_class": 2}, "some classes have too few of them to estimate the uncertainty"),
    ):
        found = ns.rank(experts(networks), task, ("forecast",), **({"per_class": 10} | options))
        values = [row.scores["forecast"].value for row in found.experts]
        assert found.tied == values.count(values[0])
        assert sentence in found.judgement
        assert "is expected to classify" in found.judgement


def test_a_ranking_says_which_score_decided_and_which_fine_tuning_is_forecast(networks, task):
    lame = [replace(networks.normed_expert(name), train_fn=None) for name in ("one", "two")]
    found = ns.rank([*lame, networks.linear_expert()], task, per_class=6, learning_rates=0.1)
    assert (found.deciding, found.to_dict()["deciding"]) == ("lfc", "lfc")  # one of three has a forecast
    assert found.fine_tuning["learning_rates"] == [0.1]
    assert found.fine_tuning["recipe"]["epochs"] == 30
    assert ns.rank(lame, task, ("lfc",), per_class=6).fine_tuning is None


def test_devices_and_threads_play_no_part(networks, task, monkeypatch):
    from ntk_select.forecasting import kernel as room

    one = ns.rank([networks.normed_expert()], task, ("forecast",), per_class=6)
    monkeypatch.setattr(room, "SMALL", 0)  # no threads
    two = ns.rank([networks.normed_expert()], task, ("forecast",), per_class=6)
    assert one.experts[0].scores == two.experts[0].scores


SHIFTED = "The test images differ from the training images (of the 3 nearest images of the same class "


@pytest.fixture(scope="module")
def tested(networks):
    """A task that is split at random."""
    return networks.spots((25, 25, 25), (30, 30, 30), noise=150)


def inverted(task):
    return replace(task, test_images=255 - task.test_images)


def ranked(networks, task, **options):
    return ns.rank(experts(networks), task, **({"scores": ("forecast", "lfc"), "learning_rates": 0.1, "resamples": 0} | options))


@pytest.fixture(scope="module")
def on_shifted(networks, tested):
    return ranked(networks, inverted(tested))


def test_test_images_that_differ_from_the_training_images_are_remarked_on(networks, tested, on_shifted):
    (remark,) = on_shifted.task["warnings"]
    assert remark.startswith(SHIFTED)
    assert f"Note: {remark}" in repr(on_shifted)
    assert on_shifted.shared_seconds["test images"] > 0
    alike = ranked(networks, tested)
    assert alike.task["warnings"] == []
    assert [(row.name, row.scores) for row in on_shifted] == [(row.name, row.scores) for row in alike]
    assert on_shifted.judgement == alike.judgement


def test_the_remark_is_in_the_files_and_the_json_of_a_ranking(on_shifted, tmp_path, capsys):
    on_shifted.save(tmp_path)
    assert ns.Ranking.load(tmp_path).task["warnings"] == on_shifted.task["warnings"]
    assert main(["rank", "--show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"]["warnings"] == on_shifted.task["warnings"]
    assert main(["rank", "--show", str(tmp_path)]) == 0
    assert f"Note: {SHIFTED}".replace(" ", "") in "".join(capsys.readouterr().out.split())


def test_no_remark_without_test_images_or_without_a_forecast(networks, tested):
    shifted = inverted(tested)
    without = ranked(networks, replace(shifted, test_images=None, test_labels=None))
    assert (without.task["warnings"], without.shared_seconds) == ([], {})
    other = ranked(networks, shifted, scores=("lfc",))
    assert (other.task["warnings"], other.shared_seconds) == ([], {})
    lame = replace(networks.normed_expert("lame"), train_fn=None)
    found = ns.rank([lame], shifted, ("forecast", "lfc"), learning_rates=0.1, resamples=0)
    assert isinstance(found[0].scores["forecast"], Unavailable)
    assert found.task["warnings"] == []


def test_the_remark_needs_the_best_expert_once_more_and_no_other(networks, tested):
    loads = []

    def loader(expert):
        def load():
            loads.append(expert.name)
            return expert

        return load

    found = ranked(networks, tested)
    again = ns.rank({e.name: loader(e) for e in experts(networks)}, inverted(tested), ("forecast", "lfc"), learning_rates=0.1, resamples=0)
    assert loads == ["blind", "good", found.best]
    assert again.task["warnings"][0].startswith(SHIFTED)


def test_the_remark_is_the_same_by_workers_and_from_records(networks, tested, on_shifted, shipped, tmp_path):
    """Workers do not have the test images."""
    one, options = networks.linear_expert("good"), {"learning_rates": 0.1, "resamples": 0, "executor": shipped, "resume": tmp_path}
    for _ in range(2):
        found = ns.rank([one], inverted(tested), ("forecast", "lfc"), **options)
        assert [note for note in found.task["warnings"] if "test images" in note] == on_shifted.task["warnings"]


def test_test_images_that_cannot_be_decoded_cost_no_ranking(networks, tested, on_shifted):
    broken = [np.zeros((4, 4), np.uint8)] * 89 + [None]
    found = ranked(networks, replace(tested, test_images=broken), per_class=30)
    assert [row.name for row in found] == [row.name for row in on_shifted]
    (remark,) = found.task["warnings"]
    assert remark.startswith("The test images could not be compared with the training images: ")


def test_a_value_that_cannot_be_had_on_a_half_sample_costs_the_interval_alone(networks, task):
    """A function for half-samples may raise, or return NaN."""

    def failing(rows):
        if len(rows) % 2:
            raise ValueError("odd")
        return float("nan")

    score = Score(fn=lambda labels: ScoreResult(0.5, on_subset=failing), needs=("labels",))
    (row,) = ns.rank([networks.linear_expert("one")], task, {"mine": score}, per_class=10, resamples=25)
    assert (row.scores["mine"].value, row.scores["mine"].low) == (0.5, None)
