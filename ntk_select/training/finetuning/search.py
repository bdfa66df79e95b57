"""Search of the learning rate."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from ntk_select.errors import missing

from .result import Trial
from .run import Run

SEARCHES = ("grid", "optuna")
STEPS_BEYOND = 4
"""Learning rates, at most, that are tried past the end of a grid whose best is at that end: a factor of 100."""
WIDER = 10
"""Optuna looks from a tenth of the least learning rate that was named to ten times the largest."""

Train = Callable[[float, int], Run]
Judge = Callable[[float, Run], Trial]


def grid(train: Train, judge: Judge, learning_rates: Sequence[float], workers: int, stop: Callable[[], None] = lambda: None) -> list[Trial]:
    """Each rate once, `workers` at the same time: on a CPU a step of a small network leaves cores idle.

    When one of them fails, or on Ctrl-C, `stop` is called, which is to end the others; they are waited for.
    """
    if workers == 1:
        runs = [train(rate, place) for place, rate in enumerate(learning_rates)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            waiting = [pool.submit(train, rate, place) for place, rate in enumerate(learning_rates)]
            try:
                for finished in wait(waiting, return_when=FIRST_EXCEPTION).done:
                    finished.result()  # raises what it raised
                runs = [each.result() for each in waiting]
            except BaseException:
                stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [judge(rate, run) for rate, run in zip(learning_rates, runs, strict=True)]


def edge_of(rate: float, rates: Sequence[float]) -> str | None:
    """ "largest" or "smallest" where a rate is at an end of several; else None."""
    return {max(rates): "largest", min(rates): "smallest"}.get(rate) if len(rates) > 1 else None


def beyond(train: Train, judge: Judge, tried: Sequence[Trial]) -> list[Trial]:
    """Trials of further learning rates past the end of a grid, where the best rate is at that end.

    Each is about three times the one before (as 0.01, 0.03, 0.1), or a third of it. They end with the first that diverges or is not the
    new best, after `STEPS_BEYOND`, or when all validation images are answered correctly. There are none past a rate that diverged.
    """
    rates, added = [trial.learning_rate for trial in tried], []
    edge = _unsettled(tried)
    while edge is not None and edge == _unsettled([*tried, *added]) and len(added) < STEPS_BEYOND:
        step = (len(added) + 1) / 2
        rate = float(f"{max(rates) * 10**step if edge == 'largest' else min(rates) / 10**step:.0e}")
        added.append(judge(rate, train(rate, len(tried) + len(added))))
    return added


def _unsettled(trials: Sequence[Trial]) -> str | None:
    """The end at which the best rate is, if any, unless it leaves nothing to improve."""
    best = best_first(trials)
    return edge_of(best[0].learning_rate, [trial.learning_rate for trial in trials]) if best and best[0].accuracy < 1 else None


def optuna_search(train: Train, judge: Judge, learning_rates: Sequence[float], trials: int, seed: int) -> list[Trial]:
    """`trials` rates that Optuna's tree-structured Parzen estimator asks for, one after the other, those that were named first.

    Raises:
      MissingDependencyError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing("optuna", "search='optuna'") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        space = {"learning_rate": optuna.distributions.FloatDistribution(min(learning_rates) / WIDER, max(learning_rates) * WIDER, log=True)}
        for rate in learning_rates[:trials]:
            study.enqueue_trial({"learning_rate": rate})
        found = []
        for place in range(trials):
            asked = study.ask(space)
            rate = asked.params["learning_rate"]
            found.append(judge(rate, train(rate, place)))
            study.tell(asked, 0.0 if found[-1].diverged else found[-1].accuracy)
        return found
    finally:
        optuna.logging.set_verbosity(before)


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Those that did not diverge, best first: by accuracy; of equals the smaller loss, then the smaller rate."""
    return sorted((trial for trial in trials if trial.diverged is None), key=lambda trial: (-trial.accuracy, trial.loss, trial.learning_rate))
