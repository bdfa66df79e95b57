"""Models of the Hugging Face Hub are found and described correctly. The hub is a small local server."""

import functools
import hashlib
import importlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save

from ntk_select.errors import MissingDependencyError, ModelError
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.architectures import build
from ntk_select.models.convert import convert_checkpoint
from ntk_select.models.hub import HubModel, find_model, repo_and_revision
from ntk_select.models.state_dict import tensor_table

CONFIG = {
    "architecture": "resnet_small",
    "num_classes": 3,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "license": "apache-2.0",
    },
}


class Hub(BaseHTTPRequestHandler):
    """Answers /ORG/NAME/resolve/REVISION/FILE as the hub does."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        self.asked.append(self.path)
        _, org, name, _, revision, file = self.path.split("/", 5)
        content = self.files.get(f"{org}/{name}/{file}")
        known = any(path.startswith(f"{org}/{name}/") for path in self.files)
        refusal = "RepoNotFound" if not known else "RevisionNotFound" if revision == "absent" else None if content is not None else "EntryNotFound"
        self.send_response(404 if refusal else 200)
        if refusal:
            self.send_header("X-Error-Code", refusal)
        content = b"" if refusal else content
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The files of the stand-in hub, which the real client is led to; stops by itself."""
    client = pytest.importorskip("huggingface_hub")
    handler = type("Handler", (Hub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(importlib.import_module("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        client, "hf_hub_download", functools.partial(client.hf_hub_download, endpoint=address, cache_dir=tmp_path / "cache", token=False)
    )
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def weights(seeded):
    shapes = {key: row.shape for key, row in tensor_table(build("resnet_small", num_classes=3)).items()}
    return save({key: array.astype(np.float32) for key, array in seeded.seeded_state(shapes).items()})


def model(**changes):
    return HubModel("org/net", config={**CONFIG, **changes})


def test_a_model_of_the_hub_becomes_an_expert_with_its_own_preprocessing(hub, weights, tmp_path):
    hub.files.update({"timm/resnet_small.a1_in1k/config.json": json.dumps(CONFIG).encode(), "timm/resnet_small.a1_in1k/model.safetensors": weights})
    card = convert_checkpoint("hf-hub:timm/resnet_small.a1_in1k", out=tmp_path / "expert")
    assert card.preprocess == Preprocess(size=224, resize=235, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert (card.name, card.architecture, card.licence, card.num_classes) == ("resnet_small.a1_in1k", "resnet_small", "apache-2.0", 3)
    assert card.origin == "hf-hub:timm/resnet_small.a1_in1k"
    assert card.training["converted_from"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_what_the_caller_says_of_a_model_wins_over_its_configuration(hub, weights, tmp_path):
    hub.files.update({"org/net/config.json": json.dumps(CONFIG).encode(), "org/net/model.safetensors": weights})
    preprocess = Preprocess(size=64)
    card = convert_checkpoint(
        "hf-hub:org/net", architecture="resnet_small.tag", name="mine", licence="mit", preprocess=preprocess, out=tmp_path / "expert"
    )
    assert (card.name, card.licence, card.preprocess) == ("mine", "mit", preprocess)


def test_another_architecture_than_the_configurations_is_refused_before_the_weights_are_fetched(hub, weights, tmp_path):
    hub.files.update({"org/net/config.json": json.dumps(CONFIG).encode(), "org/net/model.safetensors": weights})
    with pytest.raises(ModelError, match=r"hf-hub:org/net declares the architecture 'resnet_small', not 'resnet50'"):
        convert_checkpoint("hf-hub:org/net", architecture="resnet50", out=tmp_path / "expert")
    assert not any(path.endswith("model.safetensors") for path in hub.asked)


def test_an_architecture_that_is_not_ours_is_refused_before_its_weights_are_fetched(hub, tmp_path):
    hub.files["timm/resnet50d.ra2_in1k/config.json"] = json.dumps({"architecture": "resnet50d"}).encode()
    with pytest.raises(ModelError, match=r"'resnet50d' is unknown. It is not among the architectures here, and cannot be replaced by another"):
        convert_checkpoint("hf-hub:timm/resnet50d.ra2_in1k", out=tmp_path / "expert")


def test_without_a_configuration_the_name_says_the_architecture(hub, weights, tmp_path):
    hub.files["org/resnet_small.mine/model.safetensors"] = weights
    card = convert_checkpoint("hf-hub:org/resnet_small.mine", out=tmp_path / "expert")
    assert (card.architecture, card.preprocess, card.licence) == ("resnet_small", Preprocess(size=224, resize=256), None)


def test_pickled_weights_are_fetched_only_when_there_are_no_safetensors(hub):
    hub.files.update({"org/net/pytorch_model.bin": b"pickled"})
    assert find_model("hf-hub:org/net").weights().read_bytes() == b"pickled"
    hub.files.update({"org/net/model.safetensors": b"safe"})
    assert find_model("hf-hub:org/net").weights().read_bytes() == b"safe"


def test_a_model_without_weights_is_refused(hub):
    hub.files["org/net/README.md"] = b""
    with pytest.raises(ModelError, match=r"hf-hub:org/net contains neither model\.safetensors nor pytorch_model\.bin"):
        find_model("hf-hub:org/net").weights()


def test_the_revision_is_asked_for(hub):
    hub.files["org/net/config.json"] = b"{}"
    assert find_model("hf-hub:org/net@v2").revision == "v2"
    assert any("/resolve/v2/config.json" in path for path in hub.asked)


@pytest.mark.parametrize("name", ["hf-hub:org/absent", "hf-hub:org/net@absent"])
def test_a_model_that_does_not_exist_is_named(name, hub):
    hub.files["org/net/config.json"] = b"{}"
    with pytest.raises(ModelError, match=rf"{name} does not exist on the hub, or requires a login"):
        find_model(name)


@pytest.mark.parametrize("name", ["hf-hub:resnet50", "hf-hub:a/b/c", "hf-hub:/b", "hf-hub:"])
def test_a_malformed_name_is_answered_with_an_example(name):
    with pytest.raises(ModelError, match=r"is not a name of the hub. Try: hf-hub:ORG/NAME"):
        find_model(name)


def test_an_error_of_the_client_is_reported(hub, monkeypatch):
    def failing(*_, **__):
        raise ValueError("No such scheme.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", failing)
    with pytest.raises(ModelError, match=r"config\.json of hf-hub:org/net cannot be downloaded \(ValueError\): No such scheme"):
        find_model("hf-hub:org/net")


PARTS = ["a", "org", "net.v1", "-a", "a-", ".a", "a.", "a b", "a--b", "a..b", "..", "", "a.git", "x" * 96, "x" * 97, "_a", "é"]


def test_names_are_those_that_the_client_takes():
    validate = pytest.importorskip("huggingface_hub.utils").validate_repo_id
    for name in (f"{org}/{net}" for org in PARTS for net in PARTS):
        try:
            validate(name)
            expected = True
        except ValueError:
            expected = False
        try:
            found = repo_and_revision(f"hf-hub:{name}") == (name, None)
        except ModelError:
            found = False
        assert found is expected, name


@pytest.mark.parametrize("revision", ["../../x", "/etc/passwd", "a/../../b", "a/", "a//b", "\0", "a b", "~", "x" * 300])
def test_a_revision_that_leads_out_of_the_cache_is_refused(revision):
    with pytest.raises(ModelError, match=r"allowed is a branch, tag or commit. Try: hf-hub:org/net@main"):
        repo_and_revision(f"hf-hub:org/net@{revision}")


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", "v1.0+x", "0123456789abcdef"])
def test_a_branch_tag_or_commit_is_a_revision(revision):
    assert repo_and_revision(f"hf-hub:org/net@{revision}") == ("org/net", revision)


def test_a_hub_that_cannot_be_reached_is_reported(tmp_path, monkeypatch):
    client = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(client, "hf_hub_download", functools.partial(client.hf_hub_download, local_files_only=True, cache_dir=tmp_path))
    with pytest.raises(ModelError, match=r"config\.json of hf-hub:org/net is not in the cache, and the hub cannot be reached"):
        find_model("hf-hub:org/net")


def test_a_missing_client_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"huggingface-hub.*pip install huggingface-hub"):
        find_model("hf-hub:org/net")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000], ids=["cut", "not UTF-8", "nested without end"])
def test_a_configuration_that_is_no_json_is_refused(content, hub):
    hub.files["org/net/config.json"] = content
    with pytest.raises(ModelError, match=r"config\.json of hf-hub:org/net is not valid JSON"):
        find_model("hf-hub:org/net")


@pytest.mark.parametrize("content", [b"[]", b'{"pretrained_cfg": 3}', b'{"model_args": 3}'])
def test_a_configuration_of_another_layout_is_refused(content, hub):
    hub.files["org/net/config.json"] = content
    with pytest.raises(ModelError, match=r"config\.json of hf-hub:org/net does not have timm's structure"):
        find_model("hf-hub:org/net")


def test_the_part_before_the_dot_is_the_architecture():
    assert model(architecture="resnet50.a1_in1k").architecture == "resnet50"
    assert HubModel("timm/wide_resnet50_2.racm_in1k").architecture == "wide_resnet50_2"


def test_older_configurations_are_flat():
    old = HubModel("org/net", config={"architecture": "resnet18", **CONFIG["pretrained_cfg"]})
    assert (old.architecture, old.licence, old.preprocess()) == ("resnet18", "apache-2.0", model().preprocess())


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": {"output_stride": 8}},
        {"model_args": {"in_chans": 1}},
        {"model_args": {"act_layer": "silu"}},
        {"model_args": {"stem_type": "deep", "drop_rate": 0.1}},
        {"model_args": {"aa_layer": "blurpool"}},
        {"model_args": {"block_args": {"attn_layer": "se"}}},
        {"model_args": {"something": 1}},
        {"model_args": {"block_args": {"attn_layer": None, "something": {"else": 1}}}},
        {"model_args": {"norm_layer": "groupnorm"}},
        {"model_args": {"bn_eps": 1e-3}},
        {"model_args": {"base_width": 128}},
        {"model_args": {"layers": [3, 4, 6, 3]}},
        {"global_pool": "max"},
    ],
)
def test_changed_architectures_are_refused(changes):
    with pytest.raises(ModelError, match=r"config\.json of hf-hub:org/net: the architecture is changed by"):
        _ = model(**changes).architecture


@pytest.mark.parametrize(
    "settings",
    [
        {"num_classes": 3, "in_chans": 3},
        {"drop_rate": 0.3, "drop_path_rate": 0.05, "drop_block_rate": 0.1, "attn_drop_rate": 0.1, "proj_drop_rate": 0.2, "head_drop_rate": 0.5},
        {"zero_init_last": False, "pretrained": True, "checkpoint_path": "", "grad_checkpointing": True, "memory_efficient": False},
        {"output_stride": 32, "stem_type": "", "act_layer": "ReLU", "aa_layer": None, "cardinality": 1, "block_args": None},
        {"base_width": 64, "layers": [1, 1, 2], "growth_rate": 32, "block_args": {}, "features_only": False},
        {
            "bn_momentum": 0.01,
            "norm_layer": "syncbn",
            "bn_eps": 1e-5,
            "block_args": {"attn_layer": None, "drop_path_rate": 0.1},
            "use_checkpoint": True,
        },
    ],
)
def test_settings_that_change_nothing_in_evaluation_are_allowed(settings):
    assert model(model_args=settings, global_pool="avg").architecture == "resnet_small"


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("resnet50", {"layers": [3, 4, 6, 3], "base_width": 64, "channels": [64, 128, 256, 512]}),
        ("wide_resnet50_2", {"layers": [3, 4, 6, 3], "base_width": 128}),
        ("densenet161", {"block_config": [6, 12, 36, 24], "growth_rate": 48, "num_init_features": 96, "bn_size": 4}),
        ("my_own", {"layers": [3, 4, 6, 3], "base_width": 128}),
    ],
)
def test_settings_that_are_those_of_the_architecture_are_allowed(architecture, settings):
    assert model(architecture=architecture, model_args=settings).architecture == architecture


@pytest.mark.parametrize("config", [None, {}, {"model_type": "resnet", "pretrained_cfg": None}, {"num_classes": 3, "model_args": {"drop_rate": 0.1}}])
def test_the_caller_may_say_the_architecture_where_the_configuration_does_not(hub, weights, tmp_path, config):
    hub.files["org/tuned/model.safetensors"] = weights
    if config is not None:
        hub.files["org/tuned/config.json"] = json.dumps(config).encode()
    with pytest.raises(
        ModelError, match=r"hf-hub:org/tuned does not declare its architecture\. Try: architecture=NAME \(--arch NAME\), one of resnet18, "
    ):
        convert_checkpoint("hf-hub:org/tuned", out=tmp_path / "expert")
    assert convert_checkpoint("hf-hub:org/tuned", architecture="resnet_small", out=tmp_path / "expert").architecture == "resnet_small"


@pytest.mark.parametrize("name", ["resnetblur50", "resnet50_caffe", "my-resnetblur50-model", "resnet50.caffe", "resnet50-os8", "seresnet50"])
def test_a_name_of_another_network_is_refused_whoever_says_the_architecture(hub, name, tmp_path):
    hub.files[f"org/{name}/model.safetensors"] = b""
    with pytest.raises(ModelError, match=rf"hf-hub:org/{name} is called '{name}', which is another network than 'resnet50', .*--check-logits FILE"):
        convert_checkpoint(f"hf-hub:org/{name}", architecture="resnet50", out=tmp_path / "expert")
    with pytest.raises(
        ModelError, match=rf"is called '{name}', which is (not one of the architectures here|another network than 'resnet50'), even if"
    ):
        convert_checkpoint(f"hf-hub:org/{name}", out=tmp_path / "expert")
    assert not any(path.endswith("model.safetensors") for path in hub.asked)
    with pytest.raises(ModelError, match="is empty"):  # where outputs are compared, the weights are fetched
        convert_checkpoint(
            f"hf-hub:org/{name}",
            architecture="resnet50",
            out=tmp_path / "expert",
            check_logits={"inputs": np.ones((1, 8, 8, 3), "f"), "logits": [[1]]},
        )


@pytest.mark.parametrize("name", ["resnet18-finetuned-eurosat", "simclr_resnet18"])
def test_a_name_that_holds_the_architecture_as_a_word_does_not_stand_against_it(hub, name, tmp_path):
    hub.files[f"org/{name}/model.safetensors"] = b""
    with pytest.raises(ModelError, match="is empty"):
        convert_checkpoint(f"hf-hub:org/{name}", architecture="resnet18", out=tmp_path / "expert")
    with pytest.raises(ModelError, match=r"If it is a resnet18 that was trained in another way, try: architecture='resnet18' \(--arch resnet18\)"):
        convert_checkpoint(f"hf-hub:org/{name}", out=tmp_path / "expert")


def test_settings_that_change_the_network_are_refused_whoever_says_the_architecture(hub, weights, tmp_path):
    hub.files.update({"org/net/config.json": b'{"model_args": {"stem_type": "deep"}}', "org/net/model.safetensors": weights})
    with pytest.raises(ModelError, match=r"the architecture is changed by \{'stem_type': 'deep'\}"):
        convert_checkpoint("hf-hub:org/net", architecture="resnet_small", out=tmp_path / "expert")


@pytest.mark.parametrize(
    ("said", "licence"), [("mit", "mit"), ("unknown", None), (["mit", "cc-by-4.0"], "mit, cc-by-4.0"), (None, None), ({"id": "mit"}, "{'id': 'mit'}")]
)
def test_the_licence_is_text_whatever_the_configuration_holds(said, licence):
    assert HubModel("org/net", config={"license": said}).licence == licence


def test_timms_defaults_stand_in_for_what_is_not_said():
    assert HubModel("org/net", config={"architecture": "resnet18"}).preprocess() == Preprocess(size=224, resize=256, interpolation="bicubic")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"input_size": [3, 224, 192]}, "the input size 3 x 224 x 192 is not 3 x size x size"),
        ({"input_size": [1, 28, 28]}, "the input size 1 x 28 x 28 is not 3 x size x size"),
        ({"input_size": 224}, "the input size 224 is not 3 x size x size"),
        ({"crop_mode": "border"}, "the crop mode 'border' is not supported"),
        ({"crop_pct": 0}, "crop_pct is 0; it must be a number from 0.05 to 1"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5;"),
        ({"mean": [0.5]}, "both need three numbers"),
        ({"interpolation": "random"}, "interpolation 'random' is unknown"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(said, sentence):
    with pytest.raises(ModelError, match=rf"config\.json of hf-hub:org/net: .*{sentence}.*(?<!\.)\. Try: preprocess=Preprocess\(size=224"):
        model(pretrained_cfg=said).preprocess()
