"""Layering: the contracts of pyproject.toml, what an import loads, and the size of files."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"ntk_select": ROOT / "ntk_select", "ntk_select.models": ROOT / "models", "ntk_select.data": ROOT / "data"}
FORBIDDEN_AT_IMPORT = {"tensorflow", "torch", "matplotlib", "tensorflow_datasets", "neural_tangents"}
# Files that may use `jax.extend`, which is less stable than the rest of JAX.
READ_JAXPRS = {"engine/program.py", "engine/neural_tangents.py"}
# Installed with the package, but not needed by its numerical core.
NOT_CORE = {*FORBIDDEN_AT_IMPORT, "PIL", "safetensors", "tyro", "rich", "pyarrow", "pandas", "sklearn", "huggingface_hub", "array_record"}


def imported_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(room: str) -> list[Path]:
    return sorted(ROOMS[room].rglob("*.py"))


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_rooms_import_as_pyproject_declares(tmp_path):
    """import-linter reads packages from folders, and `models` and `data` are mapped into the package only when it is installed."""
    unused = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "ntk_select", tmp_path / "ntk_select", ignore=unused)
    for room in ("models", "data"):
        shutil.copytree(ROOT / room, tmp_path / "ntk_select" / room, ignore=unused)
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", ROOT / "pyproject.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_names_and_sizes_of_all_files():
    """Never imported are the bare names of the mapped folders, and private parts of JAX."""
    for file in (file for room in ROOMS for file in sources(room)):
        private = ("jax._src",) if f"{file.parent.name}/{file.name}" in READ_JAXPRS else ("jax._src", "jax.extend")
        banned = ("models", "data", "scripts", "tests", *private)
        assert not [name for name in imported_names(file) if any(inside(name, each) for each in banned)], file
        assert len(file.read_text().splitlines()) <= 600, file
        assert file.stem not in ("utils", "helpers", "common", "misc"), file


def test_packages_in_pyproject_are_the_folders_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = set()
    for package, folder in ROOMS.items():
        folders |= {".".join([package, *init.parent.relative_to(folder).parts]) for init in folder.rglob("__init__.py")}
    assert set(settings["packages"]) == folders


@pytest.mark.parametrize("room", ["ntk_select", "models", "data", "scripts"])
def test_every_top_folder_has_a_short_readme(room):
    lines = (ROOT / room / "README.md").read_text().splitlines()
    assert 3 <= len(lines) <= 40


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    loaded = run_python("import sys, ntk_select; print(*sorted({m.split('.')[0] for m in sys.modules}))").split()
    assert "ntk_select" in loaded
    assert not FORBIDDEN_AT_IMPORT & set(loaded)


def test_core_works_with_its_few_dependencies_alone():
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {sorted(NOT_CORE)!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Refuse())
import numpy as np, ntk_select as ns
rng = np.random.default_rng(0)
images = rng.integers(0, 255, (12, 4, 4), dtype=np.uint8)
task = ns.Task('t', images, np.arange(12) % 3, ('a', 'b', 'c'))
linear = lambda v, x: x.reshape(len(x), -1) @ v['params']['w']
expert = ns.Expert('e', linear, {{'w': rng.normal(size=(16, 3)).astype('float32')}}, features_fn=lambda v, x: x.reshape(len(x), -1),
                   last_conv=('w',), preprocess=lambda images: np.stack(images).astype('float32'))
print(ns.rank([expert], task).best)
"""
    assert run_python(code).strip() == "e"
