"""scripts/benchmarks/compare_kernels.py compares the embedded zoo, and computes nothing twice."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ntk_select.errors import ConfigError

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "compare_kernels.py"
EXPERTS = ("neu_steel-resnet_small", "cifar10-resnet_small", "grocery-resnet_small")


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("compare_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_unknown_expert_is_refused(script, tmp_path):
    with pytest.raises(ConfigError, match="--only: there is no expert 'neu_steel-resnet_smal' in the zoo. Did you mean 'neu_steel-resnet_small"):
        script.main(only=("neu_steel-resnet_smal",), out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_writes_figure_and_numbers_and_a_second_run_computes_only_what_is_new(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    options = {"kinds": ("countsketch", "gaussian"), "dims": (128, 512), "seeds": 4, "per_class": 3, "out": tmp_path}
    first = script.main(only=EXPERTS[:2], **options)
    assert (tmp_path / "compare_kernels.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "compare_kernels.json").read_text())
    assert script.Comparison.from_dict(record) == first
    assert "Spearman" in capsys.readouterr().out
    for summary in first.summaries():
        rows = [row.error for row in first.rows if (row.kind, row.dim) == (summary.kind, summary.dim)]
        assert summary.error == pytest.approx(np.sqrt(np.mean(np.square(rows))))
        assert 0.3 * summary.law < summary.error < 2.5 * summary.law

    asked, compare = [], script.compare

    def counted(experts, *arguments, **settings):
        asked.extend(experts)
        return compare(experts, *arguments, **settings)

    monkeypatch.setattr(script, "compare", counted)
    second = script.main(only=EXPERTS, **options)
    assert asked == [EXPERTS[2]]
    assert second.rows[: len(first.rows)] == first.rows
    assert second.experts == EXPERTS
    (tmp_path / "experts" / f"{EXPERTS[0]}.json").write_text("{")  # truncated
    script.main(only=EXPERTS[:1], **options)
    script.main(only=EXPERTS[:1], **(options | {"per_class": 2}))
    assert asked == [EXPERTS[2], EXPERTS[0], EXPERTS[0]]
