"""What is sent between processes: whether an object can be, settings of JAX, and exceptions of a worker."""

import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntk_select.errors import ConfigError, explained, first_line

SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")
"""Settings of JAX that determine the numbers: workers take those of the run."""


def settings_of_jax() -> dict[str, Any]:
    """The settings of JAX in this process; empty if it does not use JAX."""
    jax = sys.modules.get("jax")
    return {} if jax is None else {name: getattr(jax.config, name) for name in SETTINGS}


def take_settings(settings: Mapping[str, Any]) -> None:
    """Changes the settings of JAX in a worker."""
    if settings:
        import jax  # here, since not all work needs it

        for name, value in settings.items():
            jax.config.update(name, value)


@dataclass(frozen=True)
class Raised:
    """An exception of a worker, to be raised in the process of the run."""

    error: Exception


def attempted(work, item) -> Any:
    """The outcome of an item, or `Raised`, in a form that can be sent back."""
    try:
        outcome = work(item)
        pickle.dumps(outcome)
        return outcome
    except Exception as error:
        return Raised(_sendable(error))


def _sendable(error: Exception) -> Exception:
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # of another package, which may raise anything
        pass
    return RuntimeError(explained(error))


class _Nowhere:
    """A file that forgets what is written."""

    def write(self, data: Any) -> int:
        return len(memoryview(data).cast("B"))


def check_sendable(value: Any, what: str, hint: str = "executor='local' (--executor local)", *, executor: str = "processes") -> None:
    """Raises ConfigError if an object cannot be sent to a worker.

    Args:
      value: the object.
      what: its name at the beginning of the sentence, such as "Expert 'x'".
      hint: what to try.
      executor: name of the executor. With "local" nothing is sent; Ray also sends functions that have no name in a module.

    Cost: a pass over the object, without a copy of its NumPy arrays.
    """
    if executor == "local":
        return
    try:
        _pickler(executor)(_Nowhere(), protocol=5, buffer_callback=lambda _: None).dump(value)
    except Exception as error:  # objects of other packages may raise anything
        raise ConfigError(f"{what} cannot be sent to another process ({first_line(error) or type(error).__name__}). Try: {hint}") from error


def _pickler(executor: str) -> Any:
    if executor == "ray":
        try:
            from ray.cloudpickle import Pickler  # what Ray itself uses

            return Pickler
        except ImportError:  # the executor says so
            pass
    return pickle.Pickler
