"""Arbitrary bytes as a weights or kernel file are read exactly, or rejected with an error message."""

import json
import struct

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
TYPES = st.sampled_from(["F64", "F32", "F16", "BF16", "F8_E4M3", "F4", "I64", "U64", "BOOL", "C64", "X", "U8"])
NAMES = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(["a", "a/b", "a//b", "/", "params/a", "__metadata__", "module.a"])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": TYPES,
        "shape": st.lists(st.integers(-1, 4) | st.just(2**62), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 40), max_size=3),
    },
)


def file_of(header, body: bytes, length: int | None = None) -> bytes:
    """Eight bytes of length, JSON, and the numbers."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@settings(QUICK, max_examples=80)
@given(st.dictionaries(NAMES, ENTRIES, max_size=3), st.binary(max_size=40), st.none() | st.sampled_from([0, 1, 2**40, 2**63, 2**64 - 1]))
def test_any_header_of_safetensors_is_weights_or_an_error_in_a_sentence(safely, header, body, length):
    safely("safetensors", file_of(header, body, length))


@settings(QUICK, max_examples=60)
@given(st.dictionaries(NAMES, st.tuples(TYPES, st.lists(st.integers(0, 2), max_size=2)), max_size=3))
def test_sound_headers_of_any_names_and_types_are_weights_or_an_error_in_a_sentence(safely, tensors):
    sizes = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "F16": 16, "BF16": 16, "F4": 4}
    header, end = {}, 0
    for name, (kind, shape) in tensors.items():
        size = int(np.prod(shape)) * sizes.get(kind, 8) // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    safely("safetensors", file_of(header, b"\x3f" * end))


ARRAYS = {
    "kernel": [
        np.zeros((0, 0)),
        np.full((4, 4), np.nan),
        np.full((4, 4), np.inf),
        np.full((4, 4), 1e300),
        np.zeros((4, 4, 0)),
        np.zeros((4, 4), np.float16),
    ],
    "labels": [np.zeros(0, int), np.full(4, 2**63, np.uint64), np.zeros(4, bool), np.array(0)],
    "class_names": [np.zeros(0, "U1"), np.array("a"), np.array(["a"] * 3)],
    "indices": [np.zeros(0, int), np.full(4, -1), np.zeros(4, "m8[s]")],
    "sketch": [np.zeros((4, 6)), np.full((4, 6), np.nan), np.full((4, 6), np.inf), np.zeros((0, 6)), np.full((4, 6), 1e300)],
    "layer_names": [np.zeros(0, "U1"), np.array(["a", "a"])],
    "layer_kernels": [np.zeros((0, 4, 4)), np.full((2, 4, 4), np.nan)],
}


@settings(QUICK, max_examples=100)
@given(st.data())
def test_a_kernel_with_other_arrays_is_a_kernel_or_an_error_in_a_sentence(safely, loaded, inputs, data):
    changes = {name: data.draw(st.sampled_from(ARRAYS[name])) for name in data.draw(st.sets(st.sampled_from(list(ARRAYS)), max_size=3))}
    if data.draw(st.booleans()):
        which = {"kind": "gaussian", "dim": 6, "blocks": 2, "seed": 7, "scheme": 1, "directions": False}
        provenance = data.draw(inputs.changed([{"expert": "mine", "sketch": which}], inputs.JSON))
        changes["provenance"] = np.array(json.dumps(provenance))
    safely("kernel", loaded("fuzz/seeds.py").kernel(**changes))


def test_a_provenance_that_a_reader_of_json_stumbles_over_is_an_error_in_a_sentence(safely, loaded):
    for text in ("[" * 100_000, "{}" * 2, "9" * 5000, "NaN"):
        assert safely("kernel", loaded("fuzz/seeds.py").kernel(provenance=np.array(text))) is None
