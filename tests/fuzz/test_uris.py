"""Arbitrary text as a URI is a task, a zoo, or an error message."""

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ntk_select.data import TASKS
from ntk_select.data.uri import parse_uri

QUICK = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
LONG = "x" * 5000
KINDS = st.sampled_from(["", *TASKS, "builtin", "folder", "Digits"])
ARGUMENTS = st.text(st.characters(), max_size=12) | st.lists(
    st.sampled_from(["~", ".", "..", "/", ":", "@", "a", "\0", ".zip", ".npz", ".csv", "?", " ", "\ud800"])
).map("".join)
URIS = st.builds("{}{}{}".format, KINDS, st.sampled_from(["", ":", "/", "@"]), ARGUMENTS)


def encoded(text: str) -> bytes:
    """As the targets read it."""
    return text.encode("utf-8", "surrogatepass")


@settings(QUICK, max_examples=150)
@given(URIS)
@example("~\0")
@example("~\0/a.zip")
@example("folder:~nobody-of-this-name")
@example("zip:\0.zip")
@example("npz:" + LONG)
@example(LONG + ".zip")
@example("magnetic_tile:" + LONG)
@example("magnetic_tile:~nobody-of-this-name")
@example("magnetic_tile:\0")
def test_any_text_is_a_task_or_an_error_in_a_sentence(safely, text):
    safely("uri", encoded(text))


@settings(QUICK, max_examples=60)
@given(URIS)
@example("~nobody-of-this-name/zoo")
@example("folder:~nobody-of-this-name")
@example("~\0")
@example("zoo\0")
@example(LONG)
def test_any_text_is_a_zoo_or_an_error_in_a_sentence(safely, text):
    safely("zoo", encoded(text))


@settings(QUICK, max_examples=100)
@given(st.sampled_from(list(TASKS)), ARGUMENTS.filter(lambda text: "\0" not in text))
def test_a_uri_that_is_put_together_is_taken_apart_again(name, argument):
    kind, rest = parse_uri(f"{name}:{argument}", TASKS)
    assert f"{kind}:{rest}" == f"{name}:{argument}"
