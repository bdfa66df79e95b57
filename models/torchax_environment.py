"""The environment in which PyTorch modules compute with JAX arrays: torchax, with batch norm that updates its statistics and the operators of `torch_operators`.

torchax is imported here alone. Its tables name overloads of operators that newer releases of PyTorch no longer have; during the import such names are
skipped. PyTorch itself is as before afterwards.
"""

import importlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from ntk_select.errors import MissingDependencyError, first_line, missing
from ntk_select.models.torch_operators import replaced_operators

LOCK = threading.RLock()
"""Held while a module runs: its tensors are replaced for that time, and the modes of torchax belong to the whole process."""


def import_torch():
    """PyTorch. Raises MissingDependencyError without it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise missing("torch", "torch_expert") from error


@lru_cache(maxsize=1)
def environment():
    """The torchax environment of this package; operators replaced here stay unchanged in torchax's default environment.

    Raises:
      MissingDependencyError: PyTorch or torchax is not installed, or torchax cannot be imported with this PyTorch.
    """
    torch = import_torch()
    try:
        with LOCK, _without_missing_overloads(torch), _plain_attention(torch), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = importlib.import_module("torchax.tensor")
            found = tensor.Environment()
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "torchax":
            raise missing("torchax", "torch_expert") from error
        raise
    except Exception as error:  # its tables are built from names of PyTorch and of JAX, and either may have changed
        raise MissingDependencyError(
            f"torchax cannot be imported with torch {torch.__version__} and jax {jax.__version__} ({type(error).__name__}: {first_line(error)}). "
            "Try: pip install --upgrade torchax, or torch and torchvision in the versions of constraints.txt"
        ) from error
    packets = torch._ops.OpOverloadPacket
    for operator, function in replaced_operators(torch, lambda operator: found._get_op_or_decomp(operator).func).items():
        for key in (operator, operator.default) if isinstance(operator, packets) else (operator,):
            found.override_op_definition(key, _on_tensors(found, function))
    found.override_op_definition(torch.nn.functional.batch_norm, lambda *args, **kwargs: _batch_norm(found, *args, **kwargs))
    return found


@contextmanager
def _without_missing_overloads(torch) -> Iterator[None]:
    """Gives each overload that this PyTorch lacks a placeholder, which as a key of a table is never looked up."""
    packet = torch._ops.OpOverloadPacket
    original = packet.__getattr__

    def or_placeholder(self, name: str):
        try:
            return original(self, name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return object()

    packet.__getattr__ = or_placeholder
    try:
        yield
    finally:
        packet.__getattr__ = original


@contextmanager
def _plain_attention(torch) -> Iterator[None]:
    """Multi-head attention without its fused kernels, of which there is no translation. The import of torchax switches them off for good."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def run(module, tensors: Mapping[str, jax.Array], inputs: jax.Array, *, key: jax.Array | None = None) -> tuple[Any, dict[str, jax.Array]]:
    """Calls a PyTorch module with JAX arrays, traceable by JAX.

    Args:
      module: the module; its own tensors may be on the "meta" device.
      tensors: its parameters and buffers by name.
      inputs: its input.
      key: random key of dropout; a constant one in evaluation mode.

    Returns:
      What the module returns, with JAX arrays in place of tensors, and the tensors after the call.
    """
    torch, env = import_torch(), environment()
    views = env.j2t_iso(dict(tensors))
    random = env.override_property(prng=jax.random.key(0) if key is None else key)  # a key split while tracing must not stay in the environment
    with LOCK, random, env, _plain_attention(torch), torch.device("jax"):  # constants that a module creates without a device must be JAX arrays, too
        result = torch.func.functional_call(module, views, (env.j2t_iso(inputs),))
    return env.t2j_iso(result), env.t2j_iso(views)


def _on_tensors(env, function: Callable) -> Callable:
    """A function of arrays as one of the tensors of torchax."""

    def of_tensors(*args, **kwargs):
        args, kwargs = env.t2j_iso((args, kwargs))
        return env.j2t_iso(function(*args, **kwargs))

    return of_tensors


def _batch_norm(env, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """`torch.nn.functional.batch_norm`. torchax's own does not update the running statistics.

    Batches are normalised with the biased variance; the running variance is unbiased, as in PyTorch.
    """
    images, mean, var, scale, shift = env.t2j_iso((input, running_mean, running_var, weight, bias))
    x = images.astype(jnp.promote_types(images.dtype, jnp.float32))  # statistics of half precision would overflow
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if training:
        axes = (0, *range(2, x.ndim))
        batch_mean, batch_var = jnp.mean(x, axes), jnp.var(x, axes)
        if mean is not None:
            count = x.size // x.shape[1]
            running_mean._elem = _moved(mean, batch_mean, momentum)
            running_var._elem = _moved(var, batch_var * (count / max(count - 1, 1)), momentum)
        mean, var = batch_mean, batch_var
    factor = jax.lax.rsqrt(var + eps) if scale is None else scale * jax.lax.rsqrt(var + eps)
    out = (x - mean.reshape(shape)) * factor.reshape(shape)
    return env.j2t_iso((out if shift is None else out + shift.reshape(shape)).astype(images.dtype))


def _moved(running, batch, momentum):
    return running + jnp.asarray(momentum, running.dtype) * (jax.lax.stop_gradient(batch).astype(running.dtype) - running)
