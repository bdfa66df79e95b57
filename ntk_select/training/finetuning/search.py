"""Search for the learning rate: a grid, extended past its ends, or Optuna."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from ntk_select.errors import missing
from ntk_select.training.finetuning.result import Trial
from ntk_select.training.finetuning.trainer import Run

SEARCHES = ("grid", "optuna")
STEPS_BEYOND = 4
"""Maximal number of learning rates tried past the end of a grid whose best rate is at that end: a factor of 100."""
WIDER = 10
"""Optuna searches from the smallest given learning rate divided by this factor to the largest multiplied by it."""

Train = Callable[[float, int], Run]
Judge = Callable[[float, Run], Trial]


def grid(train: Train, judge: Judge, learning_rates: Sequence[float], workers: int, stop: Callable[[], None] = lambda: None) -> list[Trial]:
    """Tries each learning rate once, `workers` at the same time, since one step of a small network does not use all cores of a CPU.

    On an exception in one run, or Ctrl-C, `stop` is called, which must end the other runs; they are waited for.
    """
    if workers == 1:
        runs = [train(rate, index) for index, rate in enumerate(learning_rates)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            waiting = [pool.submit(train, rate, index) for index, rate in enumerate(learning_rates)]
            try:
                for finished in wait(waiting, return_when=FIRST_EXCEPTION).done:
                    finished.result()  # raises the exception of the run
                runs = [each.result() for each in waiting]
            except BaseException:
                stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [judge(rate, run) for rate, run in zip(learning_rates, runs, strict=True)]


def edge_of(rate: float, rates: Sequence[float]) -> str | None:
    """ "largest" or "smallest" if a rate is at an end of several rates; otherwise None."""
    return {max(rates): "largest", min(rates): "smallest"}.get(rate) if len(rates) > 1 else None


def extend_grid(train: Train, judge: Judge, tried: Sequence[Trial]) -> list[Trial]:
    """Trials of further learning rates past the end of a grid whose best rate is at that end.

    Each rate is about three times the previous one (0.01, 0.03, 0.1), or a third of it. The extension stops at the first rate that diverges or
    is not the new best, after `STEPS_BEYOND` rates, or once all validation images are classified correctly. It does not pass a rate that diverged.
    """
    rates, added = [trial.learning_rate for trial in tried], []
    edge = _improving_edge(tried)
    while edge is not None and edge == _improving_edge([*tried, *added]) and len(added) < STEPS_BEYOND:
        step = (len(added) + 1) / 2
        rate = float(f"{max(rates) * 10**step if edge == 'largest' else min(rates) / 10**step:.0e}")
        added.append(judge(rate, train(rate, len(tried) + len(added))))
    return added


def _improving_edge(trials: Sequence[Trial]) -> str | None:
    """The end of the grid at which the best rate is; None if it is at neither, or its accuracy is 1 already."""
    best = best_first(trials)
    return edge_of(best[0].learning_rate, [trial.learning_rate for trial in trials]) if best and best[0].accuracy < 1 else None


def optuna_search(train: Train, judge: Judge, learning_rates: Sequence[float], trials: int, seed: int) -> list[Trial]:
    """`trials` learning rates one after the other: the given ones first, then those that Optuna's tree-structured Parzen estimator proposes.

    Raises:
      MissingDependencyError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing("optuna", "search='optuna'") from error
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        space = {"learning_rate": optuna.distributions.FloatDistribution(min(learning_rates) / WIDER, max(learning_rates) * WIDER, log=True)}
        for rate in learning_rates[:trials]:
            study.enqueue_trial({"learning_rate": rate})
        found = []
        for index in range(trials):
            proposal = study.ask(space)
            rate = proposal.params["learning_rate"]
            found.append(judge(rate, train(rate, index)))
            study.tell(proposal, 0.0 if found[-1].diverged else found[-1].accuracy)
        return found
    finally:
        optuna.logging.set_verbosity(verbosity)


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that did not diverge, sorted by accuracy, then by smaller loss, then by smaller learning rate."""
    return sorted((trial for trial in trials if trial.diverged is None), key=lambda trial: (-trial.accuracy, trial.loss, trial.learning_rate))
