"""Coverage-guided fuzzing finds no fault in some thousand inputs per target."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"


def test_the_script_knows_every_surface(loaded):
    written = re.search(r"^SURFACES = \((.*?)\)", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)[1]
    assert set(re.findall(r'"(\w+)"', written)) == set(loaded("fuzz/targets.py").TARGETS) == set(loaded("fuzz/seeds.py").seeds())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="Atheris is not installed: pip install atheris")
@pytest.mark.parametrize(
    "surface", ["config", *(pytest.param(surface, marks=pytest.mark.nightly) for surface in ("uri", "card", "archive"))]
)  # the others: scripts/fuzz.py
def test_some_thousand_inputs_find_nothing(surface, tmp_path):
    command = [sys.executable, str(SCRIPT), surface, "--runs", "3000", "--seconds", "8", "--findings", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert not list(tmp_path.iterdir())


def test_what_reaches_beyond_its_folder_is_seen(loaded, tmp_path):
    """The watch itself can fail."""
    watch, inside = loaded("fuzz/watch.py").WATCH, tmp_path / "inside"
    inside.mkdir()
    with watch.over(inside):
        (inside / "a").write_text("a")
        (inside / "a").unlink()
    for act in (
        lambda: (tmp_path / "b").write_text("b"),
        lambda: (inside / "a").mkdir() or (inside / "a").rename(tmp_path / "c"),
        (tmp_path / "d").mkdir,
    ):
        with pytest.raises(AssertionError, match="Beyond"), watch.over(inside):
            act()


def test_a_sentence_that_is_none_is_seen(loaded):
    """So can the judge of sentences."""
    from ntk_select.errors import ConfigError

    targets = loaded("fuzz/targets.py")

    def refused(message):
        raise ConfigError(message)

    assert targets.tried(refused, "Give a number.") is None
    for message in ("", "  ", f"{object()} is wrong.", f"{dict} is wrong."):
        with pytest.raises(targets.BadSentence):
            targets.tried(refused, message)
    with pytest.raises(KeyError):
        targets.tried(lambda: {}["a"])
