"""What do the tests of the engine share? The module `oracle` beside this file, loaded by path, because tests/ is no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The kernel by definition."""
    name = "ntk_select_tests_engine_oracle"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "oracle.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="module")
def quickly():
    """Compiles in half the time. The numbers stay right, and slow."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
