"""Programs that XLA compiles, counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import pytest


@pytest.fixture(scope="session")
def compilations() -> Callable:
    """`with compilations() as found:` lists one entry per program that XLA compiles inside."""

    @contextmanager
    def counted() -> Iterator[list[str]]:
        found = []

        def listen(event, *_, **__):
            if event == "/jax/core/compile/backend_compile_duration":
                found.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield found
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return counted
