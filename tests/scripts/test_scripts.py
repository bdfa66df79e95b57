"""Examples assert their own outcome, and every other script can be imported and called with --help."""

import ast
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
EXAMPLES = SCRIPTS / "examples"
WITHOUT_OPTIONS = {"finetune_peer", "naive_scores", "ntk_workload", "sketch_laws", "sketch_peer"}
"""Modules that other benchmarks import or call."""


@pytest.mark.parametrize(
    ("example", "needs", "says"),
    [
        ("01_rank_your_own_model", "sklearn", "lfc is highest for pixels"),
        pytest.param("02_kernel_of_your_own_model", "matplotlib", "positive semi-definite up to rounding", marks=pytest.mark.nightly),
        pytest.param("03_rank_your_flax_model", "sklearn", "untrained: kernel (25, 25)", marks=pytest.mark.slow),
        pytest.param("04_your_own_score", "sklearn", "fisher_ratio   1.00", marks=pytest.mark.nightly),
        pytest.param("05_kernel_and_its_projection", "sklearn", "LGC of the last convolution", marks=[pytest.mark.slow, pytest.mark.nightly]),
        pytest.param("06_predict_a_loss_curve", "matplotlib", "curves.png", marks=[pytest.mark.slow, pytest.mark.nightly]),
        pytest.param("08_port_a_resnet20", "safetensors", "Expert('resnet20', parameters=269,722)", marks=pytest.mark.slow),
        pytest.param("09_rank_a_flax_vit", "sklearn", "untrained: LGC of its last layers", marks=[pytest.mark.slow, pytest.mark.nightly]),
        pytest.param("10_rank_pytorch_networks", "torch", "LGC is over the weights of the last block: transformer", marks=pytest.mark.oracle),
    ],
)
def test_an_example_asserts_its_own_outcome(example, needs, says, capsys):
    pytest.importorskip(needs)
    runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    assert says in capsys.readouterr().out


@pytest.mark.oracle
def test_the_example_of_a_checkpoint_has_the_outputs_of_pytorch(loaded, capsys):
    loaded("models/torchvision_oracle.py").import_torchvision()
    runpy.run_path(str(EXAMPLES / "07_convert_a_pytorch_checkpoint.py"), run_name="__main__")
    assert "largest difference from PyTorch" in capsys.readouterr().out


def test_every_example_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("[0-9]*.py")}
    text = Path(__file__).read_text()
    assert len(names) == 10
    assert all(name in text for name in names)


def imports(path):
    """(module, name) of every import of this package in a script."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ntk_select"):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.startswith("ntk_select"))


def test_scripts_import_what_exists():
    """No private or moved name is imported that is gone; a moved module would warn, which is an error here."""
    checked = 0
    for path in sorted(SCRIPTS.rglob("*.py")):
        for module, name in imports(path):
            try:
                found = importlib.import_module(module)
                if name is not None and not hasattr(found, name):
                    importlib.import_module(f"{module}.{name}")
            except (ImportError, DeprecationWarning) as error:
                pytest.fail(f"{path.relative_to(SCRIPTS)}: {module}, {name}: {error}")
            checked += 1
    assert checked > 60


def test_benchmarks_name_scripts_that_exist():
    """A benchmark calls or imports its neighbours by name."""
    names = {path.stem for path in (SCRIPTS / "benchmarks").glob("*.py")}
    assert names >= WITHOUT_OPTIONS
    for path in (SCRIPTS / "benchmarks").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "benchmark_" not in text.replace("embedded_benchmark", "").replace("my_benchmark", ""), path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py") and "/" not in node.value:
                assert node.value.removesuffix(".py") in names, (path.name, node.value)


@pytest.mark.nightly
@pytest.mark.parametrize("script", sorted(path.relative_to(SCRIPTS) for path in [*SCRIPTS.glob("*.py"), *SCRIPTS.glob("benchmarks/*.py")]), ids=str)
def test_a_script_explains_itself(script):
    if script.stem in WITHOUT_OPTIONS:
        pytest.skip("has no command line of its own")
    if script.stem == "make_notebooks":
        pytest.importorskip("jupytext")
    done = subprocess.run([sys.executable, str(SCRIPTS / script), "--help"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage" in done.stdout.lower()
