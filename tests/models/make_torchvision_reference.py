"""Stores torchvision's outputs for seeded weights and images, or prints the errors of ours.

    python tests/models/make_torchvision_reference.py store     writes torchvision_reference.npz
    python tests/models/make_torchvision_reference.py table     prints the relative errors in both precisions

Both need torch and torchvision. The stored outputs were made with torch 2.13.0 and torchvision 0.28.0 on a CPU.
"""

import sys
from pathlib import Path

import numpy as np
from parity import TOLERANCE, flax_outputs, relative_error
from seeded_state import NUM_CLASSES, SIZES, names_digest, seeded_images, seeded_state
from torchvision_oracle import torchvision_module, torchvision_outputs

from ntk_select.models.architectures import ARCHITECTURES

PUBLISHED = [name for name in ARCHITECTURES if not name.endswith("_small") and name != "conv4"]
FEATURES = 64


def tensor_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's tensors, batch norm's counters left out."""
    state = torchvision_module(architecture, NUM_CLASSES).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


def store() -> None:
    """Writes, for each architecture and size in float64: logits, the first pre-logits, and the norm of all pre-logits of each image."""
    stored = {}
    for architecture in PUBLISHED:
        shapes = tensor_shapes(architecture)
        stored[f"{architecture}/names"] = np.asarray(names_digest(shapes))
        for size in SIZES:
            features, logits = torchvision_outputs(architecture, seeded_state(shapes), seeded_images(size), np.float64, NUM_CLASSES)
            stored[f"{architecture}/{size}/logits"] = logits
            stored[f"{architecture}/{size}/features"] = features[:, :FEATURES]
            stored[f"{architecture}/{size}/norms"] = np.linalg.norm(features, axis=1)
            print(architecture, size, flush=True)
    np.savez_compressed(Path(__file__).with_name("torchvision_reference.npz"), **stored)


def table() -> None:
    """Prints the largest relative errors, pre-logits and logits, of each architecture, size and precision."""
    cases = [(size, dtype) for size in SIZES for dtype in TOLERANCE]
    print("| architecture | " + " | ".join(f"{size} px {dtype}" for size, dtype in cases) + " |", "|---" * (len(cases) + 1) + "|", sep="\n")
    for architecture in PUBLISHED:
        state, cells = seeded_state(tensor_shapes(architecture)), []
        for size, dtype in cases:
            pairs = zip(
                flax_outputs(architecture, state, seeded_images(size), dtype, NUM_CLASSES),
                torchvision_outputs(architecture, state, seeded_images(size), dtype, NUM_CLASSES),
                strict=True,
            )
            cells.append(" / ".join(f"{relative_error(ours, theirs):.1e}" for ours, theirs in pairs))
        print(f"| {architecture} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    {"store": store, "table": table}[sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)]()
