"""Slightly damaged bytes of every format are read, or rejected with an error message."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
EXAMPLES = {"archive": 60, "image": 80, "npz": 60, "csv": 100, "hf": 60, "idx": 60, "layout": 60, "safetensors": 80, "kernel": 80, "features": 80}
EXAMPLES |= {"card": 60, "config": 40, "zoo_config": 40, "ranking": 60, "record": 60}


@pytest.mark.parametrize("surface", EXAMPLES)
def test_damaged_bytes_are_a_result_or_an_error_in_a_sentence(safely, seeds, inputs, surface):
    @settings(QUICK, max_examples=EXAMPLES[surface])
    @given(inputs.damaged(seeds[surface]))
    def each(data):
        safely(surface, data)

    each()
