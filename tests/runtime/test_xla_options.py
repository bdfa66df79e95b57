"""Compiler options that the installed XLA does not know are left out."""

import jax
import jax.numpy as jnp
import pytest

from ntk_select._runtime.xla_options import known_options


def test_unknown_names_and_values_are_left_out():
    known = {"xla_cpu_enable_fast_math": "False"}
    assert known_options({**known, "xla_of_no_version": "1", "xla_cpu_opt_preset": "NO_PRESET"}) == known


def test_xla_refuses_what_is_left_out():
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(jnp.negative, compiler_options={"xla_of_no_version": "1"})(1.0)
