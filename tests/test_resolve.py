"""Names of tasks and experts are accepted in place of the objects."""

import re
from pathlib import Path

import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ConfigError, ModelError, TaskError
from ntk_select.resolve import as_expert, as_experts, as_task

EMBEDDED = "cifar10-resnet_small"


def expert(name="mine"):
    return ns.Expert(name, lambda variables, x: x, {}, {})


def test_a_task_is_itself_or_what_its_name_or_path_means(tmp_path):
    digits = as_task("digits")
    assert (digits.name, digits.uri) == ("digits", "digits")
    assert as_task(digits) is digits
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.array([0, 1]))
    assert len(as_task(tmp_path / "own.npz").images) == 2


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (3, ConfigError, r"task= must be a Task, or its name or path; given: int. Try: ntk_select.load_task\('digits'\)"),
        (None, ConfigError, "given: NoneType"),
        (np.zeros(3), ConfigError, "given: ndarray"),
        ("digitz", TaskError, "Did you mean 'digits'"),
    ],
)
def test_what_is_no_task_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        as_task(given)


def test_experts_are_named_by_zoo_folder_or_name_and_keep_their_order(tmp_path):
    zoo = ns.open_zoo("builtin")
    assert list(as_experts("builtin")) == list(zoo)
    assert list(as_experts(EMBEDDED)) == [EMBEDDED]
    assert as_experts(EMBEDDED)[EMBEDDED]().name == EMBEDDED
    mine, (first, second, *_) = expert(), zoo
    found = as_experts([second, mine, first])
    assert list(found) == [second, "mine", first]
    assert found["mine"]() is mine
    (tmp_path / "folder").symlink_to(Path(ns.__file__).parent.parent / "models/weights" / EMBEDDED)
    assert list(as_experts(tmp_path)) == ["folder"]
    assert as_expert(str(tmp_path / "folder")).name == EMBEDDED


def test_mappings_of_experts_and_of_loaders_are_accepted():
    mine = expert()
    found = as_experts({"a": mine, "b": lambda: mine})
    assert list(found) == ["a", "b"]
    assert found["a"]() is mine
    assert found["b"]() is mine
    assert as_experts({}) == as_experts([]) == {}


def test_an_embedded_name_takes_precedence_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / EMBEDDED).mkdir()
    monkeypatch.chdir(tmp_path)
    assert as_expert(EMBEDDED).name == EMBEDDED
    with pytest.raises(ModelError, match="contains no expert"):
        as_expert(f"./{EMBEDDED}")
    with pytest.raises(ModelError, match="contains no expert"):
        as_expert(Path(EMBEDDED))


@pytest.mark.parametrize("given", [3, None, [3], lambda: 3, ns.open_zoo("builtin")[EMBEDDED]], ids=lambda given: type(given).__name__)
def test_what_is_no_expert_is_refused(given):
    what = type(given[0] if isinstance(given, list) else given).__name__
    for read in (as_experts, as_expert):
        with pytest.raises(
            ConfigError, match=r"Expected an expert or a name of one; given: " + ("list" if given == [3] and read is as_expert else what)
        ):
            read(given)


@pytest.mark.parametrize("read", [as_experts, as_expert])
@pytest.mark.parametrize("given", ["cifar10-resnet_smal", "", "a\0b", "no/such/folder"])
def test_a_name_that_means_nothing_is_refused(read, given):
    with pytest.raises(
        ModelError,
        match=re.escape(f"There is no expert, zoo or folder {given!r}.")
        + ".*To list the names, try: list.*, on the command line: ntk-select zoo list",
    ):
        read(given)


def test_near_names_are_suggested_and_two_of_one_name_are_refused():
    with pytest.raises(ModelError, match=f"Did you mean '{EMBEDDED}'"):
        as_expert("cifar10-resnet_smal")
    with pytest.raises(ConfigError, match=f"Two experts are named '{EMBEDDED}'; names must differ"):
        as_experts([EMBEDDED, "builtin"])
    with pytest.raises(ConfigError, match=r"'builtin' contains \d+ experts, of which one must be named. Try: '"):
        as_expert("builtin")
