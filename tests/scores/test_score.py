"""A score that is called with arrays by name gives the value of its function, or the reason why there is none."""

import re
from dataclasses import replace

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, TaskError, UndefinedScoreError, missing
from ntk_select.kernels.alignment import kernel_label_correlation
from ntk_select.scores import INPUTS, SCORES, Features, Input, Score, ScoreResult, Terms, Unavailable
from ntk_select.scores.lfc import lfc

LABELS = np.repeat([0, 1, 2], [20, 20, 25])
CONTRACT = [
    "forecast",
    "lfc",
    "lgc",
    "leep",
    "rsa",
    "domain_similarity",
    "feature_metrics",
    "random",
    "nce",
    "nleep",
    "hscore",
    "hscore_shrinkage",
    "logme",
    "transrate",
    "gbc",
    "parc",
    "dds",
    "sfda",
    "etran",
    "ncti",
    "pactran",
    "knn",
    "linear_probe",
    "cka",
    "generalization",
]
RELATIVE = [name for name, score in SCORES.items() if score.combine]
ALONE = [name for name in SCORES if name not in RELATIVE]
OF_LABELS = [name for name in ALONE if "labels" in SCORES[name].needs]


@pytest.fixture
def inputs(rng):
    n = len(LABELS)
    features = np.abs(rng.normal(size=(n, 8)) + 2 * np.eye(8)[LABELS])
    return {
        "features": features,
        "labels": LABELS,
        "training_kernel": features @ features.T + 1,
        "recipe": ns.Recipe(epochs=4),
        "learning_rates": (0.01, 0.001),
        "gradient_kernel": features @ np.diag(np.arange(1, 9)) @ features.T,
        "source_probs": rng.dirichlet(np.ones(5), size=n),
        "reference_features": features[:, :4] + rng.normal(size=(n, 4)),
        "domain_features": features[:, :3],
        "source_means": rng.normal(size=(6, 3)),
        "own_source_means": rng.normal(size=(6, 8)),
        "source_counts": np.arange(5, 11),
        "class_counts": np.array([20, 20, 300]),
        "source_size": 45,
        "source_accuracy": 0.75,
        "num_params": 12,
        "accuracies_elsewhere": np.array([0.5, 1.0]),
        "sparsity_weight": 0.3,
        "name": "a",
        "seed": 0,
        "task_key": "birds, 12 images",
    }


def other_expert(inputs, rng):
    return {**inputs, "features": np.abs(rng.normal(size=inputs["features"].shape) + 0.4 * np.eye(8)[LABELS])}


def test_the_promised_names_are_there():
    assert set(CONTRACT) <= set(SCORES)


def test_the_inputs_of_these_tests_are_all_there_are(inputs):
    assert set(inputs) == set(INPUTS)


@pytest.mark.parametrize(
    ("needs", "own", "message"),
    [
        (("featurs",), {}, "'featurs' is not an input of scores. Did you mean 'features'"),
        (("mine",), {"other": Input("a number", compute=max)}, "'mine' is not an input of scores"),
        (("mine",), {"mine": Input("a number")}, r"'mine' has no `compute`. Try: Input\('a number', compute="),
        (("features",), {"features": Input("mine", compute=max)}, "'features' is a built-in input"),
        ("labels", {}, r"needs and optional are tuples of names; given: 'labels' and \(\). Try: needs=\('labels',\)"),
    ],
)
def test_an_input_that_nobody_can_give_is_refused_when_the_score_is_made(needs, own, message):
    with pytest.raises(ConfigError, match=message):
        Score(lambda **_: 1.0, needs, inputs=own)


def test_a_score_sees_features_with_their_decompositions_whether_given_as_an_array_or_not(rng):
    width = Score(lambda features: len(features.svd.values) / features.width, ("features",))
    array = rng.normal(size=(9, 4)) @ np.diag([1.0, 1.0, 0.0, 0.0])
    assert width(features=array) == width(features=Features(array)) == ScoreResult(0.5)


def test_a_score_with_an_input_of_its_own_takes_it_by_name_and_explains_it():
    mine = Score(lambda mine: mine, ("mine",), inputs={"mine": Input("a number", compute=max)})
    assert mine(mine=2.0, features=np.eye(2)) == ScoreResult(2.0)
    assert mine() == Unavailable("needs mine (a number)")
    with pytest.raises(ConfigError, match="'thine' is not an input of a score. Did you mean 'mine'"):
        mine(thine=2.0)


def test_one_expert_gives_terms_and_the_zoo_values(inputs, rng):
    terms = [SCORES["etran"].evaluate(**each) for each in (inputs, other_expert(inputs, rng))]
    assert all(isinstance(each, Terms) and set(each.details) == {"energy", "lda"} for each in terms)
    found = SCORES["etran"].combined([terms[0], Unavailable("none"), terms[1]])
    assert [isinstance(each, ScoreResult) for each in found] == [True, False, True]
    assert found[0].details == terms[0].details
    assert SCORES["etran"].combined(found) == found


def test_float_of_a_result_is_the_value_of_the_function(inputs):
    expected = {
        "lfc": lfc(inputs["features"], LABELS),
        "lfc_off_diagonal": lfc(inputs["features"], LABELS, diagonal=False),
        "lfc_centered": lfc(inputs["features"], LABELS, center=True),
        "lfc_cosine": lfc(inputs["features"], LABELS, normalize=True),
        "lgc": kernel_label_correlation(inputs["gradient_kernel"], LABELS),
        "lgc_off_diagonal": kernel_label_correlation(inputs["gradient_kernel"], LABELS, diagonal=False),
        "lgc_centered": kernel_label_correlation(inputs["gradient_kernel"], LABELS, center=True),
        "lgc_cosine": kernel_label_correlation(inputs["gradient_kernel"], LABELS, normalize=True),
        "source_size": 45.0,
        "source_accuracy": 0.75,
        "num_params": 12.0,
        "best_elsewhere": 0.75,
    }
    for name, value in expected.items():
        result = SCORES[name](**inputs)
        assert isinstance(result, ScoreResult)
        assert float(result) == result.value == value
        assert (result.low, result.high) == (None, None)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_has_a_finite_value_within_a_zoo_of_two(inputs, name, rng):
    for result in SCORES[name].over([inputs, other_expert(inputs, rng)]):
        assert isinstance(result, ScoreResult)
        assert np.isfinite([result.value, *result.details.values()]).all()


@pytest.mark.parametrize("name", SCORES)
def test_only_what_a_score_needs_is_used(inputs, name, rng):
    used = (*SCORES[name].needs, *SCORES[name].optional)
    broken = {key: value if key in used else "nonsense" for key, value in inputs.items()}
    zoo = [inputs, other_expert(inputs, rng)]
    assert SCORES[name].over([{**expert, **{k: v for k, v in broken.items() if k not in used}} for expert in zoo]) == SCORES[name].over(zoo)


@pytest.mark.parametrize("name", SCORES)
def test_features_that_were_decomposed_before_give_the_same(inputs, name, rng):
    zoo = [inputs, other_expert(inputs, rng)]
    wrapped = [{**expert, "features": Features(expert["features"])} for expert in zoo]
    assert SCORES[name].over(wrapped) == SCORES[name].over(zoo)


@pytest.mark.parametrize("name", OF_LABELS)
def test_names_of_classes_and_the_order_of_images_play_no_part(inputs, name, rng):
    order = rng.permutation(len(LABELS))
    moved = {}
    for key, value in inputs.items():
        axes = INPUTS[key].image_axes
        moved[key] = value[order] if axes == 1 else value[np.ix_(order, order)] if axes == 2 else value
    moved["labels"] = moved["labels"] * 7 + 3
    assert SCORES[name](**moved).value == pytest.approx(SCORES[name](**inputs).value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_every_entry_says_what_it_needs_and_where_it_is_defined(name):
    score = SCORES[name]
    assert set((*score.needs, *score.optional)) <= set(INPUTS)
    assert len(score.reference) > 10
    assert score.range
    assert score.cost
    assert score.needs_images == any(key in INPUTS and INPUTS[key].image_axes for key in score.needs)


def test_a_score_that_knows_nothing_of_the_images_is_not_resampled():
    assert {name for name, score in SCORES.items() if not score.needs_images} == {
        "random",
        "best_elsewhere",
        "source_size",
        "source_accuracy",
        "num_params",
    }
    assert not any(score.resampled for score in SCORES.values() if not score.needs_images)


@pytest.mark.parametrize("name", OF_LABELS)
def test_one_class_has_no_score_but_a_reason(inputs, name):
    outcome = SCORES[name](**inputs | {"labels": np.zeros(len(LABELS), int), "class_counts": np.array([340])})
    if name.startswith("domain_similarity"):
        assert isinstance(outcome, ScoreResult)  # a distance of domains, not of classes
    else:
        assert isinstance(outcome, Unavailable)
        assert "one class" in outcome.reason


@pytest.mark.parametrize("name", [name for name in OF_LABELS if "features" in SCORES[name].needs and not name.startswith("domain")])
@pytest.mark.parametrize("constant", [0.0, 1.5])
def test_constant_and_zero_features_have_no_score_but_a_reason(inputs, name, constant):
    outcome = SCORES[name](**inputs | {"features": np.full((len(LABELS), 8), constant)})
    assert isinstance(outcome, Unavailable)
    assert re.search("constant|zero", outcome.reason)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("lfc", {"features": None}, r"needs features \(pre-logits \(n, d\) of the probe sample\)"),
        ("lfc", {"features": None, "labels": None}, r"needs features .* and labels \(class ids \(n,\)\)"),
        ("lgc", {"gradient_kernel": None}, "needs gradient_kernel"),
        ("leep", {"source_probs": None}, "needs source_probs .softmax"),
        ("rsa", {"reference_features": None}, "needs reference_features .* a small network trained on the task"),
        ("domain_similarity", {"source_means": None}, "needs source_means"),
        ("lgc", {"gradient_kernel": np.zeros((65, 65))}, "constant"),
    ],
)
def test_a_score_without_value_gives_the_reason(inputs, name, changes, reason):
    outcome = SCORES[name](**{**inputs, **changes})
    assert isinstance(outcome, Unavailable)
    assert re.search(reason, outcome.reason)


def test_an_input_that_was_not_given_is_like_none():
    assert SCORES["lfc"](labels=LABELS) == SCORES["lfc"](features=None, labels=LABELS)


def test_an_unknown_input_is_refused_with_near_ones(inputs):
    with pytest.raises(ConfigError, match="'feature' is not an input of a score. Did you mean 'features'.*Allowed: accuracies_elsewhere"):
        SCORES["lfc"](feature=inputs["features"], labels=LABELS)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lfc", {"features": np.ones((6, 4))}, "6 rows of features for 65 labels"),
        ("lfc", {"features": np.full((65, 4), np.nan)}, "NaN"),
        ("lgc", {"gradient_kernel": np.eye(6)}, r"\(6, 6\) for 65 labels"),
        ("lgc", {"labels": np.zeros(65)}, "row of integers"),
    ],
)
def test_malformed_inputs_are_errors_not_reasons(inputs, name, changes, message):
    with pytest.raises(TaskError, match=message):
        SCORES[name](**{**inputs, **changes})


@pytest.mark.parametrize("name", [name for name, score in SCORES.items() if score.needs == ("features", "labels") and not name.startswith("lfc")])
@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (np.eye(20), np.zeros(20, int), UndefinedScoreError, "one class"),
        (np.eye(20), np.arange(20), UndefinedScoreError, "one image only"),
        (np.full((20, 3), 0.1), np.arange(20) % 2, UndefinedScoreError, "constant"),
        (np.zeros((20, 3)), np.arange(20) % 2, UndefinedScoreError, "constant"),
        (np.eye(20), np.arange(19) % 2, TaskError, "20 rows .* for 19 labels"),
        (np.eye(20), np.arange(20) / 2, TaskError, "row of integers"),
        (np.where(np.eye(20) > 0, np.nan, 0), np.arange(20) % 2, TaskError, "NaN or infinity"),
        (np.where(np.eye(20) > 0, np.inf, 0), np.arange(20) % 2, TaskError, "NaN or infinity"),
        (np.ones(20), np.arange(20) % 2, TaskError, "one row per example"),
    ],
)
def test_the_functions_refuse_what_has_no_score(name, features, labels, error, message):
    with pytest.raises(error, match=message):
        SCORES[name].fn(features, labels)


@pytest.mark.parametrize("name", RELATIVE)
def test_a_zoo_relative_score_of_one_expert_says_what_to_type(inputs, name):
    outcome = SCORES[name](**inputs)
    assert isinstance(outcome, Unavailable)
    assert "only one has it. Try: at least two experts, or SCORES[...].over(" in outcome.reason


def score_of(fn, **fields):
    return Score(fn, ("features",), True, "here", "any", **fields)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_a_reason(value):
    assert score_of(lambda features: value)(features=np.eye(2)) == Unavailable(f"Its value is {value} on these inputs.")
    detailed = score_of(lambda features: ScoreResult(1.0, details={"part": value}))(features=np.eye(2))
    assert detailed == Unavailable(f"Its part is {value} on these inputs.")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UndefinedScoreError("nothing there"), "nothing there"),
        (
            missing("POT", "This"),
            "This needs the package POT, which is not installed. Try: pip install POT, "
            "or in the folder of the repository: uv pip install -e '.[scores]'",
        ),
        (np.linalg.LinAlgError("singular"), "A matrix of this score could not be decomposed (singular)."),
    ],
)
def test_what_keeps_a_score_from_its_value_is_a_reason(error, reason):
    def raising(features):
        raise error

    assert score_of(raising)(features=np.eye(2)) == Unavailable(reason)


def test_a_zoo_relative_score_compares_those_that_have_its_terms():
    score = score_of(lambda features: {"size": float(len(features))}, combine=lambda terms: np.array([term["size"] for term in terms]) / 10)
    none, two, three = score.over([{"features": None}, {"features": np.eye(2)}, {"features": np.eye(3)}])
    assert isinstance(none, Unavailable)
    assert (two, three) == (ScoreResult(0.2, details={"size": 2.0}), ScoreResult(0.3, details={"size": 3.0}))
    assert all(isinstance(outcome, Unavailable) for outcome in score.over([{"features": None}]))


def test_terms_that_cannot_be_compared_are_a_reason_for_all():
    def refused(_):
        raise UndefinedScoreError("all alike")

    assert score_of(lambda features: {"t": 1.0}, combine=refused).over([{"features": np.eye(2)}] * 2) == [Unavailable("all alike")] * 2


def test_the_old_name_of_max_resamples_is_deprecated():
    with pytest.warns(DeprecationWarning, match=r"most_draws=\.\.\.\) is deprecated\. Try: Score\(max_resamples="):
        old = Score(lfc, ("features", "labels"), most_draws=25)
    assert old == Score(lfc, ("features", "labels"), max_resamples=25)
    assert replace(old, unit="accuracy").max_resamples == 25
