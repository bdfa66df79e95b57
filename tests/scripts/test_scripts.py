"""Do the scripts do what their first lines say?"""

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_example_asserts_its_own_outcome(capsys):
    runpy.run_path(str(SCRIPTS / "01_rank_your_own_model.py"), run_name="__main__")
    assert "pixels is ahead of all others" in capsys.readouterr().out


def test_the_example_of_a_score_of_ones_own_asserts_its_outcome(capsys):
    pytest.importorskip("sklearn")
    runpy.run_path(str(SCRIPTS / "04_your_own_score.py"), run_name="__main__")
    assert "fisher_ratio   1.00" in capsys.readouterr().out


def test_the_kernel_example_asserts_its_own_outcome(capsys):
    pytest.importorskip("matplotlib")
    runpy.run_path(str(SCRIPTS / "02_kernel_of_your_own_model.py"), run_name="__main__")
    assert "positive semi-definite up to rounding" in capsys.readouterr().out
