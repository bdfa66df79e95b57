"""Files of features on the command line: ranked without a task, listed, shown, and refused where the network is needed."""

import json

import numpy as np
import pytest

from ntk_select import rank
from ntk_select.ranking import expected_time

LABELS = np.repeat([0, 1, 2], 12)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder with good and bad features, of which only the good say where they are from."""
    folder, rng = tmp_path_factory.mktemp("features of ours"), np.random.default_rng(0)
    for name, strength, facts in (("good", 3, {"source": "trees", "num_params": 12, "logits": rng.normal(size=(36, 5))}), ("bad", 0, {})):
        features = rng.normal(size=(36, 6))
        features[np.arange(36), LABELS] += strength
        np.savez(folder / f"{name}.npz", features=features, labels=LABELS, class_names=np.array(["ant", "bee", "cat"]), **facts)
    return folder


def test_a_ranking_needs_no_task_and_no_estimate_of_time(ran, zoo, monkeypatch):
    monkeypatch.setattr(expected_time, "expected_seconds", None)  # a call would fail
    status, out, err = ran("rank", "--zoo", f"features:{zoo}", "--per-class", "12")
    assert status == 0, err
    assert "About" not in err
    assert f"{zoo.name}: 36 images of 3 classes, seed 0" in out
    assert "Next: fine-tune 'good' where its features were computed; its file has no network." in out
    status, out, _ = ran("rank", "--zoo", str(zoo), "--per-class", "12", "--json")
    expected, record = rank(f"features:{zoo}", per_class=12), json.loads(out)
    assert [row["name"] for row in record["experts"]] == [row.name for row in expected] == ["good", "bad"]
    assert record["experts"][0]["scores"]["lfc"]["value"] == expected["good"].scores["lfc"].value
    assert "needs the network" in record["experts"][0]["scores"]["forecast"]["unavailable"]


def test_more_images_are_suggested_without_a_task_where_two_are_tied(ran, tmp_path, rng):
    features = rng.normal(size=(36, 6))
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", features=features, labels=LABELS)
    out = ran("rank", "--zoo", f"features:{tmp_path}", "--per-class", "2", "--scores", "lfc")[1]
    expected = f"ntk-select rank --zoo features:{tmp_path} --scores lfc --per-class 8"
    assert "Next, to tell them apart with more images: " + expected in " ".join(out.split())


def test_features_are_ranked_beside_networks(ran, write_zoo, write_task, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "ours.npz", features=rng.normal(size=(24, 4)), labels=np.repeat([0, 1], 12))
    words = ("rank", "--task", write_task(), "--scores", "lfc", "--per-class", "6", "--no-cache", "--json")
    status, out, err = ran(*words, "--zoo", write_zoo("ash"), f"features:{tmp_path}")
    assert status == 0, err
    assert {row["name"] for row in json.loads(out)["experts"]} == {"ash", "ours"}


def test_the_embedded_zoo_needs_a_task(ran):
    status, _, err = ran("rank")
    assert status == 2
    assert "is a network. Try: task='my_images' (--task my_images)" in err


def test_files_are_listed_shown_and_verified(ran, zoo, tmp_path):
    status, out, _ = ran("zoo", "list", "--zoo", f"features:{zoo}")
    assert status == 0
    good, bad = (next(line for line in out.splitlines() if name in line).split() for name in ("good", "bad"))
    assert [word for word in good if word != "│"][1:5] == ["trees", "?", "12", "5"]
    assert [word for word in bad if word != "│"][1:5] == ["?", "?", "?", "0"]
    record = json.loads(ran("zoo", "show", "good", "--zoo", f"features:{zoo}", "--json")[1])
    assert (record["images"], record["features"], record["class_counts"], record["num_classes"]) == (36, 6, [12, 12, 12], 5)
    assert "classes (images): ant (12), bee (12), cat (12)" in ran("zoo", "show", "good", "--zoo", str(zoo))[1]
    assert "2 of 2 experts are intact." in ran("zoo", "verify", "--zoo", str(zoo))[1]
    np.savez(tmp_path / "wrong.npz", features=np.full((3, 2), np.nan))
    status, out, _ = ran("zoo", "verify", "--zoo", f"features:{tmp_path}")
    assert (status, "wrong: Expert 'wrong': features has NaN or infinity" in out) == (1, True)
    assert "labels" not in ran("zoo", "show", "wrong", "--zoo", f"features:{tmp_path}")[1]


@pytest.mark.parametrize("command", ["finetune", "kernel", "dynamics"])
def test_commands_that_need_the_network_refuse_in_one_sentence(ran, zoo, write_task, command):
    status, _, err = ran(command, "--expert", "good", "--zoo", f"features:{zoo}", "--task", write_task(tested=True))
    assert status == 2
    assert "Expert 'good' is known by its features only, and this needs its network. Try: " in err
