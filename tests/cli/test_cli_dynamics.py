"""`ntk-select dynamics` predicts the training that it runs, compares both, and rejects invalid options in one sentence."""

import csv
import json
import pickle
import shlex
from functools import partial

import jax
import numpy as np
import optax
import pytest

from ntk_select import linearized, probe_sample, with_new_head
from ntk_select.cli import main
from ntk_select.data import load_task
from ntk_select.errors import MissingDependencyError
from ntk_select.linearized import experiment
from ntk_select.models import open_zoo


@pytest.fixture(scope="module")
def zoo(write_zoo):
    return write_zoo("ash", num_classes=4)


@pytest.fixture(scope="module")
def npz(write_task):
    return write_task(tested=True)


@pytest.fixture(scope="module", autouse=True)
def computed_once():
    """Two commands that differ only in what they print share one experiment."""
    compute, known, patch = experiment.run_experiment, {}, pytest.MonkeyPatch()

    def run(expert, x, y, *, progress, **options):
        key = (
            pickle.dumps(jax.tree.map(np.asarray, (expert.params, x, y, options["x_test"], options["batches"])))
            + repr([(name, value) for name, value in options.items() if name not in ("x_test", "test_targets", "batches")]).encode()
        )
        if key not in known:
            known[key] = compute(expert, x, y, progress=progress, **options)
        return known[key]

    patch.setattr(experiment, "run_experiment", run)
    yield
    patch.undo()


@pytest.fixture
def ran(zoo, npz, dense_zoo, monkeypatch, capsys):
    """ran("--json", ...) of a dense expert, or of the one in the zoo of files, on the small task: exit status, stdout and stderr."""

    def run(*options, task=npz, files=False):
        monkeypatch.setattr("ntk_select.models.open_zoo", open_zoo if files else dense_zoo)
        capsys.readouterr()
        status = main(["dynamics", "--expert", "ash", "--task", task, "--zoo", zoo, "--per-class", "3", "--steps", "6", *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def trained(zoo, npz, lr, steps, optimizer):
    """Losses and test outputs of a plain Optax loop from the same start."""
    sample, task = probe_sample(load_task(npz), per_class=3), load_task(npz)
    expert = with_new_head(open_zoo([zoo])["ash"](), 2)
    x, y = expert.preprocess(sample.images), np.eye(2)[sample.labels]
    x_test = expert.preprocess(task.test_images)
    fn = jax.jit(lambda params, x: expert.apply_fn({"params": params, **expert.state}, x))
    gradient = jax.jit(jax.grad(lambda params: ((fn(params, x) - y) ** 2).mean()))
    params, losses, outputs = expert.params, [], []
    state = optimizer(lr).init(params)
    for _ in range(steps + 1):
        losses.append(float(((fn(params, x) - y) ** 2).mean()))
        outputs.append(np.asarray(fn(params, x_test)))
        updates, state = optimizer(lr).update(gradient(params), state)
        params = optax.apply_updates(params, updates)
    return np.array(losses), np.array(outputs)


def test_the_real_curve_is_that_of_a_plain_loop_and_the_formula_is_the_linearised_training(ran, zoo, npz):
    status, out, _ = ran("--json", "--optimizer", "nesterov", "--momentum", "0.5", files=True)
    record = json.loads(out)
    curves, settings = record["curves"], record["settings"]
    losses, outputs = trained(zoo, npz, settings["lr"], 6, partial(optax.sgd, momentum=0.5, nesterov=True))
    assert status == 0
    assert curves["step"] == list(range(7))
    np.testing.assert_allclose(curves["loss_real"], losses, rtol=1e-3)
    np.testing.assert_allclose(curves["loss_formula"], curves["loss_linear"], rtol=1e-4)
    np.testing.assert_allclose(curves["loss_error"], np.abs(np.array(curves["loss_formula"]) / curves["loss_real"] - 1), rtol=1e-6, atol=1e-12)
    answers = load_task(npz).test_labels
    np.testing.assert_allclose(curves["accuracy_real"], [(o.argmax(1) == answers).mean() for o in outputs])
    assert settings["lr"] == pytest.approx(0.1 * settings["largest_stable_lr"])
    assert record["images"] == 6
    assert record["test_images"] == 8
    theory = record["theory"]
    assert theory["quadratic_form"] >= theory["quadratic_form_bound"]
    assert theory["speed"] == pytest.approx(4 * theory["quadratic_form"] / 12**2, rel=1e-4)  # mean over 12 residuals


def test_matrix_free_gives_the_dense_curves_and_chooses_the_same_learning_rate(ran):
    dense, free = (json.loads(ran("--json", "--no-linear", "--method", way)[1]) for way in ("dense", "matrix-free"))
    assert free["kernel"]["products"] > 0
    assert dense["kernel"]["products"] == 0
    assert free["settings"]["lr"] == pytest.approx(dense["settings"]["lr"], rel=1e-3)
    np.testing.assert_allclose(free["curves"]["loss_formula"], dense["curves"]["loss_formula"], rtol=1e-3)
    assert "loss_linear" not in dense["curves"]
    assert "generalization" not in free["theory"]


def test_the_table_for_people_the_files_and_the_command_to_type_next(ran, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, out, _ = ran("--explain", "--no-linear", "--weight-decay", "0.1")
    assert status == 0
    assert "Fine-tuning ash on bright things, 6 training and 8 test images" in out
    assert "its lower bound is" in out
    assert "head/kernel" in out
    assert not list(tmp_path.iterdir())
    words = shlex.split(out[out.index("Next: ") + 6 :])[1:]
    assert words[-2:] == ["--out", "runs/dynamics"]
    assert main(words) == 0
    folder = tmp_path / "runs" / "dynamics"
    assert sorted(path.name for path in folder.iterdir()) == ["dynamics.csv", "dynamics.json", "dynamics.png"]
    record = json.loads((folder / "dynamics.json").read_text())
    rows = list(csv.DictReader((folder / "dynamics.csv").read_text().splitlines()))
    assert [float(row["loss_real"]) for row in rows] == record["curves"]["loss_real"]
    assert record["settings"]["weight_decay"] == 0.1
    assert record["layers"][0]["name"] == "all"
    assert (folder / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    assert "The files are in runs/dynamics" in capsys.readouterr().out


def test_mini_batches_and_cross_entropy_are_followed_by_the_formula(ran):
    status, out, _ = ran("--json", "--loss", "cross_entropy", "--batch", "2", "--lr", "0.01", "--layers", "^head/")
    curves = json.loads(out)["curves"]
    assert status == 0
    # A linear head on fixed features is its own linearisation.
    np.testing.assert_allclose(curves["loss_formula"], curves["loss_real"], rtol=1e-4)
    np.testing.assert_allclose(curves["agreement"], 1)


def test_two_classes_may_be_one_output_of_minus_and_plus_one(ran):
    status, out, _ = ran("--json", "--encoding", "pm1", "--layers", "^head/", "--loss", "half_sum")
    curves = json.loads(out)["curves"]
    assert status == 0
    np.testing.assert_allclose(curves["loss_formula"], curves["loss_real"], rtol=1e-4)
    np.testing.assert_allclose(curves["accuracy_formula"], curves["accuracy_real"])


def test_a_task_without_test_images_has_training_curves_alone(ran, write_task):
    status, out, _ = ran("--json", task=write_task("untested"))
    assert status == 0
    assert json.loads(out)["test_images"] == 0
    assert not [name for name in json.loads(out)["curves"] if "test" in name or "accuracy" in name]
    assert json.loads(ran("--json", "--test", "0")[1])["test_images"] == 0


def test_a_training_that_diverges_is_shown_as_it_is(ran):
    options = ("--lr", "1e30", "--no-linear")
    status, out, _ = ran(*options)
    assert status == 0
    assert json.loads(ran(*options, "--json")[1])["curves"]["loss_real"][-1] is None
    assert "inf" in out
    assert "x the largest stable learning rate of the linearised network" in out


def test_it_says_up_to_which_step_the_prediction_can_be_trusted_and_what_the_numbers_mean(ran):
    regime = json.loads(ran("--json", "--lr", "0.3")[1])["regime"]
    out = ran("--lr", "0.3")[1]
    assert all(sentence in out.splitlines() for sentence in regime["sentences"])
    assert regime["sentences"][-1].startswith("In this run the formula can be trusted")
    assert (regime["steps"], regime["loss_close"], regime["answers_close"]) == (6, 0.05, 0.95)
    assert ("For a closer prediction" in out) is not regime["throughout"]
    assert "the kernel predicts that the loss falls by" in out
    assert "a lower value predicts better generalisation" in out
    assert " lr a step" not in out
    linear = json.loads(ran("--json", "--layers", "^head/")[1])["regime"]
    assert linear["throughout"]
    assert "trusted throughout" in linear["sentences"][-1]


def test_the_first_step_is_predicted_in_units_of_the_loss(ran):
    options = ("--optimizer", "nesterov", "--momentum", "0.5", "--layers", "^head/")
    stable = json.loads(ran("--json", *options)[1])["settings"]["largest_stable_lr"]
    options += ("--lr", str(1e-3 * stable))
    record, out = json.loads(ran("--json", *options)[1]), ran(*options)[1]
    fell = record["curves"]["loss_real"][0] - record["curves"]["loss_real"][1]
    (line,) = [line for line in out.splitlines() if line.startswith("First step")]
    predicted, changed = float(line.split("falls by ")[1].split()[0]), float(line.split("changed by ")[1].rstrip("."))
    assert changed == pytest.approx(-fell, rel=1e-3)
    assert predicted == pytest.approx(fell, rel=0.02)


def test_no_steps_are_a_start_without_a_training(ran):
    assert json.loads(ran("--json", "--steps", "0")[1])["curves"]["step"] == [0]


def test_without_a_figure_the_numbers_are_saved_all_the_same(ran, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise MissingDependencyError("Try: pip install matplotlib")

    monkeypatch.setattr("ntk_select.linearized.compare.plot_curves", failing)
    status, _, err = ran("--lr", "0.3", "--out", str(tmp_path / "here"))
    assert status == 0
    assert "No figure was written. Try: pip install matplotlib" in err
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["dynamics.csv", "dynamics.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoding", "pm1", "--loss", "cross_entropy", "--lr", "1"), "--loss cross_entropy needs one output per class. Try: --encoding onehot"),
        (("--head", "zero", "--layers", "last_conv"), "The kernel is zero: these parameters have no gradient at the start"),
        (("--layers", "fd"), "layers='fd' matches no parameter"),
        (("--batch", "7"), "--batch 7 must be a whole number from 1 to the 6 training images"),
        (("--expert", "oak"), "There is no expert 'oak' in the zoo. Try: ntk-select zoo list --zoo"),
    ],
)
def test_what_is_refused_is_one_sentence_and_status_2(ran, options, message):
    status, out, err = ran("--json", *options)
    assert (status, out) == (2, "")
    assert message in err


def test_an_unwritable_out_is_refused_before_anything_is_read(ran, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = ran("--out", str(tmp_path / "file" / "here"), task="absent")
    assert status == 2
    assert "cannot be written" in err


def test_the_package_offers_what_the_command_uses():
    assert {"compare_training", "loss_curve", "predict", "linearize"} <= set(linearized.__all__)
