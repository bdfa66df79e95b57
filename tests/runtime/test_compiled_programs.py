"""Programs compiled by one process are found by the next, in a folder of limited size."""

import os
import subprocess
import sys

import pytest

from ntk_select._runtime import compiled_programs
from ntk_select._runtime.compiled_programs import LARGEST, keep_compiled_programs

SETTINGS = ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
PROGRAM = """
from ntk_select._runtime.compiled_programs import keep_compiled_programs
keep_compiled_programs()
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
assert jax.config.jax_compilation_cache_max_size == %d
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))).block_until_ready()
print("/jax/compilation_cache/cache_hits" in events)
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # restored after the test, whatever it sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("NTK_SELECT_CACHE", str(tmp_path / "cache"))


def test_the_next_process_does_not_compile_again():
    found = [subprocess.run([sys.executable, "-c", PROGRAM % LARGEST], capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    assert found == ["False", "True"]


def test_what_the_user_has_set_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "5")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "cache" / "programs"))
    assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == "5"
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ


def test_without_a_folder_nothing_is_set(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    keep_compiled_programs()
    monkeypatch.setattr(compiled_programs, "default_folder", lambda: None)
    keep_compiled_programs()
    assert not os.environ.keys() & set(SETTINGS)


def test_a_folder_that_cannot_be_written_is_not_used(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    keep_compiled_programs()
    assert not os.environ.keys() & set(SETTINGS)
