"""A tracker that remembers what it is told, and notices calls that overlap."""

import threading
import time


class Recording:
    def __init__(self, pause: float = 0.0):
        self.runs, self._pause, self._busy = [], pause, threading.Lock()

    def _alone(self):
        assert self._busy.acquire(blocking=False), "calls overlap"
        time.sleep(self._pause)
        self._busy.release()

    def start(self, name, params):
        self._alone()
        self.runs.append({"name": name, "params": params, "points": [], "ends": []})
        return len(self.runs) - 1

    def log(self, run, metrics, step):
        self._alone()
        assert all(type(value) is float for value in metrics.values())
        assert not self.runs[run]["ends"]
        self.runs[run]["points"] += [(name, step, value) for name, value in metrics.items()]

    def end(self, run, error):
        self._alone()
        self.runs[run]["ends"].append(error)


def curve(run, name):
    """The values of a metric by step, which must be 1, 2, ..."""
    points = [(step, value) for metric, step, value in run["points"] if metric == name]
    assert [step for step, _ in points] == list(range(1, len(points) + 1))
    return tuple(value for _, value in points)


def totals(run):
    """The numbers of the run as a whole, each logged once."""
    found = [(name, value) for name, step, value in run["points"] if step is None]
    assert len(dict(found)) == len(found)
    return dict(found)
