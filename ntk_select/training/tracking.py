"""Trackers: MLflow, Weights & Biases, or an object of your own, to which fine-tunings and benchmarks log their numbers."""

import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ntk_select.errors import ConfigError, did_you_mean, explained, missing

PROJECT = "ntk_select"
"""Experiment of MLflow and project of Weights & Biases, unless MLFLOW_EXPERIMENT_NAME or WANDB_PROJECT names another."""

Log = Callable[[Mapping[str, float | None], int | None], None]
"""A function of (metrics, step) that logs to one run."""


class Tracker(Protocol):
    """An object that receives runs, as `finetune(track=...)` and `benchmark.run(track=...)` take it.

    Calls come one at a time, but not all from the same thread. A tracker that raises an exception is not called again; the computation continues.
    """

    def start(self, name: str, params: Mapping[str, Any]) -> Any:
        """Begins a run and returns its handle. Values of `params` are strings, numbers, booleans, None, and lists of strings or numbers."""

    def log(self, run: Any, metrics: Mapping[str, float], step: int | None) -> None:
        """Stores numbers of one epoch, counted from 1, or of the whole run if `step` is None."""

    def end(self, run: Any, error: str | None) -> None:
        """Ends a run. `error` is None for a run that succeeded, otherwise the reason why it failed."""


class Guarded:
    """A tracker that serialises calls and never fails: the first exception becomes a warning and ends all tracking. None tracks nothing."""

    def __init__(self, tracker: Tracker | None):
        self._tracker, self._lock = tracker, threading.Lock()

    @property
    def active(self) -> bool:
        """Whether calls reach a tracker."""
        return self._tracker is not None

    def _call(self, method: str, *arguments: Any) -> Any:
        with self._lock:
            if self._tracker is None:
                return None
            try:
                return getattr(self._tracker, method)(*arguments)
            except Exception as error:  # a server that is away, a full disk: whatever it is must not cost the training
                self._tracker = None
                warnings.warn(f"Tracking ended ({explained(error)}). The computation continues without it.", stacklevel=3)
                return None

    def start(self, name: str, params: Mapping[str, Any]) -> Any:
        """As `Tracker.start`; None after a failure."""
        return self._call("start", name, params)

    def log(self, run: Any, metrics: Mapping[str, float | None], step: int | None) -> None:
        """As `Tracker.log`, without the metrics that are None."""
        if known := {name: float(value) for name, value in metrics.items() if value is not None}:
            self._call("log", run, known, step)

    def end(self, run: Any, error: str | None) -> None:
        """As `Tracker.end`."""
        self._call("end", run, error)

    @contextmanager
    def run(self, name: str, params: Mapping[str, Any]) -> Iterator[Log]:
        """A run for the duration of a `with` block, as a function that logs to it; it fails if the block raises, also on Ctrl-C."""
        run = self.start(name, params)
        try:
            yield partial(self.log, run)
        except BaseException as error:
            self.end(run, explained(error).removesuffix(": "))
            raise
        self.end(run, None)


def guarded(track: Tracker | str | None) -> Guarded:
    """The tracker that an argument `track` names or is.

    Raises:
      ConfigError: the name is unknown, the object is no `Tracker`, or MLflow rejects its settings.
      MissingDependencyError: the package is not installed.
    """
    if isinstance(track, Guarded):
        return track
    if isinstance(track, str):
        if track not in TRACKERS:
            raise ConfigError(f"track={track!r} is unknown.{did_you_mean(track, TRACKERS)}")
        track = TRACKERS[track]()
    if track is not None and (isinstance(track, type) or not all(callable(getattr(track, name, None)) for name in ("start", "log", "end"))):
        given = f"the class {track.__name__}" if isinstance(track, type) else type(track).__name__
        raise ConfigError(
            f"track= must be 'mlflow', 'wandb', an object with the methods start, log and end, or None; given: {given}. Try: track='mlflow' (--track mlflow)"
        )
    return Guarded(track)


def mlflow_tracker(uri: str | Path | None = None, experiment: str | None = None) -> Tracker:
    """Runs in MLflow.

    A failed run has the status FAILED and the reason as the tag "error". Characters that MLflow does not allow in names become underscores.

    Args:
      uri: tracking URI: of a server, a database such as "sqlite:///mlflow.db", "databricks", or a folder. By default MLflow's own, which the
        variable MLFLOW_TRACKING_URI sets.
      experiment: name of the experiment, created if there is none; by default that of MLFLOW_EXPERIMENT_NAME, otherwise "ntk_select".

    Raises:
      ConfigError: MLflow rejects the URI or the name, cannot open the folder or database, or no server answers at the address.
      MissingDependencyError: mlflow is not installed; mlflow-skinny suffices for servers and folders.
    """
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise missing("mlflow-skinny", "track='mlflow'") from error
    experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    try:
        tracker = _Mlflow(client := MlflowClient(None if uri is None else str(uri)), experiment)
        if client.tracking_uri.startswith("http"):
            _check_answers(client.tracking_uri)
        elif not client.tracking_uri.startswith("databricks"):
            tracker.experiment_id()
    except Exception as error:  # those of MLflow, and of the storage below it
        reason, advice = explained(error), "uri (--track-uri) sqlite:///mlflow.db, or the address of a server"
        if "MLFLOW_ALLOW_FILE_STORE" in reason:
            reason, advice = "this version of MLflow writes to folders only if MLFLOW_ALLOW_FILE_STORE is true", f"that, or {advice}"
        elif isinstance(error, ModuleNotFoundError):  # mlflow-skinny comes without SQLAlchemy
            advice = "pip install mlflow, or the address of a server for uri (--track-uri)"
        shown = "its default tracking URI" if uri is None else f"the tracking URI {str(uri)!r}"
        raise ConfigError(f"MLflow cannot open the experiment {experiment!r} at {shown}: {reason.removesuffix('.')}. Try: {advice}") from error
    return tracker


def _check_answers(address: str) -> None:
    """Raises an exception of requests if no server answers, to which MLflow itself would repeat its first request for minutes."""
    import requests

    with suppress(requests.exceptions.SSLError):  # there is a server, whose certificate settings of MLflow may accept
        requests.head(address, timeout=10)


class _Mlflow:
    def __init__(self, client: Any, experiment: str):
        self._client, self._experiment = client, experiment

    def experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(self._experiment)
        except Exception:
            found = self._client.get_experiment_by_name(self._experiment)  # another process may have just created it
            if found is None:
                raise
            return found.experiment_id

    def start(self, name: str, params: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        run = self._client.create_run(self.experiment_id(), run_name=name).info.run_id
        texts = {key: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for key, value in params.items()}
        self._client.log_batch(run, params=[Param(_mlflow_name(key), text) for key, text in texts.items()])
        return run

    def log(self, run: str, metrics: Mapping[str, float], step: int | None) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(run, metrics=[Metric(_mlflow_name(name), value, now, step or 0) for name, value in metrics.items()])

    def end(self, run: str, error: str | None) -> None:
        if error is not None:
            self._client.set_tag(run, "error", error[:5000])  # the length that all of MLflow's stores support
        self._client.set_terminated(run, "FINISHED" if error is None else "FAILED")


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w. /-]", "_", name)


def wandb_tracker(project: str | None = None) -> Tracker:
    """Runs in Weights & Biases.

    Metrics by epoch have the axis "epoch", the others are in the summary. A failed run has the reason as the entry "error" of its summary. Account,
    server and offline mode are configured as usual: `wandb login`, WANDB_ENTITY, WANDB_BASE_URL, WANDB_MODE.

    Args:
      project: name of the project; by default that of WANDB_PROJECT, otherwise "ntk_select".

    Raises:
      MissingDependencyError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise missing("wandb", "track='wandb'") from error
    return _Wandb(wandb, project or os.environ.get("WANDB_PROJECT", PROJECT))


class _Wandb:
    def __init__(self, wandb: Any, project: str):
        self._wandb, self._project = wandb, project

    def start(self, name: str, params: Mapping[str, Any]) -> Any:
        run = self._wandb.init(project=self._project, name=name, config=dict(params), reinit="create_new")  # besides a run of the user's own
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")  # learning rates that are trained at once are at different epochs; `step` must not decrease
        return run

    def log(self, run: Any, metrics: Mapping[str, float], step: int | None) -> None:
        if step is None:
            run.summary.update(dict(metrics))
        else:
            run.log({**metrics, "epoch": step})

    def end(self, run: Any, error: str | None) -> None:
        if error is not None:
            run.summary["error"] = error
        run.finish(exit_code=0 if error is None else 1)


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"mlflow": mlflow_tracker, "wandb": wandb_tracker}
"""Trackers by the name that `track` takes."""
