"""The steps up to which a prediction can be trusted are those of the errors that were measured."""

import numpy as np
import pytest

from ntk_select.linearized.regime import ANSWERS_CLOSE, LOSS_CLOSE, OUTPUTS_CLOSE, regime

TIMES = np.array([0.0, 1, 2, 5, 10, 50])


def of(loss=0.0, outputs=0.0, agreement=1.0):
    return regime(TIMES, *(np.broadcast_to(np.asarray(values, float), 6) for values in (loss, outputs, agreement)))


def test_each_ends_at_the_last_step_before_the_first_that_is_off():
    found = of([0, 0.01, 0.05, 0.06, 0.02, 0.01], [0, 0.05, 0.2, 0.05, 0.3, 0.35], [1, 1, 0.99, 0.95, 0.9, 0.64])
    assert (found.loss, found.outputs, found.answers, found.single_answers) == (2, 1, 5, 1)
    assert (found.steps, found.largest_loss_error, found.last_loss_error) == (50, 0.06, 0.01)
    assert (found.last_output_error, found.last_agreement) == (0.35, 0.64)
    assert not found.throughout
    assert found.sentences() == [
        "Training loss: within 5 % of real training up to step 2; at most 6 % off, 1 % at step 50.",
        "Test outputs: within 10 % of their change since the start up to step 1; 35 % off at step 50.",
        "Predicted classes: equal for at least 95 % of the test images up to step 5; 64 % at step 50.",
        "In this run the formula can be trusted for individual predictions up to step 1 and for the loss up to step 2; after that, only its trend.",
    ]


def test_errors_at_the_limits_still_count_and_a_prediction_may_hold_throughout():
    found = of(LOSS_CLOSE, OUTPUTS_CLOSE, ANSWERS_CLOSE)
    assert (found.loss, found.outputs, found.answers) == (50, 50, 50)
    assert found.throughout
    assert found.sentences()[-1] == "In this run the formula can be trusted throughout for the loss and for individual predictions."
    assert "up to the end, step 50;" in found.sentences()[0]


@pytest.mark.parametrize(
    ("loss", "says"), [([0, 0, 0, 0.2, 0, 0], "for the training loss up to step 2; after that"), (0, "throughout for the training loss.")]
)
def test_without_test_images_only_the_loss_is_judged(loss, says):
    found = regime(TIMES, np.broadcast_to(np.asarray(loss, float), 6))
    assert (found.outputs, found.answers, found.single_answers) == (None, None, None)
    assert len(found.sentences()) == 2
    assert says in found.sentences()[-1]


def test_a_training_that_overflowed_is_beyond_all_bounds():
    found = of([0, np.inf, np.inf, np.inf, np.inf, np.inf], np.inf, 0)
    assert (found.loss, found.single_answers) == (0, 0)
    assert "at most beyond all bounds off" not in " ".join(found.sentences())
    assert "not finite" in found.sentences()[0]


def test_full_agreement_and_large_errors_are_written_out():
    from ntk_select.linearized.regime import _percent

    assert [_percent(value) for value in (1.0, 0.996, 1.5, 0.05, 0.0012, float("inf"))] == ["100 %", "99.6 %", "150 %", "5 %", "0.12 %", "infinitely"]
