"""Checkpoints with Orbax, from which an interrupted training resumes."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_select._runtime.files import file_name
from ntk_select.errors import ConfigError, explained
from ntk_select.training.loop import TrainState

EVERY_SECONDS = 20.0
SAMPLED = 64
"""Lazily decoded images that a fingerprint hashes."""


class Checkpoints:
    """Checkpoints of one training, as a context manager.

    Args:
      folder: folder of the checkpoints of all trainings; None disables checkpoints.
      name: readable prefix of this training's folder.
      settings: dataclasses, mappings, strings and numbers that determine the training. Training resumes only from checkpoints of equal settings.
      every_seconds: minimal time between two checkpoints; 0 writes one every epoch.

    Raises:
      ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path | None, name: str, settings: Any, *, every_seconds: float = EVERY_SECONDS):
        self.every_seconds, self._manager, self.folder, self._full = every_seconds, None, None, False
        self._last = time.monotonic()
        if folder is not None:
            text = json.dumps(settings, sort_keys=True, default=_plain)
            self.folder = Path(os.path.expanduser(folder)).resolve() / f"{file_name(name)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def __enter__(self):
        if self.folder is not None:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False, create=True)
            try:
                self._manager = ocp.CheckpointManager(self.folder, options=options)
            except OSError as error:
                raise ConfigError(f"Checkpoints cannot be written to {self.folder}: {error.strerror}. Try: another folder") from error
        return self

    def __exit__(self, *_):
        if self._manager is not None:
            self._manager.close()

    def latest(self, state: TrainState) -> tuple[int, TrainState, dict[str, Any]]:
        """(epochs done, state, notes) of the last checkpoint; (0, `state`, {}) if there is none.

        Raises:
          ConfigError: the checkpoint is damaged.
        """
        if self._manager is None or (epoch := self._manager.latest_step()) is None:
            return 0, state, {}
        import orbax.checkpoint as ocp

        try:
            restored = self._manager.restore(epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(state), notes=ocp.args.JsonRestore()))
            if restored["notes"]["sha256"] != _sha256(
                restored["state"], restored["notes"]["notes"]
            ):  # Orbax itself detects flipped bits in some files only
                raise ValueError("its checksum does not match")
        except Exception as error:  # Orbax and its storage raise many types on damaged files
            raise ConfigError(
                f"The checkpoint {self.folder}/{epoch} cannot be read ({explained(error)}). Try: delete the folder to start again"
            ) from error
        return epoch, restored["state"], restored["notes"]["notes"]

    def save(self, epoch: int, state: TrainState, notes: Mapping[str, Any], *, now: bool = False) -> None:
        """Writes a checkpoint of the state and JSON-compatible notes, if `every_seconds` have passed or `now`.

        If the disk is full or read-only it warns, and training continues without checkpoints.
        """
        if (
            self._manager is None
            or self._full
            or (not now and time.monotonic() - self._last < self.every_seconds)
            or self._manager.latest_step() == epoch
        ):
            return
        import orbax.checkpoint as ocp

        notes = {"notes": dict(notes), "sha256": _sha256(state, notes)}
        try:
            self._manager.save(epoch, args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)))
        except Exception as error:  # Orbax and its storage raise ValueError as well as OSError
            if (reason := _disk_error(error)) is None:
                raise
            self._full = True
            for half in self.folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(half, ignore_errors=True)
            warnings.warn(
                f"Checkpoints can no longer be written to {self.folder}: {reason}. Training continues; if interrupted, it resumes from an earlier one.",
                stacklevel=2,
            )
        self._last = time.monotonic()

    def after_epoch(self, report: Callable[[int, float], None], losses: list[float]) -> Callable[[int, TrainState, float], None]:
        """An `after_epoch` callback for `train_epochs`: appends the loss to `losses`, saves both, and calls `report(epochs done, loss)`."""

        def callback(epoch: int, state: TrainState, loss: float) -> None:
            losses.append(loss)
            self.save(epoch, state, {"losses": losses})
            report(epoch, loss)

        return callback

    def delete(self) -> None:
        """Deletes the checkpoints."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _disk_error(error: Exception) -> str | None:
    """The error of the disk that an exception reports, if any."""
    message = " ".join(str(error).split())
    known = (os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES))
    return next((reason for reason in known if reason in message), None)


def fingerprint(images: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """Digest of labelled images: all labels, and all pixels of an array, or `SAMPLED` images of a lazily decoded sequence."""
    digest = hashlib.sha256(np.ascontiguousarray(labels).tobytes())
    if isinstance(images, np.ndarray):
        digest.update(np.ascontiguousarray(images).tobytes())
    else:
        for place in np.unique(np.linspace(0, len(images) - 1, SAMPLED).astype(int)):
            digest.update(np.ascontiguousarray(images[int(place)]).tobytes())
    return digest.hexdigest()


def _sha256(state: TrainState, notes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(notes), sort_keys=True).encode())
    for leaf in map(np.asarray, jax.tree.leaves(state)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def seed_from(text: str) -> int:
    """A 32-bit seed from a string, by CRC-32."""
    return zlib.crc32(text.encode())


def _plain(value):
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, dataclasses.asdict(value)]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.ndarray | jax.Array):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    return str(value)
