"""Cache keys of passes, kernels and reference networks: digests of everything that determines the numbers."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select._runtime.cache import key_of
from ntk_select.experts.expert import Expert
from ntk_select.experts.headless import without_head
from ntk_select.experts.network_inputs import NetworkInputs
from ntk_select.kernels.engine.digest import digest_of_params, digest_of_program
from ntk_select.kernels.engine.program import value_of
from ntk_select.tasks.probe_sample import ProbeSample
from ntk_select.tasks.task import Task


class Keys:
    """Keys of passes, gradient kernels and reference networks. Programs of experts whose functions are equal without their heads are traced once."""

    def __init__(self):
        self._programs: dict[Any, str | None] = {}

    def of_passes(self, expert: Expert, x) -> str | None:
        """Key of weights, preprocessed images, programs and device. None if a program calls back to Python."""
        network = without_head(expert)
        functions = (network.apply_fn, network.features_fn) if network.taps_fn is None else (network.taps_fn,)
        programs = [self._program(fn, network, x) for fn in functions if fn is not None]
        images = (x.pixels, repr(x.preprocess)) if isinstance(x, NetworkInputs) else (np.asarray(x),)
        head = () if network is expert else (repr(expert.head),)
        return None if None in programs else key_of("passes", _where(), digest_of_params(expert.variables), *head, *images, *programs)

    def of_kernel(self, expert: Expert, x, passes: str, layers: str = "last_conv") -> str:
        """Key of the passes, the layers, the head, and the program of the gradient with its derivative rules."""
        network = without_head(expert)
        fn = network.features_fn if network.head is None and network.features_fn is not None else network.apply_fn
        return key_of(
            "gradient kernel",
            passes,
            layers,
            repr(expert.last_conv or expert.last_block),
            repr(expert.head),
            str(self._program(fn, network, x, _gradient)),
        )

    def of_training_kernel(self, expert: Expert, x, passes: str, batch_norm: str, head: str, seed: int) -> str | None:
        """Key of the passes, the program of training, the mode of batch norm, the head, and the random directions."""
        network = without_head(expert)
        program = "" if network.train_fn is None else self._program(network.train_fn, network, x, _training)
        return program if program is None else key_of("training kernel", passes, program, batch_norm, head, repr(expert.head), str(seed))

    def of_reference(self, task: Task, sample: ProbeSample, network: str, seed: int) -> str:
        """Key of the initial weights, the recipe and the training images of a reference network, and of the probe sample.

        Raises:
          ConfigError: `network` is unknown.
        """
        from ntk_select.training.reference import recipe, untrained_reference  # imported here because of Optax

        expert, *settings = untrained_reference(task, network, seed)
        start, size = digest_of_params(expert.variables), expert.preprocess.size
        program = str(digest_of_program(expert.train_fn, expert.variables, np.zeros((1, size, size, 3), np.float32)))
        content = (part for image in task.images for part in (str(np.shape(image)), np.asarray(image)))
        facts = (network, str(seed), _where(), recipe(), repr(settings), repr(expert.preprocess), start, program)
        return key_of("reference", *facts, np.asarray(task.labels), sample.indices, *content)

    def _program(self, fn, expert: Expert, x, use: Callable | None = None) -> str | None:
        """The digest of what is computed with fn: by default its outputs, otherwise `use(fn, params, state, x)`."""
        use = use or (_taps if fn is expert.taps_fn else _outputs)
        known = _known(fn)
        memory = None if known is None else (known, use, x.shape[1:], str(jax.tree.map(jax.typeof, expert.variables)))
        if memory is None or memory not in self._programs:
            found = digest_of_program(partial(use, fn), expert.params, dict(expert.state), x[:1])
            if memory is None:
                return found
            self._programs[memory] = found
        return self._programs[memory]


def _outputs(fn, params, state, x):
    return fn({"params": params, **state}, x)


def _taps(fn, params, state, x):
    return fn({"params": params, **state}, x, None)


def _training(fn, params, state, x):
    return fn({"params": params, **state}, x)[0].features


def _gradient(fn, params, state, x):
    """The gradient of the sum of the outputs with respect to the real parameters."""
    leaves, treedef = jax.tree.flatten(params)
    real = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]

    def total(chosen):
        merged = dict(enumerate(leaves)) | dict(zip(real, chosen, strict=True))
        return _outputs(fn, jax.tree.unflatten(treedef, merged.values()), state, x).sum()

    return jax.grad(total)([leaves[place] for place in real])


def _known(fn):
    """What tells a function from others without holding weights; None for closures and objects, which would keep those of every expert in memory."""
    return fn if inspect.isfunction(fn) and fn.__closure__ is None else value_of(fn)


def _where() -> str:
    """Version of JAX, device and precision."""
    return f"{jax.__version__} {jax.devices()[0].platform} {jax.config.jax_enable_x64}"
