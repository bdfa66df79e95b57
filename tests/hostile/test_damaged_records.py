"""Results, checkpoints and kernels with flipped bits on disk are rejected by name."""

import json
import shutil

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntk_select import ntk, sketch
from ntk_select._runtime.cache import Cache, key_of
from ntk_select.benchmark import Store
from ntk_select.benchmark.cells import Cell
from ntk_select.benchmark.status import status
from ntk_select.errors import ConfigError, DataError
from ntk_select.training.checkpoints import Checkpoints
from ntk_select.training.loop import begin, sgd


def cell(number: int) -> Cell:
    return Cell("score", f"expert{number}", "birds", 5, number)


@pytest.fixture
def bench(tmp_path):
    store = Store(tmp_path / "bench")
    store.put_manifest({"name": "bench"}, [cell(0), cell(1)])
    for number in (0, 1):
        store.put(cell(number), [{"key": cell(number).key, "expert": f"expert{number}", "value": number / 3, "score": "lfc"}])
    return store


def rewritten(change):
    def put(store):
        file = store.folder / "cells.parquet"
        pq.write_table(change(pq.read_table(file)), file)

    return put


def manifest(text):
    return lambda store: (store.folder / "bench.json").write_text(text)


def note(folder, text):
    def put(store):
        (store.folder / folder).mkdir(exist_ok=True)
        (store.folder / folder / "x.json").write_text(text)

    return put


ANEW = r"Try: delete it, and run the benchmark again"
BENCH = {
    "no bytes": (manifest(""), r"bench\.json cannot be read: Expecting value.*" + ANEW),
    "a list": (manifest("[]"), r"bench\.json cannot be read: it is not an object with the fields name\. " + ANEW),
    "no name": (manifest("{}"), r"bench\.json cannot be read: it is not an object with the fields name\. " + ANEW),
    "nested without end": (manifest("[" * 100_000), r"bench\.json cannot be read: maximum recursion depth.*" + ANEW),
    "cells of no bytes": (lambda store: (store.folder / "cells.parquet").write_bytes(b""), r"cells\.parquet is damaged .*" + ANEW),
    "cells without keys": (rewritten(lambda table: table.drop_columns(["key"])), r"cells\.parquet is damaged \(there is no column 'key'\)\. " + ANEW),
    "cells without settings": (
        rewritten(lambda table: table.drop_columns(["settings"])),
        r"cells\.parquet is not a list of cells \(KeyError: 'settings'\)\. " + ANEW,
    ),
    "cells with more": (rewritten(lambda table: table.append_column("x", table["key"])), r"is not a list of cells \(TypeError: .*'x'\)\. " + ANEW),
    "settings that are no JSON": (
        rewritten(lambda table: table.drop_columns(["settings"]).append_column("settings", pa.array(["["] * 2))),
        r"is not a list of cells \(JSONDecodeError.*" + ANEW,
    ),
    "a runner's note": (
        note("running", "[]"),
        r"running/x\.json cannot be read: it is not an object with the fields host, pid, began, beat\. " + ANEW,
    ),
    "a failure": (note("failures", "[]"), r"failures/x\.json cannot be read: it is not an object\. " + ANEW),
}


@pytest.mark.parametrize("case", BENCH)
def test_a_damaged_benchmark_is_named(bench, case):
    damage, sentence = BENCH[case]
    damage(bench)
    with pytest.raises(DataError, match=sentence):
        status(bench.folder)


def test_no_turned_bit_changes_a_number_of_a_record(bench):
    file, sound = bench.record_file(cell(1)), bench.read("score", [cell(1).key]).to_pylist()
    content = file.read_bytes()
    noticed = 0
    for place in range(0, len(content), 9):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            (found,) = bench.read("score", [cell(1).key]).to_pylist()
        except DataError as error:
            assert file.name in str(error)  # noqa: PT017 - many places are in nobody's way
            noticed += 1
        else:
            assert {value if isinstance(value, str | float | None) else value.decode() for value in found.values()} <= {*sound[0].values(), None}
    assert noticed > len(content) / 18


def test_a_record_under_the_name_of_another_is_named(bench):
    shutil.copy(bench.record_file(cell(0)), bench.record_file(cell(1)))
    with pytest.raises(DataError, match=rf"The record .*{cell(1).key}\.parquet is that of another cell\. {ANEW}"):
        bench.read("score")


def fresh():
    return begin({"params": {"a": np.random.default_rng(1).normal(size=(20, 30))}, "batch_stats": {"mean": np.zeros(4)}}, sgd())


@pytest.fixture
def kept(tmp_path):
    with Checkpoints(tmp_path / "kept", "mine", (), every_seconds=0) as checkpoints:
        checkpoints.save(2, fresh(), {"losses": [1.0, 0.5]})
    return tmp_path / "kept"


def resumed(folder):
    with Checkpoints(folder, "mine", ()) as checkpoints:
        return checkpoints.latest(fresh())


def test_a_training_goes_on_from_what_was_kept(kept):
    epoch, state, notes = resumed(kept)
    assert (epoch, notes) == (2, {"losses": [1.0, 0.5]})
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(fresh()), strict=True):
        np.testing.assert_array_equal(found, expected)


REFUSED = r"The checkpoint .*mine-[0-9a-f]{16}/2 cannot be read \(.*\)\. Try: delete the folder to start again"


def test_a_turned_bit_in_the_weights_of_a_training_is_noticed(kept):
    largest = max((path for path in kept.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)
    with pytest.raises(ConfigError, match=REFUSED):
        resumed(kept)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"notes": {"losses": [1.0, 0.25]}, "sha256": "%s"}', "[" * 100_000], ids=["cut", "list", "none", "other", "deep"]
)
def test_changed_notes_of_a_training_are_noticed(kept, text):
    (file,) = kept.glob("*/2/notes/metadata")
    file.write_text(text.replace("%s", json.loads(file.read_text())["sha256"]))
    with pytest.raises(ConfigError, match=REFUSED):
        resumed(kept)


@pytest.mark.parametrize("make", [ntk, sketch])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, r"json' is not a description of a (kernel|sketch): maximum recursion depth.*Try: out= another folder"),
        ("null", r"json' is not a description of a (kernel|sketch): .*Try: out= another folder"),
        (None, r"The folder '.*' cannot hold the (kernel|sketch): .*Is a directory"),
    ],
    ids=["nested", "null", "a folder"],
)
def test_a_folder_of_a_kernel_that_is_damaged_is_named(tmp_path, make, text, sentence):
    described = tmp_path / f"{'kernel' if make is ntk else 'sketch'}.json"
    described.mkdir() if text is None else described.write_text(text)
    with pytest.raises(DataError, match=sentence):
        make(lambda params, x: x @ params, np.ones((3, 2)), np.ones((4, 3)), out=tmp_path, **({} if make is ntk else {"dim": 8, "seed": 0}))


def test_a_file_of_the_cache_that_holds_something_else_counts_as_absent_and_is_replaced(tmp_path):
    cache, key = Cache(tmp_path), key_of("a")
    cache.put(key, {"a": np.arange(3)})
    (file,) = tmp_path.glob("*/*.npz")
    sound = file.read_bytes()
    np.savez(file, b=np.arange(3))
    another = file.read_bytes()
    for content in (another, sound.replace(b"(3,)", b"(9,)"), sound.replace(b"<i8", b"|O8")):
        file.write_bytes(content)
        assert cache.get(key) is None
    cache.put(key, {"a": np.arange(4)})
    assert cache.get(key)["a"].tolist() == [0, 1, 2, 3]


def test_a_folder_in_the_place_of_a_file_of_the_cache_costs_no_result(tmp_path):
    cache, key = Cache(tmp_path), key_of("a")
    (tmp_path / key[:2] / f"{key}.npz").mkdir(parents=True)
    assert cache.get(key) is None
    cache.put(key, {"a": np.arange(4)})
    assert "cannot be written (Is a directory)" in cache.trouble
