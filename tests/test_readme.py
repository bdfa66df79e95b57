"""Is what the README tells a reader to open and to type there?"""

import ast
import importlib
import inspect
import re
import shlex
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from ntk_select.cli import main

ROOT = Path(__file__).parents[1]
SIGNS = [ROOT / "README.md", *ROOT.glob("scripts/**/*.md"), *ROOT.glob("ntk_select/**/*.md"), ROOT / "models/README.md", ROOT / "data/README.md"]
GROUPS = ("bench", "zoo", "tasks", "scores")
README = (ROOT / "README.md").read_text()
SHORT = {"ns": "ntk_select", "L": "ntk_select.linearized"}
"""What the README calls them."""
CHECKED = {"ns.ntk", "ns.sketch", "ns.finetune", "ns.rank", "ns.linen_expert", "ns.nnx_expert", "L.predict", "L.loss_curve", "L.beside"}


@pytest.mark.parametrize("sign", SIGNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(sign):
    for link in re.findall(r"[^\"]\]\(([^)#\s]+)\)", sign.read_text()):
        assert link.startswith("https://") or (sign.parent / link).exists(), link


@pytest.mark.parametrize("sign", SIGNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_and_tests_that_are_named_exist(sign):
    for place in re.findall(r"\b((?:scripts|tests|models|data)/[\w/]+\.(?:py|toml|png))", sign.read_text()):
        assert (ROOT / place).exists(), place


def test_every_script_and_config_is_named_in_the_readme_of_its_folder():
    named = (ROOT / "scripts/README.md").read_text()
    files = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts").glob("configs/*.toml")]
    assert len(files) > 20
    assert [file.name for file in files if f"{file.name}`" not in named] == []
    assert len(named.splitlines()) <= 40


def commands():
    """What the README types into a shell, its comments cut off."""
    lines = (ROOT / "README.md").read_text().replace("\\\n", " ").splitlines()
    typed = (line.strip() for line in lines if line.startswith("    "))
    found = (shlex.split(line.partition("  #")[0].removesuffix("&")) for line in typed if not line.startswith("#") and "ntk-select " in line)
    return [tokens[tokens.index("ntk-select") + 1 :] for tokens in found]


def test_every_option_that_the_readme_types_is_known_to_its_command(capsys):
    seen = set()
    for command, *rest in commands():
        names = [command, *rest[: command in GROUPS]]
        with pytest.raises(SystemExit):
            main([*names, "--help"])
        known = capsys.readouterr().out
        for option in (token for token in rest if token.startswith("--")):
            assert f"{option} " in known.replace("│", " ") or f"{option}," in known, (names, option)
        seen.add(tuple(names))
    assert {("rank",), ("finetune",), ("dynamics",), ("kernel",), ("bench", "run"), ("zoo", "convert"), ("zoo", "train"), ("tasks", "show")} <= seen


def found(name: str):
    """What "ns.evaluate.compare" or "L.predict" is; past what is no module, such as a table, nothing is looked up."""
    first, *rest = name.split(".")
    value = importlib.import_module(SHORT[first])
    for part in rest:
        if isinstance(value, ModuleType):
            assert hasattr(value, part), f"{name}: there is no {part} in {value.__name__}"
            value = getattr(value, part)
    return value


def calls():
    """The calls in the Python of the README: (name, keywords). What does not parse as a block does line by line, or is no Python."""
    for block in re.findall(r"(?:^    .*\n)+", README, re.M):
        text = textwrap.dedent(block)
        for part in [text] if parses(text) else filter(parses, text.splitlines()):
            for node in ast.walk(ast.parse(part)):
                name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if name.partition(".")[0] in SHORT:
                    yield name, {keyword.arg for keyword in node.keywords}


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def test_every_name_of_the_package_that_the_readme_names_exists():
    names = set(re.findall(r"\b((?:ns|L)(?:\.\w+)+)", README))
    assert len(names) > 30
    for name in names:
        found(name)


def test_every_keyword_that_the_readme_gives_to_a_function_is_known_to_it():
    seen = set()
    for name, keywords in calls():
        known = inspect.signature(found(name)).parameters
        taken = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
        assert taken or keywords <= set(known), (name, keywords - set(known))
        seen.add(name)
    assert seen >= CHECKED
