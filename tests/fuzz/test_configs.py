"""Arbitrary TOML files are configs, or give an error message."""

import tomllib

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
TARGETS = ("config", "zoo_config")


@pytest.mark.parametrize("target", TARGETS)
@settings(QUICK, max_examples=50)
@given(st.data())
def test_a_valid_config_with_other_entries_is_a_config_or_an_error_in_a_sentence(safely, seeds, inputs, target, data):
    tree = data.draw(inputs.changed([tomllib.loads(seed.decode()) for seed in seeds[target]], inputs.TOML))
    text = inputs.toml(tree)
    assert tomllib.loads(text).keys() == tree.keys()
    safely(target, text.encode())


@pytest.mark.parametrize("target", TARGETS)
@settings(QUICK, max_examples=30)
@given(st.data())
def test_any_tables_are_a_config_or_an_error_in_a_sentence(safely, inputs, target, data):
    safely(target, inputs.toml(data.draw(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inputs.TOML, max_size=4))).encode())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 3000, "a = " + "{a = " * 3000, "seed = " + "9" * 5000, "a." * 3000 + "a = 1", "\ufeffseed = 1", "seed = 1e999"],
    ids=lambda text: text[:8],
)
def test_what_a_reader_of_toml_stumbles_over_is_an_error_in_a_sentence(safely, target, text):
    assert safely(target, text.encode()) is None


@pytest.mark.parametrize("target", TARGETS)
def test_a_config_read_twice_or_written_anew_is_the_same(safely, seeds, inputs, target):
    for seed in seeds[target]:
        config = safely(target, seed)
        assert config is not None
        assert config == safely(target, seed) == safely(target, inputs.toml(tomllib.loads(seed.decode())).encode())
