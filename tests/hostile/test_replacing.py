"""Nothing is lost when an expert is written to an existing path."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ntk_select import Card, Preprocess
from ntk_select.cli import main
from ntk_select.errors import ModelError
from ntk_select.models import build
from ntk_select.models.expert_folder import flatten, read_weights, write_expert
from ntk_select.models.state_dict import tensor_table

CARD = Card("ash", "resnet18", "trees", Preprocess(size=8), "", 2)


def write(folder: Path, value: float, **options) -> Card:
    return write_expert(folder, {"params": {"a": np.full(2, value, np.float32)}}, CARD, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def photos(zoo):
    (zoo / "ash").mkdir()
    (zoo / "ash" / "holiday.jpg").write_bytes(b"mine")


def letter(zoo):
    (zoo / "ash").write_text("mine")


def notes_beside_the_weights(zoo):
    write(zoo / "ash", 1)
    (zoo / "ash" / "notes.txt").write_text("mine")


def a_zoo(zoo):
    write(zoo / "ash" / "oak", 1)
    write(zoo / "ash" / "elm", 1)


def a_link_to_nothing(zoo):
    (zoo / "ash").symlink_to("nowhere")


REFUSED = {
    photos: r"ash contains other files than an expert \('holiday\.jpg'\), which would be lost, and is not replaced\. Try: another name, or move these files",
    letter: r"ash is not an expert and is not replaced\. Try: another name, or delete it",
    notes_beside_the_weights: r"ash contains other files than an expert \('notes\.txt'\), which would be lost",
    a_zoo: r"ash contains other files than an expert \('elm', 'oak'\), which would be lost",
    a_link_to_nothing: r"ash is not an expert",
}


@pytest.mark.parametrize("put", REFUSED, ids=lambda put: put.__name__)
def test_what_is_no_expert_is_never_replaced(tmp_path, put):
    put(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ModelError, match=REFUSED[put]):
        write(tmp_path / "ash", 2, replace_existing=True)
    with pytest.raises(ModelError, match=r"ash already exists. Try: another name, or replace_existing=True \(--replace\)"):
        write(tmp_path / "ash", 2)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["ash"]


def test_what_systems_and_cut_writings_leave_behind_keeps_no_expert_from_being_replaced(tmp_path):
    write(tmp_path / "ash", 1)
    for name in (".DS_Store", "Thumbs.db", ".model.safetensors.7-0a1b2c3d.tmp", ".card.json.7-0a1b2c3d.tmp"):
        (tmp_path / "ash" / name).write_bytes(b"left")
    write(tmp_path / "ash", 2, replace_existing=True)
    assert set(contents(tmp_path)) == {"ash/card.json", "ash/model.safetensors"}


def test_of_a_link_what_it_leads_to_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    write(tmp_path / "elsewhere", 1)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "ash").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "zoo" / "ash", 2, replace_existing=True)
    assert (tmp_path / "zoo" / "ash").is_symlink()
    assert flatten(read_weights(tmp_path / "elsewhere" / "model.safetensors"))["params/a"].tolist() == [2, 2]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_file()) == ["elsewhere", "zoo", "zoo/ash"]
    shutil.rmtree(tmp_path / "elsewhere")


def test_the_command_does_not_replace_a_folder_of_photographs(tmp_path, capsys):
    photos(tmp_path)
    table = tensor_table(build("resnet_small", num_classes=3))
    save_file({key: np.ones(row.shape, np.float32) for key, row in table.items()}, tmp_path / "a.safetensors")
    typed = ["zoo", "convert", str(tmp_path / "a.safetensors"), "--arch", "resnet_small", "--out", str(tmp_path), "--name", "ash", "--replace"]
    assert main(typed) == 2
    assert "ash contains other files than an expert ('holiday.jpg'), which would be lost" in capsys.readouterr().err
    assert (tmp_path / "ash" / "holiday.jpg").read_bytes() == b"mine"
