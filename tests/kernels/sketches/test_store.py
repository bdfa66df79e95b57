"""A sketch on disk equals the one in memory, and never holds a row that was not computed for it."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, DataError, ModelError
from ntk_select.kernels.engine import store
from ntk_select.kernels.sketches import execute
from ntk_select.kernels.sketches.hashing import SCHEME
from ntk_select.kernels.sketches.projection import ALL_KINDS

C, DIM = 2, 16


def network(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["v"]


def twice(params, x):
    return 2 * network(params, x)


_draw = np.random.default_rng(0).normal
PARAMS = {"w": _draw(size=(3, 4)), "v": _draw(size=(4, C))}
X = _draw(size=(8, 3))
OWN = _draw(size=(8, C))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sketch"


@pytest.fixture
def computed(monkeypatch):
    """The numbers of the examples whose rows were computed, batch by batch."""
    everything("trace"), everything("full")
    batches, rows = [], execute.Batches.rows

    def watch(self, start, stop, together):
        found = rows(self, start, stop, together)
        batches.append(list(range(start, stop)))
        return found

    monkeypatch.setattr(execute.Batches, "rows", watch)
    return batches


def on_disk(folder, n=8, x=X, fn=network, params=PARAMS, batch_size=2, **options):
    return ns.sketch(fn, params, x[:n], out=folder, **{"dim": DIM, "batch_size": batch_size} | options)


def in_memory(n=8, x=X, **options):
    return ns.sketch(network, PARAMS, x[:n], **{"dim": DIM} | options)


@functools.cache
def everything(outputs):
    return in_memory(outputs=outputs)


def right(rows, n=8, outputs="trace"):
    expected = everything(outputs)[:n]
    assert rows.shape == expected.shape
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-13)


def array_of(folder):
    """The array in the folder, by the library alone."""
    return store._zarr(folder / "sketch.zarr", np.dtype(np.float64)).result()


class Cut(BaseException):
    """The power fails."""


def cut_after(batches):
    left = iter(range(batches - 1))

    def progress(done, total, what):
        if next(left, None) is None:
            raise Cut

    return progress


def begun(folder, batches, n=8, **options):
    """Some batches of two examples, and then a cut."""
    with pytest.raises(Cut):
        on_disk(folder, n, progress=cut_after(batches), **options)


ON_DISK = [*((kind, "trace") for kind in ALL_KINDS), ("srht", "full"), ("jvp", "full"), ("countsketch", "sum")]
QUICK = (("kronecker", "trace"), ("jvp", "trace"), ("srht", "full"))


@pytest.mark.parametrize(("kind", "outputs"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.nightly) for case in ON_DISK])
def test_a_sketch_on_disk_is_the_one_in_memory(folder, kind, outputs):
    rows = on_disk(folder, kind=kind, outputs=outputs, seed=3)
    expected = in_memory(kind=kind, outputs=outputs, seed=3)
    assert rows.shape == expected.shape == ((8, C, DIM) if outputs == "full" else (8, DIM))
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-13)
    assert rows.dtype == np.float64
    assert isinstance(rows, store.StoredArray)
    with pytest.raises(TypeError):
        rows[0] = 0


def test_single_precision_keeps_its_type(folder):
    single, x = jax.tree.map(np.float32, PARAMS), X.astype(np.float32)
    rows = on_disk(folder, params=single, x=x)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, everything("trace"), rtol=1e-4, atol=1e-5)


def test_cotangents_of_the_examples_combine_the_rows_of_the_outputs(folder, computed):
    """Outputs that are kept apart share one projection, so that rows add up as the cotangents say."""
    expected = np.einsum("ick,ic->ik", everything("full"), OWN)
    np.testing.assert_allclose(on_disk(folder, 3, outputs=OWN[:3]), expected[:3], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(on_disk(folder, 4, outputs=OWN[:4]), expected[:4], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(on_disk(folder, outputs=OWN), expected, rtol=1e-11, atol=1e-12)
    assert computed == [[0, 1], [1, 2], [3], [4, 5], [6, 7]]
    other = OWN.copy()
    other[3] *= 2
    with pytest.raises(ConfigError, match=r"Example 3 of x, or its cotangents, is not the one whose sketch is in"):
        on_disk(folder, outputs=other)


def test_what_is_there_is_not_computed_again(folder, computed):
    first = np.array(on_disk(folder))
    assert computed == [[0, 1], [2, 3], [4, 5], [6, 7]]
    computed.clear()
    calls = []
    assert (on_disk(folder, progress=lambda *call: calls.append(call)) == first).all()
    assert computed == calls == []


def test_progress_counts_what_was_missing(folder):
    calls = []
    on_disk(folder, 4)
    on_disk(folder, progress=lambda *call: calls.append(call))
    assert calls == [(2, 4, "examples 4 to 6"), (4, 4, "examples 6 to 8")]


@pytest.mark.parametrize("batches", [2, pytest.param(1, marks=pytest.mark.nightly), pytest.param(3, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("countsketch", "full"), *(pytest.param(kind, "trace", marks=pytest.mark.nightly) for kind in ("countsketch", "jvp", "kronecker"))],
)
def test_interrupted_work_goes_on_where_it_stopped(folder, computed, batches, kind, outputs):
    begun(folder, batches, kind=kind, outputs=outputs)
    there = computed.copy()
    assert there == [[0, 1], [2, 3], [4, 5]][:batches]
    written = array_of(folder)[: 2 * batches].read().result()
    rows = on_disk(folder, kind=kind, outputs=outputs)
    assert computed == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert (rows[: 2 * batches] == written).all()
    np.testing.assert_allclose(rows, in_memory(kind=kind, outputs=outputs), rtol=1e-12, atol=1e-13)


def test_gaps_are_filled_each_on_its_own(folder, computed):
    """Marks that were taken away leave gaps; the other rows stay."""
    first = np.array(on_disk(folder))
    computed.clear()
    for name in ("2-4", "6-8"):
        (folder / "done" / name).unlink()
    for part in (slice(2, 4), slice(6, 8)):
        array_of(folder)[part].write(np.nan).result()
    rows = on_disk(folder, batch_size=5)
    assert computed == [[2, 3], [6, 7]]
    np.testing.assert_allclose(rows, first, rtol=1e-12, atol=1e-13)


def test_more_examples_cost_only_the_new_rows(folder, computed):
    first = np.array(on_disk(folder, 3))
    assert computed == [[0, 1], [1, 2]]
    computed.clear()
    second = np.array(on_disk(folder, 5))
    assert computed == [[3, 4]]
    third = on_disk(folder, 8)
    assert computed == [[3, 4], [5, 6], [6, 7]]
    right(third)
    assert (second[:3] == first).all()
    assert (third[:5] == second).all()


def test_fewer_examples_of_unfinished_work_are_computed_and_then_kept(folder, computed):
    begun(folder, 1)
    few = np.array(on_disk(folder, 5))
    right(few, 5)
    assert computed == [[0, 1], [2, 3], [3, 4]]
    whole = on_disk(folder)
    right(whole)
    assert (whole[:5] == few).all()
    assert computed[3:] == [[5, 6], [6, 7]]


def test_batches_of_another_size_may_finish_the_work(folder, computed):
    begun(folder, 1)
    right(on_disk(folder, batch_size=6))
    assert computed == [[0, 1], [2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, r"different: seed \(0 there, 1 now\)\)"),
        ({"kind": "rademacher"}, r"different: kind \('countsketch' there, 'rademacher' now\)\)"),
        ({"dim": 32}, r"different: dim \(16 there, 32 now\)\)"),
        ({"blocks": 2}, r"different: blocks \(1 there, 2 now\)\)"),
        ({"params": PARAMS | {"v": PARAMS["v"] + 1e-12}}, r"different: params\)"),
        ({"fn": twice}, r"different: fn\)"),
        ({"precision": "high"}, r"different: precision \('highest' there, 'high' now\)\)"),
        ({"outputs": "full"}, r"different: outputs \('trace of 2' there, 'full of 2' now\)\)"),
        ({"outputs": "sum"}, r"different: outputs \('trace of 2' there, 'trace of 1' now\)\)"),
        ({"layers": "w"}, r"different: layers\)"),
        ({"x": X.astype(np.float32)}, r"different: x1 \('float64\[3\]' there, 'float32\[3\]' now\)\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_sketch_of_something_else_is_refused(folder, change, difference):
    first = np.array(on_disk(folder, 4))
    with pytest.raises(ConfigError, match=rf"holds a sketch of something else \({difference}\. Try: out= another folder"):
        on_disk(folder, 4, **change)
    assert (on_disk(folder, 4) == first).all()


def test_another_example_before_new_ones_is_refused(folder):
    on_disk(folder, 4)
    other = X.copy()
    other[2] += 1e-9
    with pytest.raises(ConfigError, match=r"Example 2 of x, or its cotangents, is not the one whose sketch .* may only follow the same ones"):
        on_disk(folder, x=other)
    with pytest.raises(ConfigError, match="Example 0 of x, or its cotangents"):
        on_disk(folder, 1, x=X[::-1])
    right(on_disk(folder))


@pytest.mark.parametrize("name", ["sketch.zarr/zarr.json", "examples_x.sha256", "sketch.zarr/c/*/*"])
def test_marks_without_their_numbers_count_for_nothing(folder, computed, name):
    on_disk(folder, 4)
    for file in list(folder.glob(name)):
        file.write_bytes(file.read_bytes()[:-1])
    computed.clear()
    with pytest.warns(UserWarning, match=r"The sketch or its digests in .* are lost or damaged: all blocks are computed again"):
        rows = on_disk(folder, 4)
    right(rows, 4)
    assert computed == [[0, 1], [2, 3]]


def test_the_description_says_how_the_random_numbers_were_made(folder):
    on_disk(folder, 2, seed=np.int64(5), kind="srht", blocks=np.int64(2))
    card = json.loads((folder / "sketch.json").read_text())
    assert {name: card[name] for name in ("scheme", "kind", "dim", "blocks", "seed", "precision")} == {
        "scheme": SCHEME,
        "kind": "srht",
        "dim": DIM,
        "blocks": 2,
        "seed": 5,
        "precision": "highest",
    }
    assert card["layers"] == ["v", "w"]


@pytest.mark.parametrize("name", ["scheme", "layout"])
def test_numbers_of_another_scheme_or_layout_are_refused(folder, name):
    on_disk(folder, 4)
    card = folder / "sketch.json"
    written = json.loads(card.read_text())
    card.write_text(json.dumps(written | {name: 0}))
    with pytest.raises(ConfigError, match=rf"different: {name} \(0 there, {written[name]} now\)"):
        on_disk(folder, 4)


def test_a_folder_holds_a_kernel_or_a_sketch(tmp_path):
    ns.ntk(network, PARAMS, X[:2], out=tmp_path / "kernel")
    with pytest.raises(ConfigError, match=r"holds files but no sketch.json"):
        on_disk(tmp_path / "kernel", 2)
    on_disk(tmp_path / "sketch", 2)
    with pytest.raises(ConfigError, match=r"holds files but no kernel.json"):
        ns.ntk(network, PARAMS, X[:2], out=tmp_path / "sketch")


@pytest.mark.nightly
@pytest.mark.parametrize("batch_size", [2, 8])
def test_a_sketch_that_vanishes_under_the_work_is_named(folder, batch_size):
    """Before the next rows are written, or after the last ones."""
    with pytest.raises(DataError, match="cannot hold the sketch: .*zarr.json.* does not exist"):
        on_disk(folder, progress=lambda *_: shutil.rmtree(folder / "sketch.zarr", ignore_errors=True), batch_size=batch_size)


@pytest.mark.parametrize("kind", ["countsketch", "jvp"])
def test_examples_that_are_not_finite_are_named_by_their_place_among_all(folder, kind):
    faulty = X.copy()
    faulty[6] = np.inf
    on_disk(folder, 4, kind=kind)
    with pytest.raises(ModelError, match="contains NaN or infinity at example 6"):
        on_disk(folder, x=faulty, kind=kind)
    np.testing.assert_allclose(on_disk(folder, kind=kind), in_memory(kind=kind), rtol=1e-12, atol=1e-13)


def test_a_path_may_be_text(folder):
    right(on_disk(str(folder)))
