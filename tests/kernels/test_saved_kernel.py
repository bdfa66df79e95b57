"""A saved kernel is restored completely, and any other file is refused with a reason."""

import pickle

import numpy as np
import pytest

from ntk_select import SketchedKernel, certify, kernel_label_correlation, sketched_correlation
from ntk_select.errors import ConfigError, DataError
from ntk_select.kernels.saved_kernel import SavedKernel, class_trace, load_kernel

LABELS = np.array([0, 1, 0, 1, 1])


def made(rng, *, kind="trace", layers=("conv/kernel", "head/kernel"), dtype=np.float64):
    """A kernel of five images and two outputs, the sum of those of its layers."""
    parts = {}
    for scale, name in enumerate(layers, start=1):
        rows = scale * rng.normal(size=(5, 2, 40))
        full = np.einsum("icp,jdp->ijcd", rows, rows)
        diagonal = np.einsum("ijcc->ijc", full)
        parts[name] = {"trace": diagonal.mean(2), "diagonal": diagonal, "full": full}[kind].astype(dtype)
    return SavedKernel(sum(parts.values()), LABELS, ("cat", "dög"), np.array([3, 9, 4, 1, 0]), {"expert": "mine", "made": "today"}, parts)


WHICH = {"kind": "gaussian", "dim": 12, "blocks": 2, "seed": 7, "scheme": 1, "directions": False}


def made_from_a_sketch(rng, **which):
    z = rng.normal(size=(5, 12)).astype(np.float32)
    kernel = z.astype(np.float64) @ z.T.astype(np.float64)
    return SavedKernel(kernel, LABELS, ("cat", "dög"), np.arange(5), {"expert": "mine", "sketch": WHICH | which}, sketch=z)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["trace", "diagonal", "full"])
def test_what_is_saved_comes_back(rng, tmp_path, kind, dtype):
    saved = made(rng, kind=kind, dtype=dtype)
    back = load_kernel(saved.save(tmp_path / "new folder" / "kernel.npz"))
    assert back.kernel.dtype == dtype
    for before, after in ((saved.kernel, back.kernel), (saved.labels, back.labels), (saved.indices, back.indices)):
        np.testing.assert_array_equal(after, before)
    assert (back.class_names, back.provenance) == (saved.class_names, saved.provenance)
    assert list(back.layers) == list(saved.layers)
    assert all(np.array_equal(back.layers[name], layer) for name, layer in saved.layers.items())


def test_without_layers_there_are_none(rng, tmp_path):
    saved = made(rng)
    path = SavedKernel(saved.kernel, saved.labels, saved.class_names, saved.indices).save(tmp_path / "kernel.npz")
    assert load_kernel(path).layers == {}


def test_a_sketch_comes_back_with_its_seed_and_the_scheme_of_its_numbers(rng, tmp_path):
    saved = made_from_a_sketch(rng)
    back = load_kernel(saved.save(tmp_path / "kernel.npz"))
    np.testing.assert_array_equal(back.sketch, saved.sketch)
    assert back.sketch.dtype == np.float32
    assert back.provenance["sketch"] == WHICH
    assert (back.sketched().kind, back.sketched().blocks, back.sketched().dim) == ("gaussian", 2, 12)
    np.testing.assert_allclose(back.sketched().kernel, back.kernel, rtol=1e-12, atol=1e-12)
    assert repr(back) == "SavedKernel(float64 (5, 5), 2 classes, sketched in 12 columns, of mine)"


def test_exact_kernels_have_no_sketch(rng, tmp_path):
    back = load_kernel(made(rng).save(tmp_path / "kernel.npz"))
    assert (back.sketch, back.sketched()) == (None, None)
    assert not {"score", "predicted_error", "measured_error"} & set(back.summary())


def test_the_summary_of_a_sketch_says_how_sure_it_is(rng):
    saved = made_from_a_sketch(rng)
    summary, sketched = saved.summary(), SketchedKernel(saved.sketch, "gaussian", 2)
    score = sketched_correlation(sketched, LABELS)
    assert (summary["score"]["value"], summary["score"]["low"], summary["score"]["high"]) == (score.value, score.low, score.high)
    assert summary["kernel_label_correlation"] == score.value
    assert (summary["predicted_error"], summary["measured_error"]) == (sketched.predicted_error(), sketched.measured_error())
    constant = SavedKernel(np.full((5, 5), 12.0), LABELS, ("a", "b"), np.arange(5), {"sketch": WHICH}, sketch=np.ones((5, 12)))
    assert (constant.summary()["score"], constant.summary()["kernel_label_correlation"]) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sketch": np.ones((5, 12), int)}, r"the sketch is int64 \(5, 12\) for a kernel \(5, 5\); it must be floats \(5, k\)"),
        ({"sketch": np.ones((4, 12))}, r"the sketch is float64 \(4, 12\)"),
        ({"sketch": np.ones(5)}, r"the sketch is float64 \(5,\)"),
        ({"sketch": np.ones((5, 0))}, r"the sketch is float64 \(5, 0\)"),
        ({"kernel": np.ones((5, 5, 2))}, r"the sketch is float32 \(5, 12\) for a kernel \(5, 5, 2\)"),
        ({"sketch": np.ones((5, 12))}, "the kernel is not that of the sketch: its diagonal differs"),
        ({"provenance": np.array("{}")}, "The provenance does not describe the sketch"),
        ({"provenance": np.array('{"sketch": {"kind": "gausian", "blocks": 1, "directions": false}}')}, "not describe the sketch .kind='gausian'"),
        ({"provenance": np.array('{"sketch": {"kind": "gaussian", "blocks": 5, "directions": false}}')}, "not describe the sketch .blocks=5"),
    ],
)
def test_sketches_that_do_not_belong_to_the_kernel_are_refused(rng, tmp_path, changes, message):
    path = made_from_a_sketch(rng).save(tmp_path / "kernel.npz")
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files} | changes
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        load_kernel(path)


def test_a_second_kernel_takes_the_place_of_the_first(rng, tmp_path):
    made(rng).save(tmp_path / "kernel.npz")
    second = made(rng)
    second.save(tmp_path / "kernel.npz")
    np.testing.assert_array_equal(load_kernel(tmp_path / "kernel.npz").kernel, second.kernel)
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.npz"]


def test_the_kernel_introduces_itself(rng):
    assert repr(made(rng)) == "SavedKernel(float64 (5, 5), 2 classes, 2 layers, of mine, made today)"
    assert repr(SavedKernel(np.eye(2), np.arange(2), ("a", "b"), np.arange(2))) == "SavedKernel(float64 (2, 2), 2 classes)"


def test_the_class_trace_is_the_mean_over_the_outputs():
    kernel = np.arange(36.0).reshape(3, 3, 2, 2)
    expected = np.array([[(kernel[i, j, 0, 0] + kernel[i, j, 1, 1]) / 2 for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(class_trace(kernel), expected)
    np.testing.assert_allclose(class_trace(np.einsum("ijcc->ijc", kernel)), expected)
    np.testing.assert_allclose(class_trace(expected), expected)


@pytest.mark.parametrize("kind", ["trace", "diagonal", "full"])
def test_the_summary_is_that_of_the_functions_it_stands_for(rng, kind):
    saved = made(rng, kind=kind)
    summary, trace = saved.summary(), class_trace(saved.kernel)
    judged = trace if kind == "diagonal" else saved.kernel
    assert summary["certified"] == ("class trace" if kind == "diagonal" else "kernel")
    assert summary["certificate"]["smallest"] == certify(judged).smallest
    assert (summary["certificate"]["holds"], summary["certificate"]["text"]) == (True, str(certify(judged)))
    assert summary["kernel_label_correlation"] == kernel_label_correlation(trace, LABELS)
    assert (summary["shape"], summary["dtype"]) == (list(saved.kernel.shape), "float64")


def test_eigenvalues_of_a_very_large_full_kernel_are_those_of_its_class_trace(rng, monkeypatch):
    monkeypatch.setattr("ntk_select.kernels.saved_kernel.MAX_ROWS", 9)
    assert made(rng, kind="full").summary()["certified"] == "class trace"


@pytest.mark.parametrize("kind", ["trace", "diagonal", "full"])
def test_the_shares_of_the_layers_are_those_of_the_squared_gradients_largest_first(rng, kind):
    saved = made(rng, kind=kind, layers=("small", "large"))
    squares = {name: np.einsum("ii", class_trace(layer)) for name, layer in saved.layers.items()}
    shares = saved.summary()["shares"]
    assert list(shares) == ["large", "small"]
    assert shares == pytest.approx({name: square / sum(squares.values()) for name, square in squares.items()})


def test_a_kernel_of_zeros_has_no_correlation_and_no_shares_but_a_summary():
    zeros = np.zeros((2, 2))
    summary = SavedKernel(zeros, np.arange(2), ("a", "b"), np.arange(2), layers={"w": zeros}).summary()
    assert (summary["kernel_label_correlation"], summary["shares"]) == (None, {"w": 0.0})


def test_another_ending_is_refused(rng, tmp_path):
    with pytest.raises(ConfigError, match=r"'kernel.npy' does not end in .npz. Try: kernel.npz"):
        made(rng).save(tmp_path / "kernel.npy")


def test_a_place_that_cannot_be_written_is_refused(rng, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written: .* Try: another folder"):
        made(rng).save(tmp_path / "file" / "kernel.npz")


def test_no_file_is_said_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match="There is no file .*ntk-select kernel --expert NAME"):
        load_kernel(tmp_path / "kernel.npz")


class Bomb:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_files_that_are_something_else_are_refused(rng, tmp_path):
    path = made(rng).save(tmp_path / "kernel.npz")
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], pickle.dumps(Bomb())):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not an .npz file that can be read .*Is it complete"):
            load_kernel(path)
    np.savez(path, kernel=np.array([Bomb()], object))
    with pytest.raises(DataError, match="is not an .npz file that can be read"):
        load_kernel(path)
    with open(path, "wb") as file:
        np.save(file, np.eye(2))
    with pytest.raises(DataError, match="it is a single array"):
        load_kernel(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": None, "labels": None}, "is no saved kernel: it has the arrays class_names, indices, .*and lacks kernel, labels"),
        ({"kernel": np.eye(4)}, r"the kernel is float64 \(4, 4\) for labels \(5,\)"),
        ({"kernel": np.eye(5, dtype=int)}, "the kernel is int64"),
        ({"kernel": np.zeros((5, 5, 2, 3))}, r"\(5, 5, 2, 3\).*allowed are floats \(n, n\), \(n, n, c\) and \(n, n, c, c\)"),
        ({"kernel": np.zeros((5, 5, 1, 1, 1))}, "allowed are floats"),
        ({"labels": LABELS[:, None]}, r"for labels \(5, 1\)"),
        ({"class_names": np.arange(2)}, r"class_names is int64 \(2,\); it must be text"),
        ({"labels": LABELS + 1}, "labels must be whole numbers from 0 to 1"),
        ({"labels": LABELS - 1}, "labels must be whole numbers from 0 to 1"),
        ({"labels": LABELS * 1.0}, "labels must be whole numbers"),
        ({"indices": np.arange(4)}, r"indices is int64 \(4,\); it must be whole numbers \(5,\)"),
        ({"indices": np.ones(5)}, "indices is float64"),
        ({"provenance": np.array("{")}, "the provenance is not JSON"),
        ({"provenance": np.array("[]")}, "the provenance is a list; it must be an object"),
        ({"layer_names": None}, r"layer_names \(0,\) and layer_kernels \(2, 5, 5\) do not fit"),
        ({"layer_kernels": None}, r"layer_names \(2,\) and layer_kernels \(0,\) do not fit"),
        ({"layer_kernels": np.zeros((2, 4, 4))}, r"each name needs a kernel \(5, 5\)"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(rng, tmp_path, changes, message):
    path = made(rng).save(tmp_path / "kernel.npz")
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files} | changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=message):
        load_kernel(path)
