"""One small network per architecture family of timm, with random weights and random statistics, and what PyTorch computes from it in float64."""

import copy
from functools import partial

import numpy as np
import torch

CLASSES = 3
FAMILIES = {
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 24)}),
    "densenet": ("densenet121", {"block_config": (2, 2), "growth_rate": 6, "bn_size": 2}),
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 2, "depths": (2, 2), "embed_dim": 12, "num_heads": (2, 4), "drop_path_rate": 0.0},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}),
    "efficientnet": ("test_efficientnet", {}),
    "mobilenet": ("mobilenetv3_small_050", {}),
    "regnet": ("regnety_002", {}),
}
SIZE = 32


def network(family: str) -> torch.nn.Module:
    """The network in evaluation mode, float64, with random scales, shifts and running statistics of its batch norms."""
    import timm

    torch.manual_seed(0)
    name, settings = FAMILIES[family]
    timm.layers.set_fused_attn(False)  # of which PyTorch has no forward-mode derivative
    make = timm.models.DenseNet if family == "densenet" else partial(timm.create_model, name)
    model = make(num_classes=CLASSES, **settings).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIZE, SIZE, 3))


def as_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def outputs(model, x) -> tuple[np.ndarray, np.ndarray]:
    """Logits and pre-logits, the latter by timm's own interface."""
    with torch.no_grad():
        return model(as_torch(x)).numpy(), model.forward_head(model.forward_features(as_torch(x)), pre_logits=True).numpy()


def trace_kernel(model, x, chosen) -> np.ndarray:
    """The mean over the logits of the inner products of their gradients with respect to the parameters named by `chosen`, image by image."""
    parameters = [parameter for name, parameter in model.named_parameters() if chosen(name)]
    assert parameters
    rows = []
    for image in as_torch(x):
        logits = model(image[None])[0]
        gradients = [torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True) for logit in logits]
        rows.append([torch.cat([g.flatten() for g in per_logit if g is not None]).numpy() for per_logit in gradients])
    rows = np.array(rows)
    return np.einsum("icp,jcp->ij", rows, rows) / rows.shape[1]


def along(model, x, directions: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pre-logits in training mode and their derivative along a direction of the parameters, by PyTorch's forward mode."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = module.running_var = module.num_batches_tracked = None  # batch statistics, without an update in place
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moved = {name: torch.from_numpy(np.array(directions[name])) if name in directions else torch.zeros_like(p) for name, p in parameters.items()}
    seen = []
    model.get_classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def features(parameters):
        seen.clear()
        torch.func.functional_call(model, parameters, (as_torch(x),))
        return seen[0]

    value, change = torch.func.jvp(features, (parameters,), (moved,))
    return value.detach().numpy(), change.detach().numpy()


def train(model, batches, rate: float) -> list[float]:
    """Losses of SGD steps with Nesterov momentum and weight decay, as in the recipe; the model is changed."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    losses = []
    for x, labels in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(as_torch(x)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
