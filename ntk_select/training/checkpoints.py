"""How does a training go on after it was cut? By the last state that Orbax kept."""

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
from ntk_select.training.step import TrainState

EVERY_SECONDS = 20.0
LOOKED_AT = 64


class Checkpoints:
    """Kept states of one training, as a context.

    Args:
      folder: of all trainings; None keeps nothing.
      name: of this one, for people.
      settings: records, mappings, texts and numbers that decide the training. Others are never continued from its states.
      every_seconds: a state is kept when so much time has passed since the last. 0 keeps every epoch.

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
                raise ConfigError(f"Checkpoints cannot be kept in {self.folder}: {error.strerror}. Give another folder.") from error
        return self

    def __exit__(self, *_):
        if self._manager is not None:
            self._manager.close()

    def latest(self, state: TrainState) -> tuple[int, TrainState, dict[str, Any]]:
        """(epochs done, state, notes) of the last kept state; (0, `state`, {}) when there is none.

        Raises:
          ConfigError: it is damaged.
        """
        if self._manager is None or (epoch := self._manager.latest_step()) is None:
            return 0, state, {}
        import orbax.checkpoint as ocp

        try:
            kept = self._manager.restore(epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(state), notes=ocp.args.JsonRestore()))
            if kept["notes"]["sha256"] != _sha256(kept["state"], kept["notes"]["notes"]):  # Orbax itself sees turned bits in some places only
                raise ValueError("its numbers are not those that were kept")
        except Exception as error:  # whatever Orbax and its storage raise on damaged files
            raise ConfigError(
                f"The checkpoint {self.folder}/{epoch} cannot be read ({explained(error)}). Delete the folder to begin anew."
            ) from error
        return epoch, kept["state"], kept["notes"]["notes"]

    def save(self, epoch: int, state: TrainState, notes: Mapping[str, Any], *, now: bool = False) -> None:
        """Keeps a state with notes that JSON can hold, if it is time to, or `now`. A full disk costs the states, never the training: it warns."""
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
            if (reason := _of_the_disk(error)) is None:
                raise
            self._full = True
            for half in self.folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(half, ignore_errors=True)
            warnings.warn(
                f"Checkpoints can no longer be kept in {self.folder}: {reason}. The training goes on; if it is cut, it begins at an earlier state.",
                stacklevel=2,
            )
        self._last = time.monotonic()

    def then(self, report: Callable[[int, float], None], losses: list[float]) -> Callable[[int, TrainState, float], None]:
        """An `after_epoch` for `train_epochs`: adds the loss to `losses`, keeps the state with them as notes, and reports (epochs done, loss)."""

        def after_epoch(epoch: int, state: TrainState, loss: float) -> None:
            losses.append(loss)
            self.save(epoch, state, {"losses": losses})
            report(epoch, loss)

        return after_epoch

    def forget(self) -> None:
        """Deletes what was kept; the training is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _of_the_disk(error: Exception) -> str | None:
    """What is the matter with the disk, if that is what an exception says."""
    said = " ".join(str(error).split())
    known = (os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES))
    return next((reason for reason in known if reason in said), None)


def fingerprint(images: Sequence[np.ndarray], labels: np.ndarray) -> str:
    """What tells one set of labelled images from another: all labels; of an array all pixels, of images that are decoded when asked for 64 of them."""
    digest = hashlib.sha256(np.ascontiguousarray(labels).tobytes())
    if isinstance(images, np.ndarray):
        digest.update(np.ascontiguousarray(images).tobytes())
    else:
        for place in np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int)):
            digest.update(np.ascontiguousarray(images[int(place)]).tobytes())
    return digest.hexdigest()


def _sha256(state: TrainState, notes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(notes), sort_keys=True).encode())
    for leaf in map(np.asarray, jax.tree.leaves(state)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def number_of(text: str) -> int:
    """A 32-bit number that stands for a text."""
    return zlib.crc32(text.encode())


def _plain(value):
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, dataclasses.asdict(value)]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.ndarray | jax.Array):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    return str(value)
