"""Arbitrary bytes as an archive or array file give a task, or an error message."""

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
NAMES = st.lists(
    st.sampled_from(["train", "test", "cat", "dog", ".", "..", "", "/", "1.png", "2.JPG", "a.txt", "__MACOSX", ".x", "é", "\0", "C:", "\\"]),
    max_size=5,
)
NAMES = NAMES.map("/".join) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(QUICK, max_examples=60)
@given(st.dictionaries(NAMES.filter(bool), st.integers(0, 3), max_size=5))
def test_an_archive_of_any_names_is_a_task_or_an_error_in_a_sentence(safely, loaded, seeds, names):
    contents = [seeds["image"][0], b"", b"text", seeds["image"][1][:100]]
    safely("archive", loaded("fuzz/seeds.py").zipped({name: contents[which] for name, which in names.items()}))
    safely("layout", "\n".join(names).encode())


KINDS = st.sampled_from(["u1", "i8", "u8", "f4", "?", "U3", "S2", "m8[s]", "M8[D]", "c8", "V4"])
SHAPES = st.lists(st.integers(0, 4), max_size=5)
KEYS = st.sampled_from(["images", "labels", "test_images", "test_labels", "class_names", "x_train", "y_train", "x_val", "y_val"])


@settings(QUICK, max_examples=80)
@given(st.dictionaries(KEYS, st.tuples(KINDS, SHAPES, st.integers(-1, 2)), max_size=6))
def test_arrays_of_any_type_and_shape_are_a_task_or_an_error_in_a_sentence(safely, loaded, arrays):
    made = {name: np.full(shape, number).astype(kind, casting="unsafe") for name, (kind, shape, number) in arrays.items() if kind != "V4"}
    empty = {name: np.zeros(shape, kind) for name, (kind, shape, _) in arrays.items() if kind == "V4"}
    safely("npz", loaded("fuzz/seeds.py").arrays(**made, **empty))
