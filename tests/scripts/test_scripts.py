"""The tutorials do what their first lines say. Each asserts its own outcome."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("script", "needs", "says"),
    [
        ("01_rank_your_own_model", "numpy", "lfc is highest for pixels"),
        ("02_kernel_of_your_own_model", "matplotlib", "positive semi-definite up to rounding"),
        pytest.param("03_rank_your_flax_model", "flax", "untrained: kernel (25, 25)", marks=pytest.mark.slow),
        ("04_your_own_score", "sklearn", "fisher_ratio   1.00"),
        pytest.param("05_kernel_and_its_projection", "sklearn", "LGC of the last convolution", marks=pytest.mark.slow),
        pytest.param("06_predict_a_loss_curve", "matplotlib", "curves.png", marks=pytest.mark.slow),
        pytest.param("08_port_a_resnet20", "safetensors", "Expert('resnet20', parameters=269,722)", marks=pytest.mark.slow),
        pytest.param("09_rank_a_flax_vit", "sklearn", "untrained: LGC of its last layers", marks=pytest.mark.slow),
    ],
)
def test_a_tutorial_asserts_its_own_outcome(script, needs, says, capsys):
    pytest.importorskip(needs)
    runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert says in capsys.readouterr().out


@pytest.mark.oracle
def test_the_tutorial_of_a_checkpoint_finds_the_answers_of_pytorch(loaded, capsys):
    loaded("models/torchvision_oracle.py").import_torchvision()
    runpy.run_path(str(SCRIPTS / "07_convert_a_pytorch_checkpoint.py"), run_name="__main__")
    assert "largest difference from PyTorch" in capsys.readouterr().out


def test_every_tutorial_is_run_here():
    names = {path.stem for path in SCRIPTS.glob("0*.py")}
    text = Path(__file__).read_text()
    assert len(names) == 9
    assert all(name in text for name in names)
