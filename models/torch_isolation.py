"""Isolation of PyTorch modules: a call changes neither the module nor the settings of PyTorch, and what it raises becomes a ModelError."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ntk_select._runtime.memory import is_out_of_memory
from ntk_select.errors import ModelError
from ntk_select.models.torch_errors import call_error, no_copy, sets_device
from ntk_select.models.torchax_environment import LOCK, import_torch


@contextmanager
def isolated(name: str, shape: tuple[int, ...], *, training: bool = False) -> Iterator[None]:
    """Calls of a module with an input of this shape. Settings and random state of PyTorch are as before afterwards.

    Args:
      name: name of the expert, for error messages.
      shape: shape of the input.
      training: whether the module is in training mode.

    Raises:
      ModelError: anything that the call raises, `sys.exit` included; except Ctrl-C, and a lack of memory, which are passed on.
    """
    torch = import_torch()
    with LOCK, _same_settings(torch), _same_device(torch, name), torch.random.fork_rng(devices=[]):
        try:
            yield
        except (ModelError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the module is foreign code
            if is_out_of_memory(error):
                raise
            raise call_error(name, error, shape, training) from error


@contextmanager
def _same_settings(torch) -> Iterator[None]:
    """Restores the settings of the process and the thread that PyTorch has functions for, as far as they can be read."""
    before = [(change, read, value) for read, change in _settings(torch) if (value := _value(read)) is not None]
    try:
        yield
    finally:
        for change, read, value in before:
            if _value(read) != value:
                with suppress(RuntimeError):
                    change(value)


def _value(read: Callable[[], Any]) -> Any:
    """The setting; None where PyTorch refuses to tell it, as the precision of products after it was set by `fp32_precision`."""
    try:
        return read()
    except RuntimeError:
        return None


def _settings(torch) -> tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...]:
    """Functions that read and change each setting."""
    mha = torch.backends.mha
    return (
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
        (lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)),
    )


@contextmanager
def _same_device(torch, name: str) -> Iterator[None]:
    """Refuses `torch.set_default_device`, which the context of another default device does not survive."""
    original = torch.set_default_device

    def refused(_):
        raise sets_device(name)

    torch.set_default_device = refused
    try:
        yield
    finally:
        torch.set_default_device = original


def copied(name: str, model: Any, tensors: Mapping[int, Any]) -> Any:
    """A copy of a module with other tensors, by the `id` of its own ones. Raises ModelError if the module refuses."""
    try:
        made = copy.deepcopy(model, dict(tensors))
        if made is model:
            raise TypeError("its __deepcopy__ returns the module itself")
        return made.eval()
    except Exception as error:  # the module is foreign code
        raise no_copy(name, error) from error
