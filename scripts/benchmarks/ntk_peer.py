"""One measurement of neural-tangents on the workload, as JSON; also with an old Python where its structured derivatives run.

python scripts/benchmarks/ntk_peer.py JACOBIAN_CONTRACTION 8 10          # implementation, examples, outputs
python scripts/benchmarks/ntk_peer.py JACOBIAN_CONTRACTION 64 10 --block 8
"""

import argparse
import json
import resource
import sys
import time
import types

import jax
import numpy as np
from ntk_workload import images, network, weights


def neural_tangents():
    """neural-tangents, patched for a current JAX, without the part that needs TensorFlow."""
    if jax.__version__ == "0.4.23":
        sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
        import neural_tangents

        return neural_tangents
    from ntk_select.kernels.engine.neural_tangents import import_neural_tangents

    return import_neural_tangents()


def main() -> None:
    """Times the kernel; the first call compiles and is not counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("implementation")
    parser.add_argument("examples", type=int)
    parser.add_argument("outputs", type=int)
    parser.add_argument("--block", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    nt = neural_tangents()
    implementation = nt.NtkImplementation[arguments.implementation]
    kernel_fn = jax.jit(nt.empirical_ntk_fn(network, trace_axes=(-1,), vmap_axes=0, implementation=implementation))
    params, x = jax.device_put(weights(outputs=arguments.outputs)), images(arguments.examples)
    block = arguments.block or arguments.examples
    parts = [x[first : first + block] for first in range(0, len(x), block)]

    def run():
        if len(parts) == 1:
            return np.asarray(kernel_fn(x, None, params))
        return np.block([[np.asarray(kernel_fn(a, b, params)) for b in parts] for a in parts])

    kernel_fn(parts[0], None if len(parts) == 1 else parts[0], params)
    seconds = []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        kernel = run()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {"seconds": min(seconds), "peak_bytes": peak, "jax": jax.__version__, "sum": float(kernel.sum()), "trace": float(np.trace(kernel))}
        )
    )


if __name__ == "__main__":
    main()
