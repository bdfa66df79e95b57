"""The seeds of the fuzzers are valid inputs, so that the properties are not vacuous."""

import pytest

NO_SUCH = {"zoo": (b"features:zoo", b"folder:zoo", b"~nobody", b"./zoo", b"hf-hub:org/", b"features:a.npz"), "uri": (b"./x", b"~nobody/x")}
"""Names of what is not there."""


def test_every_target_has_seeds(loaded, seeds):
    assert set(loaded("fuzz/targets.py").TARGETS) == set(seeds)


TARGETS = ["uri", "zoo", "config", "zoo_config", "card", "archive", "image", "layout", "npz", "csv", "hf", "idx", "safetensors", "kernel", "features"]
TARGETS += ["hub_name", "pattern", "ranking", "record"]


@pytest.mark.parametrize("target", TARGETS)
def test_valid_files_are_read(safely, seeds, target):
    read = [safely(target, seed) is not None for seed in seeds[target]]
    assert read == [seed not in NO_SUCH.get(target, ()) for seed in seeds[target]]
