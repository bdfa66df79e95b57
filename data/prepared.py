"""Where on disk a prepared TensorFlow Dataset lies."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from ntk_select.errors import DataError


def places(folder: str | Path | None, data_dir: str | Path | None) -> list[Path]:
    """The folders to look into: `folder` alone if it is given; else `data_dir` and then $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    own = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    chosen = [folder] if folder else [data_dir, own] if data_dir else [own]
    return [Path(os.path.expanduser(place)) for place in chosen]


def find(name: str, config: str | None, version: str | None, where: list[Path]) -> Path | None:
    """The folder PLACE/NAME[/CONFIG]/VERSION of the first place that has one. Imports nothing.

    Raises:
      DataError: a place has several configurations and none is named, or cannot be read.
    """
    for place in where:
        folder = place / name / config if config else place / name
        versions = _versions(folder)
        if not versions and not config:
            configs = sorted(path for path in _folders(folder) if _versions(path))
            if len(configs) > 1:
                shown = " or ".join(f"tfds:{name}/{path.name}" for path in configs)
                raise DataError(f"{folder}: has several configurations. Type {shown}, with @{place} if need be.")
            versions = _versions(configs[0]) if configs else []
        chosen = [path for path in versions if version in (None, path.name)]
        if chosen:
            return chosen[-1]
    return None


def find_prepared(name: str, config: str | None, version: str | None, where: list[Path]) -> Path:
    """As `find`, and says what to type if there is none.

    Raises:
      DataError: no place has it, or a place has several configurations and none is named.
    """
    found = find(name, config, version, where)
    if found:
        return found
    import tensorflow_datasets as tfds

    known = {path.name for place in where for path in _folders(place)} | set(tfds.list_builders(with_community_datasets=False))
    near = [] if name in known else get_close_matches(name, sorted(known))
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    full = f"{name}{f'/{config}' if config else ''}{f':{version}' if version else ''}"
    raise DataError(
        f"tfds:{full} is not prepared in {' or '.join(map(str, where))}.{hint} To download and prepare it type: {download_command(full, where[0])}"
    )


def download_command(name: str, data_dir: Path) -> str:
    """What to type so that TensorFlow Datasets prepares a set that it has."""
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{data_dir}', "
        f"file_format='array_record').download_and_prepare()\""
    )


def _versions(folder: Path) -> list[Path]:
    """Prepared versions below a folder, the newest last."""
    found = [path for path in _folders(folder) if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()] if os.path.isdir(folder) else []
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}).") from error
