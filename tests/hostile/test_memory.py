"""When memory runs out half way, the work goes on in smaller portions, and says so."""

import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_select as ns
from ntk_select._runtime.memory import free_memory, is_out_of_memory
from ntk_select.errors import ConfigError, MemoryShrunkWarning
from ntk_select.experts import forward as forward_module
from ntk_select.kernels.engine import execute
from ntk_select.kernels.sketches import execute as sketching

N = 12
W = np.random.default_rng(0).normal(size=(5, 3))
X = np.random.default_rng(1).normal(size=(N, 5))
pytestmark = pytest.mark.usefixtures("quickly")
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 4000000000 bytes."


def fn(params, x):
    return jnp.tanh(x @ params["w"])


def kernel_by_hand(x1=X, x2=X):
    d1, d2 = 1 - np.tanh(x1 @ W) ** 2, 1 - np.tanh(x2 @ W) ** 2
    return (x1 @ x2.T) * (d1 @ d2.T) / 3


def exhausted(*_, **__):
    raise jax.errors.JaxRuntimeError(OUT_OF_MEMORY)


def watch_tiles(monkeypatch, check):
    """Calls check(shape) whenever a tile is begun."""
    at_once, tile = execute._one_program, execute._tile

    def one_program(sides, *rest):
        check(sides.shape(0, 0))
        return at_once(sides, *rest)

    def one_tile(sides, contractions, i, j, *rest):
        check(sides.shape(i, j))
        return tile(sides, contractions, i, j, *rest)

    monkeypatch.setattr(execute, "_one_program", one_program)
    monkeypatch.setattr(execute, "_tile", one_tile)


@pytest.fixture
def small_tiles(monkeypatch):
    """small_tiles(4): memory runs out with tiles of more than 4 rows; gives the list of the tiles that were begun."""

    def limit(most: int, *, error=lambda: jax.errors.JaxRuntimeError(OUT_OF_MEMORY)):
        begun = []

        def check(shape):
            begun.append(shape)
            if max(shape) > most:
                raise error()

        watch_tiles(monkeypatch, check)
        return begun

    return limit


@pytest.mark.parametrize("error", [lambda: jax.errors.JaxRuntimeError(OUT_OF_MEMORY), MemoryError], ids=["of XLA", "of Python"])
def test_the_kernel_is_the_same_when_memory_runs_out_with_larger_tiles(small_tiles, error):
    begun = small_tiles(3, error=error)
    with pytest.warns(MemoryShrunkWarning) as seen:
        kernel = ns.ntk(fn, {"w": W}, X)
    np.testing.assert_allclose(kernel, kernel_by_hand(), rtol=1e-12)
    assert [shape[0] for shape in begun[:3]] == [12, 6, 3]
    first, second = (str(each.message) for each in seen)
    assert first.startswith("Memory ran out with tiles of 12 examples (")
    assert first.endswith("). Continuing with tiles of 6.")
    assert second.endswith("). Continuing with tiles of 3.")


def test_a_symmetric_kernel_stays_symmetric_to_the_last_bit(small_tiles):
    small_tiles(5)
    mesh = jax.sharding.Mesh(jax.devices(), ("examples",))
    for options in ({}, {"mesh": mesh}):
        with pytest.warns(MemoryShrunkWarning):
            kernel = ns.ntk(fn, {"w": W.astype(np.float32)}, X.astype(np.float32), **options)
        assert kernel.dtype == np.float32
        assert (kernel == kernel.T).all()
        np.testing.assert_allclose(kernel, kernel_by_hand(), rtol=1e-4, atol=1e-5)


def test_both_sides_of_a_cross_kernel_shrink(small_tiles):
    small_tiles(5)
    with pytest.warns(MemoryShrunkWarning):
        kernel = ns.ntk(fn, {"w": W}, X, X[:7] + 1)
    np.testing.assert_allclose(kernel, kernel_by_hand(X, X[:7] + 1), rtol=1e-12)


def test_kernels_of_layers_shrink_together(small_tiles):
    small_tiles(6)
    with pytest.warns(MemoryShrunkWarning):
        found = ns.ntk(lambda params, x: fn(params, x) + params["b"], {"w": W, "b": np.zeros(3)}, X, by_layer=True)
    np.testing.assert_allclose(found["w"], kernel_by_hand(), rtol=1e-12)
    np.testing.assert_allclose(found["b"], np.ones((N, N)), rtol=1e-12)


def test_tiles_that_are_done_are_not_computed_again(monkeypatch, tmp_path):
    """On disk, with tiles of four: memory runs out once, at the fourth tile."""
    begun = []

    def check(shape):
        begun.append(shape)
        if len(begun) == 4:
            raise MemoryError

    watch_tiles(monkeypatch, check)
    with pytest.warns(MemoryShrunkWarning, match="tiles of 4 .* tiles of 2"):
        kernel = ns.ntk(fn, {"w": W}, X, out=tmp_path / "kernel", tile=4)
    np.testing.assert_allclose(kernel, kernel_by_hand(), rtol=1e-12)
    assert begun[:4] == [(4, 4)] * 4
    assert set(begun[4:]) == {(2, 2)}
    assert len(begun) == 4 + 11  # of the last four rows: three tiles of four make eleven of two
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = ns.ntk(fn, {"w": W}, X, out=tmp_path / "kernel")
    assert len(begun) == 15
    assert (np.asarray(again) == np.asarray(kernel)).all()


def test_where_single_examples_do_not_fit_a_sentence_says_what_to_do(monkeypatch):
    watch_tiles(monkeypatch, exhausted)
    with pytest.warns(MemoryShrunkWarning), pytest.raises(ConfigError, match=r"even with tiles of 1 example \(RESOURCE.*Try: .*layers="):
        ns.ntk(fn, {"w": W}, X)


def test_other_errors_of_the_engine_are_not_taken_for_want_of_memory(small_tiles):
    small_tiles(3, error=lambda: jax.errors.JaxRuntimeError("INTERNAL: something else"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        ns.ntk(fn, {"w": W}, X)
    assert not is_out_of_memory(RuntimeError(OUT_OF_MEMORY))
    assert is_out_of_memory(MemoryError())


def test_a_sketch_goes_on_with_fewer_examples_and_keeps_its_rows(monkeypatch, tmp_path):
    whole = ns.sketch(fn, {"w": W}, X, dim=64, batch_size=6)
    asked, rows = [], sketching.Batches.rows

    def limited(self, start, stop, together):
        asked.append(stop - start)
        if len(asked) > 1 and stop - start > 3:
            raise MemoryError
        return rows(self, start, stop, together)

    monkeypatch.setattr(sketching.Batches, "rows", limited)
    with pytest.warns(MemoryShrunkWarning, match="with 6 examples at a time .* Continuing with 3"):
        found = ns.sketch(fn, {"w": W}, X, dim=64, batch_size=6, out=tmp_path / "z")
    np.testing.assert_allclose(found, whole, rtol=1e-12)
    assert asked == [6, 6, 3, 3]
    monkeypatch.setattr(sketching.Batches, "rows", exhausted)
    with pytest.warns(MemoryShrunkWarning), pytest.raises(ConfigError, match="even with one example at a time .*a smaller dim="):
        ns.sketch(fn, {"w": W}, X, dim=64)


def test_forward_passes_go_on_with_smaller_batches():
    def limited(x):
        if len(x) > 3:
            raise MemoryError
        return jnp.asarray(2 * x)

    with pytest.warns(MemoryShrunkWarning, match="with 7 examples at a time .* Continuing with 3"):
        found = forward_module.in_batches(limited, 7, X)
    np.testing.assert_array_equal(found, 2 * X)
    with pytest.warns(MemoryShrunkWarning), pytest.raises(ConfigError, match="ran out with a single example in the network"):
        forward_module.in_batches(exhausted, 2, X)


def test_a_smaller_budget_makes_smaller_tiles_and_the_same_kernel():
    x = np.random.default_rng(2).normal(size=(40, 5))
    plans = [ns.ntk_plan(fn, {"w": W}, x, memory_gb=budget) for budget in (1, 3e-5)]
    assert plans[1].count_tiles() > plans[0].count_tiles() == 1
    assert plans[1].peak_bytes <= 3e-5 * 1e9
    np.testing.assert_allclose(ns.ntk(fn, {"w": W}, x, memory_gb=3e-5), kernel_by_hand(x, x), rtol=1e-12)


def test_a_budget_for_less_than_one_example_is_refused_with_the_smallest_that_works():
    with pytest.raises(ConfigError, match="Not even one example") as refused:
        ns.ntk(fn, {"w": W}, X, memory_gb=1e-9)
    enough = float(str(refused.value).partition("memory_gb=")[2].split()[0])
    np.testing.assert_allclose(ns.ntk(fn, {"w": W}, X, memory_gb=enough), kernel_by_hand(), rtol=1e-12)
    with pytest.raises(ConfigError, match="Not even one example"):
        ns.ntk(fn, {"w": W}, X, memory_gb=enough / 2)


def test_a_budget_that_no_machine_has_is_no_error():
    assert ns.ntk_plan(fn, {"w": W}, X, memory_gb=1e300).count_tiles() == 1


def proc(folder, *, available: int, cgroup: str = "") -> dict:
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:    {available // 1024} kB\n")
    (folder / "self" / "cgroup").write_text(cgroup)
    return {"proc": folder, "groups": folder / "groups"}


def group(folder, **files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_the_free_memory_is_what_the_control_group_leaves(tmp_path):
    machine = proc(tmp_path / "a", available=8 * 2**30)
    assert free_memory(**machine) == 8 * 2**30
    machine = proc(tmp_path / "b", available=8 * 2**30, cgroup="0::/user/job\n")
    group(tmp_path / "b/groups/user/job", memory__max="max", memory__current=2**30, memory__stat="inactive_file 0")
    group(tmp_path / "b/groups/user", memory__max=3 * 2**30, memory__current=2 * 2**30, memory__stat=f"anon 7\ninactive_file {2**29}")
    assert free_memory(**machine) == 2**30 + 2**29  # of the group above; files can be forgotten
    machine = proc(tmp_path / "c", available=8 * 2**30, cgroup="4:memory:/not/seen/here\n0::/\n3:cpu:/x\n")
    group(tmp_path / "c/groups/memory", memory__limit_in_bytes=2**28, memory__usage_in_bytes=2**27)
    assert free_memory(**machine) == 2**27
    group(tmp_path / "c/groups/memory", memory__limit_in_bytes=9223372036854771712)
    assert free_memory(**machine) == 8 * 2**30
    group(tmp_path / "c/groups/memory", memory__limit_in_bytes=2**26)
    assert free_memory(**machine) == 0  # it holds more already


LIMITED = """
    import resource, warnings
    import jax, jax.numpy as jnp, numpy as np
    import ntk_select as ns
    from ntk_select.kernels.engine.arguments import available_memory
    from ntk_select.errors import MemoryShrunkWarning

    def entering(x, xp):
        return xp.sin(x[:, None, :] * xp.arange(1, 241, dtype=np.float32)[:, None])

    def fn(params, x):
        return jnp.tanh(entering(x, jnp) @ params["w"]).sum((1, 2))[:, None]

    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(500, 400)).astype(np.float32) / 30, rng.normal(size=(300, 500)).astype(np.float32)
    rows = [(h.T @ (1 - np.tanh(h @ w) ** 2)).ravel() for h in (entering(one[None], np)[0] for one in x)]
    expected = np.array([[a @ b for b in rows] for a in rows])
    del rows
    options = {"space": "parameter", "batch_size": 4}
    ns.ntk(fn, {"w": w}, x[:8], **options)  # threads and libraries have their place

    def limit(more):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

    def check(**budget):
        kernel = ns.ntk(fn, {"w": w}, x, **budget, **options)
        np.testing.assert_allclose(kernel, expected, rtol=1e-3, atol=1e-3 * expected.max())

    limit(400_000_000)
    assert available_memory(None) <= 200_000_000
    plan = ns.ntk_plan(fn, {"w": w}, x, **options)
    assert plan.peak_bytes <= 200_000_000 and plan.count_tiles() > 1, plan
    assert ns.ntk_plan(fn, {"w": w}, x, memory_gb=100, **options).count_tiles() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check()
    limit(200_000_000)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check(memory_gb=100)
    print([str(each.message) for each in seen if each.category is MemoryShrunkWarning])
"""


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space")
def test_under_a_real_limit_the_default_fits_and_a_budget_that_lies_shrinks():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LIMITED)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Memory ran out with tiles of 300 examples" in done.stdout
