"""What do the tests of the sketches share? The kernel by definition and the projections by definition, loaded by path."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest


def _loaded(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The kernel by definition."""
    return _loaded("ntk_select_tests_engine_oracle", Path(__file__).parents[1] / "engine" / "oracle.py")


@pytest.fixture(scope="session")
def explicit() -> ModuleType:
    """The projections by definition."""
    return _loaded("ntk_select_tests_sketches_explicit", Path(__file__).parent / "explicit.py")


@pytest.fixture(scope="module")
def quickly():
    """Compiles in half the time. The numbers stay right, and slow."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
