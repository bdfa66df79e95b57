"""Fixtures: small folders, archives and arrays of images, written by Pillow and NumPy alone."""

import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntk_select.data.image_files import optional_formats


@pytest.fixture
def pixels():
    """pixels(seed, ...) gives a random colour image, the same for the same seed."""

    def make(seed, height=6, width=5, channels=3):
        shape = (height, width, channels) if channels else (height, width)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def encoded():
    """encoded(image, format) gives the bytes of a file; the image is an array or of Pillow."""

    def encode(image, form="PNG", **options):
        file = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
        return file.getvalue()

    return encode


@pytest.fixture
def folder_of(tmp_path, pixels, encoded):
    """folder_of(paths) writes a random PNG at each path (a folder if it ends in /, bytes if given) and gives the folder."""

    def write(paths, name="photos"):
        root = tmp_path / name
        root.mkdir()
        contents = paths if isinstance(paths, dict) else dict.fromkeys(paths)
        for seed, (path, content) in enumerate(contents.items()):
            if path.endswith("/"):
                (root / path).mkdir(parents=True, exist_ok=True)
            else:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(encoded(pixels(seed)) if content is None else content)
        return root

    return write


@pytest.fixture
def zip_of(tmp_path):
    """zip_of(folder) packs all below a folder, folders included, in the order of os.walk."""

    def pack(folder: Path, name="photos.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for parent, folders, files in os.walk(folder):
                for path in [*folders, *files]:
                    full = Path(parent, path)
                    archive.write(full, full.relative_to(folder))
        return tmp_path / name

    return pack


@pytest.fixture
def zip_with(tmp_path):
    """zip_with({name: bytes}) packs entries of any name."""

    def pack(entries, name="made.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return tmp_path / name

    return pack


@pytest.fixture
def readers(monkeypatch):
    """readers(module, ...) sets modules that read optional formats, None for absent, and finds the readers anew."""

    def choose(**modules):
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, {"avif": "PIL.AvifImagePlugin", "heif": "pillow_heif"}[name], module)
        optional_formats.cache_clear()

    yield choose
    monkeypatch.undo()
    optional_formats.cache_clear()
