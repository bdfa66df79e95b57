"""Projects gradient rows with another library and prints seconds as JSON. `sketch.py` calls it.

    python sketch_peer.py traker ROWS.npy DIM
    python sketch_peer.py scikit-learn ROWS.npy DIM

Needs only numpy and the library (traker: also a CPU build of PyTorch), and can run in an environment of its own.
"""

import json
import resource
import sys
import time

import numpy as np


def traker(rows: np.ndarray, dim: int):
    """The projector for CPUs: random signs, a block of columns at a time, generated again for each batch."""
    import torch
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(rows.shape[1], dim, seed=0, proj_type=ProjectionType.rademacher, device=torch.device("cpu"))
    tensor = torch.from_numpy(rows)
    began = time.perf_counter()
    projected = projector.project(tensor, model_id=0)
    return time.perf_counter() - began, 0.0, projected.numpy() / dim**0.5


def scikit_learn(rows: np.ndarray, dim: int):
    """A sparse random matrix, stored in memory; its generation is timed separately."""
    from sklearn.random_projection import SparseRandomProjection

    began = time.perf_counter()
    projection = SparseRandomProjection(dim, random_state=0).fit(rows)
    made = time.perf_counter() - began
    began = time.perf_counter()
    projected = projection.transform(rows)
    return time.perf_counter() - began, made, projected


if __name__ == "__main__":
    library, path, dim = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rows = np.load(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, once, z = {"traker": traker, "scikit-learn": scikit_learn}[library](rows, dim)
    exact = rows.astype(np.float64) @ rows.T.astype(np.float64)
    found = z.astype(np.float64) @ z.T.astype(np.float64)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"seconds": seconds, "once": once, "error": float(error), "added_bytes": peak}))
