"""The weights of a network are found under any key and prefix and with any single linear head, with notes on the decisions."""

import argparse

import numpy as np
import pytest

from ntk_select.errors import ModelError
from ntk_select.models.architectures import build
from ntk_select.models.checkpoint_weights import network_state, plain_state
from ntk_select.models.state_dict import tensor_table

ARCHITECTURE = "resnet_small"


def made(seed: float, architecture=ARCHITECTURE) -> dict[str, np.ndarray]:
    """A state dict in which all numbers are `seed`."""
    return {key: np.broadcast_to(np.float32(seed), row.shape) for key, row in tensor_table(build(architecture, num_classes=3)).items()}


STATE = made(1)
BODY = {key: array for key, array in STATE.items() if not key.startswith("fc.")}
HEAD = {key: array for key, array in STATE.items() if key.startswith("fc.")}
WIDTH = HEAD["fc.weight"].shape[1]
COUNTERS = {"bn1.num_batches_tracked": np.array(5), "layer1.0.total_ops": np.ones(1)}


def under(prefix: str, state) -> dict:
    return {f"{prefix}{key}": array for key, array in state.items()}


def linear(name: str, inputs=WIDTH, outputs=5) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.full((outputs, inputs), 2, np.float32), f"{name}.bias": np.full(outputs, 2, np.float32)}


def found(content, architecture=ARCHITECTURE, **options):
    return network_state(content, architecture, "Checkpoint a.pth", **options)


def number(state) -> float:
    return float(state.tensors["conv1.weight"].flat[0])


def says(state, *sentences) -> bool:
    return all(any(sentence in note for note in state.notes) for sentence in sentences)


def test_a_plain_state_dict_is_taken_as_it_is():
    state = found(STATE | COUNTERS)
    assert state.tensors.keys() == (STATE | COUNTERS).keys()
    assert (state.weights, state.notes, state.hint) == ("", (), "")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "model._orig_mod.backbone.", "module.module.", "my.own_wrapper.0."]
)
def test_any_common_prefix_is_dropped_and_said(prefix):
    state = found(under(prefix, STATE | COUNTERS))
    assert {key for key in state.tensors if key in STATE} == STATE.keys()
    assert says(state, f"The prefix {prefix!r} of all names was dropped.")


@pytest.mark.parametrize("architecture", ["densenet_small", "alexnet"])
def test_prefixes_of_other_families_are_dropped(architecture):
    state = made(1, architecture)
    assert found(under("model.features.", state), architecture).tensors.keys() == state.keys()
    old = {key.replace("norm1.", "norm.1.") if "denselayer" in key else key: array for key, array in state.items()}
    assert found(under("module.", old), architecture).tensors.keys() == old.keys()


def inside(state, *changes: tuple[str, str]) -> dict:
    """A state dict with wrappers after the beginnings of names: ("layer1.", "_orig_mod.")."""
    for start, wrapper in changes:
        state = {key.replace(start, f"{start}{wrapper}", 1) if key.startswith(start) else key: array for key, array in state.items()}
    return state


WRAPPED = {
    "one layer compiled": (ARCHITECTURE, inside(STATE, ("layer1.", "_orig_mod.")), "'_orig_mod'"),
    "every layer compiled": (
        ARCHITECTURE,
        inside(STATE, *((f"{layer}.", "_orig_mod.") for layer in {key.split(".")[0] for key in STATE})),
        "'_orig_mod'",
    ),
    "blocks sharded": (
        ARCHITECTURE,
        inside(STATE, ("layer1.0.", "_fsdp_wrapped_module."), ("layer2.", "_checkpoint_wrapped_module.")),
        "'_checkpoint_wrapped_module', '_fsdp_wrapped_module'",
    ),
    "one inside another": (
        ARCHITECTURE,
        inside(STATE, ("layer1.0.", "_fsdp_wrapped_module._checkpoint_wrapped_module.")),
        "'_checkpoint_wrapped_module', ",
    ),
    "the head": (ARCHITECTURE, inside(STATE, ("fc.", "module.")), "'module'"),
    "under a prefix": (ARCHITECTURE, under("net.", inside(STATE | COUNTERS, ("bn1.", "module."))), "'module'"),
    "features in parallel": ("alexnet", inside(made(1, "alexnet"), ("features.", "module.")), "'module'"),
    "dense features in parallel": ("densenet_small", inside(made(1, "densenet_small"), ("features.", "module.")), "'module'"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_inside_names_are_dropped_and_said(case):
    architecture, content, wrappers = WRAPPED[case]
    state = found(content, architecture)
    expected = made(1, architecture)
    assert {key for key in state.tensors if key in expected} == expected.keys()
    assert all(key in expected or "num_batches" in key or "total" in key for key in state.tensors)
    assert says(state, f"Dropped inside names: {wrappers}")


def test_a_name_that_is_there_with_and_without_a_wrapper_is_kept_as_it_is():
    extra = {"layer1._orig_mod.0.conv1.weight": STATE["layer1.0.conv1.weight"]}
    assert found(STATE | extra).tensors.keys() == (STATE | extra).keys(), "the conversion then refuses what it does not know"


def test_of_an_unknown_network_wrappers_are_dropped():
    assert plain_state(inside(STATE, ("layer1.", "_orig_mod.")), "Checkpoint a.pth").keys() == STATE.keys()


@pytest.mark.parametrize(
    "keys",
    [("state_dict",), ("model",), ("ema",), ("net",), ("network",), ("state",), ("params",), ("model_state",), ("my_key",), ("a", "b", "c", "d")],
)
def test_any_wrapper_is_opened_and_named(keys):
    content = STATE
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "args": argparse.Namespace(lr=1)}
    content["optimizer"] = {"state": {0: {"exp_avg": np.ones(3), "step": np.ones(())}}, "param_groups": [{"lr": 0.1}]}
    state = found(content)
    assert state.tensors.keys() == STATE.keys()
    assert state.weights == ".".join(keys)
    assert says(state, f"Weights selected: {'.'.join(keys)}")


SETS = {
    "timm": ({"state_dict": made(1), "state_dict_ema": made(2)}, 2, "state_dict_ema (an average over training)"),
    "timm of old": ({"model": made(1), "model_ema": made(2)}, 2, "model_ema (an average over training)"),
    "timm's order": ({"model": made(1), "state_dict": made(2)}, 2, "state_dict"),
    "timm's order of averages": ({"model_ema": made(1), "state_dict_ema": made(2), "model": made(3)}, 2, "state_dict_ema"),
    "ema": ({"model": made(1), "ema": made(2)}, 2, "ema (an average over training)"),
    "net and ema": ({"ema": made(2), "net": made(1)}, 2, "ema (an average over training)"),
    "ema in a module": ({"net": made(1), "ema": {"module": made(2), "decay": 0.9}}, 2, "ema.module (an average over training)"),
    "shadow": ({"model": made(1), "ema": {"shadow": made(2), "decay": 0.9}}, 2, "ema.shadow (an average over training)"),
    "Lightning": ({"state_dict": under("model.", made(1)) | under("ema_model.module.", made(2))}, 2, "state_dict.ema_model.module (an average"),
    "one of another network": ({"student": made(1), "teacher": made(2, "resnet18")}, 1, "student"),
    "an average without statistics": (
        {"model": made(1), "ema": {key: array for key, array in made(2).items() if "running" not in key}},
        1,
        "model. Also in the file: ema.",
    ),
    "the same twice": ({"student": made(1), "teacher": made(1)}, 1, "student. Also in the file, with equal values: teacher."),
}


@pytest.mark.parametrize("case", SETS)
def test_of_several_sets_the_known_one_is_taken_and_named(case):
    content, expected, label = SETS[case]
    state = found(content)
    assert number(state) == expected
    assert says(state, f"Weights selected: {label}")


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"teacher": under("backbone.", made(1)), "student": under("module.backbone.", made(2))}, "teacher.backbone, student.module.backbone"),
        ({"online_network": made(1), "target_network": made(2)}, "online_network, target_network"),
        (under("encoder_q.", made(1)) | under("encoder_k.", made(2)), "encoder_q, encoder_k"),
        ({"model": made(1), "best_model": made(2)}, "model, best_model"),
        ({"model": made(1), "ema_1": made(2), "ema_2": made(3)}, "ema_1, ema_2"),
    ],
)
def test_sets_that_differ_and_of_which_none_is_known_are_refused_with_their_names(content, labels):
    with pytest.raises(ModelError, match=rf"several different sets of weights .*: {labels}\. To select {labels.split(',')[0]}, try: weights="):
        found(content)
    for index, label in enumerate(labels.split(", ")):
        assert number(found(content, weights=label)) == sorted({1, 2} if "ema" not in labels else {2, 3})[index]


def test_any_set_can_be_chosen_by_a_part_of_its_label():
    content = {"state_dict": under("model.", made(1)) | under("ema_model.", made(2)), "last": made(3)}
    for weights, expected in (("model", 1), ("state_dict.model", 1), ("ema_model", 2), ("last", 3), ("state_dict", 2)):
        assert number(found(content, weights=weights)) == expected
    with pytest.raises(ModelError, match=r"a\.pth contains no weights under 'mode'\. Available: state_dict\.model, state_dict\.ema_model, last\."):
        found(content, weights="mode")
    with pytest.raises(ModelError, match=r"a\.pth contains no weights of resnet_small under 'ema'\."):
        found({"a": np.ones(1)}, weights="ema")


def test_what_belongs_to_another_set_is_not_said_to_be_left_out():
    state = found(under("model.", STATE) | under("ema_model.", made(2)) | {"queue": np.ones(3)})
    assert says(state, "Also in the file: model.", "Ignored, since they are outside the network: queue.")


def test_what_lies_outside_the_network_is_left_out_and_said():
    content = {"state_dict": under("model.", STATE) | {"criterion.weight": np.ones(3), "loss.margin": np.ones(1), "epoch": 3}}
    state = found(content)
    assert state.tensors.keys() == STATE.keys()
    assert says(
        state,
        "'model.' of names was dropped",
        "Ignored, since they are outside the network: criterion.weight, loss.margin.",
        "Ignored, since they are not tensors: epoch.",
    )


HEADS = {
    "dropout before it": (BODY | linear("fc.1"), "fc.1"),
    "first of a sequence": (BODY | linear("fc.0"), "fc.0"),
    "timm's": (BODY | linear("head.fc"), "head.fc"),
    "another name": (BODY | linear("classifier.1"), "classifier.1"),
    "beside the backbone": (under("backbone.", BODY) | linear("head") | {"criterion.weight": np.ones(3)}, "head"),
    "of its own name beside the backbone": (under("backbone.", BODY) | linear("fc"), "fc"),
    "of its own name in a model beside its backbone": (under("model.backbone.", BODY) | linear("model.fc"), "model.fc"),
    "beside what only training needs": (
        under("backbone.", BODY) | linear("fc") | {"mean": np.ones(3), "val_loss.weight": np.ones(5), "train_metrics.f1.tp": np.ones(5)},
        "fc",
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_single_linear_layer_is_the_head(case):
    content, name = HEADS[case]
    state = found(content)
    assert {key for key in state.tensors} == STATE.keys()
    assert state.tensors["fc.weight"].shape == (5, WIDTH)
    assert state.tensors["fc.bias"][0] == 2
    assert says(state, f"The linear layer {name!r} was used as the head 'fc'.")


@pytest.mark.parametrize("architecture", ["densenet_small", "alexnet"])
def test_a_head_of_its_own_name_beside_the_backbone_is_taken_in_other_families(architecture):
    state = made(1, architecture)
    layer = next(name.removesuffix(".weight") for name in reversed(state) if name in (f"{one}.weight" for one in ("classifier", "classifier.6")))
    body = {key: array for key, array in state.items() if not key.startswith(f"{layer}.")}
    found_state = found(under("backbone.", body) | linear(layer, inputs=state[f"{layer}.weight"].shape[1]), architecture)
    assert found_state.tensors.keys() == state.keys()
    assert found_state.tensors[f"{layer}.weight"].shape[0] == 5


NECKS = {
    "a linear layer of the same width": linear("bottleneck.0", outputs=WIDTH),
    "a batch norm": {f"neck.bn.{name}": np.ones(WIDTH, np.float32) for name in ("weight", "bias", "running_mean", "running_var")},
    "a pooling that learns": {"pool.p": np.ones(1, np.float32)},
    "a projection": linear("projector.0", outputs=7) | linear("projector.2", inputs=7),
}


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("name", ["head", "fc"])
def test_a_head_behind_other_layers_is_none(neck, name):
    state = found(under("backbone.", BODY) | NECKS[neck] | linear(name))
    assert state.tensors.keys() == BODY.keys()
    assert says(
        state,
        f"The linear layer {name!r} was not used as the head, since {min(NECKS[neck])}",
        "The network was converted without a head.",
        f"{name}.weight",
    )


@pytest.mark.parametrize(
    "head",
    [
        linear("fc.0", outputs=7) | linear("fc.2", inputs=7),
        linear("projection") | linear("prediction"),
        linear("fc.0", inputs=WIDTH + 1),
        {"fc.weight": np.ones((3, WIDTH), np.float32)},
        {"arc_face.weight": np.ones((3, WIDTH), np.float32)},
    ],
    ids=["two layers", "two heads", "another width", "no bias", "another kind"],
)
def test_another_head_is_dropped_when_asked(head):
    state = found(BODY | head)
    assert "To convert the network without it, try: drop_head=True (--drop-head)" in state.hint
    dropped = found(BODY | head, drop_head=True)
    assert dropped.tensors.keys() == BODY.keys()
    assert (dropped.hint, says(dropped, "The head was dropped: ")) == ("", True)


def test_a_sound_head_is_dropped_when_asked_and_layers_of_the_body_never_are():
    assert found(STATE, drop_head=True).tensors.keys() == BODY.keys()
    content = STATE | {"layer1.0.se.fc.weight": np.ones((2, 2), np.float32)}
    state = found(content, drop_head=True)
    assert state.tensors.keys() == content.keys(), "the conversion then refuses what it does not know"


def test_what_is_no_tensor_where_one_must_be_is_named():
    with pytest.raises(ModelError, match=r"Checkpoint a\.pth: bn1\.weight \(int\), of a type that cannot be converted\."):
        found(STATE | {"bn1.weight": 3})


def test_where_no_set_is_complete_the_others_are_named():
    content = {"model": {key: array for key, array in made(1).items() if key != "bn1.bias"}, "other": {"conv1.weight": np.ones(1)} | BODY}
    assert "Other weights in the file: other. To select other, try: weights='other' (--weights other)" in found(content, weights="model").hint


def test_containers_that_hold_themselves_are_looked_into_once():
    content = {"a": dict(STATE)}
    content["a"]["again"] = content
    assert found(content).tensors.keys() == STATE.keys()
    wide = {}
    for _ in range(30):
        wide = {f"k{i}": wide for i in range(30)}
    assert found({"deep": wide, "model": STATE}).tensors.keys() == STATE.keys()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([np.ones(2)], "Checkpoint a.pth contains a list, not a state dict, and nothing in it was run. Try: torch.save"),
        ({}, "Checkpoint a.pth contains no tensors."),
        ({"epoch": 3, 5: 1}, r"Checkpoint a.pth contains no tensors: epoch \(int\), int \(int\)\. Allowed: a state dict"),
    ],
)
def test_what_holds_no_tensors_is_said(content, sentence):
    with pytest.raises(ModelError, match=sentence):
        plain_state(content, "Checkpoint a.pth")


def test_of_an_unknown_network_the_largest_set_is_taken_without_its_prefix():
    state = plain_state({"small": {"a": np.ones(1)}, "net": under("module.", STATE)}, "Checkpoint a.pth")
    assert state.keys() == STATE.keys()
