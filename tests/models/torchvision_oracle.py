"""Outputs of torchvision's networks for a state dict."""

import contextlib
from collections.abc import Mapping

import numpy as np
import torch


def import_torchvision():
    """torchvision's models, also where its compiled operators do not fit the installed torch; no network here uses those."""
    register_fake, implement = torch.library.register_fake, torch.library.Library.impl

    def register_most(name, *args, **kwargs):
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    def implement_most(self, *args, **kwargs):
        with contextlib.suppress(RuntimeError) if self.ns == "torchvision" else contextlib.nullcontext():
            implement(self, *args, **kwargs)

    torch.library.register_fake, torch.library.Library.impl = register_most, implement_most
    try:
        import torchvision
    finally:
        torch.library.register_fake, torch.library.Library.impl = register_fake, implement
    return torchvision


def torchvision_module(architecture: str, num_classes: int) -> torch.nn.Module:
    """An uninitialised network on the "meta" device: names and shapes only."""
    with torch.device("meta"):
        return getattr(import_torchvision().models, architecture)(num_classes=num_classes).eval()


def torchvision_outputs(
    architecture: str, state: Mapping[str, np.ndarray], images: np.ndarray, dtype, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pre-logits (the input of the last linear layer) and logits for images (n, h, w, 3)."""
    network = torchvision_module(architecture, num_classes).to_empty(device="cpu").to(getattr(torch, np.dtype(dtype).name))
    missing, unexpected = network.load_state_dict({key: torch.from_numpy(value.astype(dtype)) for key, value in state.items()}, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    head = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    seen = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    with torch.inference_mode():
        logits = network(torch.from_numpy(images.astype(dtype).transpose(0, 3, 1, 2).copy())).numpy()
    return seen[0], logits
