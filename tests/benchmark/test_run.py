"""A run measures every cell once, records failures, and loses nothing when the disk is full."""

import errno
import os
import pickle
import subprocess
from pathlib import Path

import pytest

from ntk_select.benchmark import Store, measure, run
from ntk_select.benchmark.measure import NOT_WRITABLE, Work
from ntk_select.errors import ConfigError, ModelError, TaskError

SEVERAL = pytest.mark.parametrize("executor", ["local", "processes"])


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def failing(monkeypatch, error: Exception, fails) -> None:
    """Cells for which `fails(cell)` raise an error when they are measured in this process."""
    real = measure.measured

    def measured(bench, cell):
        if fails(cell):
            raise error
        return real(bench, cell)

    monkeypatch.setattr(measure, "measured", measured)


@SEVERAL
def test_every_cell_is_measured_once(synthetic, out, executor, numbers, tmp_path):
    config, told = synthetic(), []
    summary = run(config, out, executor=executor, workers=2, progress=lambda *what: told.append(what))
    assert (summary.cells, summary.before, summary.now, summary.failed) == (12, 0, 12, {})
    store = Store(out)
    assert store.done() == {cell.key for cell in store.cells()} == set(store.read("synthetic")["key"].to_pylist())
    assert [done for done, _, _ in told] == list(range(13))
    assert {total for _, total, _ in told} == {12}
    assert told[-1][2].startswith("task")
    assert not list((out / "running").glob("*"))
    if executor != "local":
        run(config, tmp_path / "here")
        assert numbers(out) == numbers(tmp_path / "here")


@SEVERAL
def test_a_second_run_measures_nothing(synthetic, out, executor):
    config = synthetic()
    run(config, out)
    before = {file: file.stat().st_mtime_ns for file in out.glob("records/*/*/*")}
    summary = run(config, out, executor=executor)
    assert (summary.before, summary.now) == (12, 0)
    assert {file: file.stat().st_mtime_ns for file in out.glob("records/*/*/*")} == before


def test_a_larger_config_only_adds_cells(synthetic, out):
    run(synthetic(experts=2), out)
    summary = run(synthetic(experts=3), out)
    assert (summary.cells, summary.before, summary.now) == (9, 6, 3)
    assert (run(synthetic(experts=2), out).now, len(Store(out).cells())) == (0, 6)


def test_a_cell_that_fails_is_recorded_and_the_others_are_measured(synthetic, out, monkeypatch):
    config = synthetic()
    with monkeypatch.context() as patch:
        failing(patch, ZeroDivisionError("by nothing\nat all"), lambda cell: cell.expert == "expert001")
        summary = run(config, out)
    assert (summary.now, set(summary.failed.values())) == (9, {"ZeroDivisionError: by nothing"})
    failures = Store(out).failures()
    assert failures.keys() == summary.failed.keys()
    for failure in failures.values():
        assert (failure["expert"], failure["error"]) == ("expert001", "ZeroDivisionError: by nothing")
        assert "in measured" in failure["trace"]
    again = run(config, out)
    assert (again.before, again.now, again.failed) == (9, 3, {})
    assert Store(out).failures() == {}


def test_an_error_of_this_package_is_recorded_without_a_trace(synthetic, out, monkeypatch):
    failing(monkeypatch, ModelError("It has no head."), lambda cell: cell.task == "task000")
    summary = run(synthetic(), out)
    assert set(summary.failed.values()) == {"It has no head."}
    assert {failure["trace"] for failure in Store(out).failures().values()} == {""}


def test_rows_that_no_file_can_hold_are_a_failure_of_their_cell(synthetic, out, monkeypatch):
    monkeypatch.setattr(measure, "measured", lambda _bench, cell: [{"key": cell.key, "value": object() if cell.task == "task000" else 1.0}])
    summary = run(synthetic(), out)
    assert (summary.now, len(summary.failed)) == (8, 4)
    assert all("object" in error for error in summary.failed.values())


def test_shards_divide_the_cells_among_them(synthetic, tmp_path):
    config = synthetic(experts=6, tasks=4)
    found = []
    for place in (1, 2, 3):
        run(config, tmp_path / f"{place}", shard=(place, 3))
        found.append(Store(tmp_path / f"{place}").done())
    assert sum(map(len, found)) == len(set.union(*found)) == 24
    assert all(found)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_that_start_at_different_times_leave_no_cell_out(synthetic, out, order):
    config = synthetic(experts=6, tasks=4)
    counts = [run(config, out, shard=(place, 3)).now for place in order]
    assert sum(counts) == len(Store(out).done()) == 24
    assert all(counts)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_an_impossible_shard_is_refused(synthetic, out, shard):
    with pytest.raises(ConfigError, match=f"shard {shard[0]}/{shard[1]} must be one of 1/N to N/N"):
        run(synthetic(), out, shard=shard)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_folder_that_can_no_longer_be_written_ends_the_run_in_a_sentence(synthetic, out, monkeypatch, code, numbers, tmp_path):
    config, written = synthetic(), []

    def until_full(path, content):
        from ntk_select._runtime.files import write_atomically

        if len(written) == 5:
            raise OSError(code, os.strerror(code))
        written.append(path)
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("ntk_select.benchmark.store.write_atomically", until_full)
        with pytest.raises(
            ConfigError, match=rf"The run ended, because .*out cannot be written: {NOT_WRITABLE[code]}. 3 of 12 cells are done.*Try: the same command"
        ):
            run(config, out)
    assert len(Store(out).done()) == 3  # two of the five are what the benchmark is
    assert not list(out.glob("running/*"))
    assert (run(config, out).before, len(Store(out).done())) == (3, 12)
    run(config, tmp_path / "undisturbed")
    assert numbers(out) == numbers(tmp_path / "undisturbed")


def test_a_folder_in_which_no_failure_can_be_recorded_ends_the_run_too(synthetic, out, monkeypatch):
    failing(monkeypatch, ModelError("It has no head."), lambda _: True)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Store, "put_failure", full)
    with pytest.raises(ConfigError, match="no space is left. 0 of 12 cells"):
        run(synthetic(), out)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(synthetic, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out cannot be written: .*Try: another folder for out"):
        run(synthetic(), tmp_path / "file" / "out")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, if this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("Nobody but root can mount a small disk.")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@SEVERAL
def test_a_disk_that_is_full_loses_nothing_that_was_done(synthetic, small_disk, executor, numbers, tmp_path):
    config, filler = synthetic(experts=10, tasks=8), small_disk / "filler"
    filler.write_bytes(bytes(1 << 19))
    with pytest.raises(ConfigError, match="no space is left"):
        run(config, small_disk / "out", executor=executor, workers=2)
    kept = Store(small_disk / "out").done()
    assert 0 < len(kept) < 80
    Store(small_disk / "out").read("synthetic")
    filler.unlink()
    summary = run(config, small_disk / "out", executor=executor, workers=2)
    assert (summary.before, summary.before + summary.now) == (len(kept), 80)
    run(config, tmp_path / "undisturbed")
    assert numbers(small_disk / "out") == numbers(tmp_path / "undisturbed")


def test_unfinished_files_of_killed_runs_are_deleted_after_an_hour(synthetic, out):
    config = synthetic()
    run(config, out)
    folder = next(out.glob("records/synthetic/*"))
    old, young = folder / ".a.parquet.1.tmp", folder / ".b.parquet.1.tmp"
    old.write_text("")
    young.write_text("")
    os.utime(old, (1, 1))
    run(config, out)
    assert (old.exists(), young.exists()) == (False, True)


def test_another_run_may_finish_its_file_while_leftovers_are_deleted(synthetic, out, monkeypatch):
    config = synthetic()
    run(config, out)
    gone = next(out.glob("records/synthetic/*")) / ".a.parquet.1.tmp"
    gone.symlink_to("nowhere")  # is listed, and is not there when it is looked at
    assert run(config, out).before == 12


WORDS = {
    "an executor": ({"executor": "rai"}, "executor = 'rai' is unknown"),
    "a config": ({"config_path": "no.toml"}, "cannot be read: No such file"),
}


@pytest.mark.parametrize(("change", "words"), WORDS.values(), ids=WORDS.keys())
def test_unknown_options_are_refused_before_anything_is_written(synthetic, out, change, words):
    with pytest.raises(ConfigError, match=words):
        run(**{"config_path": synthetic(), "out": out} | change)
    assert not out.exists()


def test_unknown_names_in_a_config_are_refused_before_anything_is_written(write, out, data):
    text = 'scores = ["{score}"]\nzoo = ["{zoo}"]\n[tasks.things]\nuri = "npz:{data}/{file}.npz"\n'
    fill = {"{score}": "lfc", "{zoo}": "builtin", "{file}": "things"}
    for key, value, error, words in (
        ("{score}", "lfk", ConfigError, "'lfk'.*Did you mean 'lfc'"),
        ("{zoo}", "nowhere", ModelError, "'nowhere' is neither installed nor a folder"),
    ):
        config = text
        for old, new in {**fill, key: value}.items():
            config = config.replace(old, new)
        with pytest.raises(error, match=words):
            run(write(config), out, data=data)
    with pytest.raises(TaskError, match="no class has two images, so none can be held out"):
        run(write('[tasks.a]\nuri = "npz:{data}/bare.npz"'), out, data=_untested(data))
    assert not out.exists()


def test_a_task_without_a_test_set_is_split_and_the_run_says_so(write, out, data, zoo):
    import numpy as np

    np.savez(_untested(data) / "flat.npz", images=np.zeros((10, 8, 8), np.uint8), labels=np.repeat([0, 1], 5))
    config = write(f'scores = ["lfc"]\nzoo = ["{zoo}"]\n[tasks.flat]\nuri = "npz:{{data}}/flat.npz"')
    summary = run(config, out, data=data / "untested", shard=(99, 99))  # lays out the cells and measures none
    (warning,) = [line for line in summary.warnings if "test set" in line]
    assert warning.startswith("Task 'flat'. There was no test set: 2 of 10 images, 20 % of each class (seed 0), are held out for testing.")
    assert warning in Store(out).manifest()["warnings"]


def _untested(data: Path) -> Path:
    import numpy as np

    (data / "untested").mkdir(exist_ok=True)
    np.savez(data / "untested" / "bare.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([0, 1]))
    return data / "untested"


def test_work_can_be_sent_to_a_worker_even_after_it_was_used_here(synthetic, out):
    config = synthetic()
    run(config, out)
    work, cell = Work(config.read_text(), str(config), str(out)), Store(out).cells()[0]
    work.failed(cell, "Its worker died.")
    assert pickle.loads(pickle.dumps(work)) == work
    assert pickle.loads(pickle.dumps(work))(cell).error is None
    assert work(cell).error is None


def test_editing_the_config_during_a_run_does_not_change_what_is_measured(synthetic, out, monkeypatch):
    """The text is read once: keys, manifest and workers use the same config."""
    config, laid_out = synthetic(noise=0.01), run.__globals__["laid_out"]

    def edited(bench):
        config.write_text(config.read_text().replace("0.01", "0.5"))
        return laid_out(bench)

    monkeypatch.setitem(run.__globals__, "laid_out", edited)
    run(config, out)
    assert "noise = 0.01" in Store(out).manifest()["config"]
    assert {cell.settings["noise"] for cell in Store(out).cells()} == {0.01}


def test_a_negative_number_of_workers_is_refused(synthetic, out):
    with pytest.raises(ConfigError, match="workers=-1"):
        run(synthetic(), out, executor="processes", workers=-1)


def test_a_run_has_a_heartbeat_during_a_long_cell(synthetic, out, monkeypatch):
    import json
    import time

    monkeypatch.setitem(run.__globals__, "PULSE", 0.05)
    beats = []

    def measured(bench, cell):
        note = next((out / "running").glob("*.json"))
        beats.append(json.loads(note.read_text())["beat"])
        time.sleep(0.3)
        beats.append(json.loads(note.read_text())["beat"])
        return [{"key": cell.key}]

    monkeypatch.setattr(measure, "measured", measured)
    run(synthetic(experts=1, tasks=1), out)
    assert beats[0] < beats[1]


def test_failures_are_packed_too(synthetic, out, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, ModelError("it is broken"), lambda cell: cell.expert == "expert001")
        run(synthetic(), out)
    packed = Store(out).pack(tmp_path / "packed")
    assert {failure["error"] for failure in packed.failures().values()} == {"it is broken"}
    assert len(packed.failures()) == 3
