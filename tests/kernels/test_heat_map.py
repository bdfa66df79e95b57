"""The heat map shows the kernel in class order, with names, lines and colours that are robust to outliers."""

import sys

import numpy as np
import pytest

from ntk_select.errors import MissingDependencyError, TaskError
from ntk_select.kernels.heat_map import class_order, colour_range, cosines, heat_map

LABELS = np.array([1, 0, 2, 1, 0, 1])
NAMES = ("ash", "birch", "cedar")


@pytest.fixture
def kernel(rng):
    rows = rng.normal(size=(6, 9))
    return rows @ rows.T


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to matplotlib: the images, and where lines are drawn."""
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    seen = {"imshow": [], "axhline": [], "axvline": []}
    for name, calls in seen.items():
        original = getattr(Axes, name)

        def watched(axes, value, *rest, original=original, calls=calls, **options):
            calls.append((np.array(value), options))
            return original(axes, value, *rest, **options)

        monkeypatch.setattr(Axes, name, watched)
    return seen


def texts(kernel, labels=LABELS, names=NAMES, **options):
    """Matplotlib writes every text of an SVG as a comment next to its outlines."""
    pytest.importorskip("matplotlib")
    lines = heat_map(kernel, labels, names, file_format="svg", **options).decode().splitlines()
    return [line.strip().removeprefix("<!-- ").removesuffix(" -->") for line in lines if line.strip().startswith("<!-- ")]


def test_images_are_sorted_by_class_and_keep_their_order_within_one():
    np.testing.assert_array_equal(class_order(LABELS), [1, 4, 0, 3, 5, 2])


def test_the_panels_show_the_sorted_kernel_and_its_cosines(kernel, drawn):
    heat_map(kernel, LABELS, NAMES)
    order = [1, 4, 0, 3, 5, 2]
    (left, _), (right, _) = drawn["imshow"]
    norms = np.sqrt(np.diagonal(kernel))
    np.testing.assert_array_equal(left, kernel[order][:, order])
    np.testing.assert_allclose(right, (kernel / np.outer(norms, norms))[order][:, order])


def test_of_several_outputs_the_class_trace_is_shown(kernel, drawn):
    full = np.zeros((6, 6, 2, 2))
    full[:, :, 0, 0], full[:, :, 1, 1], full[:, :, 0, 1] = kernel, 3 * kernel, 100.0
    heat_map(full, np.sort(LABELS), NAMES)
    heat_map(np.einsum("ijcc->ijc", full), np.sort(LABELS), NAMES)
    for position in (0, 2):
        np.testing.assert_allclose(drawn["imshow"][position][0], 2 * kernel)


def test_lines_lie_between_the_classes(kernel, drawn):
    heat_map(kernel, LABELS, NAMES)
    for direction in ("axhline", "axvline"):
        assert [float(place) for place, _ in drawn[direction]] == [1.5, 4.5] * 2


def test_names_stand_at_the_middle_of_their_classes(kernel, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    ticks, original = [], Axes.set_yticks

    def watched(axes, places, labels=None, **options):
        if labels is not None:
            ticks.append(dict(zip(labels, places, strict=True)))
        return original(axes, places, labels, **options)

    monkeypatch.setattr(Axes, "set_yticks", watched)
    heat_map(kernel, LABELS, NAMES)
    assert ticks == [{"ash": 0.5, "birch": 3.0, "cedar": 5.0}] * 2


def test_title_names_and_meaning_are_written_on_it(kernel):
    shown = texts(kernel, title="a$^$b on trees")
    assert {"a$^$b on trees", "inner product of gradients", "cosine of gradients"} <= set(shown)
    assert [text for text in shown if text in NAMES] == list(NAMES) * 4
    assert "cosine of features" in texts(kernel, of="features")


def test_a_class_without_images_has_no_place(kernel):
    assert "birch" not in texts(kernel, labels=np.array([0, 0, 0, 2, 2, 2]))


def test_of_many_classes_only_some_names_are_written_and_no_lines_drawn(drawn):
    shown = texts(np.eye(90), np.arange(90), tuple(f"kind {i}" for i in range(90)))
    assert [text for text in shown if text.startswith("kind")][:30] == [f"kind {i}" for i in range(0, 90, 3)]
    assert drawn["axhline"] == []


def test_a_long_name_is_cut(kernel):
    shown = texts(kernel, names=("a" * 50, "b", "c"))
    assert "a" * 23 + "…" in shown
    assert "a" * 50 not in shown


def test_colours_are_not_spoilt_by_outliers(rng):
    values = rng.uniform(1, 2, (100, 100))
    values[0, :10] = 1e6
    low, high, colours = colour_range(values)
    assert 1 <= low < 1.1
    assert 1.9 < high <= 2
    assert colours == "viridis"


def test_colours_are_symmetric_about_zero_where_signs_are_mixed(rng):
    low, high, colours = colour_range(rng.uniform(-3, 1, 10_000))
    assert (low, colours) == (-high, "RdBu_r")
    assert 2.9 < high <= 3


@pytest.mark.parametrize("value", [pytest.param(-2.0, marks=pytest.mark.nightly), 0.0, 5.0])
def test_a_constant_kernel_has_colours_and_a_figure(value):
    pytest.importorskip("matplotlib")
    low, high, _ = colour_range(np.full((6, 6), value))
    assert low < high
    assert heat_map(np.full((6, 6), value), LABELS, NAMES)


def test_cosines_have_a_unit_diagonal_and_an_image_without_gradient_is_zero(kernel):
    kernel[2], kernel[:, 2] = 0, 0
    angles = cosines(kernel)
    np.testing.assert_allclose(np.diagonal(angles), [1, 1, 0, 1, 1, 1])
    assert np.abs(angles).max() <= 1 + 1e-12


def test_a_single_image_has_a_figure():
    pytest.importorskip("matplotlib")
    assert heat_map(np.ones((1, 1)), np.array([0]), ("a",))


def test_the_same_kernel_gives_the_same_picture(kernel):
    pytest.importorskip("matplotlib")
    assert heat_map(kernel, LABELS, NAMES) == heat_map(kernel, LABELS, NAMES)


def test_a_name_in_letters_that_the_font_lacks_draws_no_warning(kernel):
    assert "猫" in texts(kernel, names=("猫", "b", "c"))


@pytest.mark.parametrize("labels", [LABELS[:5], LABELS[:, None], np.zeros(0, int)])
def test_labels_that_do_not_fit_are_refused(kernel, labels):
    pytest.importorskip("matplotlib")
    with pytest.raises(TaskError, match="each image needs one label"):
        heat_map(kernel, labels, NAMES)


def test_without_matplotlib_it_is_said_what_to_type(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        heat_map(kernel, LABELS, NAMES)
