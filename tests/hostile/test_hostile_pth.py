"""What does `zoo convert` say of a .pth that attacks? A sentence; nothing in it is run, and it costs no memory."""

import os
import pickle
import zipfile

import pytest

from ntk_select.cli import main

pytestmark = pytest.mark.oracle


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def bare_pickle(torch, path, marker):
    path.write_bytes(pickle.dumps(Runs(marker)))


def in_the_state_dict(torch, path, marker):
    torch.save({"conv1.weight": torch.ones(2), "bn1.weight": Runs(marker)}, path)


def as_a_key(torch, path, marker):
    torch.save({Runs(marker): torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def in_a_sound_zip(torch, path, marker):
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as before:
        entries = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in entries.items():
            after.writestr(name, pickle.dumps({"a": Runs(marker)}, protocol=2) if name.endswith("data.pkl") else content)


def a_whole_module(torch, path, marker):
    torch.save(torch.nn.Linear(1, 1), path)


def one_number_as_a_trillion(torch, path, marker):
    torch.save({"fc.weight": torch.ones(1).expand(10**9, 1000)}, path)


def turned_bit(torch, path, marker):
    torch.save({"a": torch.arange(64)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"data.pkl") + 70] ^= 0x40
    path.write_bytes(content)


FILES = {
    bare_pickle: "holds a posix.mkdir, not a state dict, and nothing in it was run",
    in_the_state_dict: "54 tensors missing: bn1.bias, bn1.weight",
    as_a_key: "holds no tensors",
    in_a_sound_zip: "holds no tensors: a (posix.mkdir)",
    a_whole_module: "2 tensors unknown: weight, bias",
    one_number_as_a_trillion: "fc.weight of checkpoint {path} cannot be converted: its shape (1000000000, 1000) has more values than the file holds",
    turned_bit: "is damaged or was not written by torch.save (BadZipFile: Bad CRC-32 for file 'bad/data.pkl'), and nothing in it was run",
}


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_pth_is_refused_with_a_sentence_and_runs_nothing(tmp_path, capsys, make):
    torch = pytest.importorskip("torch")
    path = tmp_path / "bad.pth"
    make(torch, path, tmp_path / "marker")
    assert main(["zoo", "convert", str(path), "--arch", "resnet_small", "--out", str(tmp_path / "zoo")]) == 2
    assert FILES[make].format(path=path) in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["bad.pth"]
