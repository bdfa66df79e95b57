"""Networks of timm as a zoo, compared with PyTorch. The cache of the hub is a stand-in of its layout; nothing is downloaded."""

import functools
import importlib
import json
import pickle
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest

import ntk_select as ns
from ntk_select.errors import ModelError
from ntk_select.models import timm_networks
from ntk_select.models.timm_networks import TimmNetwork
from ntk_select.models.timm_zoo import TimmExpert

pytestmark = pytest.mark.oracle

TOLERANCE = 2e-5
"""Largest difference of logits in float32, relative to the largest logit."""
SIZE = 160


@pytest.fixture(scope="module")
def timm(oracle):
    oracle.import_torchvision()
    return pytest.importorskip("timm")


@pytest.fixture
def torch(timm):
    return importlib.import_module("torch")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, without a network."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(timm_networks, "_failures", {})
    return tmp_path / "hub"


def trained(torch, timm, name, seed=0, **arguments):
    """A network whose weights and statistics are all random, in evaluation mode."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if key.endswith("running_var") else tensor + 0.1 * torch.randn_like(tensor))
    return model


def store(cache, repo, model, config=None, file="model.safetensors"):
    """Files of a model as the hub's client keeps them."""
    folder, revision = cache / f"models--{repo.replace('/', '--')}", "0" * 40
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    write(model.state_dict(), snapshot / file)
    if config is not None:
        (snapshot / "config.json").write_text(json.dumps(config))


def write(state, path):
    if path.suffix == ".safetensors":
        importlib.import_module("safetensors.torch").save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        importlib.import_module("torch").save(state, path)


def images(count=2):
    return np.random.default_rng(0).normal(size=(count, SIZE, SIZE, 3)).astype(np.float32)


def check_equal(torch, expert, model):
    with torch.inference_mode():
        expected = model(torch.from_numpy(images().transpose(0, 3, 1, 2).copy())).numpy()
    found = np.asarray(jax.jit(expert.apply_fn)(expert.variables, images()))
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_in_the_cache_of_the_hub_give_pytorchs_logits(name, file, timm, torch, cache):
    model = trained(torch, timm, name)
    load = ns.open_zoo(f"timm:{name}")[f"timm:{name}"]
    assert not load.is_stored
    store(cache, f"timm/{name}.r160_in1k", model, file=file)
    assert load.is_stored
    expert = pickle.loads(pickle.dumps(load))()
    check_equal(torch, expert, model)
    assert expert.name == f"timm:{name}"
    card = expert.card
    assert (card.architecture, card.source, card.licence, card.num_classes) == (f"timm:{name}", "ImageNet-1k", "apache-2.0", 1000)
    assert card.num_parameters == load.card.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert card.origin == f"hf-hub:timm/{name}.r160_in1k"
    assert len(card.sha256) == 64
    assert "state_dict" not in str(card.config)


def test_a_card_needs_no_weights(timm, cache):
    card = ns.open_zoo("timm:convnext_atto.d2_in1k")["timm:convnext_atto.d2_in1k"].card
    assert (card.num_parameters, card.source, card.preprocess.size, card.sha256) == (3_695_520, "ImageNet-1k", 224, "")  # parameters: timm's results
    assert card.seen == ("ImageNet-1k", "imagenet")


@pytest.mark.parametrize(
    ("file", "wrapped"),
    [
        ("own.safetensors", lambda state: state),
        ("own.pth", lambda state: {"epoch": 3, "state_dict": {key: 0 * tensor for key, tensor in state.items()}, "state_dict_ema": state}),
        ("own.bin", lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}}),
    ],
)
def test_a_checkpoint_may_have_another_head_and_be_wrapped(file, wrapped, timm, torch, cache, tmp_path):
    model = trained(torch, timm, "test_convnext", num_classes=7)
    write(wrapped(model.state_dict()), tmp_path / file)
    expert = ns.timm_expert("test_convnext", checkpoint=tmp_path / file)
    check_equal(torch, expert, model)
    card = expert.card
    assert (card.num_classes, card.source, card.licence, card.origin) == (7, "unknown", None, str(tmp_path / file))
    assert expert.name == f"timm:test_convnext@{tmp_path / file}"
    assert card.sha256 == ns.open_zoo(expert.name)[expert.name].card.sha256 != ""


def test_a_checkpoint_without_a_head_gives_an_expert_without_one(timm, torch, cache, tmp_path):
    model = trained(torch, timm, "test_resnet", num_classes=0)
    write(model.state_dict(), tmp_path / "body.safetensors")
    expert = ns.timm_expert("test_resnet", checkpoint=tmp_path / "body.safetensors")
    assert (expert.head, expert.card.num_classes) == (None, 0)
    check_equal(torch, expert, model)


def test_a_checkpoint_of_the_original_authors_is_mapped_by_timm(timm, torch, cache, tmp_path):
    """ConvNeXt as Meta published it: other names of all blocks."""
    model = trained(torch, timm, "test_convnext")
    names = {
        "stem.": "downsample_layers.0.",
        ".downsample.": "downsample_layers.",
        ".blocks.": ".",
        "conv_dw": "dwconv",
        "mlp.fc1": "pwconv1",
        "mlp.fc2": "pwconv2",
        "head.norm": "norm",
        "head.fc": "head",
    }
    original = {}
    for key, tensor in model.state_dict().items():
        for new, old in names.items():
            key = key.replace(new, old)
        if "downsample_layers" in key and key.startswith("stages."):
            stage, rest = key.removeprefix("stages.").split("downsample_layers.")
            key = f"downsample_layers.{stage}.{rest}"
        original[key] = tensor
    write({"model": original}, tmp_path / "convnext.pth")
    check_equal(torch, ns.timm_expert("test_convnext", checkpoint=tmp_path / "convnext.pth"), model)


def changed(state, change):
    if change == "missing":
        return {key: tensor for key, tensor in state.items() if not key.startswith("layer1.0.conv1")}
    if change == "unexpected":
        return {**state, "layer1.0.extra": state["fc.bias"].clone()}
    return {**state, "layer1.0.conv1.weight": state["layer1.0.conv1.weight"][:3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"do not fit test_resnet: 1 tensor missing: layer1\.0\.conv1\.weight"),
        ("unexpected", r"do not fit test_resnet: 1 tensor unexpected: layer1\.0\.extra"),
        ("shape", r"do not fit test_resnet: 1 tensor of the wrong shape: layer1\.0\.conv1\.weight \(3, \d+, .*expected"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message, timm, torch, cache, tmp_path):
    write(changed(trained(torch, timm, "test_resnet").state_dict(), change), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        ns.timm_expert("test_resnet", checkpoint=tmp_path / "w.safetensors")


def test_a_file_without_tensors_is_refused(timm, torch, cache, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="contains no tensors"):
        ns.timm_expert("test_resnet", checkpoint=tmp_path / "w.pth")
    network = TimmNetwork("timm:test_resnet", "test_resnet", {})
    with pytest.raises(ModelError, match="contains no tensors. Allowed: a state dict, alone or under one of the keys"):
        network.trained(tmp_path / "w.pth", own=True)


def test_weights_of_types_whose_values_would_be_copied_wrongly_are_refused(timm, torch, cache, tmp_path):
    good = trained(torch, timm, "test_resnet").state_dict()
    scalar = {**good, "fc.weight": torch.tensor(1.0)}
    for state, message in (
        ({name: value.to(torch.complex64) for name, value in good.items()}, r"has weights that are not floating point: .* \(complex64\).* Try: "),
        ({**good, "fc.weight": good["fc.weight"].to(torch.int8)}, r"has weights that are not floating point: fc\.weight \(int8\)\. Try: "),
        (scalar, r"do not fit test_resnet: 1 tensor of the wrong shape: fc\.weight \(\), expected .* Try: timm:NAME@FILE"),
    ):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(ModelError, match=message):
            ns.timm_expert("test_resnet", checkpoint=tmp_path / "w.pth")


def test_weights_in_eight_bits_are_read_exactly(timm, torch, cache, tmp_path):
    state = {
        name: value.to(torch.float8_e4m3fn) if value.is_floating_point() else value
        for name, value in trained(torch, timm, "test_resnet").state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    expert = ns.timm_expert("test_resnet", checkpoint=tmp_path / "w.pth")
    np.testing.assert_array_equal(expert.params["fc"]["kernel"], state["fc.weight"].float().numpy().T)


def test_nothing_in_a_checkpoint_is_run(timm, torch, cache, tmp_path):
    torch.save({"state_dict": Hostile(tmp_path / "it ran")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="nothing in it was run|contains no tensors"):
        ns.timm_expert("test_resnet", checkpoint=tmp_path / "w.pth")
    assert not (tmp_path / "it ran").exists()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_random_weights_are_those_of_the_seed_and_share_compilations(timm, torch, cache):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (ns.timm_expert("test_resnet", random_init=True, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    kernels = [np.asarray(expert.params["fc"]["kernel"]) for expert in (first, again, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert [expert.name for expert in (first, other)] == ["timm:test_resnet@random", "timm:test_resnet@random:1"]
    assert first.apply_fn == other.apply_fn
    assert (first.card.source, first.card.licence, first.card.training, first.card.origin) == ("(none)", None, {"random_init": {"seed": 0}}, None)


def test_a_model_of_the_hub_in_timms_format_is_an_expert(timm, torch, cache):
    model = trained(torch, timm, "test_vit", num_classes=3, img_size=SIZE, global_pool="avg")
    config = {
        "architecture": "test_vit",
        "num_classes": 3,
        "global_pool": "avg",
        "label_names": ["ant", "bee", "cat"],
        "model_args": {"img_size": SIZE, "global_pool": "avg"},
        "pretrained_cfg": {**model.pretrained_cfg, "num_classes": 3, "license": "mit", "unknown to timm": 1},
    }
    load = ns.open_zoo("hf-hub:org/insects")["hf-hub:org/insects"]
    assert not load.is_stored
    store(cache, "org/insects", model, config)
    assert load.is_stored
    expert = load()
    check_equal(torch, expert, model)
    card = expert.card
    assert (card.num_classes, card.class_names, card.licence, card.origin) == (3, ("ant", "bee", "cat"), "mit", "hf-hub:org/insects")


@pytest.mark.parametrize(
    ("architecture", "message"), [("resnt18", "the architecture 'resnt18'.*Did you mean 'resnet18'"), (None, "names no architecture")]
)
def test_a_model_of_the_hub_that_is_not_timms_is_refused(architecture, message, timm, torch, cache):
    store(cache, f"org/not-{architecture}", trained(torch, timm, "test_vit"), {"architecture": architecture})
    load = ns.open_zoo(f"hf-hub:org/not-{architecture}")[f"hf-hub:org/not-{architecture}"]
    with pytest.raises(ModelError, match=message):
        load()


def test_arguments_that_an_architecture_does_not_have_are_refused(timm, torch, cache):
    store(cache, "org/strange", trained(torch, timm, "test_vit"), {"architecture": "test_vit", "model_args": {"wheels": 4}})
    load = TimmExpert("hf-hub:org/strange")
    with pytest.raises(ModelError, match=r"The network of timm:test_vit cannot be made: TypeError.*wheels"):
        load()
    assert load.card.num_parameters is None
    with pytest.raises(ModelError, match=r"The network of timm:test_vit cannot be made: TypeError.*wheels"):
        TimmNetwork("timm:test_vit", "test_vit", {}, {"wheels": 4}).create()


def test_without_a_cache_and_a_network_one_request_is_made_for_all_experts(timm, cache, monkeypatch):
    client, asked = importlib.import_module("huggingface_hub"), []

    def fail(url):
        asked.append(url)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(client, "get_hf_file_metadata", fail)
    for name in ("test_resnet", "test_vit"):
        with pytest.raises(
            ModelError,
            match=rf"The weights of timm:{name} are not in the cache, and the hub cannot be reached \(ConnectionError: Name or service not known\). "
            rf"Try: once with a network, or timm_expert\('{name}', checkpoint=FILE\) \(timm:{name}@FILE\), or the variable HF_HUB_CACHE",
        ):
            ns.timm_expert(name)
    assert len(asked) == 1
    monkeypatch.setattr(timm_networks, "PATIENCE", 0)
    with pytest.raises(ModelError, match="are not in the cache"):
        ns.timm_expert("test_vit")
    assert len(asked) == 2


def test_offline_is_said_at_once(timm, cache):
    with pytest.raises(ModelError, match=r"the hub cannot be reached \(OfflineModeIsEnabled"):
        ns.timm_expert("test_vit")


@pytest.fixture
def hub(load_test_module, cache, monkeypatch):
    """Files of a local server, which the real client takes for the hub; all its requests are counted."""
    client, constants = (importlib.import_module(name) for name in ("huggingface_hub", "huggingface_hub.constants"))
    handler = type("Handler", (load_test_module("test_hub").Hub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client, "hf_hub_url", functools.partial(client.hf_hub_url, endpoint=address))
    monkeypatch.setattr(client, "hf_hub_download", functools.partial(client.hf_hub_download, endpoint=address, token=False))
    yield handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_are_downloaded_once(file, timm, torch, hub, tmp_path):
    model = trained(torch, timm, "test_vit")
    write(model.state_dict(), tmp_path / file)
    hub.files[f"timm/test_vit.r160_in1k/{file}"] = (tmp_path / file).read_bytes()
    check_equal(torch, ns.timm_expert("test_vit"), model)
    hub.asked.clear()
    check_equal(torch, ns.timm_expert("test_vit"), model)
    assert not hub.asked


def test_answers_of_the_hub_are_reported(timm, hub, monkeypatch):
    with pytest.raises(ModelError, match="hf-hub:timm/test_vit.r160_in1k does not exist on the hub, or requires a login"):
        ns.timm_expert("test_vit")
    hub.files["timm/test_vit.r160_in1k/README.md"] = b""
    with pytest.raises(ModelError, match="hf-hub:timm/test_vit.r160_in1k contains neither model.safetensors nor pytorch_model.bin"):
        ns.timm_expert("test_vit")
    monkeypatch.setattr(hub, "do_HEAD", lambda self: self.send_error(503))
    with pytest.raises(ModelError, match=r"The weights of timm:test_vit cannot be downloaded \(HfHubHTTPError\): .*503"):
        ns.timm_expert("test_vit")


def test_a_download_that_breaks_off_is_reported(timm, cache, monkeypatch):
    def fail(*_, **__):
        raise TimeoutError("slow")

    monkeypatch.setattr(importlib.import_module("huggingface_hub"), "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(importlib.import_module("huggingface_hub"), "hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"The weights of timm:test_vit cannot be downloaded \(TimeoutError\): slow"):
        ns.timm_expert("test_vit")


def test_weights_that_are_not_on_the_hub_are_in_the_cache_of_pytorch(timm, torch, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    network = TimmNetwork("timm:elsewhere", "test_resnet", timm.get_pretrained_cfg("test_resnet").to_dict(), url="https://nowhere.invalid/w-0.pth")
    assert not network.is_stored
    assert network.origin == "https://nowhere.invalid/w-0.pth"

    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ModelError, match=r"not in the cache, and https://nowhere.invalid/w-0.pth cannot be reached \(OSError: no route\)"):
        network.weights()
    monkeypatch.setattr(timm_networks, "PATIENCE", 0)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, progress: write({}, Path(path)))
    assert network.weights() == tmp_path / "torch/checkpoints/w-0.pth"
    assert network.is_stored


def test_a_network_without_published_weights_has_none(timm, cache):
    with pytest.raises(ModelError, match="There are no pre-trained weights of timm:test_vit4. Try"):
        TimmExpert("timm:test_vit4")()
    with pytest.raises(ModelError, match="cannot be read"):
        _ = TimmExpert("timm:test_vit4", checkpoint=cache / "absent.pth").card


@pytest.fixture
def task(tmp_path):
    """Dark and bright images of 32 pixels."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 8)
    shades = rng.integers(0, 90, (16, 32, 32), dtype=np.uint8) + (90 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "shades.npz", images=shades, labels=labels, class_names=np.array(["dark", "bright"]))
    return f"npz:{tmp_path / 'shades.npz'}"


@pytest.mark.slow
def test_the_command_line_ranks_a_pattern_beside_the_builtin_zoo_and_names_what_fails(ran, task, timm, torch, cache, tmp_path):
    store(cache, "timm/test_resnet.r160_in1k", trained(torch, timm, "test_resnet"))
    words = ["rank", "--task", task, "--zoo", "timm:test_resnet*", "timm:test_vit2", "builtin", "--only", "timm:*", "cifar10-resnet_small"]
    options = ["--per-class", "6", "--resamples", "0", "--cache", str(tmp_path / "cached"), "--json"]
    status, out, err = ran(*words, *options)
    record = json.loads(out)
    assert {row["name"] for row in record["experts"]} == {"timm:test_resnet", "cifar10-resnet_small"}
    row = next(row for row in record["experts"] if row["name"] == "timm:test_resnet")
    assert all("value" in row["scores"][score] for score in ("forecast", "lfc", "lgc"))
    assert (row["source"], row["architecture"]) == ("ImageNet-1k", "timm:test_resnet")
    assert status == 1
    assert "timm:test_vit2 failed: The weights of timm:test_vit2 are not in the cache, and the hub cannot be reached" in err


@pytest.mark.slow
def test_random_weights_and_a_checkpoint_are_options_of_rank(ran, task, timm, torch, cache, tmp_path):
    common = ["--per-class", "4", "--resamples", "0", "--scores", "lfc", "--no-cache"]
    status, out, err = ran("rank", "--task", task, "--zoo", "timm:test_resnet", "--random-init", *common)
    assert status == 0, err
    assert "timm:test_resnet@random" in out
    assert "(none)" in out
    (line,) = [line for line in out.splitlines() if line.startswith("Next")]
    assert "--expert timm:test_resnet@random" in line
    assert "--random-init" not in line
    write(trained(torch, timm, "test_resnet", num_classes=4).state_dict(), tmp_path / "mine.pth")
    status, out, err = ran("rank", "--task", task, "--zoo", "timm:test_resnet", "--checkpoint", str(tmp_path / "mine.pth"), *common, "--json")
    assert status == 0, err
    assert json.loads(out)["experts"][0]["name"] == f"timm:test_resnet@{tmp_path / 'mine.pth'}"


def test_the_command_line_lists_and_shows_without_weights(ran, timm, cache):
    status, out, err = ran("zoo", "list", "--zoo", "timm:test_vit*", "--json")
    assert status == 0, err
    rows = {row["expert"]: row for row in json.loads(out)}
    assert list(rows) == ["timm:test_vit", "timm:test_vit2", "timm:test_vit3"]
    assert rows["timm:test_vit"]["num_parameters"] == 371_240
    status, out, _ = ran("zoo", "show", "timm:test_vit.r160_in1k")
    assert status == 0
    assert "hf-hub:timm/test_vit.r160_in1k" in out
    status, _, err = ran("zoo", "show", "timm:test_vit9")
    assert status != 0
    assert "timm has no network 'test_vit9'. Did you mean 'test_vit" in err


@pytest.mark.slow
def test_a_fine_tuned_network_is_saved_and_opened_again(ran, task, timm, cache, tmp_path):
    for name in ("timm:test_resnet@random", "timm:test_vit@random"):
        words = ["finetune", "--expert", name, "--task", task, "--epochs", "1", "--lr", "0.01", "--no-extend", "--checkpoints", "None"]
        status, _, err = ran(*words, "--save-model", str(tmp_path / "zoo"))
        assert status == 0, err
    zoo = ns.open_zoo(tmp_path / "zoo")
    assert [load.card.architecture for load in zoo.values()] == ["timm:test_resnet", "timm:test_vit"]
    for load in zoo.values():
        expert = load()
        assert expert.apply_fn(expert.variables, images()).shape == (2, 2)
        assert expert.head_kernel.shape[1] == expert.card.num_classes == 2
        assert expert.card.initialised_from in ("timm:test_resnet@random", "timm:test_vit@random")
    status, _, err = ran("zoo", "verify", "--zoo", str(tmp_path / "zoo"))
    assert status == 0, err


@pytest.mark.slow
def test_a_forecast_takes_the_name(task, timm, cache):
    forecast = ns.forecast("timm:test_resnet@random", task, per_class=4)
    assert 0 <= forecast.accuracy <= 1
