"""A full disk, a read-only folder or a missing home directory gives one sentence, leaves old files unchanged, and no partial ones."""

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select._runtime import cache, files
from ntk_select._runtime.files import write_atomically
from ntk_select.cli import main, options
from ntk_select.errors import ConfigError, DataError, NtkSelectError
from ntk_select.kernels.saved_kernel import SavedKernel
from ntk_select.training.checkpoints import Checkpoints
from ntk_select.training.loop import begin, sgd

pytestmark = pytest.mark.usefixtures("quickly")
FULL = "No space left on device"
W, X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.random.default_rng(1).normal(size=(400, 40)).astype(np.float32)


def fn(params, x):
    return jnp.tanh(x @ params)


def features_fn(variables, x):
    return x.reshape(len(x), -1) @ variables["params"]["w"]


def small_ranking() -> ns.Ranking:
    images = np.random.default_rng(0).integers(0, 255, (8, 4, 4, 3), dtype=np.uint8)
    expert = ns.Expert("a", features_fn, {"w": np.eye(48, 5)}, features_fn=features_fn, preprocess=ns.Preprocess(size=4))
    return ns.rank([expert], ns.Task("t", images, np.arange(8) % 2, ("x", "y")), ["num_params"])


def saved_kernel() -> SavedKernel:
    return SavedKernel(np.eye(200), np.zeros(200, int), ("a",), np.arange(200), {})


@pytest.fixture
def full_at_the_end(monkeypatch):
    """The disk turns out to be full when a file is brought to it, as on network file systems."""

    def refuse(_):
        raise OSError(errno.ENOSPC, FULL)

    monkeypatch.setattr(files.os, "fsync", refuse)


@pytest.fixture
def full_disk(tmp_path):
    """A real one of 64 kB, where this process may mount; with 8 kB left."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or not shutil.which("mount") or os.geteuid() != 0:
        pytest.skip("only root can make a full disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        (place / "filling").write_bytes(b"x" * 56 * 1024)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"filling"}


@pytest.fixture
def no_figure(monkeypatch):
    """Drawing takes seconds."""
    monkeypatch.setattr("ntk_select.ranking.record.ranking_figure", lambda *_: b"a figure")


@pytest.mark.usefixtures("no_figure", "full_at_the_end")
@pytest.mark.parametrize("kind", ["file", "ranking", "kernel", "cache"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, kind):
    old = tmp_path / {"file": "a", "ranking": "ranking.json", "kernel": "k.npz", "cache": "ab/abc.npz"}[kind]
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(b"as it was")
    if kind == "file":
        with pytest.raises(OSError, match=FULL):
            write_atomically(old, b"new")
    elif kind == "cache":
        kept = cache.Cache(tmp_path)
        kept.put("abc", {"x": X})
        assert f"cannot be written ({FULL})" in kept.trouble
    else:
        save = small_ranking().save if kind == "ranking" else saved_kernel().save
        with pytest.raises(ConfigError, match=rf"{old.name} cannot be written: {FULL}\. Try: another"):
            save(tmp_path if kind == "ranking" else old)
    assert old.read_bytes() == b"as it was"
    assert left(tmp_path) == {str(old.relative_to(tmp_path))}


def test_on_a_disk_that_is_really_full_each_says_so_and_leaves_nothing_half_written(full_disk):
    with pytest.raises(ConfigError, match=rf"k\.npz cannot be written: {FULL}"):
        saved_kernel().save(full_disk / "k.npz")
    kept = cache.Cache(full_disk / "cache")
    kept.put("abc", {"x": X})
    assert FULL in kept.trouble
    assert left(full_disk) == set()
    with pytest.raises(DataError, match=f"cannot hold the kernel: .*{FULL}"):
        ns.ntk(fn, W, X, out=full_disk / "kernel")
    with pytest.raises(DataError, match=f"cannot hold the sketch: .*{FULL}"):
        ns.sketch(fn, W, X, dim=64, out=full_disk / "sketch")
    assert left(full_disk) <= {"kernel/kernel.json", "sketch/sketch.json", "kernel/examples_x1.npy", "sketch/examples_x.npy"}
    (full_disk / "filling").write_bytes(b"")
    shutil.rmtree(full_disk / "sketch")
    assert ns.sketch(fn, W, X[:8], dim=64, out=full_disk / "sketch").shape == (8, 64)  # with room again the same call goes on


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path, monkeypatch):
    """The words are those of Orbax on a disk that was full."""
    state, tried = begin({"params": {"w": np.zeros(3)}}, sgd()), []

    def refuse(epoch, **_):
        tried.append(epoch)
        (next(tmp_path.iterdir()) / f"{epoch}.orbax-checkpoint-tmp").mkdir()
        raise ValueError(
            'RESOURCE_EXHAUSTED: Error writing local file "x/_sharding":\n Failed to write 209 bytes to file 21: No space\n left on device'
        )

    with Checkpoints(tmp_path, "mine", "settings", every_seconds=0) as kept:
        monkeypatch.setattr(kept._manager, "save", refuse)
        with pytest.warns(UserWarning, match=f"Checkpoints can no longer be written to .*: {FULL}. Training continues"):
            kept.save(1, state, {})
        kept.save(2, state, {})  # and says it once
    assert tried == [1]
    assert not [*tmp_path.rglob("*.orbax-checkpoint-tmp")]


@pytest.mark.usefixtures("no_figure", "full_at_the_end")
def test_a_ranking_that_cannot_be_saved_is_printed_all_the_same(monkeypatch, tmp_path, capsys):
    ranking = small_ranking()
    monkeypatch.setattr("ntk_select.ranking.rank", lambda *_, **__: ranking)
    assert main(["rank", "--task", "digits", "--out", str(tmp_path / "out"), "--no-cache"]) == 1
    printed, said = capsys.readouterr()
    assert "1 scored, 0 failed" in printed
    assert f"The ranking could not be saved: {tmp_path / 'out'}/ranking.json cannot be written: {FULL}" in said
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError(errno.ENOSPC, FULL, "somewhere/x"), 2, "ntk-select: somewhere/x cannot be written or read: No space left on device."),
        (OSError(errno.EROFS, "Read-only file system"), 2, "ntk-select: something cannot be written or read: Read-only file system."),
        (MemoryError(), 2, "ntk-select: Out of memory. Try: a smaller --per-class"),
        (KeyboardInterrupt(), 130, "ntk-select: stopped."),
        (NtkSelectError("That is wrong."), 2, "ntk-select: That is wrong."),
    ],
    ids=["full", "read-only", "memory", "Ctrl-C", "a mistake"],
)
def test_what_the_surroundings_do_is_a_sentence_whatever_command_meets_it(monkeypatch, capsys, error, status, sentence):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("ntk_select.data.load_task", refuse)
    assert main(["rank", "--task", "digits"]) == status
    assert sentence in capsys.readouterr().err


def test_an_error_of_a_file_without_a_name_is_not_blamed_on_the_output(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, FULL)

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("ntk_select.data.load_task", refuse)
    for output, blamed in ((io.StringIO(), "something"), (Full(), "the output")):
        said = io.StringIO()
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "stderr", said)
        assert main(["rank", "--task", "digits"]) == 2
        assert said.getvalue() == f"ntk-select: {blamed} cannot be written or read: Too many open files.\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("ntk_select.data.load_task", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["rank", "--task", "digits"])


@pytest.fixture
def read_only():
    """A folder into which this process may not write; for the time of the test root is nobody."""
    if sys.platform == "win32":
        pytest.skip("needs the permissions of POSIX")
    folder = Path(tempfile.mkdtemp())
    (folder / "inside").mkdir()
    for place in (folder, folder / "inside"):
        place.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder / "inside"
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        (folder / "inside").chmod(0o700)
        shutil.rmtree(folder)


def test_a_read_only_folder_is_refused_before_the_work(read_only):
    for folder in (read_only, read_only / "new" / "deep"):
        with pytest.raises(ConfigError, match="--out '.*inside.*' cannot be written: Permission denied. Try: another folder"):
            options.check_writable(folder)
    with pytest.raises(ConfigError, match="k.npz cannot be written: Permission denied"):
        saved_kernel().save(read_only / "k.npz")
    with pytest.raises(DataError, match="cannot hold the kernel: .*Permission denied"):
        ns.ntk(fn, W, X, out=read_only / "kernel")
    kept = cache.Cache(read_only)
    kept.put("abc", {"x": X})
    assert "cannot be written (Permission denied)" in kept.trouble
    assert kept.get("abc") is None


def test_the_check_of_a_folder_leaves_nothing(tmp_path):
    options.check_writable(tmp_path / "new" / "deep")
    (tmp_path / "there").mkdir()
    options.check_writable(tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_without_a_home_the_cache_has_no_place_and_a_path_with_a_tilde_is_refused(monkeypatch):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "XDG_CACHE_HOME", "NTK_SELECT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert cache.default_folder() is None
    with pytest.raises(ConfigError, match="--out '~/x' cannot be written: Could not determine home"):
        options.check_writable(Path("~/x"))


BARE = """
import os, sys
from ntk_select.cli import main
words = sys.argv[1].split() + ["--per-class", "4", "--draws", "0", "--scores", "num_params,lfc", "--only", "neu_steel-resnet_small"]
assert main(words) == 0
sys.stdout.flush()
assert main([*words, "--json"]) == 0
os.close(1)
os.open("/dev/full", os.O_WRONLY)
assert main([*words, "--json"]) == 2
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the surroundings are those of Linux")
def test_with_no_home_no_temporary_folder_and_an_ascii_terminal_a_ranking_is_printed(tmp_path):
    environment = {
        "HOME": "/nonexistent",
        "TMPDIR": "/nowhere",
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "40",
        "PATH": os.environ["PATH"],
    }
    ranked = ["rank", "--task", "digits"]
    run = subprocess.run(
        [sys.executable, "-c", BARE, " ".join(ranked)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert "Exception" not in run.stderr
    assert "the output cannot be written or read: No space left on device" in run.stderr
    assert "neu_steel-resnet_small" in run.stdout
    assert '"rank": 1' in run.stdout
    assert run.stdout.isascii()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes are those of POSIX")
def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    command = f"{sys.executable} -c 'import sys; from ntk_select.cli import main; sys.exit(main(sys.argv[1:]))' tasks list --json | head -c 1"
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert run.stdout == "["
    assert run.stderr == ""
