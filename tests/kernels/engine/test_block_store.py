"""Arrays on disk: they resume, grow, and never give a number that was not computed for the question."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ntk_select.errors import ConfigError, DataError
from ntk_select.kernels.engine import store as block_store
from ntk_select.kernels.engine.store import open_store

draws = np.random.default_rng(0)
FULL = draws.normal(size=(12, 3, 12, 3)).transpose(0, 2, 1, 3)
FULL = FULL + FULL.transpose(1, 0, 3, 2)
CROSS, ROWS = draws.normal(size=(12, 5, 2)), draws.normal(size=(12, 2, 7))
DIGESTS = {name: draws.integers(0, 256, (12, 16)).astype(np.uint8) for name in ("x1", "x2", "x")}
DESCRIBED = {"fn": "f", "params": "p", "layers": ["v", "w"], "outputs": "full of 3", "x1": "float64[3]", "precision": "highest"}
FULL_DISK = "cannot hold the kernel: .*No space left .* Try: the same call once the folder has space"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "folder"


def kernel(folder, n=8, block=2, dtype=np.float64, digests=DIGESTS["x1"], tail=(3, 3), **described):
    return open_store(folder, DESCRIBED | described, {"x1": digests[:n]}, what="kernel", symmetric=True, tail=tail, dtype=dtype, block=block)


def cross(folder, n=8, m=5, block=2):
    sides = {"x1": DIGESTS["x1"][:n], "x2": DIGESTS["x2"][:m]}
    return open_store(folder, DESCRIBED, sides, what="kernel", symmetric=False, tail=(2,), dtype=np.float32, block=block)


def sketch(folder, n=8, block=2):
    return open_store(folder, DESCRIBED, {"x": DIGESTS["x"][:n]}, what="sketch", symmetric=False, tail=(2, 7), dtype=np.float64, block=block)


def blocks(store):
    """Slices of the blocks of a kernel, in the order of the driver."""
    rows, columns = ([slice(*ends) for ends in itertools.pairwise(cuts)] if cuts else None for cuts in store.tile_bounds)
    for i, row in enumerate(rows):
        yield from ((row, column) for column in (rows[i:] if columns is None else columns))


def finish(store, values=FULL, most=1000):
    """Writes what is not done, as the driver does; returns the blocks that were written."""
    written = []
    for part in blocks(store):
        if len(written) < most and not store.is_done(*part):
            store.write(values[part], *part)
            written.append(part)
    return written


def fill(store, size=2):
    written = []
    for start, stop in store.missing:
        for first in range(start, stop, size):
            part = slice(first, min(first + size, stop))
            store.write(ROWS[part], part)
            written.append((part.start, part.stop))
    return written


def right(store, values=FULL):
    found = store.result()
    expected = values[tuple(map(slice, found.shape))]
    np.testing.assert_array_equal(found, expected.astype(found.dtype))


def chunk(folder, *place, what="kernel", tail=2):
    return folder.joinpath(f"{what}.zarr", "c", *map(str, place), *["0"] * tail)


def damage(file, how):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    if how == "lost":
        file.unlink()
    else:
        file.write_bytes({"flipped": content, "cut": file.read_bytes()[:-1], "empty": b"", "junk": b"{}"}[how])


@pytest.mark.parametrize("block", [1, 2, 3, 512])
def test_a_symmetric_kernel_is_written_with_its_mirror_image(folder, block):
    store = kernel(folder, block=block)
    n = len(store.tile_bounds[0]) - 1
    assert store.tile_bounds[1] is None
    assert len(finish(store)) == n * (n + 1) // 2
    right(store)
    assert finish(kernel(folder, block=block)) == []


def test_a_rectangle_and_rows_are_written(tmp_path):
    store = cross(tmp_path / "cross")
    assert store.tile_bounds == ((0, 2, 4, 6, 8), (0, 2, 4, 5))
    assert len(finish(store, CROSS)) == 12
    right(store, CROSS)
    rows = sketch(tmp_path / "rows")
    assert rows.tile_bounds == ((0, 2, 4, 6, 8),)
    assert rows.missing == ((0, 8),)
    assert fill(rows, 3) == [(0, 3), (3, 6), (6, 8)]
    assert rows.missing == ()
    right(rows, ROWS)


@pytest.mark.parametrize("most", [0, 1, 5, 9])
def test_interrupted_work_resumes(folder, most):
    first = finish(kernel(folder), most=most)
    store = kernel(folder)
    assert [part for part in blocks(store) if store.is_done(*part)] == first
    assert len(finish(store)) == 10 - most
    right(store)


@pytest.mark.parametrize("fails", [1, 2])
def test_a_block_that_was_written_but_not_marked_is_not_done(folder, monkeypatch, fails):
    """Also the one whose mirror image alone is not marked."""
    touch, left = Path.touch, iter(range(fails - 1))

    def cut(self):
        if next(left, None) is None:
            raise KeyboardInterrupt
        touch(self)

    store = kernel(folder, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", cut)
        with pytest.raises(KeyboardInterrupt):
            store.write(FULL[:2, 2:4], slice(0, 2), slice(2, 4))
    store = kernel(folder, 4)
    assert not store.is_done(slice(0, 2), slice(2, 4))
    assert len(finish(store)) == 3
    right(store)


@pytest.mark.nightly
def test_a_killed_process_leaves_finished_blocks(folder):
    code = f"""
        import runpy, os, signal
        made = runpy.run_path({__file__!r})
        store = made["kernel"](made["Path"]({str(folder)!r}), 12, 1)
        for number, part in enumerate(made["blocks"](store)):
            if number == 30:
                pending = store._array[part].write(made["FULL"][part])
                os.kill(os.getpid(), signal.SIGKILL)
            store.write(made["FULL"][part], *part)
    """
    assert run(code).returncode == -9
    store = kernel(folder, 12, 1)
    assert len(finish(store)) == 78 - 30
    right(store)


def test_more_examples_cost_only_the_new_blocks(folder):
    """3 examples leave a short block, which stays."""
    finish(kernel(folder, 3))
    store = kernel(folder, 5)
    assert store.tile_bounds == ((0, 2, 3, 5), None)
    assert {part[1].start for part in finish(store)} == {3}
    right(store)
    store = kernel(folder, 12, 4)
    assert store.tile_bounds == ((0, 2, 3, 5, 9, 12), None)
    assert min(part[1].start for part in finish(store)) == 5
    right(store)
    assert json.loads((folder / "kernel.zarr" / "zarr.json").read_text())["chunk_grid"]["configuration"]["chunk_shape"] == [2, 2, 3, 3]


def test_a_rectangle_and_rows_grow(tmp_path):
    finish(cross(tmp_path / "cross", 4, 2), CROSS)
    store = cross(tmp_path / "cross", 8, 5)
    assert len(finish(store, CROSS)) == 10
    right(store, CROSS)
    right(cross(tmp_path / "cross", 3, 4), CROSS)
    fill(sketch(tmp_path / "rows", 3))
    rows = sketch(tmp_path / "rows", 12)
    assert rows.missing == ((3, 12),)
    fill(rows)
    right(rows, ROWS)


@pytest.mark.parametrize("n", [1, 5, 6])
def test_fewer_examples_are_the_leading_block(folder, n):
    finish(kernel(folder))
    store = kernel(folder, n)
    assert store.result().shape == (n, n, 3, 3)
    assert store.is_done(slice(0, n), slice(0, n))
    assert finish(store) == []
    right(store)
    right(kernel(folder))


@pytest.mark.parametrize("most", [1, 2, 4, 8])
def test_fewer_examples_of_unfinished_work(folder, most):
    """5 examples end within a block, of which some rows are there and others not."""
    finish(kernel(folder), most=most)
    few = kernel(folder, 5)
    finish(few)
    right(few)
    store = kernel(folder)
    finish(store)
    right(store)


def test_other_cuts_may_finish_the_work(folder):
    finish(kernel(folder), most=3)
    store = kernel(folder, block=1)
    assert store.is_done(slice(0, 2), slice(1, 5))
    assert store.is_done(slice(3, 5), slice(0, 1))
    assert not store.is_done(slice(0, 2), slice(1, 7))
    assert not store.is_done(slice(2, 4), slice(2, 4))
    assert len(finish(store)) == 36 - 11
    assert store.is_done(slice(1, 8), slice(0, 7))
    right(store)
    assert finish(kernel(folder, block=8)) == []


def test_blocks_that_share_chunks_and_overlap(folder):
    """As after memory ran out: the caller cuts shorter than the chunks of the array, and not at their ends."""
    store = kernel(folder, 12, block=8)
    store.write(FULL[0:5, 0:5], slice(0, 5), slice(0, 5))
    store.write(FULL[3:12, 1:4], slice(3, 12), slice(1, 4))
    store.write(FULL[5:12, 0:1], slice(5, 12), slice(0, 1))
    assert store.is_done(slice(0, 4), slice(0, 12))
    assert not store.is_done(slice(0, 5), slice(0, 12))
    store.write(FULL[4:12, 4:12], slice(4, 12), slice(4, 12))
    assert store.is_done(slice(0, 12), slice(0, 12))
    right(kernel(folder, 12))


def test_gaps_of_a_sketch(folder):
    store = sketch(folder, 12)
    for part in (slice(2, 4), slice(6, 7), slice(7, 9)):
        store.write(ROWS[part], part)
    store = sketch(folder, 12, 3)
    assert store.missing == ((0, 2), (4, 6), (9, 12))
    assert store.is_done(slice(6, 9))
    assert not store.is_done(slice(3, 5))
    assert sketch(folder, 7).missing == ((0, 2), (4, 6))
    assert fill(store) == [(0, 2), (4, 6), (9, 11), (11, 12)]
    right(store, ROWS)


@pytest.mark.parametrize("shape", [(3, 2), (2, 1, 3, 3)])
def test_a_block_of_another_shape_is_refused(folder, shape):
    with pytest.raises(ValueError, match=r"A block of shape .* does not fit into \[\(0, 2\), \(0, 2\)\]"):
        kernel(folder).write(np.ones(shape), slice(0, 2), slice(0, 2))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"params": "q"}, r"different: params\)"),
        ({"fn": "g"}, r"different: fn\)"),
        ({"precision": "high", "fn": "g"}, r"different: precision \('highest' there, 'high' now\)\)"),
        ({"layers": ["w"], "fn": "g"}, r"different: layers\)"),
        ({"new": 3, "outputs": "trace of 3"}, r"different: outputs \('full of 3' there, 'trace of 3' now\), new \(None there, 3 now\)\)"),
        ({"layout": 2}, r"different: layout \(3 there, 2 now\)\)"),
    ],
)
def test_an_array_of_something_else_is_refused(folder, change, difference):
    finish(kernel(folder), most=1)
    with pytest.raises(ConfigError, match=rf"holds a kernel of something else \({difference}\. Try: out= another folder"):
        kernel(folder, **change)
    assert len(finish(kernel(folder))) == 9


def test_a_folder_without_blocks_may_become_another_kernel(folder):
    kernel(folder)
    store = kernel(folder, params="q", tail=(), dtype=np.float32)
    finish(store, FULL[..., 0, 0])
    right(store, FULL[..., 0, 0])


def test_values_are_compared_as_json(folder):
    finish(kernel(folder, shape=(1, 2)), most=1)
    assert len(finish(kernel(folder, shape=[1, 2]))) == 9


def test_a_folder_holds_a_kernel_or_a_sketch(tmp_path):
    finish(kernel(tmp_path / "kernel"))
    fill(sketch(tmp_path / "sketch"))
    with pytest.raises(ConfigError, match=r"holds files but no sketch.json"):
        sketch(tmp_path / "kernel")
    with pytest.raises(ConfigError, match=r"holds files but no kernel.json"):
        kernel(tmp_path / "sketch")


@pytest.mark.parametrize("name", ["kernel.npy", "kernel.zarr", "done/0-2_0-2"])
def test_files_without_a_description_are_left_alone(folder, name):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"holds files but no kernel.json. Try: out= another folder, or empty this one"):
        kernel(folder)
    assert (folder / name).read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"", b"{", b"3", b"\xff", b'["layout"]'])
def test_a_description_that_cannot_be_read_is_named(folder, content):
    kernel(folder)
    (folder / "kernel.json").write_bytes(content)
    with pytest.raises(DataError, match=r"kernel.json' is not a description of a kernel: .* Try: out= another folder"):
        kernel(folder)


def test_changed_examples_are_refused(folder):
    finish(kernel(folder, 4))
    changed = DIGESTS["x1"].copy()
    changed[2, 5] ^= 1
    message = r"Example 2 of x1, or its cotangents, is not the one whose kernel .* more examples may only follow the same ones"
    with pytest.raises(ConfigError, match=message):
        kernel(folder, 8, digests=changed)
    with pytest.raises(ConfigError, match="Example 0 of x1"):
        kernel(folder, 1, digests=changed[::-1])
    store = kernel(folder)
    assert len(finish(store)) == 7
    right(store)


def test_changed_examples_of_the_other_side_are_refused(folder, monkeypatch):
    finish(cross(folder, 4, 2), CROSS)
    changed = DIGESTS["x2"].copy()
    changed[1] += 1
    monkeypatch.setitem(DIGESTS, "x2", changed)
    with pytest.raises(ConfigError, match="Example 1 of x2"):
        cross(folder, 4, 5)


def test_examples_of_which_nothing_is_done_may_change(folder):
    finish(kernel(folder), most=1)
    order = [0, 1, 7, 6, 5, 4, 3, 2]
    store = kernel(folder, digests=DIGESTS["x1"][order])
    assert len(finish(store, FULL[np.ix_(order, order)])) == 9
    right(store, FULL[np.ix_(order, order)])
    with pytest.raises(ConfigError, match="Example 2 of x1"):
        kernel(folder)


@pytest.mark.parametrize("how", ["lost", "flipped", "cut", "empty", "junk"])
@pytest.mark.parametrize("place", [(1, 1), (0, 2), (3, 1)])
def test_a_damaged_chunk_is_named_on_reading_and_computed_again(folder, how, place):
    store = kernel(folder)
    finish(store)
    damage(chunk(folder, *place), how)
    found = store.result()
    with pytest.raises(DataError, match=r"The folder .* cannot hold the kernel: .*c/\d/\d/0/0.* Try: the same call"):
        np.asarray(found)
    row, column = (slice(2 * number, 2 * number + 2) for number in place)
    with pytest.raises(DataError, match="cannot hold the kernel"):
        found[row.start, column.stop - 1]
    np.testing.assert_array_equal(found[:2, :2], FULL[:2, :2])
    with pytest.warns(UserWarning, match=r"kernel or its digests in .*folder' are lost or damaged: 1 blocks are computed again"):
        store = kernel(folder)
    assert finish(store) == [(row, column) if place[0] <= place[1] else (column, row)]
    right(kernel(folder))


def test_damage_among_blocks_that_share_a_chunk(folder):
    """All blocks that meet the chunk, and no others; chunks are 4 long, and blocks end at 3, 6 and 8."""
    finish(kernel(folder, block=4), most=0)
    store = kernel(folder, block=4)
    for part in itertools.product([slice(0, 3), slice(3, 6), slice(6, 8)], repeat=2):
        if part[0].start <= part[1].start:
            store.write(FULL[part], *part)
    damage(chunk(folder, 1, 1), "flipped")
    with pytest.warns(UserWarning, match="lost or damaged: 4 blocks"):
        store = kernel(folder)
    assert store.is_done(slice(0, 3), slice(0, 8))
    assert not store.is_done(slice(3, 4), slice(3, 4))
    finish(store)
    right(kernel(folder))


def test_a_damaged_chunk_without_finished_blocks_is_written_anew(folder):
    store = kernel(folder)
    finish(store, most=1)
    store._array[2:4, 2:4].write(FULL[2:4, 2:4]).result()
    damage(chunk(folder, 1, 1), "flipped")
    store = kernel(folder, block=1)
    finish(store)
    right(store)


def test_only_chunks_of_these_examples_are_verified(folder):
    finish(kernel(folder))
    damage(chunk(folder, 3, 3), "flipped")
    assert finish(kernel(folder, 6)) == []
    with pytest.warns(UserWarning, match="1 blocks are computed again"):
        kernel(folder)


@pytest.mark.parametrize("how", ["lost", "flipped", "cut", "empty", "junk"])
@pytest.mark.parametrize("name", ["kernel.zarr/zarr.json", "examples_x1.sha256"])
def test_blocks_without_their_array_or_digests_count_for_nothing(folder, name, how):
    finish(kernel(folder, 4))
    if name.endswith("json") and how == "flipped":
        (folder / name).write_text((folder / name).read_text().replace("float64", "float32"))
    else:
        damage(folder / name, how)
    with pytest.warns(UserWarning, match="lost or damaged: all blocks are computed again"):
        store = kernel(folder, 4)
    assert os.listdir(folder / "done") == []
    assert len(finish(store)) == 3
    right(store)


@pytest.mark.parametrize(("shape", "tail"), [((3, 3), (3, 3)), ((4, 4), (3, 2)), ((4, 4), ()), ((4,), ())])
def test_an_array_of_another_shape_counts_for_nothing(folder, shape, tail):
    finish(kernel(folder, 4))
    path = folder / "kernel.zarr"
    block_store._zarr(path, np.dtype(float), (2,) * len(shape) + tail, create=True, delete_existing=True, shape=shape + tail).result()
    with pytest.warns(UserWarning, match="all blocks are computed again"):
        store = kernel(folder, 4)
    finish(store)
    right(store)


def test_lost_marks_are_computed_again_and_stray_files_are_no_marks(folder):
    finish(kernel(folder, 4))
    (folder / "done" / "0-2_2-4").unlink()
    for name in ("0-1", ".nfs0001", "0-4_0-4.bak", "a-b_c-d", f"0-{'9' * 30}_0-4"):
        (folder / "done" / name).touch()
    store = kernel(folder, 4)
    assert finish(store) == [(slice(0, 2), slice(2, 4))]
    right(store)


def test_marks_beyond_the_array_count_for_nothing(folder):
    finish(kernel(folder, 4))
    (folder / "done" / "0-99_0-99").touch()
    with pytest.warns(UserWarning, match="all blocks are computed again"):
        store = kernel(folder, 4)
    assert len(finish(store)) == 3


def test_a_cut_while_room_is_made_loses_nothing(folder, monkeypatch):
    finish(kernel(folder, 4))

    def cut(*_):
        raise KeyboardInterrupt

    for name in ("write_atomically", "_coverage"):
        with monkeypatch.context() as patch:
            patch.setattr(block_store, name, cut)
            with pytest.raises(KeyboardInterrupt):
                kernel(folder, 8)
        assert finish(kernel(folder, 4)) == []
    store = kernel(folder)
    assert len(finish(store)) == 7
    right(store)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "kernel"):
        with pytest.raises(DataError, match=r"The folder '.*' cannot hold the kernel: .*(File exists|Not a directory).* Try: "):
            kernel(folder)


def test_a_small_disk_is_said_at_once(folder, monkeypatch):
    finish(kernel(folder, 4))
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=48 * 9 * 8 - 1))
    assert finish(kernel(folder, 4)) == []
    with pytest.raises(DataError, match=FULL_DISK):
        kernel(folder, 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=48 * 9 * 8))
    assert len(finish(kernel(folder, 8))) == 7
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    right(kernel(folder, 8))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_does_not_take_marks_or_descriptions_is_named(folder, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    store = kernel(folder, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        with pytest.raises(DataError, match=f"cannot hold the kernel: .*{os.strerror(code)}.* Try: "):
            finish(store)
    finish(kernel(folder, 4))
    with monkeypatch.context() as patch:
        patch.setattr(block_store, "write_atomically", refuse)
        right(kernel(folder, 3))
        with pytest.raises(DataError, match=os.strerror(code)):
            kernel(folder, 8)
    right(kernel(folder, 4))


def run(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_loses_and_corrupts_nothing(folder):
    """The largest size of a file stands for the size of the disk."""
    code = f"""
        import runpy, resource
        made = runpy.run_path({__file__!r})
        folder, slices = made["Path"]({str(folder)!r}), (slice(0, 3), slice(2, 4))
        store = made["kernel"](folder, 4, 4)
        store.write(made["FULL"][:2, :2], slice(0, 2), slice(0, 2))
        said = []
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        for attempt in (lambda: store.write(made["FULL"][slices], *slices), lambda: made["kernel"](folder, 12, 2)):
            try:
                attempt()
            except made["DataError"] as error:
                said.append(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(*said, sep="\\n")
    """
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert [line.partition("cannot hold the kernel: ")[2] != "" and "File too large" in line for line in done.stdout.splitlines()] == [True, True]
    assert os.listdir(folder / "done") == ["0-2_0-2"]
    store = kernel(folder, 4)
    assert len(finish(store)) == 2
    right(store)
    assert not [path for path in folder.rglob("*") if path.suffix in (".tmp", ".__lock")]


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="no users")
def test_a_read_only_folder_gives_what_is_finished():
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "kernel")
        finish(kernel(folder, 4))
        for path in (folder.parent, *folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        code = f"""
            import os, runpy
            made = runpy.run_path({__file__!r})
            import tensorstore
            if os.geteuid() == 0:
                os.seteuid(65534)
            folder = made["Path"]({str(folder)!r})
            for n in (3, 4):
                made["right"](made["kernel"](folder, n))
            try:
                made["kernel"](folder, 8)
            except made["DataError"] as error:
                print(error)
        """
        done = run(code)
        for path in (folder.parent, folder, *(path for path in folder.rglob("*") if path.is_dir())):
            path.chmod(0o755)
        assert done.returncode == 0, done.stderr
        assert "cannot hold the kernel" in done.stdout
        assert "Permission denied" in done.stdout


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int32"])
def test_numbers_keep_their_type(folder, dtype):
    dtype = np.dtype(__import__("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    values = (10 * FULL).astype(dtype)
    store = kernel(folder, dtype=dtype)
    finish(store, values)
    assert store.result().dtype == dtype
    right(store, values)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_numbers_that_equal_the_empty_array_are_there(folder, value):
    store = kernel(folder, 4)
    finish(store, np.full_like(FULL, value))
    right(kernel(folder, 4), np.full_like(FULL, value))


@pytest.mark.parametrize(
    ("n", "block", "tail", "chunks"),
    [(12, 512, (), [32]), (12, 20, (), [16]), (100, 512, (), [128]), (3000, 512, (), [512]), (3000, 300, (), [256]), (600, 512, (10, 10), [128])],
)
def test_length_of_chunks(folder, n, block, tail, chunks):
    digests = np.zeros((n, 16), np.uint8)
    kernel(folder, n, block, digests=digests, tail=tail)
    described = json.loads((folder / "kernel.zarr" / "zarr.json").read_text())
    assert described["chunk_grid"]["configuration"]["chunk_shape"] == [*chunks * 2, *tail]
    assert [codec["name"] for codec in described["codecs"]] == ["bytes", "crc32c"]


@pytest.mark.nightly
def test_the_package_does_not_load_the_library():
    assert run("import sys, ntk_select, ntk_select.kernels.engine.store; assert 'tensorstore' not in sys.modules").returncode == 0
