"""A ranking on the workers of a real Ray cluster, begun and ended here, has the numbers of one in this process."""

from dataclasses import fields, replace

import pytest

import ntk_select as ns
from ntk_select.ranking import rank

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),  # JAX, where Ray begins the programs of a node
]
OPTIONS = {"scores": ("lfc", "lgc", "etran"), "per_class": 6, "resamples": 20}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A cluster that nothing outside this machine can reach, whose workers find the modules of the tests."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_ADDRESS": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    yield
    assert not ray.is_initialized()


def numbers(ranking):
    """All that a ranking contains, without times and failures."""
    found = {each.name: getattr(ranking, each.name) for each in fields(ranking) if each.name not in ("shared_seconds", "failures")}
    return found | {"experts": [replace(row, seconds={}, score_seconds={}) for row in ranking]}


def test_actors_give_the_same_ranking_and_a_lost_one_costs_one_expert(counted, stored, things, tmp_path):
    told = []
    options = {**OPTIONS, "executor": "ray", "workers": 2, "resume": tmp_path / "out"}
    loaders = counted(birch=1, elm=9)
    scale = 1.0  # a closure, which only Ray can send
    task = ns.load_task(things)
    found = rank(
        {**loaders, "mine": lambda: replace(stored["ash"](), name=f"mine {scale}")}, task, **options, progress=lambda *what: told.append(what)
    )
    (failure,) = found.failures
    assert failure.name == "elm"
    assert failure.error.startswith("Its worker was lost 3 times (")
    assert sorted(counted.log()) == ["ash", "birch", "birch", "cedar", "elm", "elm", "elm"]
    assert (told[0], told[-1][:2], {name for *_, name in told[1:]}) == ((0, 5, ""), (5, 5), {*stored, "mine"})
    here = rank({**{name: stored[name] for name in ("ash", "birch", "cedar")}, "mine": lambda: stored["ash"]()}, task, **OPTIONS, progress=False)
    assert numbers(found) == numbers(here)
    again = rank({name: load for name, load in counted().items() if name != "mine"}, task, **{**options, "executor": "local"}, progress=False)
    assert counted.log()[7:] == ["elm"]
    assert numbers(again) == numbers(rank(stored, task, **OPTIONS, progress=False))
