"""Outputs of our networks for a PyTorch state dict, and their relative error."""

from collections.abc import Mapping

import jax
import numpy as np

from ntk_select.models.architectures import build, make_expert
from ntk_select.models.convert import convert_state_dict

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0}


def flax_outputs(architecture: str, state: Mapping[str, np.ndarray], images: np.ndarray, dtype, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pre-logits and logits of the converted network, computed in `dtype` throughout."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        module = build(architecture, num_classes=num_classes)
        expert = make_expert(architecture, module, convert_state_dict(state, module, dtype=dtype))
        taps = jax.jit(expert.taps_fn, compiler_options=COMPILE_QUICKLY)(expert.variables, images.astype(dtype))
        assert taps.features.dtype == taps.logits.dtype == dtype
        return np.asarray(taps.features), np.asarray(taps.logits)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in units of the largest expected value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
