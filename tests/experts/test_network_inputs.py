"""Network inputs equal those of the preprocessing, for any slice, in memory or in a file."""

import numpy as np
import pytest

from ntk_select import Preprocess
from ntk_select.experts.network_inputs import DecodedImages, NetworkInputs, network_inputs, resized

PREPROCESS = Preprocess(size=5, resize=6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture
def images(rng):
    return [rng.integers(0, 256, size=(8, 9, 3) if place % 2 else (7, 12), dtype=np.uint8) for place in range(11)]


@pytest.mark.parametrize("in_memory", [10**9, 0])
def test_every_part_is_what_the_preprocessing_gives(images, in_memory):
    expected, inputs = PREPROCESS(images), NetworkInputs(resized(PREPROCESS, images, in_memory), PREPROCESS)
    assert (len(inputs), inputs.shape, inputs.dtype) == (11, (11, 5, 5, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(inputs), expected)
    np.testing.assert_array_equal(inputs[3:7], expected[3:7])
    np.testing.assert_array_equal(inputs[np.array([4, 0, 4])], expected[[4, 0, 4]])
    assert isinstance(inputs.pixels, np.memmap) == (in_memory == 0)


def test_preprocessing_of_others_is_called_as_it_is(images):
    assert network_inputs(len, images) == 11
    assert isinstance(network_inputs(PREPROCESS, images), NetworkInputs)


def test_images_are_decoded_once_as_far_as_memory_is_allowed(images, monkeypatch):
    class Counted(list):
        asked = ()

        def __getitem__(self, place):
            Counted.asked += (place,)
            return super().__getitem__(place)

    monkeypatch.setattr("ntk_select.experts.network_inputs.DECODED", images[0].nbytes + images[1].nbytes)
    decoded = DecodedImages(Counted(images))
    for _ in range(2):
        for place, image in enumerate(images):
            np.testing.assert_array_equal(decoded[place], image)
    assert Counted.asked == (*range(11), *range(2, 11))
