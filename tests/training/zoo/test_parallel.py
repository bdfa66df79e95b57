"""A zoo trained by several workers has the weights of one trained in this process, in the right order, whatever is lost."""

import pickle
from functools import partial

import pytest

from ntk_select.errors import ConfigError, ModelError
from ntk_select.executors import EXECUTORS, Queue, local
from ntk_select.models.architectures import ARCHITECTURES
from ntk_select.training.checkpoints import Checkpoints
from ntk_select.training.zoo import read_config, train_zoo
from ntk_select.training.zoo.members import members
from ntk_select.training.zoo.run import MemberItem, Training, _items

SITE = """
import os
import signal
from functools import partial
from pathlib import Path

from ntk_select.models.architectures import ARCHITECTURES
from ntk_select.training.checkpoints import Checkpoints

ARCHITECTURES["resnet_small"] = partial(ARCHITECTURES["resnet_small"], stage_sizes=(1,), widths=(4,))
Checkpoints.__init__.__kwdefaults__["every_seconds"] = 0.0
saved = Checkpoints.save

def save(self, epoch, *rest, **more):
    deadly = os.environ["DEADLY"] in self.folder.name
    if deadly and os.environ["WHEN"] == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    saved(self, epoch, *rest, **more)
    with open(os.environ["EPOCHS"], "a") as file:
        file.write(f"{self.folder.name.rpartition('-')[0]} {epoch}\\n")
    if deadly and epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = save
"""
"""For sitecustomize: workers train networks of one block, write their epochs, and die in the training of one expert: before every epoch is saved, or
after the second."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Networks of one block instead of those of the config, and a checkpoint every epoch."""

    monkeypatch.setitem(ARCHITECTURES, "resnet_small", partial(ARCHITECTURES["resnet_small"], stage_sizes=(1,), widths=(4,)))
    monkeypatch.setitem(Checkpoints.__init__.__kwdefaults__, "every_seconds", 0.0)


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """workers("both", "once") lets worker processes die in the training of `both`, once. Returns a function of their epochs."""

    def put(deadly: str, when: str):
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
        (tmp_path / "epochs").write_text("")
        for name, value in {"PYTHONPATH": tmp_path / "site", "EPOCHS": tmp_path / "epochs", "DEADLY": deadly, "WHEN": when}.items():
            monkeypatch.setenv(name, str(value))
        return lambda: [tuple(line.split()) for line in (tmp_path / "epochs").read_text().splitlines()]

    return put


@pytest.fixture
def trained(config, data, monkeypatch):
    """trained("name", executor="processes") gives the digests of the weights by expert."""

    def train(name: str, **options) -> dict[str, str]:
        cards = train_zoo(read_config(config), out=data / name, data=data, work=data / "work" / name, **options)
        return {card.name: card.sha256 for card in cards}

    return train


def test_experts_wait_for_their_parents_and_for_the_common_extractor(config):
    wanted = members(read_config(config))
    items = _items(read_config(config), wanted)
    assert {item.key: item.after for item in items} == {
        "stripes-resnet_small": (),
        "dots-resnet_small-from-stripes": ("stripes-resnet_small", "stripes-resnet_small"),
        "both-resnet_small": ("stripes-resnet_small",),
    }
    queue = Queue([items])
    first = queue.take(0)
    assert (first.key, queue.take(1)) == ("stripes-resnet_small", None)
    queue.finished(first)
    assert {queue.take(0).key, queue.take(1).key} == {"dots-resnet_small-from-stripes", "both-resnet_small"}


def test_a_sent_training_gives_the_same_weights_and_reports_experts(trained, monkeypatch):
    def execute(work, groups, done, **_):
        sent = pickle.loads(pickle.dumps(work))
        local(lambda item: pickle.loads(pickle.dumps(sent(pickle.loads(pickle.dumps(item))))), groups, done)

    monkeypatch.setitem(EXECUTORS, "shipped", execute)
    told, finished = [], []
    here = trained("here")
    found = trained(
        "there", executor="shipped", progress=lambda *what: told.append(what), done=lambda cards: finished.extend(card.name for card in cards)
    )
    assert found == here
    assert (
        list(found) == finished == ["stripes-resnet_small", "dots-resnet_small-from-stripes", "both-resnet_small@stripes", "both-resnet_small@dots"]
    )
    assert told == [(1, 3, "stripes-resnet_small"), (2, 3, "dots-resnet_small-from-stripes"), (3, 3, "both-resnet_small")]
    assert trained("there", executor="shipped") == {}


def test_lost_workers_cost_one_expert_and_its_children(trained, monkeypatch):
    def execute(work, groups, done, **_):
        for item in (item for group in groups for item in group):
            done(work.failed(item, "Its worker died 3 times.") if item.after == () else work(item))

    monkeypatch.setitem(EXECUTORS, "deadly", execute)
    with pytest.raises(
        ModelError, match="2 of 3 experts were not trained. stripes-resnet_small: Its worker died 3 times.; dots-.*There is no expert"
    ):
        trained("out", executor="deadly")


def test_options_that_do_not_fit_are_refused(trained):
    with pytest.raises(ConfigError, match=r"mesh= divides the batches of one process; with executor='ray' .*Try: mesh=None \(no --devices\)"):
        trained("out", mesh=object(), executor="ray")
    with pytest.raises(ConfigError, match="executor = 'rai' is unknown"):
        trained("out", executor="rai")
    with pytest.raises(ConfigError, match="gpus=-1 must be a finite number from 0"):
        trained("out", executor="ray", gpus=-1)


def test_the_work_of_a_training_is_sent_without_what_it_has_loaded(config, data):
    work = Training(read_config(config), data, data, data, True, progress=print)
    assert work.zoo.config is work.config
    sent = pickle.loads(pickle.dumps(work))
    assert (sent.progress, "zoo" in vars(sent), sent.config) == (None, False, work.config)
    item = pickle.loads(pickle.dumps(MemberItem(members(work.config)[0], ("a",))))
    assert (item.key, item.after) == ("stripes-resnet_small", ("a",))


@pytest.mark.slow
def test_a_killed_worker_costs_one_training_which_resumes_from_its_checkpoint(trained, workers):
    here, epochs = trained("here"), workers("both", "once")
    assert trained("there", executor="processes", workers=2) == here
    both = [int(epoch) for name, epoch in epochs() if name == "both-resnet_small"]
    assert both == [1, 2, 3]  # the first two by the worker that died
    assert len(epochs()) == 3 + 1 + 3


@pytest.mark.slow
def test_a_training_that_kills_its_worker_every_time_is_given_up(trained, workers, data):
    workers("stripes-resnet", "always")
    with pytest.raises(
        ModelError,
        match=r"2 of 3 experts were not trained. stripes-resnet_small: Its worker died 3 times \(exit code -9.*dots-.*: There is no expert",
    ):
        trained("out", executor="processes", workers=2)
    assert [folder.name for folder in (data / "out").iterdir()] == ["both-resnet_small"]


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")  # JAX, where Ray begins the programs of a node
def test_ray_gives_the_same_weights_whatever_is_lost(trained, workers, monkeypatch):
    pytest.importorskip("ray")
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_ADDRESS": ""}.items():
        monkeypatch.setenv(name, value)
    here, epochs = trained("here"), workers("both", "once")
    assert trained("there", executor="ray", workers=2) == here
    assert [int(epoch) for name, epoch in epochs() if name == "both-resnet_small"] == [1, 2, 3]
