"""A kernel on disk equals the one in memory, and never holds a number that was not computed for it."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError
from ntk_select.kernels.engine import store
from ntk_select.kernels.engine.analyse import analyse
from ntk_select.kernels.engine.digest import digest_of_function, digest_of_params

C = 2


def network(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["v"]


def twice(params, x):
    return 2 * network(params, x)


_draw = np.random.default_rng(0).normal
PARAMS = {"w": _draw(size=(3, 4)), "v": _draw(size=(4, C))}
X, Z = _draw(size=(8, 3)), _draw(size=(4, 3))
OWN = _draw(size=(8, C))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kernel"


@pytest.fixture
def written(monkeypatch):
    """The tiles that were written, in examples: (first row, last + 1, first column, last + 1)."""
    tiles, write = [], store.BlockStore.write

    def watch(self, block, rows, columns):
        write(self, block, rows, columns)
        tiles.append((rows.start, rows.stop, columns.start, columns.stop))

    monkeypatch.setattr(store.BlockStore, "write", watch)
    return tiles


def on_disk(folder, n=8, x2=None, tile=2, fn=network, params=PARAMS, x=X, **options):
    return ns.ntk(fn, params, x[:n], x2, out=folder, tile=tile, **options)


def close(kernel, expected):
    assert kernel.shape == expected.shape
    np.testing.assert_allclose(kernel, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@functools.cache
def everything():
    """The full kernel of all examples, in memory; every other one is a part of it."""
    return ns.ntk(network, PARAMS, np.concatenate([X, Z]), outputs="full")


def right(kernel, n=8, x2=None, outputs="trace"):
    full = everything()[:n, :n] if x2 is None else everything()[:n, 8 : 8 + len(x2)]
    if isinstance(outputs, np.ndarray):
        close(kernel, np.einsum("ijab,ia,jb->ij", full, outputs, outputs))
        return
    diagonal = np.diagonal(full, axis1=2, axis2=3)
    close(kernel, {"full": full, "diagonal": diagonal, "trace": diagonal.mean(-1), "sum": full.sum((2, 3))}[outputs])


class Cut(BaseException):
    """The power fails."""


def cut_after(portions):
    def progress(done, total, what):
        if done > portions:
            raise Cut

    return progress


def begun(folder, portions, n=8, **options):
    with pytest.raises(Cut):
        on_disk(folder, n, progress=cut_after(portions), **options)


@pytest.mark.parametrize(("x2", "tiles"), [(None, 3), (Z, 4)])
@pytest.mark.parametrize("word", ["trace", "full", *(pytest.param(word, marks=pytest.mark.nightly) for word in ("diagonal", "sum"))])
def test_a_kernel_on_disk_is_the_one_in_memory(folder, written, word, x2, tiles):
    kernel = on_disk(folder, 4, x2, outputs=word)
    right(kernel, 4, x2, outputs=word)
    assert len(written) == tiles
    assert isinstance(kernel, store.StoredArray)
    with pytest.raises(TypeError):
        kernel[0] = 0
    if x2 is None:
        kernel = np.asarray(kernel)
        assert (kernel == (kernel.transpose(1, 0, 3, 2) if word == "full" else kernel.swapaxes(0, 1))).all()


def test_float64_sums_and_single_precision_keep_their_types(folder, tmp_path):
    single = jax.tree.map(np.float32, PARAMS)
    assert on_disk(folder, 4, params=single, x=X.astype(np.float32)).dtype == np.float32
    kernel = on_disk(tmp_path / "double", 4, params=single, x=X.astype(np.float32), accumulate="float64")
    assert kernel.dtype == np.float64
    np.testing.assert_allclose(kernel, np.diagonal(everything()[:4, :4], axis1=2, axis2=3).mean(-1), rtol=1e-5, atol=1e-5)


def test_what_is_there_is_not_computed_again(folder, written):
    first = np.array(on_disk(folder))
    assert len(written) == 10
    written.clear()
    assert (on_disk(folder) == first).all()
    assert written == []


@pytest.mark.parametrize("portions", [1, *(pytest.param(portions, marks=pytest.mark.nightly) for portions in (0, 5, 9))])
def test_interrupted_work_goes_on_where_it_stopped(folder, written, portions):
    begun(folder, portions)
    before = [*written]
    assert len(before) == portions
    right(on_disk(folder))
    assert len(written) == 10
    assert len(set(written)) == 10


@pytest.mark.parametrize("x2", [None, pytest.param(Z, marks=pytest.mark.nightly)])
def test_more_examples_cost_only_the_new_tiles(folder, written, x2):
    """3 examples leave a short tile, which stays."""
    first = np.array(on_disk(folder, 3, x2))
    assert max(tile[1] for tile in written) == 3
    written.clear()
    second = np.array(on_disk(folder, 5, x2))
    right(second, 5, x2)
    assert (second[:3, : first.shape[1]] == first).all()
    third = on_disk(folder, 7, x2)
    right(third, 7, x2)
    assert (third[:5, : second.shape[1]] == second).all()
    assert len(set(written)) == len(written)
    assert min(tile[0] for tile in written) == 3


def test_a_rectangle_grows_on_both_sides(folder):
    first = np.array(on_disk(folder, 2, Z[:2], outputs="full"))
    second = on_disk(folder, 4, Z, outputs="full")
    right(second, 4, Z, outputs="full")
    assert (second[:2, :2] == first).all()
    right(on_disk(folder, 6, Z[:1], outputs="full"), 6, Z[:1], outputs="full")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"params": PARAMS | {"v": PARAMS["v"] + 1e-12}}, r"different: params\)"),
        ({"fn": twice}, r"different: fn\)"),
        ({"precision": "high"}, r"different: precision \('highest' there, 'high' now\)\)"),
        ({"accumulate": "float64"}, r"different: accumulate \(None there, 'float64' now\)\)"),
        ({"outputs": "full"}, r"different: outputs \('trace of 2' there, 'full of 2' now\)\)"),
        ({"outputs": "sum"}, r"different: outputs \('trace of 2' there, 'trace of 1' now\)\)"),
        ({"layers": "w"}, r"different: layers\)"),
        ({"x2": Z}, r"different: x2 \(False there, True now\)\)"),
        ({"x": X.astype(np.float32)}, r"different: x1 \('float64\[3\]' there, 'float32\[3\]' now\)\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_kernel_of_something_else_is_refused(folder, change, difference):
    first = np.array(on_disk(folder, 4))
    with pytest.raises(ConfigError, match=rf"holds a kernel of something else \({difference}\. Try: out= another folder"):
        on_disk(folder, 4, **change)
    assert (on_disk(folder, 4) == first).all()


def test_another_example_before_new_ones_is_refused(folder):
    on_disk(folder, 4)
    other = X.copy()
    other[2] += 1e-9
    with pytest.raises(ConfigError, match=r"Example 2 of x1, or its cotangents, is not the one whose kernel .* may only follow the same ones"):
        on_disk(folder, 8, x=other)
    with pytest.raises(ConfigError, match="Example 0 of x1"):
        on_disk(folder, 1, x=X[::-1])
    right(on_disk(folder, 8))


def test_another_example_of_x2_is_refused(folder):
    on_disk(folder, 4, Z[:2])
    with pytest.raises(ConfigError, match="Example 1 of x2"):
        on_disk(folder, 4, Z[[0, 2]])


def test_cotangents_belong_to_their_examples(folder, written):
    on_disk(folder, 1, outputs=OWN[:1])
    on_disk(folder, 3, outputs=OWN[:3])
    right(on_disk(folder, 5, outputs=OWN[:5]), 5, outputs=OWN[:5])
    assert len(set(written)) == len(written)
    other = OWN.copy()
    other[3] *= 2
    with pytest.raises(ConfigError, match=r"Example 3 of x1, or its cotangents"):
        on_disk(folder, 8, outputs=other)
    with pytest.raises(ConfigError, match=r"Example 0 of x1, or its cotangents"):
        on_disk(folder, 8, outputs=OWN[0] + 1)


@pytest.mark.parametrize("name", ["kernel.zarr/zarr.json", "examples_x1.sha256", "kernel.zarr/c/*/*"])
def test_marks_without_their_numbers_count_for_nothing(folder, written, name):
    on_disk(folder, 4)
    for file in list(folder.glob(name)):
        file.write_bytes(file.read_bytes()[:-1])
    written.clear()
    with pytest.warns(UserWarning, match=r"are lost or damaged: all blocks are computed again"):
        kernel = on_disk(folder, 4)
    right(kernel, 4)
    assert len(written) == 3


@pytest.mark.nightly
def test_a_cut_before_the_first_kernel_is_there_leaves_a_folder_that_can_begin(folder, monkeypatch):
    def cut(*_, **__):
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(store, "_zarr", cut)
        with pytest.raises(Cut):
            on_disk(folder)
    assert (folder / "kernel.json").exists()
    right(on_disk(folder))


@pytest.mark.parametrize("tile", [0, -1, 2.0, "4", True])
def test_a_tile_is_a_positive_number(folder, tile):
    with pytest.raises(ConfigError, match=rf"tile={tile!r} must be a positive number of examples"):
        on_disk(folder, tile=tile)


TABLE = np.arange(3000.0) / 7
VARIED = {"w": np.ones((3, 3)), "shift": np.zeros(3, np.float32), "key": jax.random.key(0), "size": 2}


def model(constant=3.0, slope=2.0, table=TABLE, exponent=2):
    """Derivative rules of its own, and constants in every kind of inner function."""
    scale = np.array([1.0, 2.0, constant])

    @jax.custom_jvp
    def scaled(x):
        return x * scale

    @jax.custom_vjp
    def raised(x):
        return x**exponent

    scaled.defjvp(lambda primals, tangents: (scaled(*primals), tangents[0] * slope))
    raised.defvjp(lambda x: (x**exponent, x), lambda x, g: (g * x * slope,))

    def fn(params, x):
        y = raised(scaled(jax.nn.relu(x @ params["w"] + params["shift"])))
        y = jax.jit(lambda y: y * scale)(y)
        y = jax.checkpoint(lambda y: jnp.sin(y * scale))(y)
        y = jax.lax.scan(lambda carry, _: (jnp.tanh(carry * scale), None), y, None, length=3)[0]
        y = jax.lax.cond(y.sum() > 0, lambda y: y * scale, lambda y: y, y)
        return y * jnp.asarray(table).mean()

    return fn


def digest_of(fn, layers="w"):
    with jax.default_matmul_precision("highest"):
        return digest_of_function(analyse(fn, VARIED, np.zeros((1, 3)), layers))


@pytest.fixture(scope="module")
def digest():
    return digest_of(model())


def test_a_function_has_the_same_digest_in_another_process(digest):
    code = f"import runpy; made = runpy.run_path({__file__!r}); print(made['digest_of'](made['model']()), made['digest_of_params'](made['VARIED']))"
    environment = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONHASHSEED": "7", "JAX_PPRINT_USE_COLOR": "0", "COLUMNS": "40"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest, digest_of_params(VARIED)]


def test_the_same_function_made_again_has_the_same_digest(digest):
    assert digest_of(model()) == digest


@pytest.mark.parametrize(
    "change",
    [
        {"constant": np.nextafter(3.0, 4)},
        {"slope": np.nextafter(2.0, 3)},
        {"table": TABLE + np.where(np.arange(3000) == 1500, 1e-9, 0)},
        {"table": TABLE.astype(np.float32)},
        {"exponent": 3},
    ],
    ids=["scale", "rule", "large table", "type", "setting"],
)
def test_every_constant_and_every_rule_is_part_of_a_function(digest, change):
    assert digest_of(model(**change)) != digest


def test_other_layers_have_other_gradients(digest):
    assert digest_of(model(), "w|shift") != digest


@pytest.mark.parametrize(
    "change",
    [
        {"w": np.nextafter(VARIED["w"], 2)},
        {"w": np.ones((9, 1))},
        {"shift": np.zeros(3)},
        {"shift": -VARIED["shift"]},
        {"key": jax.random.key(1)},
        {"size": 3},
        {"more": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_number_of_every_leaf_is_part_of_the_params(change):
    assert digest_of_params(VARIED | change) != digest_of_params(VARIED)
