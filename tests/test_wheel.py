"""The wheel, built from the sources, contains the package and what it reads, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    shutil.rmtree(ROOT / "build/lib", ignore_errors=True)  # setuptools would pack what an earlier build has left there
    uv = Path(sys.executable).parent / "uv"
    done = subprocess.run([uv, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", out, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_only_top_level_name_is_ntk_select(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert top == {"ntk_select", next(name.split("/")[0] for name in wheel.namelist() if ".dist-info" in name)}


def test_models_data_weights_and_licence_are_inside(wheel):
    names = set(wheel.namelist())
    assert {"ntk_select/models/resnet.py", "ntk_select/data/published/catalogue.toml", "ntk_select/py.typed"} <= names
    modules = {f"ntk_select/{f.relative_to(ROOT)}" for room in ("models", "data") for f in (ROOT / room).rglob("*.py")}
    modules |= {str(f.relative_to(ROOT)) for f in (ROOT / "ntk_select").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    on_disk = {f"ntk_select/models/weights/{f.parent.name}/{f.name}" for f in (ROOT / "models/weights").glob("*/*") if not f.name.startswith(".")}
    assert on_disk <= names
    assert any(name.endswith("LICENSE") for name in names)


def test_all_seven_packages_of_the_user_are_dependencies(wheel):
    metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    required = {
        line.split(":")[1].split(">")[0].strip() for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line
    }
    assert {"jax", "flax", "optax", "neural-tangents", "tensorflow-datasets", "numpy", "scipy"} <= required


def test_embedded_weights_stay_small():
    assert sum(f.stat().st_size for f in (ROOT / "models/weights").rglob("*")) <= 16 * 2**20
