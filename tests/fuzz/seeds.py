"""Valid inputs: the seeds of fuzzers and property tests."""

import gzip
import io
import json
import re
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from safetensors.numpy import save

from ntk_select import Card, Preprocess
from ntk_select.ranking import ExpertScores, Failure, Ranking
from ntk_select.ranking.records import Outcome, _record
from ntk_select.ranking.scoring import Scored
from ntk_select.scores import ScoreResult, Terms, Unavailable

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs"
ALL_FIELDS = re.sub(rb"(?m)^# (?=\[|\w[\w-]* = )", b"", (CONFIGS / "my_zoo.toml").read_bytes())
"""The zoo to copy, with the fields that it has in comments."""
CARD = Card(
    name="flowers-resnet18",
    architecture="resnet18",
    source="flowers",
    preprocess=Preprocess(size=32, resize=36),
    sha256="ab" * 32,
    num_classes=2,
    config={"stem": "small"},
    class_names=("Löwenzahn", "rose"),
    class_counts=(10, 20),
    num_images=30,
    test_accuracy=0.75,
    licence="CC BY 4.0",
    training={"epochs": 3, "domains": ["a", "b"]},
)
PICTURES = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
PATHS = ("train/cat/1.png", "train/dog/2.jpg", "test/dog/3.png", "notes/", "README.txt")


def encoded(form: str = "PNG", picture: np.ndarray = PICTURES[0], **options) -> bytes:
    """A picture in a file of this format."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **options)
    return file.getvalue()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Entries in an archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that a null byte cuts short may be alike
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def arrays(**named) -> bytes:
    """Arrays in an .npz file."""
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    """An array as the format's description says."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def kernel(**changes) -> bytes:
    """A saved kernel that is the estimate of a sketch."""
    rows = np.random.default_rng(0).normal(size=(4, 6))
    provenance = {"expert": "mine", "sketch": {"kind": "gaussian", "dim": 6, "blocks": 2, "seed": 7, "scheme": 1, "directions": False}}
    named = {"kernel": rows @ rows.T, "labels": np.arange(4) % 2, "class_names": np.array(["a", "b"]), "indices": np.arange(4)}
    return arrays(**(named | {"provenance": np.array(json.dumps(provenance)), "sketch": rows} | changes))


SCORES = {
    "forecast": ScoreResult(0.75, 0.5, 0.9, {"accuracy": 0.75, "learning_rate": 0.01}, np.array([0.5, 1.0])),
    "sfda": ScoreResult(0.9, remark="Too few images.", by_chance={"value": 0.8}),
    "lgc": Unavailable("It has none."),
}


def saved_ranking() -> bytes:
    """A ranking as it is saved."""
    rows = [
        ExpertScores(1, "a", "trees", "resnet18", 5, SCORES, {"load": 0.5}, {"forecast": 0.25}),
        ExpertScores(2, "b", None, None, None, dict.fromkeys(SCORES, Unavailable("It failed.")), {}),
    ]
    task = {"name": "digits", "uri": None, "images": 4, "classes": 2, "seed": 0, "warnings": ["Few images."]}
    known = {"judgement": "a is ahead.", "versions": {"jax": "0"}, "higher_is_better": dict.fromkeys(SCORES, True), "deciding": "forecast"}
    failed = (Failure("c", "The weights are gone."),)
    return json.dumps(Ranking(task, tuple(SCORES), tuple(rows), failed, ("a",), fine_tuning={"epochs": 30}, **known).to_dict()).encode()


def expert_record() -> bytes:
    """The record of an expert of a ranking."""
    row = ExpertScores(0, "a", "trees", None, 5, {**SCORES, "etran": Terms({"energy": 0.5})}, {"load": 0.5}, {"forecast": 0.25})
    halves = {"forecast": [ScoreResult(0.5), Unavailable("none")], "etran": [Terms({"energy": 0.25})]}
    found = _record(Outcome("a", Scored(row, halves), shared_seconds={"reference": 1.0}, device="cpu"))
    return json.dumps(found).encode()


def arrow() -> bytes:
    """Images and labels as Hugging Face datasets stores them: a stream of Arrow, with the types of its features in the schema."""
    classes = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": classes}
    images = pa.array(
        [{"bytes": encoded(picture=picture), "path": None} for picture in PICTURES], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    table = pa.table({"image": images, "label": pa.array([0, 1], pa.int64())})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs of each target."""
    tree = {"train/cat/1.png": encoded(), "train/dog/2.jpg": encoded("JPEG"), "test/dog/3.png": encoded(picture=PICTURES[1])}
    weights = {"params/conv/kernel": np.ones((2, 2), np.float32), "batch_stats/mean": np.zeros(2, np.float32)}
    whole = {"images": PICTURES, "labels": np.arange(2), "test_images": PICTURES, "test_labels": np.arange(2)}
    layers = {"layer_names": np.array(["w"]), "layer_kernels": np.eye(2)[None]}
    vectors = {"features": np.eye(4, 3, dtype=np.float32), "labels": np.arange(4) % 2, "logits": np.eye(4), "source_counts": np.arange(1, 3)}
    exact = {"kernel": np.eye(2), "labels": np.arange(2), "class_names": np.array(["a", "b"]), "indices": np.arange(2), "provenance": np.array("{}")}
    names = (
        "digits",
        "folder:photos",
        "zip:~/photos.zip",
        "npz:a.npz",
        "csv:a.csv@..?label=x",
        "hf:org/name:c",
        "tfds:cifar10/plain:1.0.0@~/data",
        "magnetic_tile:place",
        "./x",
        "~nobody/x",
    )
    return {
        "uri": [name.encode() for name in names],
        "zoo": [b"builtin", b"features:zoo", b"folder:zoo", b"~nobody", b"./zoo", b"hf-hub:org/", b"features:a.npz"],
        "config": [path.read_bytes() for path in sorted(CONFIGS.glob("*.toml")) if not path.name.endswith("_zoo.toml")],
        "zoo_config": [*(path.read_bytes() for path in sorted(CONFIGS.glob("*_zoo.toml"))), ALL_FIELDS],
        "card": [CARD.to_json().encode()],
        "archive": [zipped(tree), zipped({name.removeprefix("train/"): data for name, data in list(tree.items())[:2]}, zipfile.ZIP_STORED)],
        "image": [
            *(encoded(form) for form in ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")),
            encoded(picture=PICTURES[0, :, :, 0].astype(np.uint16) * 257),
        ],
        "layout": ["\n".join(PATHS).encode(), b"cat/1.png\ndog/2.png"],
        "npz": [arrays(**whole), arrays(x_train=PICTURES[..., 0], y_train=np.arange(2)[:, None], class_names=np.array(["a", "b"]))],
        "csv": [
            'path,label,split\ncat/1.png,cat,train\n"a, b.png",Löwe,val\n'.encode(),
            b"\xef\xbb\xbffile;class\r\ncat/1.png;1\r\nb.png;2.0\r\n",
            b"image\ttarget\nb.png\t-1\n",
        ],
        "hf": [arrow()],
        "idx": [b"\0" + idx(PICTURES[..., 0]), b"\xff" + idx(np.arange(4, dtype=np.uint8)), b"\0" + gzip.compress(idx(PICTURES[..., 0]))],
        "safetensors": [save(weights), save({"module.fc.weight": np.ones((2, 1), np.float16)})],
        "kernel": [kernel(), arrays(**exact, **layers)],
        "features": [
            arrays(**vectors, source="trees", source_accuracy=0.5, class_names=np.array(["a", "b"])),
            save(vectors, {"source": "trees", "num_params": "12", "class_names": '["a", "b"]'}),
        ],
        "hub_name": [b"hf-hub:timm/resnet18.a1_in1k", b"hf-hub:org/net@refs/pr/1", b"hf-hub:o/n@v1.0+a"],
        "pattern": [b"cat", b"*", b"cat*\ndog[[]1]", b"[!a-z]*\n?o*"],
        "ranking": [saved_ranking()],
        "record": [expert_record()],
    }
