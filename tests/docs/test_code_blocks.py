"""Code blocks of README.md and docs/ run, and every command line in them is accepted by the command line's own parser."""

import ast
import contextlib
import importlib
import inspect
import io
from types import ModuleType

import pytest
import tyro

import ntk_select as ns
from ntk_select.cli import main


@pytest.fixture(scope="module")
def page_blocks(loaded):
    return loaded("docs/blocks.py")


@pytest.fixture(scope="module")
def world(loaded):
    return loaded("docs/world.py")


def pages_with(marker):
    """Names of pages; the files are read again in the test."""
    quick = (
        "docs/guides/kernels.md",
        "docs/guides/benchmark.md",
        "docs/guides/extend.md",
        "docs/score-definitions.md",
        "docs/equations.md",
        "README.md",
        "docs/guides/experts.md",
    )
    nightly = ("kernels", "rank", "experts", "theory", "forecast", "fine-tuning")
    return quick if marker is None else (*(f"docs/guides/{name}.md" for name in nightly), "docs/getting-started.md")


def test_every_page_with_python_is_run(page_blocks):
    for marker in (None, "nightly"):
        pages = {block.page for block in page_blocks.blocks("python") if block.marker == marker}
        assert pages == set(pages_with(marker)), marker
    assert {block.marker for block in page_blocks.blocks("python", "console", "bash")} <= {None, "nightly", "parse"}


def presupposed(code):
    """Names that code uses before it defines them."""
    used, defined = set(), set()
    for statement in ast.parse(code).body:
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        used |= {name.id for name in names if isinstance(name.ctx, ast.Load)} - defined
        defined |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return used


def run(page, page_blocks, world, markers, where, monkeypatch):
    """Executes the blocks of a page in one namespace, in a folder with the files that they name."""
    monkeypatch.chdir(where)
    chosen = [block for block in page_blocks.blocks("python") if block.page == page and block.marker in markers]
    makers = world.PLAIN | world.OF_PAGE.get(page, {})
    namespace = {name: makers[name]() for name in sorted(presupposed("".join(block.code for block in chosen)) & makers.keys())}
    for block in chosen:
        code = compile("\n" * (block.line - 1) + block.code, page, "exec")  # tracebacks name page and line
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, namespace)
    return namespace


@pytest.mark.parametrize("page", pages_with(None))
def test_quick_blocks_run(page, page_blocks, world, tmp_path, monkeypatch):
    run(page, page_blocks, world, (None,), tmp_path, monkeypatch)


@pytest.mark.nightly
@pytest.mark.parametrize("page", pages_with("nightly"))
def test_all_blocks_run(page, page_blocks, world, tmp_path, monkeypatch):
    world.folders(tmp_path)
    run(page, page_blocks, world, (None, "nightly"), tmp_path, monkeypatch)


def test_the_score_of_the_guide_depends_on_the_labels(page_blocks, world, tmp_path, monkeypatch, rng):
    mine = run("docs/guides/extend.md", page_blocks, world, (None,), tmp_path, monkeypatch)["mine"]
    features = ns.scores.Features(world.feature_array())
    values = [float(mine(features=features, labels=order)) for order in (world.labels(), rng.permutation(world.labels()))]
    assert values[0] > 2 * values[1]


def resolved(name: str):
    """The object of "ns.evaluate.interval" or "L.predict"; attributes of what is no module are not looked up."""
    first, *rest = name.split(".")
    value = {"ns": ns, "L": ns.linearized}[first]
    for part in rest:
        if isinstance(value, ModuleType):
            assert hasattr(value, part), f"{name}: there is no {part} in {value.__name__}"
            value = getattr(value, part)
    return value


def test_names_and_keywords_in_all_blocks_exist(page_blocks):
    seen = set()
    for block in page_blocks.blocks("python"):
        where = f"{block.page}:{block.line}"
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).partition(".")[0] in ("ns", "L"):
                resolved(ast.unparse(node).partition("(")[0].partition("[")[0])
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ntk_select"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), where
            if isinstance(node, ast.Call) and ast.unparse(node.func).partition(".")[0] in ("ns", "L"):
                name, keywords = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
                if "[" in name or "(" in name:
                    continue
                known = inspect.signature(resolved(name)).parameters
                assert any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()) or keywords <= set(known), (where, name, keywords)
                seen.add(name)
    called = {"ns.rank", "ns.ntk", "ns.sketch", "ns.lgc", "ns.forecast", "ns.finetune", "ns.linen_expert", "ns.nnx_expert", "L.predict"}
    assert seen >= called | {"L.loss_curve", "L.compare_training", "L.network_kernel", "ns.evaluate.interval"}


def test_every_command_line_is_parsed(page_blocks, monkeypatch):
    parsed, real = [], tyro.cli

    class Parsed:
        """A command that does nothing."""

        def run(self):
            return 0

    def parse(*args, **options):
        parsed.append(real(*args, **options))
        return Parsed()

    monkeypatch.setattr(tyro, "cli", parse)
    found = page_blocks.commands()
    for where, words in found:
        try:
            status = main(words)
        except SystemExit as stopped:
            pytest.fail(f"{where}: ntk-select {' '.join(words)} is refused ({stopped.code})")
        assert status == 0, (where, words)
    assert len(parsed) == len(found) > 20
    names = {(first, *rest[: first in page_blocks.GROUPS]) for _, (first, *rest) in found}
    assert {("rank",), ("finetune",), ("dynamics",), ("kernel",), ("bench", "run"), ("zoo", "convert"), ("zoo", "train"), ("tasks", "show")} <= names
