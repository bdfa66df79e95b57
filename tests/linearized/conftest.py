"""What do the tests of the linearised theory share? The module `independent` beside this file, loaded by path, because tests/ is no package."""

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
def independent() -> ModuleType:
    """Linearised training by definition."""
    return _loaded("ntk_select_tests_linearized_independent", Path(__file__).parent / "independent.py")


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The kernel by definition."""
    return _loaded("ntk_select_tests_engine_oracle", Path(__file__).parents[1] / "engine" / "oracle.py")


@pytest.fixture(scope="session")
def binary(independent):
    """One output, (n,), and targets -1 and +1."""
    return independent.world(1)


@pytest.fixture(scope="session")
def several(independent):
    """Three outputs and one-hot targets."""
    return independent.world(3)


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compiles in half the time. The numbers stay right, and slow."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
