"""`ntk-select kernel` gives the kernel of explicit Jacobians, records its provenance, and rejects invalid options in one sentence."""

import json
import re
import shlex
from datetime import datetime

import jax
import numpy as np
import pytest

from ntk_select import Expert, certify, kernel_label_correlation, ntk_plan, probe_sample
from ntk_select.cli import main
from ntk_select.data import describe, load_task
from ntk_select.errors import MissingDependencyError
from ntk_select.kernels.saved_kernel import load_kernel
from ntk_select.models import ZOO, open_zoo


@pytest.fixture(scope="module")
def zoo(write_zoo):
    return write_zoo("ash")


@pytest.fixture(scope="module")
def npz(write_task):
    return write_task()


@pytest.fixture
def ran(zoo, npz, capsys):
    """ran("--json", ...) computes the kernel of the small expert on the small task: exit status, stdout and stderr."""

    def run(*options, expert="ash"):
        capsys.readouterr()
        status = main(["kernel", "--expert", expert, "--task", npz, "--zoo", zoo, "--per-class", "3", *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def jacobians(expert, x):
    """{path: (n, c, entries)} of the logits with respect to each parameter, by reverse mode, in float64."""
    params, state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (expert.params, expert.state))
    one = jax.jacrev(lambda p, example: expert.apply_fn({"params": p, **state}, example[None])[0])
    leaves = jax.tree_util.tree_leaves_with_path(jax.jit(jax.vmap(one, (None, 0)))(params, x.astype(np.float64)))
    return {"/".join(key.key for key in path): np.asarray(leaf).reshape(*leaf.shape[:2], -1) for path, leaf in leaves}


def expected_kernel(rows, outputs):
    """From one Jacobian (n, c, p)."""
    full = np.einsum("icp,jdp->ijcd", rows, rows)
    diagonal = np.einsum("ijcc->ijc", full)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.mean(axis=2), "sum": full.sum(axis=(2, 3))}[outputs]


def assert_close(got, expected, tolerance=1e-5):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def sampled(expert, uri, per_class):
    sample = probe_sample(load_task(uri), per_class=per_class)
    return sample, np.asarray(expert.preprocess(sample.images))


@pytest.mark.slow
def test_an_embedded_experts_kernel_and_those_of_its_layers_equal_explicit_jacobians(capsys, tmp_path):
    pytest.importorskip("sklearn")
    path, name = tmp_path / "runs" / "kernel.npz", "neu_steel-resnet_small"
    status = main(
        ["kernel", "--expert", name, "--task", "digits", "--per-class", "1", "--layers", "layer3|^fc", "--by-layer", "--json", "--out", str(path)]
    )
    saved, expert = load_kernel(path), ZOO[name]()
    sample, x = sampled(expert, "digits", 1)
    explicit = {path: rows for path, rows in jacobians(expert, x).items() if path.startswith(("layer3", "fc"))}
    assert status == 0
    assert_close(saved.kernel, expected_kernel(np.concatenate(list(explicit.values()), axis=2), "trace"))
    assert set(saved.layers) == set(explicit) == set(saved.provenance["layers"]["paths"])
    for layer, rows in explicit.items():
        assert_close(saved.layers[layer], expected_kernel(rows, "trace"))
    np.testing.assert_array_equal(saved.labels, sample.labels)
    np.testing.assert_array_equal(saved.indices, sample.indices)
    assert saved.class_names == sample.class_names
    shares = {layer: np.square(rows).sum() for layer, rows in explicit.items()}
    assert json.loads(capsys.readouterr().out)["shares"] == pytest.approx({k: v / sum(shares.values()) for k, v in shares.items()}, rel=1e-4)


@pytest.fixture(scope="module")
def small(zoo, npz):
    expert = open_zoo([zoo])["ash"]()
    return expert, jacobians(expert, sampled(expert, npz, 3)[1])


@pytest.mark.parametrize(
    ("options", "pattern", "outputs"),
    [
        (("--layers", "last_conv"), "last_conv", "trace"),
        (("--layers", "last_conv", "--outputs", "sum", "--by-layer"), "last_conv", "sum"),
        (("--layers", "last_conv", "--precision", "high"), "last_conv", "trace"),
        (("--outputs", "full", "--float64", "--memory-gb", "0.5"), "", "full"),
        (("--outputs", "diagonal", "--layers", "bn.*scale|^fc"), "bn.*scale|^fc", "diagonal"),
        pytest.param(("--outputs", "sum"), "", "sum", marks=pytest.mark.nightly),
    ],
)
def test_every_choice_of_layers_and_outputs_equals_explicit_jacobians(ran, small, tmp_path, options, pattern, outputs):
    expert, explicit = small
    last = "/".join(expert.last_conv.path)
    chosen = [path for path in explicit if (path == last if pattern == "last_conv" else re.search(pattern, path))]
    status, _, _ = ran(*options, "--out", str(tmp_path / "kernel.npz"))
    saved = load_kernel(tmp_path / "kernel.npz")
    assert status == 0
    assert_close(saved.kernel, expected_kernel(np.concatenate([explicit[path] for path in chosen], axis=2), outputs))
    made = saved.provenance
    assert (sorted(made["layers"]["paths"]), made["outputs"]) == (sorted(chosen), outputs)
    assert made["accumulate"] == ("float64" if saved.kernel.dtype == np.float64 else None)
    assert set(saved.layers) == (set(chosen) if "--by-layer" in options else set())


def test_the_feature_kernel_is_that_of_the_pre_logits(ran, small, npz, tmp_path):
    expert, _ = small
    features = np.asarray(expert.features_fn(expert.variables, sampled(expert, npz, 3)[1]), np.float64)
    status, out, _ = ran("--kind", "feature", "--out", str(tmp_path / "kernel.npz"))
    saved = load_kernel(tmp_path / "kernel.npz")
    assert status == 0
    assert "feature of ash on bright things: 6 x 6" in out
    assert_close(saved.kernel, features @ features.T)
    assert (saved.provenance["kind"], saved.provenance["layers"], saved.provenance["outputs"]) == ("feature", None, None)


def test_the_file_says_where_the_kernel_comes_from(ran, small, zoo, npz, tmp_path):
    expert, _ = small
    ran("--seed", "5", "--layers", "conv", "--float64", "--out", str(tmp_path / "kernel.npz"))
    made = load_kernel(tmp_path / "kernel.npz").provenance
    task = load_task(npz)
    assert made["expert"] == "ash"
    assert made["card"]["source"] == "trees"
    assert made["card"]["sha256"] == expert.card.sha256 != ""
    assert made["task"] == describe(task) | {"uri": npz}
    assert made["probe"] == {"per_class": 3, "seed": 5, "indices": probe_sample(task, per_class=3, seed=5).indices.tolist()}
    assert made["layers"]["pattern"] == "conv"
    assert (made["zoo"], made["kind"], made["outputs"], made["precision"], made["accumulate"]) == ([zoo], "ntk", "trace", "highest", "float64")
    assert made["versions"].keys() == {"ntk-select", "jax", "numpy"}
    assert made["versions"]["jax"] == jax.__version__
    assert jax.devices()[0].platform in made["device"]
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(made["made"])).total_seconds()) < 600
    plan = ntk_plan(expert.apply_fn, expert.variables, sampled(expert, npz, 3)[1], layers=lambda path: "params" in path and "conv" in path)
    assert (made["plan"]["flops"], made["plan"]["peak_bytes"]) == (plan.flops, plan.peak_bytes)


@pytest.fixture
def dense(dense_zoo, monkeypatch):
    """The small expert is a dense network."""
    monkeypatch.setattr("ntk_select.models.open_zoo", dense_zoo)


@pytest.mark.usefixtures("dense")
def test_json_is_one_document_with_the_summary_and_the_provenance(ran, tmp_path):
    status, out, err = ran("--json", "--out", str(tmp_path / "kernel.npz"))
    record, saved = json.loads(out), load_kernel(tmp_path / "kernel.npz")
    assert status == 0
    assert record["shape"] == [6, 6]
    assert record["certificate"]["smallest"] == certify(saved.kernel).smallest
    assert record["kernel_label_correlation"] == kernel_label_correlation(saved.kernel, saved.labels)
    assert record["provenance"] == saved.provenance
    assert record["files"][0] == str(tmp_path / "kernel.npz")
    assert all(f"wrote {path}\n" in err for path in record["files"])


def typed_next(out):
    """The command after "Next...: "."""
    return shlex.split(out[out.index("Next") :].partition(": ")[2])[1:]


@pytest.mark.usefixtures("dense")
def test_the_summary_for_people_and_what_is_said_to_type_next_works(ran, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, as_json, _ = ran("--by-layer", "--seed", "2", "--json")
    status, out, _ = ran("--by-layer", "--seed", "2")
    record = json.loads(as_json)
    assert status == 0
    assert "ntk of ash on bright things: 6 x 6, float32" in out
    assert f"The kernel is {record['certificate']['text']}." in out
    assert f"Correlation with the labels: {record['kernel_label_correlation']:.4f}." in out
    places = [out.index(f" {layer} ") for layer in record["shares"]]
    assert places == sorted(places)
    assert list(record["shares"].values()) == sorted(record["shares"].values(), reverse=True)
    assert not list(tmp_path.iterdir())
    assert main(typed_next(out)) == 0
    assert load_kernel("kernel.npz").provenance["probe"]["seed"] == 2
    assert list(load_kernel("kernel.npz").layers) == record["provenance"]["layers"]["paths"]
    after = capsys.readouterr().out
    namespace = {}
    exec(after[after.index("from ntk_select.kernels.saved_kernel") :].replace("; ", "; loaded = "), namespace)
    assert namespace["loaded"].kernel.shape == (6, 6)


@pytest.mark.usefixtures("dense")
def test_a_long_table_of_layers_ends_with_the_sum_of_the_others(ran, monkeypatch):
    monkeypatch.setattr("ntk_select.cli.kernel.MAX_LAYERS", 2)
    shares = list(json.loads(ran("--by-layer", "--json")[1])["shares"].values())
    out = ran("--by-layer")[1]
    assert f"{len(shares) - 1} others" in out
    assert f"{sum(shares[1:]):.2%}" in out


def test_the_heat_map_lies_beside_the_file(ran, tmp_path):
    pytest.importorskip("matplotlib")
    ran("--layers", "fc", "--out", str(tmp_path / "kernel.npz"))
    assert (tmp_path / "kernel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("error", [MissingDependencyError("Try: pip install matplotlib"), OSError("No space left")])
def test_without_a_figure_the_kernel_is_saved_all_the_same(ran, tmp_path, monkeypatch, error):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr("ntk_select.kernels.heat_map.heat_map", failing)
    status, _, err = ran("--layers", "fc", "--out", str(tmp_path / "kernel.npz"))
    assert status == 0
    assert f"No figure was written. {error}" in err
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.npz"]


def test_the_plan_is_printed_and_nothing_is_computed(ran, small, npz, tmp_path, monkeypatch):
    monkeypatch.setattr("ntk_select.kernels.expert_kernel.ntk", lambda *_, **__: pytest.fail("the kernel was computed"))
    expert, _ = small
    status, out, _ = ran("--plan", "--layers", "conv", "--memory-gb", "1", "--out", str(tmp_path / "new" / "kernel.npz"))
    x = sampled(expert, npz, 3)[1]
    assert status == 0
    assert str(ntk_plan(expert.apply_fn, expert.variables, x, layers=lambda path: "params" in path and "conv" in path, memory_gb=1)) in out
    assert "--layers conv --per-class 3 --memory-gb 1.0" in " ".join(typed_next(out))
    assert "--plan" not in typed_next(out)
    assert not list(tmp_path.iterdir())


def test_the_plan_as_json_and_that_of_a_pooled_last_convolution(ran):
    plan = json.loads(ran("--plan", "--json", "--outputs", "full")[1])["plan"]
    assert plan["flops"] > 0
    assert plan["in_parameter_space"] + plan["in_sample_space"] == len(json.loads(ran("--json")[1])["provenance"]["layers"]["paths"])
    assert json.loads(ran("--plan", "--json", "--layers", "last_conv")[1]) == {"plan": None}
    assert "one backward step serve all outputs at once" in ran("--plan", "--layers", "last_conv")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--kind", "feature", "--layers", "fc", "--plan"),
            "ntk-select: --layers, --plan cannot be combined with --kind feature, which differentiates nothing. Try: --kind ntk",
        ),
        (("--layers", "fd"), "ntk-select: layers='fd' matches no parameter. Allowed: bn1/bias"),
        (("--layers", "batch_stats"), "ntk-select: layers='batch_stats' matches no parameter."),
        (("--layers", "("), "ntk-select: layers='(' is not a regular expression"),
        (("--task", "digit"), "ntk-select: There is no folder or file 'digit', and no task of that name. Did you mean 'digits'"),
        (("--expert", "oak"), "ntk-select: There is no expert 'oak' in the zoo. Try: ntk-select zoo list --zoo"),
        (("--out", "kernel.npy"), "ntk-select: --out 'kernel.npy' does not end in .npz. Try: --out kernel.npz"),
    ],
)
def test_what_is_refused_is_one_sentence_and_status_2(ran, options, message):
    status, out, err = ran("--json", *options)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("folder", ["runs/mine", "v1.0"])
def test_a_folder_takes_the_kernel_and_the_figure(ran, tmp_path, monkeypatch, folder):
    """One without an ending need not exist."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    if folder == "v1.0":
        (tmp_path / folder).mkdir()
    status, _, err = ran("--layers", "fc", "--out", folder)
    assert status == 0
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["kernel.npz", "kernel.png"]
    assert f"wrote {folder}/kernel.npz" in err
    assert load_kernel(tmp_path / folder / "kernel.npz").kernel.shape == (6, 6)


def test_an_unwritable_out_is_refused_before_anything_is_read(ran, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, out, err = ran("--out", str(tmp_path / "file" / "kernel.npz"), expert="absent")
    assert (status, out) == (2, "")
    assert "--out" in err
    assert "cannot be written" in err
    for name in ("a.npz", "b.png"):
        (tmp_path / name).mkdir()
        status, _, err = ran("--out", str(tmp_path / name.replace(".png", ".npz")))
        assert status == 2
        assert f"{name} is a folder. Try: another name" in err


def test_a_kernel_that_is_constant_correlates_with_nothing(ran, monkeypatch):
    monkeypatch.setattr("ntk_select.kernels.expert_kernel.ntk", lambda *_, **__: np.ones((6, 6)))
    assert "Correlation with the labels: none, the kernel is constant." in ran()[1]


def bare(variables, x):
    return x.reshape(len(x), -1) @ variables["params"]["w"]


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ({"preprocess": None}, (), "Expert 'bare' has no preprocess, so it cannot take images"),
        ({}, ("--layers", "last_conv"), "Expert 'bare' has no last_conv. Try: layers='all' (--layers all)"),
        ({}, ("--kind", "feature"), "Expert 'bare' has no features_fn, which the feature kernel needs. Try: the gradient kernel (--kind ntk)"),
    ],
)
def test_what_an_expert_lacks_is_said(ran, monkeypatch, parts, options, message):
    settings = {"preprocess": lambda images: np.stack(images).astype(np.float32)} | parts
    expert = Expert("bare", bare, {"w": np.ones((64, 2), np.float32)}, **settings)
    monkeypatch.setattr("ntk_select.models.open_zoo", lambda _: {"bare": lambda: expert})
    status, out, err = ran(*options, expert="bare")
    assert (status, out) == (2, "")
    assert message in err


def test_an_expert_without_a_card_has_a_kernel(ran, monkeypatch):
    expert = Expert("bare", bare, {"w": np.ones((64, 2), np.float32)}, preprocess=lambda images: np.stack(images).astype(np.float32))
    monkeypatch.setattr("ntk_select.models.open_zoo", lambda _: {"bare": lambda: expert})
    status, out, _ = ran("--json", expert="bare")
    assert status == 0
    assert json.loads(out)["provenance"]["card"] is None
