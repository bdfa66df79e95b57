"""A ranking on workers has the numbers of one in this process, whatever is lost, and resumes."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, DataError
from ntk_select.executors import EXECUTORS
from ntk_select.ranking import Failure, rank, records
from ntk_select.ranking.workers import Elsewhere
from ntk_select.scores import SCORES, Score
from ntk_select.scores.table import REVISIONS
from ntk_select.tasks.task import ChosenImages

OPTIONS = {"scores": ("lfc", "lgc", "etran", "nce"), "per_class": 6, "resamples": 20, "progress": False}
CLOCKS = ("seconds", "score_seconds")


def numbers(ranking):
    """All that a ranking contains, without times."""
    found = {each.name: getattr(ranking, each.name) for each in fields(ranking) if each.name != "shared_seconds"}
    return found | {"experts": [replace(row, **{name: {} for name in CLOCKS}) for row in ranking]}


@pytest.fixture(scope="module")
def here(stored, things):
    """The ranking in this process, and what it reported."""
    told = []
    return rank(stored, things, **OPTIONS | {"progress": lambda *what: told.append(what)}), told


def test_in_this_process_progress_names_the_next_expert(here):
    assert here[1] == [(0, 4, "ash"), (1, 4, "birch"), (2, 4, "cedar"), (3, 4, "elm"), (4, 4, "")]


def test_a_sent_ranking_has_the_same_numbers_and_names_the_last_expert(stored, things, shipped, here):
    told = []
    found = rank(stored, things, executor=shipped, **OPTIONS | {"progress": lambda *what: told.append(what)})
    assert numbers(found) == numbers(here[0])
    assert told == [(0, 4, ""), (1, 4, "ash"), (2, 4, "birch"), (3, 4, "cedar"), (4, 4, "elm")]
    assert all(row.scores["nce"].by_chance is not None and row.total_seconds > 0 for row in found)


def test_of_a_task_only_the_probe_sample_is_sent(stored, things, shipped, monkeypatch):
    sent = []
    ship = EXECUTORS[shipped]
    monkeypatch.setitem(EXECUTORS, shipped, lambda work, *rest, **more: sent.append(work.__getstate__()) or ship(work, *rest, **more))
    task = ns.load_task(things)
    lazily = replace(task, images=ChosenImages(task.images, np.arange(24)))
    for each, kind in ((task, np.ndarray), (lazily, ChosenImages)):
        rank(stored, each, executor=shipped, **OPTIONS | {"per_class": 4})
        state = sent.pop()
        assert isinstance(state["sample"].images, kind)
        assert len(state["sample"].images) == 8
        assert isinstance(state["task"].images, Elsewhere)
        with pytest.raises(DataError, match="are not on this worker. Try: executor='local'"):
            state["task"].images[0]


def test_a_reference_network_is_trained_once_by_one_worker(stored, things, shipped, monkeypatch):
    calls, ship = [], EXECUTORS[shipped]

    def execute(work, groups, done, **options):
        calls.append((sum(map(len, groups)), options["workers"], work.reference_features is not None))
        ship(work, groups, done)

    monkeypatch.setitem(EXECUTORS, shipped, execute)
    linear = ns.Expert("reference", _logits, {"w": np.ones((3, 2), np.float32)}, features_fn=_features, preprocess=ns.Preprocess(size=8))
    options = OPTIONS | {"scores": ("rsa", "dds"), "reference": linear}
    assert numbers(rank(stored, things, executor=shipped, workers=2, **options)) == numbers(rank(stored, things, **options))
    assert calls == [(1, 1, False), (4, 2, True)]


def _features(variables, x):
    return x.mean((1, 2)) @ variables["params"]["w"]


_logits = _features


def test_without_a_reference_network_the_other_scores_are_there(stored, things, shipped, monkeypatch):
    def execute(work, groups, done, **_):
        for item in (item for group in groups for item in group):
            done(work.failed(item, "Its worker died 3 times.") if item.load is None else work(item))

    monkeypatch.setitem(EXECUTORS, shipped, execute)
    found = rank(stored, things, executor=shipped, **OPTIONS | {"scores": ("lfc", "rsa")})
    assert (len(found), found.failures) == (4, ())
    assert found[0].scores["rsa"].reason == "The reference network of RSA and DDS is not available: Its worker died 3 times."


def test_a_lost_expert_is_one_failure(stored, things, shipped, monkeypatch):
    def execute(work, groups, done, **_):
        for item in groups[0]:
            done(work.failed(item, "Its worker died 3 times.") if item.key == "birch" else work(item))

    monkeypatch.setitem(EXECUTORS, shipped, execute)
    found = rank(stored, things, executor=shipped, **OPTIONS)
    assert found.failures == (Failure("birch", "Its worker died 3 times."),)
    assert sorted(row.name for row in found) == ["ash", "cedar", "elm"]


def test_what_cannot_be_sent_is_named(stored, things, shipped):
    task = ns.load_task(things)
    odd = replace(task, images=ChosenImages(_Unsendable(task.images), np.arange(24)))
    with pytest.raises(
        ConfigError, match=r"^Expert 'mine' cannot be sent to another process \(.*lambda.*\)\. Try: executor='local' \(--executor local\)$"
    ):
        rank({**stored, "mine": lambda: None}, task, executor=shipped, **OPTIONS)
    score = Score(lambda features: 1.0, ("features",))
    with pytest.raises(ConfigError, match=r"^Score 'own' cannot be sent .*Try: functions at the top level of a module, or executor='local'"):
        rank(stored, task, **OPTIONS | {"scores": {"own": score}}, executor=shipped)
    with pytest.raises(ConfigError, match="^The task 'things' cannot be sent to another process"):
        rank(stored, odd, executor=shipped, **OPTIONS)
    with pytest.raises(ConfigError, match="executor = 'rai' is unknown. Did you mean 'ray'"):
        rank(stored, task, executor="rai", **OPTIONS)
    with pytest.raises(ConfigError, match="resume is of type int; it must be the path of a folder, or None"):
        rank(stored, task, resume=3, **OPTIONS)


class _Unsendable:
    def __init__(self, images):
        self.images, self.fn = images, lambda: None

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return self.images[place]


def test_an_image_that_cannot_be_decoded_ends_the_ranking_on_workers_too(stored, things, shipped):
    task = ns.load_task(things)
    with pytest.raises(DataError, match="gone"):
        rank(stored, replace(task, images=ChosenImages(_Gone(24), np.arange(24))), executor=shipped, **OPTIONS)


class _Gone:
    def __init__(self, count):
        self.count, self.reads = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        self.reads += 1
        if self.reads > 12:  # after the search for copies
            raise DataError("The image is gone.")
        return np.full((8, 8), place, np.uint8)


def test_finished_experts_are_not_scored_again(counted, things, tmp_path, here):
    out = tmp_path / "out"
    some = {name: load for name, load in counted().items() if name in ("ash", "elm")}
    rank(some, things, resume=out, **OPTIONS)
    assert counted.log() == ["ash", "elm"]
    told = []
    found = rank(counted(), things, resume=out, **OPTIONS | {"progress": lambda *what: told.append(what)})
    assert counted.log() == ["ash", "elm", "birch", "cedar"]
    assert told == [(2, 4, "birch"), (3, 4, "cedar"), (4, 4, "")]
    assert numbers(found) == numbers(here[0])
    assert rank(counted(), things, resume=out, **OPTIONS) == found  # times too
    assert len(counted.log()) == 4


def test_an_expert_is_scored_anew_where_a_score_gives_other_numbers_than_before(counted, things, tmp_path, monkeypatch):
    one = {"ash": counted()["ash"]}
    rank(one, things, resume=tmp_path, **OPTIONS)
    monkeypatch.setitem(REVISIONS, "lfc", 2)
    rank(one, things, resume=tmp_path, **OPTIONS)
    rank(one, things, resume=tmp_path, **OPTIONS)
    assert counted.log() == ["ash", "ash"]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"per_class": 5},
        {"resamples": 25},
        {"batch_size": 16},
        {"layers": "all"},
        {"scores": ("lfc",)},
        {"recipe": ns.Recipe(epochs=2)},
        {"learning_rates": 0.3},
        {"scores": {"lfc": replace(SCORES["lfc"], higher_is_better=False)}},
        {"measured": {"ash": {"elsewhere": 0.5}, "birch": {"elsewhere": 0.4}}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_setting_is_measured_anew(counted, things, tmp_path, changed):
    one = {"ash": counted()["ash"]}
    for options in (OPTIONS, OPTIONS | changed, OPTIONS, OPTIONS | changed):
        rank(one, things, resume=tmp_path, **options)
    assert counted.log() == ["ash"] * 2


def test_other_images_labels_and_weights_are_measured_anew(counted, stored, things, tmp_path):
    task, one = ns.load_task(things), {"ash": counted()["ash"]}
    images, labels = task.images.copy(), task.labels.copy()
    images[0] += 1
    labels[[0, -1]] = labels[[-1, 0]]
    for other in (task, replace(task, images=images), replace(task, labels=labels), replace(task, name="others")):
        rank(one, other, resume=tmp_path, **OPTIONS | {"per_class": 12})
    assert counted.log() == ["ash"] * 4
    other = {"ash": replace(one["ash"], stored=stored["elm"])}
    rank(other, task, resume=tmp_path, **OPTIONS | {"per_class": 12})
    assert counted.log()[4:] == ["elm"]


def test_failed_experts_are_tried_again_and_damaged_records_are_measured_anew(stored, counted, things, tmp_path):
    loaders = {"broken": _fails, "ash": counted()["ash"]}
    for loads in (1, 1):
        assert [failure.name for failure in rank(loaders, things, resume=tmp_path, **OPTIONS).failures] == ["broken"]
        assert len(counted.log()) == loads
    (record,) = (tmp_path / "experts").iterdir()
    for content in ("", "{}", "[1]", record.read_text().replace('"name": "ash"', '"name": "oak"', 1)):
        record.write_text(content)
        rank(loaders, things, resume=tmp_path, **OPTIONS)
    assert len(counted.log()) == 5
    assert json.loads(record.read_text())["name"] == "ash"


def _fails():
    raise OSError("no weights")


def test_experts_in_memory_are_known_by_their_weights_and_functions(stored, things, tmp_path):
    expert = stored["ash"]()
    names = []

    def records(*experts, **options):
        rank(list(experts), things, resume=tmp_path, **OPTIONS | options)
        found = {path.name for path in (tmp_path / "experts").iterdir()}
        names.append(len(found))
        return found

    records(expert)
    records(stored["ash"]())
    records(replace(expert, params={**expert.params, "fc": {**expert.params["fc"], "bias": expert.params["fc"]["bias"] + 1}}))
    records(replace(expert, preprocess=ns.Preprocess(size=8, mean=(0.4, 0.4, 0.4))))
    records(replace(expert, apply_fn=_twice(expert.apply_fn), taps_fn=None))
    records(replace(expert, head=None))
    records(replace(expert, last_conv=None))
    assert names == [1, 1, 2, 3, 4, 5, 6]


def _twice(fn):
    return lambda variables, x: 2 * fn(variables, x)


def test_loaders_without_a_card_are_known_by_their_code_and_files(stored, counted, things, tmp_path):
    file, loaders = tmp_path / "weights", counted()
    file.write_text("1")
    ash, elm = loaders["ash"], loaders["elm"]

    def loads(load) -> int:
        before = len(counted.log())
        rank({"mine": load}, things, resume=tmp_path, **OPTIONS)
        return len(counted.log()) - before

    def made(path, loader):
        return lambda: loader() if path else None

    assert [loads(made(str(file), ash)), loads(made(str(file), ash)), loads(made(str(file), elm))] == [1, 0, 1]
    bound = partial(_loaded, ash, path=file)
    assert [loads(bound), loads(partial(_loaded, ash, path=file)), loads(partial(_loaded, elm, path=file))] == [1, 0, 1]
    file.write_text("two")
    assert [loads(made(str(file), ash)), loads(bound), loads(bound)] == [1, 1, 0]


def _loaded(load, path):
    return load()


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_networks_of_timm_are_known_with_the_versions_that_compute_them(stored, sha256, monkeypatch):
    def identities(architecture):
        card = replace(stored["ash"].card, architecture=architecture, sha256=sha256)
        load = partial(_fails)
        load.card = card
        found = []
        for number in ("1.0", "1.1"):
            monkeypatch.setattr(records, "version", lambda name, number=number: number)
            found.append(records.identity_of(load, None))
        return found

    first, second = identities("timm:resnet18")
    assert first != second
    first, second = identities("resnet18")
    assert first == second


def test_what_cannot_be_identified_is_said_and_not_kept(stored, things, tmp_path):
    class Local:
        def __call__(self):
            return stored["ash"]()

    found = rank({"odd": Local(), "elm": stored["elm"]}, things, resume=tmp_path / "a", **OPTIONS)
    assert "Not kept for another run: odd." in found.task["warnings"]
    assert len(list((tmp_path / "a" / "experts").iterdir())) == 1
    thing = Local()
    score = Score(lambda features: float(thing is not None), ("features",))
    found = rank(stored, things, resume=tmp_path / "b", **OPTIONS | {"scores": {"own": score}})
    assert any(note.startswith("Not kept for another run: experts, because the code of a score") for note in found.task["warnings"])
    assert not (tmp_path / "b").exists()


def test_the_code_of_an_own_score_is_part_of_the_record(counted, things, tmp_path):
    def scored(factor):
        return {"own": Score(lambda features: factor * float(np.mean(features)), ("features",))}

    for scores in (scored(1.0), scored(1.0), scored(2.0), {"own": Score(lambda features: float(np.max(features)), ("features",))}):
        rank({"ash": counted()["ash"]}, things, resume=tmp_path, **OPTIONS | {"scores": scores})
    assert len(counted.log()) == 3


def test_a_folder_that_cannot_be_written_ends_the_ranking_in_a_sentence(stored, counted, things, tmp_path, monkeypatch):
    """Before any expert is loaded if the folder cannot be made; otherwise at the first record."""
    sentence = r"The ranking ended, because .*experts cannot be written: .*or another folder for resume \(--out\)"
    (tmp_path / "experts").write_text("in the way")
    with pytest.raises(ConfigError, match=sentence):
        rank(counted(), things, resume=tmp_path, **OPTIONS)
    assert counted.log() == []

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write_atomically", full)
    with pytest.raises(ConfigError, match=sentence):
        rank(stored, things, resume=tmp_path / "full", **OPTIONS)


def test_processes_give_the_same_ranking(stored, things, here):
    assert numbers(rank(stored, things, executor="processes", workers=2, **OPTIONS)) == numbers(here[0])


@pytest.mark.slow
def test_a_killed_worker_costs_one_retry_and_three_are_one_failure(counted, things, here):
    found = rank(counted(elm=1), things, executor="processes", workers=2, **OPTIONS)
    assert numbers(found) == numbers(here[0])
    assert sorted(counted.log()) == ["ash", "birch", "cedar", "elm", "elm"]
    found = rank(counted(elm=9), things, executor="processes", workers=2, **OPTIONS)
    (failure,) = found.failures
    assert failure.name == "elm"
    assert failure.error.startswith("Its worker died 3 times (exit code -9")
    assert sorted(row.name for row in found) == ["ash", "birch", "cedar"]


KILLED = """
import os, sys, jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from counted_loaders import Counted
from ntk_select.models import FolderZoo
from ntk_select.ranking import rank

def progress(done, total, name):
    if done >= 2:
        os.kill(os.getpid(), 9)

if __name__ == "__main__":
    _, _, zoo, log, task, out, executor, options = sys.argv
    loaders = {name: Counted(load, Path(log)) for name, load in FolderZoo(Path(zoo)).items()}
    rank(loaders, task, executor=executor, workers=1, resume=out, **eval(options) | {"progress": progress})
"""


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_killed_ranking_goes_on_where_it_was(counted, stored, things, tmp_path, here, executor):
    (tmp_path / "killed.py").write_text(KILLED)
    counted()
    places = [str(tmp_path / "modules"), str(next(iter(stored.values())).folder.parent), str(tmp_path / "loads"), things, str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "killed.py"), *places, executor, repr(OPTIONS)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -9, done.stderr
    before = counted.log()
    assert len(list((tmp_path / "out" / "experts").glob("*.json"))) == 2
    found = rank(counted(), things, resume=tmp_path / "out", **OPTIONS)
    assert numbers(found) == numbers(here[0])
    assert sorted(before[:2] + counted.log()[len(before) :]) == ["ash", "birch", "cedar", "elm"]
