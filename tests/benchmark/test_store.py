"""A record is written whole or not at all, and pandas and DuckDB can read it."""

import errno
import os

import pytest

from ntk_select.benchmark import Store
from ntk_select.benchmark.cells import Cell
from ntk_select.errors import ConfigError, DataError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def cell(number: int, kind: str = "score", images: int | None = 5) -> Cell:
    return Cell(kind, f"expert{number}", "birds", images, number, settings={"shots": None, "rates": [0.1]})


def row(number: int, **others) -> dict:
    return {"key": cell(number).key, "expert": f"expert{number}", "value": number / 4, "unavailable": None} | others


def everything(folder) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_record_is_read_as_it_was_written(store):
    for number in range(3):
        store.put(cell(number), [row(number, score="lfc"), row(number, score="lgc", value=None, unavailable="no head")])
    assert store.done() == {cell(number).key for number in range(3)}
    rows = sorted(store.read("score").to_pylist(), key=lambda found: (found["expert"], found["score"]))
    assert rows == [row(n, **more) for n in range(3) for more in ({"score": "lfc"}, {"score": "lgc", "value": None, "unavailable": "no head"})]
    assert store.read("score", [cell(1).key]).to_pylist() == [found for found in rows if found["expert"] == "expert1"]
    assert store.read("score", [cell(1).key], ["key", "value"]).column_names == ["key", "value"]
    assert store.read("truth").num_rows == 0


def test_records_of_one_kind_are_separate_from_those_of_another(store):
    store.put(cell(1), [row(1)])
    store.put(cell(1, "truth"), [{"key": cell(1, "truth").key, "trials": [{"learning_rate": 0.1, "diverged": None}]}])
    store.put(cell(2, "truth"), [{"key": cell(2, "truth").key, "trials": [{"learning_rate": 0.2, "diverged": "it left all numbers"}]}])
    assert store.read("score").num_rows == 1
    assert {found["trials"][0]["diverged"] for found in store.read("truth").to_pylist()} == {None, "it left all numbers"}


@pytest.mark.parametrize("where", ["open", "fsync", "replace"])
def test_a_record_that_cannot_be_written_leaves_nothing_half_written(store, monkeypatch, where):
    store.put(cell(1), [row(1)])
    before = everything(store.folder)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("ntk_select._runtime.files.open" if where == "open" else f"ntk_select._runtime.files.os.{where}", full, raising=False)
        for number in (1, 2):
            with pytest.raises(OSError, match="No space left"):
                store.put(cell(number), [row(number, value=9.0)])
    assert everything(store.folder) == before
    assert store.done() == {cell(1).key}
    assert store.read("score").to_pylist() == [row(1)]


def test_an_unfinished_file_of_a_killed_run_is_not_a_record(store):
    store.put(cell(1), [row(1)])
    file = store.record_file(cell(2))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(f".{file.name}.123.tmp").write_bytes(b"PAR1")
    assert store.done() == {cell(1).key}
    assert store.read("score").num_rows == 1


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_record_is_named(store, keep):
    store.put(cell(1), [row(1)])
    file = store.record_file(cell(1))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"The record .*{cell(1).key}.parquet is damaged .*Try: delete it, and run the benchmark again"):
        store.read("score")


def test_a_record_with_a_damaged_byte_is_read_or_named(store):
    store.put(cell(1), [row(1)])
    file = store.record_file(cell(1))
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            store.read("score")
        except DataError as error:
            assert str(file) in str(error)  # noqa: PT017 - most places are noticed, not all


def test_duckdb_and_pandas_read_records_with_columns_that_are_empty_in_some(store):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    for number in range(12):
        known = number % 2
        images = None if number % 3 else 5
        store.put(cell(number), [row(number, value=0.5 if known else None, unavailable=None if known else "no head", images_per_class=images)])
    table = duckdb.sql(f"select expert, value, unavailable from read_parquet('{store.folder}/records/score/*/*.parquet') order by expert").fetchall()
    assert sorted(table) == sorted((f"expert{n}", 0.5 if n % 2 else None, None if n % 2 else "no head") for n in range(12))
    frame = pandas.read_parquet(store.folder / "records" / "score")
    assert (len(frame), frame["value"].notna().sum(), frame["images_per_class"].notna().sum()) == (12, 6, 4)
    assert set(store.read("score").to_pandas()["expert"]) == set(frame["expert"])


def test_duckdb_reads_nested_columns_that_are_empty_in_some(store):
    duckdb = pytest.importorskip("duckdb")
    for number, diverged in enumerate((None, "it left all numbers", None)):
        store.put(cell(number, "truth"), [{"key": cell(number, "truth").key, "trials": [{"learning_rate": 0.1, "diverged": diverged}]}])
    files = f"{store.folder}/records/truth/*/*.parquet"
    found = duckdb.sql(f"select trials[1].diverged from read_parquet('{files}', union_by_name = true)").fetchall()
    assert sorted(str(each[0]) for each in found) == ["None", "None", "it left all numbers"]


def test_a_failure_is_stored_until_the_cell_succeeds(store):
    store.put_failure(cell(1), "ModelError: no head", "Traceback ...")
    assert store.done() == set()
    (found,) = store.failures().values()
    assert (found["error"], found["trace"], found["expert"], found["task"]) == ("ModelError: no head", "Traceback ...", "expert1", "birds")
    assert list(store.failures()) == [cell(1).key]
    store.put(cell(1), [row(1)])
    assert store.failures() == {}
    assert store.done() == {cell(1).key}


def test_manifest_and_cells_are_read_as_they_were_written(store):
    cells = [cell(1), cell(2, images=None), Cell("truth", "ash", "birds", 5, 0, "search", {"recipe": {"epochs": 2}})]
    store.put_manifest({"name": "bench"}, cells)
    assert store.manifest() == {"name": "bench"}
    assert [found.key for found in store.cells()] == [each.key for each in cells]
    assert store.cells()[2].settings == {"recipe": {"epochs": 2}}


def test_packed_records_are_the_same_and_can_be_added_to(store, tmp_path):
    cells = [cell(number) for number in range(4)]
    store.put_manifest({"name": "bench"}, cells[:3])
    for number in range(4):
        store.put(cells[number], [row(number, score=score) for score in ("lgc", "lfc")])
    packed = store.pack(tmp_path / "packed")
    assert everything(packed.folder) == ["bench.json", "cells.parquet", "records/score.parquet"]
    assert packed.done() == {each.key for each in cells[:3]}
    assert packed.read("score", [cells[1].key]).num_rows == 2
    packed.put(cells[1], [row(1, score="lfc", value=7.0)])  # measured anew: what is alone counts
    assert packed.read("score").num_rows == 5
    assert packed.read("score", [cells[1].key])["value"].to_pylist() == [7.0]


def test_a_folder_without_a_benchmark_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"contains no benchmark .there is no bench.json.. Try: the folder of a run, or ntk-select bench run CONFIG --out"
    ):
        Store(tmp_path).manifest()
    with pytest.raises(ConfigError, match="contains no benchmark"):
        Store(tmp_path).cells()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file' contains no benchmark .it is a file."):
        Store(tmp_path / "file").manifest()
    with pytest.raises(ConfigError, match=r"my run' contains no benchmark .there is no such folder.*--out '.*my run'"):
        Store(tmp_path / "my run").manifest()


def test_a_benchmark_close_to_the_folder_is_named(tmp_path):
    Store(tmp_path / "runs" / "birds").put_manifest({"name": "bench"}, [cell(1)])
    (tmp_path / "runs" / "birds" / "report").mkdir()
    for wrong in ("runs", "runs/bird", "runs/birds/report"):
        with pytest.raises(ConfigError, match=r"contains no benchmark.*There is one in .*runs/birds. Try: that folder"):
            Store(tmp_path / wrong).manifest()


def test_a_damaged_file_of_a_benchmark_is_named(store):
    store.put_manifest({"name": "bench"}, [cell(1)])
    (store.folder / "bench.json").write_text("{")
    with pytest.raises(DataError, match="bench.json cannot be read: .*Try: delete it, and run the benchmark again"):
        store.manifest()
    store.put_failure(cell(1), "no head")
    store.failure_file(cell(1)).write_text("[")
    with pytest.raises(DataError, match=f"{cell(1).key}.json cannot be read"):
        store.failures()
