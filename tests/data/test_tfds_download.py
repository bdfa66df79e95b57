"""TensorFlow Datasets are downloaded from a server of the test and prepared without TensorFlow, or a sentence says why not."""

import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from ntk_select.cli import main
from ntk_select.data import KNOWN, load_task, tfds_download
from ntk_select.data.published import catalogue
from ntk_select.errors import DataError, TaskError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RECORDS = np.random.default_rng(0).integers(0, 256, (6, 20, 3073), dtype=np.uint8)
RECORDS[:, :, 0] = np.arange(20) % 10


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """The published archive of CIFAR-10 with 20 images in each of its six files, on a server of this machine."""
    (tmp_path / "www").mkdir()
    with tarfile.open(tmp_path / "www" / "cifar.tar.gz", "w:gz") as archive:
        files = {f"data_batch_{i + 1}.bin": RECORDS[i].tobytes() for i in range(5)} | {"test_batch.bin": RECORDS[5].tobytes()}
        for name, content in (files | {"batches.meta.txt": "\n".join(CLASSES).encode()}).items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    facts = cifar.Cifar10._cifar_info.fget
    url = f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", property(lambda self: facts(self)._replace(url=url)))
    yield url
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def sets(tmp_path, monkeypatch):
    """An empty default folder of data sets."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    return tmp_path / "sets"


def pixels(record):
    """An image as the format's description says: the label, then the three planes."""
    return record[1:].reshape(3, 32, 32).transpose(1, 2, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # of TensorFlow Datasets
def test_a_published_set_is_downloaded_and_prepared_without_tensorflow(cifar10, sets, capsys):
    assert main(["tasks", "show", "tfds:cifar10", "--download", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["train"], facts["test"], [entry["name"] for entry in facts["classes"]]) == (100, 20, CLASSES)
    task = load_task("tfds:cifar10")
    for images, labels, records in ((task.images, task.labels, RECORDS[:5]), (task.test_images, task.test_labels, RECORDS[5:])):
        expected = {pixels(record).tobytes(): int(record[0]) for record in records.reshape(-1, 3073)}
        assert {np.asarray(image).tobytes(): int(label) for image, label in zip(images, labels, strict=True)} == expected
    for module in (cifar, tfds.core.shuffle, tfds.core.dataset_builder):
        assert not isinstance(getattr(module, "tf", None), tfds_download._FilesOnly)
    before = sorted((path, path.stat().st_mtime_ns) for path in sets.rglob("*.array_record*"))
    load_task("tfds:cifar10", download=True)
    assert sorted((path, path.stat().st_mtime_ns) for path in sets.rglob("*.array_record*")) == before


def builder(monkeypatch, prepare=None, instructions=None):
    """Puts a set of this name in place of all others."""

    class Set:
        MANUAL_DOWNLOAD_INSTRUCTIONS = instructions

        def download_and_prepare(self):
            prepare()

    monkeypatch.setattr(tfds, "builder", lambda name, **options: Set())


def raises(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            requests.ConnectionError("pool"),
            r"cannot be downloaded and prepared \(the server cannot be reached\). Try: again, with a network and space in /",
        ),
        (ValueError("odd\nmore"), r"cannot be downloaded and prepared \(ValueError: odd\)"),
        (
            ModuleNotFoundError("No module named 'tensorflow'"),
            r"its code needs TensorFlow \(.*\). Try, where TensorFlow is installed: python -c .*'things'",
        ),
        (OSError(), r"cannot be downloaded and prepared \(OSError\)"),
    ],
)
def test_what_prevents_a_preparation_is_said_in_a_sentence(monkeypatch, error, sentence):
    builder(monkeypatch, raises(error))
    with pytest.raises(DataError, match=f"tfds:things: {sentence}"):
        load_task("tfds:things", download=True)


def test_files_to_be_downloaded_by_hand_are_described(monkeypatch):
    builder(monkeypatch, instructions="Get a.zip\n  from its page.")
    with pytest.raises(DataError, match=r"its files must be downloaded by hand: Get a.zip from its page. Then try: python -c "):
        load_task("tfds:things", download=True)


def test_unknown_sets_configurations_and_arguments_are_told():
    with pytest.raises(DataError, match=r"TensorFlow Datasets has no set 'cifar1'. Did you mean 'cifar10' or .*\? Try: tfds:cifar10"):
        load_task("tfds:cifar1", download=True)
    with pytest.raises(DataError, match=r"tfds:cifar10/small: cannot be built \(.*small not found.*\). Try: tfds:cifar10"):
        load_task("tfds:cifar10/small", download=True)
    with pytest.raises(TaskError, match="allowed is tfds:NAME"):
        load_task("tfds:two words", download=True)


def test_sets_of_the_benchmark_are_downloaded_by_their_names(monkeypatch, sets, tmp_path):
    asked = []
    monkeypatch.setattr(catalogue, "download_tfds", lambda name, data_dir: asked.append((name, data_dir)))
    for uri, folder in (("stanford_cars", sets), (f"stanford_cars:{tmp_path}", tmp_path)):
        with pytest.raises(DataError, match="stanford_cars is not prepared"):
            load_task(uri, download=True)
        assert asked.pop() == (KNOWN["stanford_cars"].tfds, folder)
    (sets / "cars196" / "2.1.0").mkdir(parents=True)
    (sets / "cars196" / "2.1.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="TensorFlow Datasets cannot read it"):
        load_task("stanford_cars", download=True)
    assert asked == []
    with pytest.raises(TaskError, match="'magnetic_tile' is not downloaded; tfds:NAME and sets of the benchmark"):
        load_task("magnetic_tile", download=True)


def test_functions_that_only_tensorflow_has_are_named():
    with pytest.raises(ImportError, match="no module named tensorflow, for tensorflow.image"):
        tfds_download._FilesOnly().image  # noqa: B018
    encoder = tfds.features.Image(encoding_format="jpeg")._image_encoder
    with pytest.raises(ImportError, match=r"no module named tensorflow, to encode uint8 \(2, 2, 3\) as jpeg"):
        tfds_download._encode_png(encoder, np.zeros((2, 2, 3), np.uint8))


def test_the_limit_of_open_files_is_raised_when_it_is_reached(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "a").write_text("é", encoding="utf-8")
    opened = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        for _ in range(300):
            opened.append(tfds_download._open(tmp_path / "a"))
        assert opened[-1].read() == "é"
        with pytest.raises(FileNotFoundError):
            tfds_download._open(tmp_path / "gone")
    finally:
        for file in opened:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
