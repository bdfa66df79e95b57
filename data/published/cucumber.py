"""The pixels and classes in the pickled arrays of CUCUMBER-9."""

import io
import pickle

import numpy as np

from ntk_select.errors import DataError

from .archive import Archive
from .contents import Contents, wrong

SIDE = 32
ALLOWED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def cucumber(archive: Archive) -> Contents:
    """CUCUMBER-9, prototype 1: files in the form of CIFAR-10's, with three rows (red, green, blue) an image in `data`.

    The authors' batches 1 to 5 are for training, their test batch for testing. The images are published as pixels and
    are packed here as PNG, which loses nothing.
    """
    names = tuple(str(name) for name in _field(archive, "batches.meta", "label_names", list))
    pixels, split = {}, {}
    for part, files in (("train", [f"data_batch_{number}" for number in range(1, 6)]), ("test", ["test_batch"])):
        split[part] = []
        for file in files:
            labels = [int(label) for label in _field(archive, file, "labels", list)]
            images = _field(archive, file, "data", np.ndarray)
            if images.dtype != np.uint8 or images.size != 3 * SIDE * SIDE * len(labels):
                raise wrong(archive, file, ValueError(f"{images.dtype} {images.shape} for {len(labels)} labels"))
            if not set(labels) <= set(range(len(names))):
                raise wrong(archive, file, ValueError(f"labels {sorted(set(labels))} for {len(names)} names"))
            for number, (image, label) in enumerate(zip(images.reshape(-1, 3, SIDE, SIDE), labels, strict=True)):
                pixels[f"{file}/{number}"] = image.transpose(1, 2, 0)
                split[part].append((f"{file}/{number}", label))
    return Contents(names, split["train"], split["test"], lambda key: _png(pixels[key]))


class _Arrays(pickle.Unpickler):
    """Unpickles lists, texts and arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str):
        """An allowed name."""
        module = module.replace("numpy.core.", "numpy._core.")  # its name before NumPy 2
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not part of an array")
        return super().find_class(module, name)


def _field(archive: Archive, file: str, key: str, kind: type):
    path = archive.find(file)
    try:
        value = _Arrays(io.BytesIO(archive.read(path)), encoding="latin1").load()[key]
        if kind is list:
            value = list(value)
        if not isinstance(value, kind):
            raise TypeError(f"{key} is a {type(value).__name__}")
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise wrong(archive, path, error) from error
    return value


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()
