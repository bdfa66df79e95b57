"""Shared by all tests: float64, checked annotations, no deadlines, and oracles, loaded by path because tests/ is no package."""

import http.server
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

# Most of the time of the quick tests is compilation. Without its newer emitters XLA compiles programs for CPUs four times as fast,
# and they run slower. XLA reads the flags when it starts; it aborts on flags that it does not know.
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") and jax.__version__.startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}".strip()
    )

jax.config.update("jax_enable_x64", True)

# Products in tests are small, and several test processes share the cores: waiting BLAS threads would take most of the time.
threadpool_limits(1)

# Annotations of these rooms are checked at every call of a test, but for calls that must fail: those are refused by the functions themselves.
TYPED_ROOMS = [
    "ntk_select.kernels.engine",
    "ntk_select.forecasting",
    "ntk_select.linearized",
    "ntk_select.kernels.selfcheck",
    "ntk_select.kernels.sketches",
]
jaxtyping.install_import_hook(TYPED_ROOMS, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


class _Untyped:
    """A context of `pytest.raises` in which annotations are not checked."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        jaxtyping.config.update("jaxtyping_disable", True)
        return self.context.__enter__()

    def __exit__(self, *error):
        jaxtyping.config.update("jaxtyping_disable", False)
        return self.context.__exit__(*error)


_raises = pytest.raises
pytest.raises = lambda *args, **kwargs: _Untyped(_raises(*args, **kwargs))


# Several processes at a time are told how wide the terminal is; what commands print is tested as if it went into a file.
os.environ.pop("COLUMNS", None)

# The first example of a test may compile for seconds, and machines differ: time is no reason to fail.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """The cache is a temporary folder."""
    os.environ["NTK_SELECT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def loaded() -> Callable[[str], ModuleType]:
    """loaded("kernels/engine/oracle.py"): a module below tests/, the same one every time."""

    def load(place: str) -> ModuleType:
        name = "ntk_select_tests_" + place.removesuffix(".py").replace("/", "_")
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / place)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return sys.modules[name]

    return load


@pytest.fixture(scope="session")
def oracle(loaded) -> ModuleType:
    """The kernel by definition."""
    return loaded("kernels/engine/oracle.py")


@pytest.fixture(scope="session")
def check_refusals() -> Callable:
    """check_refusals(read, path, {case: (text, pattern)}): `read` refuses each text in the file with a ConfigError that matches; names all that do not."""

    def check(read, path, cases):
        from ntk_select.errors import ConfigError  # after the import hook

        unexpected = {}
        for name, (text, pattern) in cases.items():
            path.write_text(text)
            message = ""
            try:
                read(path)
            except ConfigError as error:
                message = str(error)
            if not re.search(pattern, message):
                unexpected[name] = message
        assert not unexpected

    return check


@pytest.fixture
def compilations():
    """A list that grows by one with each program that XLA compiles."""
    found = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def ran(capsys):
    """ran("rank", "--task", "digits"): exit status, output and errors of a command, which must not fail with a traceback."""

    def run(*words):
        from ntk_select.cli import main  # after the import hook

        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


@pytest.fixture
def mlflow(monkeypatch):
    """MLflow's client class, which may write to folders and neither retries nor reports usage."""
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return pytest.importorskip("mlflow").MlflowClient


@pytest.fixture
def leaving_server():
    """The address of a server that answers one request and stops."""

    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Nothing on the terminal."""

    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as server:
        once = threading.Thread(target=lambda: (server.handle_request(), server.server_close()), daemon=True)
        once.start()
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def quickly():
    """Compiles in half the time; the programs are slower, their numbers equal."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
