"""Interrupted training resumes to the same bits, and never from another training's or a damaged checkpoint."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Taps
from ntk_select.experts.preprocess import Preprocess
from ntk_select.training.checkpoints import Checkpoints, seed_from
from ntk_select.training.feeding import InMemory
from ntk_select.training.loop import begin, cross_entropy, make_step, sgd, train_epochs

X, Y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2


def two_layers(variables, x):
    features = jnp.tanh(x @ variables["params"]["a"])
    mean = 0.9 * variables["batch_stats"]["mean"] + 0.1 * features.mean(0)
    return Taps((features - mean) @ variables["params"]["b"], features), {"batch_stats": {"mean": mean}}


def fresh():
    rng = np.random.default_rng(1)
    variables = {"params": {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(4, 2)).astype(np.float32)}, "batch_stats": {"mean": np.zeros(4)}}
    return begin(variables, sgd())


def trained(folder, epochs=6, cut_at=None, settings=("plan", 1), every_seconds=0.0):
    """(state, losses, first epoch that was taken), kept after each epoch."""

    def report(epoch, loss):
        if epoch == cut_at:
            raise KeyboardInterrupt

    with Checkpoints(folder, "mine", settings, every_seconds=every_seconds) as kept:
        first, state, notes = kept.latest(fresh())
        losses = notes.get("losses", [])
        step, rates = make_step(cross_entropy(two_layers), sgd()), np.linspace(0.1, 0.01, 18).reshape(6, 3)
        state = train_epochs(
            step, state, InMemory(X, Y, 4), rates[:epochs], seed=[3], first_epoch=first, after_epoch=kept.after_epoch(report, losses)
        )
        kept.delete()
    return state, losses, first


def same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_training_that_was_cut_twice_ends_in_the_same_bits(tmp_path):
    whole, losses, _ = trained(None)
    for cut in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, cut_at=cut)
    resumed, their_losses, first = trained(tmp_path)
    assert first == 5
    same(resumed, whole)
    assert their_losses == losses
    assert len(losses) == 6
    assert list(tmp_path.iterdir()) == []


def test_states_of_other_settings_are_not_continued(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, cut_at=2)
    for settings in (("plan", 2), {"plan": 1}):
        assert trained(tmp_path, settings=settings)[2] == 0
    assert trained(tmp_path)[2] == 2


def test_settings_are_told_apart_by_what_they_hold(tmp_path):
    def folder_of(settings):
        return Checkpoints(tmp_path, "mine", settings).folder

    assert folder_of({"a": 1, "b": 2}) == folder_of({"b": 2, "a": 1})
    assert folder_of(Preprocess(8)) == folder_of(Preprocess(8))
    assert folder_of(np.arange(3)) == folder_of(jnp.arange(3))
    different = [Preprocess(8), Preprocess(9), np.arange(3), np.arange(3.0), np.arange(3)[::-1], np.arange(3)[None], "a", None]
    assert len({folder_of(settings) for settings in different}) == len(different)


def test_between_two_kept_states_lies_the_time_that_is_said(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, cut_at=4, every_seconds=1e6)
    assert trained(tmp_path, every_seconds=1e6)[2] == 0


def test_without_a_folder_nothing_is_kept():
    with Checkpoints(None, "mine", ()) as kept:
        kept.save(1, fresh(), {})
        epoch, state, notes = kept.latest(fresh())
        kept.delete()
    assert (epoch, notes) == (0, {})
    same(state, fresh())


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, cut_at=2)
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder / "2" / "state")
    with pytest.raises(ConfigError, match=r"The checkpoint .*mine-.*/2 cannot be read \(.*\). Try: delete the folder to start again"):
        trained(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, cut_at=2)
    with (
        Checkpoints(tmp_path, "mine", ("plan", 1)) as kept,
        pytest.raises(ConfigError, match="cannot be read .*Try: delete the folder to start again"),
    ):
        kept.latest(begin({"params": {"other": np.zeros(3)}}, sgd()))


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="Checkpoints cannot be written to .*file/mine-.*Try: another folder"),
        Checkpoints(tmp_path / "file", "mine", ()),
    ):
        pass


def test_texts_have_the_published_crc32():
    assert seed_from("123456789") == 0xCBF43926
