"""Fixtures of the tests of models/: the helper modules of this folder, loaded by path because tests/ is not a package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

HERE = Path(__file__).parent


def load(name: str) -> ModuleType:
    """The module `name`.py of this folder, once."""
    full_name = f"ntk_select_tests_models_{name}"
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(full_name, HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full_name] = module
        spec.loader.exec_module(module)
    return sys.modules[full_name]


@pytest.fixture(scope="session")
def load_test_module():
    """load_test_module("test_hub"): a module of this folder."""
    return load


@pytest.fixture(scope="session")
def seeded():
    """Weights and images from a seed."""
    return load("seeded_state")


@pytest.fixture(scope="session")
def parity():
    """Our outputs, and their distance from others."""
    return load("parity")


@pytest.fixture(scope="session")
def oracle():
    """torchvision's outputs; skips the test when it is not installed."""
    for package in ("torch", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return load("torchvision_oracle")


@pytest.fixture(scope="session")
def reference():
    """torchvision's stored outputs, as make_torchvision_reference.py writes them."""
    with np.load(HERE / "torchvision_reference.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def torch_and_timm(oracle):
    """Imports timm, whose import of torchvision needs the oracle's."""
    for package in ("timm", "torchax"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    oracle.import_torchvision()


@pytest.fixture(scope="session")
def timm_networks(torch_and_timm):
    """Small networks of timm, and what PyTorch computes from them."""
    return load("torch_families")
