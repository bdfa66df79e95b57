"""`finetune`: the accuracy of an expert after fine-tuning on a task."""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from ntk_select._runtime.checks import check_count
from ntk_select._runtime.host import cores
from ntk_select._runtime.progress import Progress, reporting, timed
from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.expert import Expert
from ntk_select.experts.new_head import with_new_head
from ntk_select.kernels.flops import TRAINING, forward_flops
from ntk_select.resolve import as_expert, as_task
from ntk_select.tasks.copies import groups_of_copies
from ntk_select.tasks.task import ChosenImages, Task
from ntk_select.training.finetuning.recipe import LEARNING_RATES, Recipe, checked_rates, hold_out, training_images
from ntk_select.training.finetuning.result import FinetuneResult, Trial
from ntk_select.training.finetuning.search import SEARCHES, best_first, edge_of, extend_grid, grid, optuna_search
from ntk_select.training.finetuning.tracked import by_rate, log_result, log_trial, params_of
from ntk_select.training.finetuning.trainer import Accuracy, OutputsError, Run, Trainer
from ntk_select.training.tracking import Tracker, guarded

CHOICES = ("validation", "paper")


def finetune(
    expert: Expert | str | Path,
    task: Task | str | Path,
    *,
    shots: int | str | None = None,
    learning_rates: float | Sequence[float] = LEARNING_RATES,
    extend: bool = True,
    choose: str = "validation",
    recipe: Recipe | None = None,
    search: str = "grid",
    trials: int = 10,
    seed: int = 0,
    sample_seed: int | None = None,
    reference: Expert | str | Path | None = None,
    workers: int | None = None,
    mesh: Mesh | None = None,
    checkpoints: str | Path | None = None,
    track: Tracker | str | None = None,
    progress: Progress | bool | None = None,
) -> FinetuneResult:
    """Fine-tunes an expert with a new head on a task, by the recipe of the paper, and evaluates it on the whole test set.

    With several learning rates, a fifth of the training images is held out to choose among them. The network is then trained again on all
    training images at the best rate and evaluated: the test set is used once. If the best rate is the largest or smallest of the grid,
    further rates are tried past it. `choose="paper"` follows the paper: every given rate is trained on all images, and the best test accuracy
    is reported. This is optimistic, being the maximum of several noisy numbers.

    Args:
      expert: expert with `features_fn` and `preprocess`; or the name of an embedded expert, the folder of one, or "timm:NAME".
      task: the task, or its URI, as for `load_task`. If it has no test set, a fifth of the images of each class is held out for testing, always the same
        ones (`Task.with_test_split`); a warning and the result say so.
      shots: training images per class, at most; None or "full" for all.
      learning_rates: learning rates to try, `LEARNING_RATES` by default; a single one is used as it is.
      extend: try further rates past the end of the grid, each about three times the previous one (0.01, 0.03, 0.1), or a third of it (0.001,
        0.0003), while validation accuracy, or at equal accuracy the loss, improves; at most `STEPS_BEYOND`, and none past a rate that diverged.
        Does not apply to `choose="paper"`, nor to Optuna, which searches beyond the given rates anyway.
      choose: "validation" or "paper".
      recipe: all other hyper-parameters; `Recipe()` by default.
      search: "grid" tries `learning_rates`; "optuna" tries them first and then others, `trials` in all (needs the package optuna).
      trials: number of learning rates that Optuna tries.
      seed: seed of the head, the order of batches, augmentation, and the choice of validation images.
      sample_seed: seed of the choice of `shots` images, which are those of `probe_sample` with this seed; `seed` by default.
      reference: expert, or its name, whose fine-tuning on the same images is the unit of `cost`.
      workers: learning rates tried at the same time. By default one per core for small networks on a CPU, where one step does not use all
        cores; otherwise one.
      mesh: devices that share each batch; batch norm sees the whole batch.
      checkpoints: folder from which an interrupted training resumes, bit for bit on a CPU; None writes none. Finished trainings stay there
        until `FinetuneResult.delete_checkpoints`. Networks that call back to Python are not saved, since no digest can identify them.
      track: "mlflow", "wandb" or another `ntk_select.training.tracking.Tracker`, to which one run is logged: parameters, training loss by epoch and
        learning rate, validation accuracy by learning rate, and the result. Failed runs are marked as failed.
      progress: called with (epochs done, epochs in all, name). None shows a bar on a terminal or in a notebook, False nothing.

    Returns:
      A `FinetuneResult`.

    Raises:
      ConfigError: an option is not allowed, or there are too few images.
      ModelError: the expert cannot be given a head, has no preprocess, or has weights that are not finite; or every learning rate diverged.
      TaskError: there is no test set, and no class has two images.
      TaskError, DataError: a task given by its URI cannot be loaded.
      MissingDependencyError: the package of `track` is not installed.

    Warns:
      UserWarning: the task has no test set; or tracking failed, and training continues without it.

    Cost: `recipe.epochs` forward and backward passes over the training images per learning rate, and once more after a validation.

    Reference: Deshpande et al. 2021, section 4.2.
    """
    tracker = guarded(track)
    expert, task = as_expert(expert), as_task(task)
    reference = None if reference is None else as_expert(reference)
    recipe = Recipe() if recipe is None else recipe
    rates = checked_rates(learning_rates)
    sample_seed = seed if sample_seed is None else sample_seed
    task, test_split = _with_test_images(task)
    _check(expert, reference, extend, choose, recipe, search, trials, seed, sample_seed, workers)
    recipe = replace(recipe, augment=recipe.augmentation(expert.preprocess, task.flips_keep_class))
    indices = training_images(task, shots, sample_seed)
    network, one_input, passes = _with_new_head(expert, task, indices, recipe, seed)
    reference_passes = None if reference is None else _with_new_head(reference, task, indices, recipe, seed)[2]
    chooses = search == "optuna" or len(rates) > 1
    fitted, held = (indices, None) if choose == "paper" or not chooses else (indices[part] for part in hold_out(task.labels[indices], seed))
    settings = [expert.params, expert.state, task.name, task.labels, one_input, search]
    trainer = Trainer(network, task, recipe, seed, mesh=mesh, checkpoints=None if checkpoints is None else Path(checkpoints), settings=settings)
    if workers is None:
        workers = cores() if mesh is None and trainer.small and jax.default_backend() == "cpu" else 1
    count = trials if search == "optuna" else len(rates)
    done: list[Run] = []
    runs: dict[float, Run] = {}
    tested: dict[float, Accuracy] = {}

    def judged(rate: float, run: Run) -> Trial:
        done.append(run)
        runs[rate] = run
        if run.expert is None:
            return Trial(rate, None, None, run.losses, run.diverged)
        if not chooses:
            return Trial(rate, None, None, run.losses)
        try:
            found = trainer.test_accuracy(run.expert) if held is None else trainer.validation_accuracy(run.expert, held)
        except OutputsError as error:
            return Trial(rate, None, None, run.losses, str(error))
        if held is None:
            tested[rate] = found
        return Trial(rate, found.top1, found.loss, run.losses)

    options = {"choose": choose if chooses else "given", "search": search, "extend": extend, "seed": seed, "sample_seed": sample_seed}
    options |= {"trials": trials} if search == "optuna" else {}
    params = params_of(recipe, rates, shots, expert=expert.name, task=task.name, **options)
    tracked = tracker.run(f"{expert.name} on {task.name}, seed {seed}", params)
    with reporting(progress, f"fine-tuning {expert.name}") as shown, tracked as log:
        report = _Counter(shown, (count + (held is not None)) * recipe.epochs, expert.name)

        def train(rate: float, index: int) -> Run:
            return trainer.run(fitted, rate, epochs_of(index, by_rate("training_loss", rate)))

        def epochs_of(run: int | str, metric: str) -> Callable[[int, Sequence[float]], None]:
            count = report.of(run)

            def after_epoch(epochs: int, losses: Sequence[float]) -> None:
                count(epochs)
                for epoch, loss in enumerate(losses, epochs - len(losses) + 1):
                    log({metric: loss}, epoch)

            return after_epoch

        def judge(rate: float, run: Run) -> Trial:
            trial = judged(rate, run)
            log_trial(log, asdict(trial), choose)
            return trial

        def further(rate: float, index: int) -> Run:
            report.add(recipe.epochs, f"{expert.name}, also learning rate {rate:g}")
            return train(rate, index)

        def again(rate: float) -> Run:
            done.append(trainer.run(indices, rate, epochs_of("all images", by_rate("training_loss_on_all_images", rate))))
            return done[-1]

        trainer.prepare(fitted)
        if held is not None:
            trainer.prepare(indices)
        with timed(trainer.seconds, "train"):
            ways = train, judge, rates
            tried = optuna_search(*ways, trials, seed) if search == "optuna" else grid(*ways, min(workers, count), report.stop)
            added = extend_grid(further, judge, tried) if extend and search == "grid" and held is not None else []
            tried = sorted([*tried, *added], key=lambda trial: -trial.learning_rate) if search == "grid" else tried
            rate, final = _final(tried, runs, chooses, None if held is None else again)
        trainer.seconds["train"] -= trainer.seconds.get("evaluate", 0.0)
        outcome = tested.get(rate) or trainer.test_accuracy(final.expert)
        copies = _copies(task, indices, held)
        images, images_now = sum(run.images for run in done), sum(run.images_now for run in done)
        result = FinetuneResult(
            expert.name,
            task.name,
            None if shots in (None, "full") else int(shots),
            int(seed),
            int(sample_seed),
            len(indices),
            len(task.test_labels),
            rate,
            choose if chooses else "given",
            outcome.top1,
            outcome.balanced,
            {name: None if np.isnan(value) else float(value) for name, value in zip(task.class_names, outcome.per_class, strict=True)},
            outcome.loss,
            final.losses,
            tuple(tried),
            images,
            trainer.seconds,
            images_now / trainer.seconds["train"] if images_now else None,
            passes * images,
            None if reference_passes is None else passes * images / (reference_passes * trainer.images(indices)),
            recipe,
            final.expert,
            trainer.checkpoint_folders,
            tuple(trial.learning_rate for trial in added),
            edge_of(rate, [trial.learning_rate for trial in tried]) if search == "grid" else None,
            test_split,
            copies,
        )
        log_result(log, result.to_dict())
    return result


def _with_new_head(expert: Expert, task: Task, indices: np.ndarray, recipe: Recipe, seed: int) -> tuple[Expert, np.ndarray, float]:
    """The expert with a new head, one network input, and the operations of training on one image."""
    one_input = expert.preprocess([np.asarray(task.images[int(indices[0])])])
    network = with_new_head(expert, task.num_classes, head=recipe.head, seed=seed, x=one_input)
    return network, one_input, TRAINING * forward_flops(network.apply_fn, network.variables, one_input)


class _Joined(Sequence):
    """Two sequences of images, one after the other, decoded on access."""

    def __init__(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]):
        self.parts = first, second

    def __len__(self):
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> np.ndarray:
        first, second = self.parts
        return np.asarray(first[index] if index < len(first) else second[index - len(first)])


def _copies(task: Task, indices: np.ndarray, held: np.ndarray | None) -> str | None:
    """A sentence on copies of training images among test and validation images; None if there are none."""
    n, tested, validated, example = len(indices), 0, 0, ""
    is_held = np.zeros(n, bool) if held is None else np.isin(indices, held)
    for group in groups_of_copies(_Joined(ChosenImages(task.images, indices), task.test_images)):
        training, test = group[group < n], group[group >= n] - n
        validated += int(is_held[training].sum()) if not is_held[training].all() else 0
        if len(training) and len(test):
            tested += len(test)
            example = example or f"test image {test[0]} is training image {indices[training[0]]}"
    remarks = []
    if tested:
        remarks.append(f"{tested:,} of {len(task.test_images):,} test images are copies of training images, e.g. {example}: accuracy is too high.")
    if validated:
        remarks.append(
            f"{validated:,} of {len(held):,} validation images are copies of other training images: the choice of the learning rate is biased."
        )
    return " ".join(remarks) or None


def _final(tried: Sequence[Trial], runs: dict[float, Run], chooses: bool, again: Callable[[float], Run] | None) -> tuple[float, Run]:
    """The best learning rate and its run, trained `again` on all images if some were held out.

    If training on all images diverges, the next best rate is used.
    """
    for trial in best_first(tried) if chooses else [trial for trial in tried if trial.diverged is None]:
        run = runs[trial.learning_rate] if again is None else again(trial.learning_rate)
        if run.expert is not None:
            return trial.learning_rate, run
    outcomes = "; ".join(f"{trial.learning_rate:g}: {trial.diverged or 'diverged on all images'}" for trial in tried)
    raise ModelError(f"Every learning rate diverged ({outcomes}). Try: learning_rates={min(trial.learning_rate for trial in tried) / 10:g}")


class _Counter:
    """Adds up the epochs of runs in several threads for one progress bar."""

    def __init__(self, progress, total: int, name: str):
        self._progress, self._total, self._name = progress, total, name
        self._done: dict[int | str, int] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Makes each run raise KeyboardInterrupt at its next report."""
        self._stopped = True

    def add(self, epochs: int, name: str) -> None:
        """Adds epochs to the total, and changes the displayed name."""
        self._total, self._name = self._total + epochs, name

    def of(self, run: int | str) -> Callable[[int], None]:
        def report(epochs: int) -> None:
            with self._lock:
                if self._stopped:
                    raise KeyboardInterrupt
                self._done[run] = epochs
                if self._progress is not None:
                    self._progress(min(sum(self._done.values()), self._total), self._total, self._name)

        return report


def _with_test_images(task: Task) -> tuple[Task, str | None]:
    """The task with a test set, and a sentence on how it was split off; None if the task has its own."""
    if task.test_images is not None and len(task.test_images):
        return task, None
    split, known = task.with_test_split(), task.details.get("warnings", ())
    remark = " ".join(warning for warning in split.details["warnings"] if warning not in known)
    warnings.warn(f"Task {task.name!r}. {remark}", UserWarning, stacklevel=3)
    return split, remark


def _check(expert: Expert, reference: Expert | None, extend, choose, recipe, search, trials, seed, sample_seed, workers) -> None:
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe={recipe!r} must be a Recipe. Try: Recipe(epochs=30)")
    if not isinstance(extend, bool):
        raise ConfigError(f"extend={extend!r} must be True or False.")
    if choose not in CHOICES:
        raise ConfigError(f"choose={choose!r} is unknown.{did_you_mean(str(choose), CHOICES)}")
    if search not in SEARCHES:
        raise ConfigError(f"search={search!r} is unknown.{did_you_mean(str(search), SEARCHES)}")
    check_count("trials", trials, 1)
    check_count("seed", seed, 0)
    check_count("sample_seed", sample_seed, 0)
    if workers is not None:
        check_count("workers", workers, 1)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expert.variables)):
        raise ModelError(f"Weights of expert {expert.name!r} contain NaN or infinity. Try: download or convert it again")
    for one in (expert, reference):
        if one is not None and one.preprocess is None:
            raise ModelError(
                f"Expert {one.name!r} has no preprocess, which converts images to network inputs. Try: Expert(..., preprocess=Preprocess(size=224))"
            )
