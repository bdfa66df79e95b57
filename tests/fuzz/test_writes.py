"""After any sequence of writes and interruptions each file has the complete content of the last write, without leftovers."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ntk_select._runtime.files import file_name, write_atomically

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
NAMES, CONTENTS = st.sampled_from(["a", "b", "new/c", "new/folder/d.bin"]), st.binary(max_size=20)


class Writing(RuleBasedStateMachine):
    """A folder beside a dictionary of what should be in it."""

    def __init__(self):
        super().__init__()
        self.place, self.expected = TemporaryDirectory(), {}
        self.folder = Path(self.place.name)

    @rule(name=NAMES, content=CONTENTS)
    def write(self, name, content):
        write_atomically(self.folder / name, content)
        self.expected[name] = content

    @rule(name=NAMES, content=CONTENTS, step=st.sampled_from(["fsync", "replace"]), error=st.sampled_from([OSError(28, "full"), KeyboardInterrupt()]))
    def cut(self, name, content, step, error):
        with mock.patch.object(os, step, side_effect=error):
            try:
                write_atomically(self.folder / name, content)
            except (OSError, KeyboardInterrupt):
                return
        raise AssertionError("The cut was not felt.")

    @invariant()
    def each_file_is_whole_and_nothing_is_beside_it(self):
        found = {str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        assert found == self.expected

    def teardown(self):
        self.place.cleanup()


TestWriting = Writing.TestCase
TestWriting.settings = settings(QUICK, max_examples=15, stateful_step_count=12)


@settings(QUICK, max_examples=80)
@given(st.text(st.characters(), max_size=60))
def test_any_text_becomes_the_name_of_one_visible_file(tmp_path, text):
    (tmp_path / file_name(text)).touch()
    assert [path.name for path in tmp_path.iterdir()] == [file_name(text)]
    assert not file_name(text).startswith(".")
    (tmp_path / file_name(text)).unlink()
