"""Where on disk does a TensorFlow Dataset lie prepared?"""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from ntk_select.errors import DataError


def find_prepared(name: str, config: str | None, version: str | None, places: list[Path]) -> Path:
    """The folder PLACE/NAME[/CONFIG]/VERSION of the first place that has one.

    Raises:
      DataError: no place has it, or a place has several configurations and none is named.
    """
    for place in places:
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
    import tensorflow_datasets as tfds

    known = {path.name for place in places for path in _folders(place)} | set(tfds.list_builders(with_community_datasets=False))
    near = [] if name in known else get_close_matches(name, sorted(known))
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    full = f"{name}{f'/{config}' if config else ''}{f':{version}' if version else ''}"
    raise DataError(
        f"tfds:{full} is not prepared in {' or '.join(map(str, places))}.{hint} To download and prepare it type: python -c "
        f"\"import tensorflow_datasets as tfds; tfds.builder('{full}', data_dir='{places[0]}', file_format='array_record').download_and_prepare()\""
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
