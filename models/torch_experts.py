"""Experts from PyTorch modules: `torch_expert`."""

from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_select.errors import ModelError
from ntk_select.experts.card import Card
from ntk_select.experts.expert import Expert, as_path
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models.recorded_layers import Path, expert_of
from ntk_select.models.timm_preprocess import HOW, preprocess_of_timm, preprocess_of_torchvision
from ntk_select.models.torch_errors import check_conv, check_input, check_module, check_outputs
from ntk_select.models.torch_layers import find_block, find_conv, find_head, with_weights, without_head
from ntk_select.models.torch_module import TorchNetwork, TorchTraining, called_layers, geometry, of_pytorch, without_weights


def torch_expert(
    name: str,
    model: Any,
    x: Any = None,
    *,
    head: str | Path | None = None,
    last_conv: str | Path | None = None,
    preprocess: Any = None,
    card: Card | None = None,
    pooled: bool | None = None,
    identity: Hashable = None,
) -> Expert:
    """A PyTorch module as an expert: for `ns.rank`, LGC, `ns.ntk`, `ns.linearized`, `ns.forecast` and `ns.finetune`.

    The module becomes a function of JAX arrays by torchax: it is traced once per input shape, and PyTorch computes nothing afterwards. It is copied, in
    evaluation mode; later changes of it have no effect. All parameters are trained, those with `requires_grad=False` too. Parameters are nested
    dictionaries by module, as in `params["layer1"]["0"]["conv1"]["weight"]`; the weights of the head and of the last convolution are called "kernel" and
    have Flax's layouts. In training mode buffers are updated as in PyTorch, and dropout is a function of the batch.

    Args:
      name: unique in its zoo.
      model: module of timm, of torchvision or your own: model(images (n, 3, h, w)) -> logits (n, c), with float32 or float64 weights.
      x: one network input (1, h, w, 3), of any values; by default of the size of `preprocess`.
      head: path of the final linear layer or 1 x 1 convolution, "fc" or "classifier.1". By default the layer whose output the network returns, or
        timm's `get_classifier()`. A timm model with `num_classes=0` has none. One whose logits are not those of one such layer (VOLO, and distilled
        networks, which average two heads) becomes an expert of its pre-logits, without a head.
      last_conv: path of the last convolution. By default the last layer with weights before the head, if it is an ungrouped 2-D convolution; gates
        (squeeze and excitation), shortcuts and hidden layers of the head are passed over. Without one, LGC takes the weights of the last block
        (`Expert.last_block`).
      preprocess: a `Preprocess`, any function from uint8 images to network inputs (n, h, w, 3), or the weights of torchvision
        (`ResNet18_Weights.DEFAULT`). By default that of timm's `pretrained_cfg`.
      card: provenance of the expert.
      pooled: as for `linen_expert`; None finds it out.
      identity: modules with equal `identity` are known to compute the same function of their weights, and share compilations. By default each
        module is compiled by itself.

    Returns:
      An `Expert`. Checked by numbers: its outputs at x are those of PyTorch, and the logits are the head applied to the pre-logits.

    Raises:
      ModelError: the model is not such a module (wrapped, compiled, quantised, several inputs or outputs, control flow that depends on values, operators
        without translation), the outputs are not those of PyTorch, the head is not the final linear layer or shares its weight, or the preprocessing is
        unknown.
      MissingDependencyError: PyTorch or torchax is not installed.

    Cost: one forward pass by PyTorch, of a copy of the model; three traces and two compilations of the forward pass, and two of the backward pass through the layers after the
    last convolution.
    """
    check_module(name, model)
    preprocess, meta = _preprocess(name, model, preprocess), without_weights(name, model)
    x = _input(name, preprocess, x)
    expected = of_pytorch(name, model, x)
    identity = meta if identity is None else identity
    bare = TorchNetwork(meta, None, None, identity, name)
    layers = called_layers(bare, bare.variables(meta), x)
    head = find_head(name, model, None if head is None else _dotted(head), layers)
    if head is None and getattr(model, "num_classes", 0):
        model = without_head(model)
        meta, expected = without_weights(name, model), of_pytorch(name, model, x)
        layers = with_weights(meta, layers)
    conv = find_conv(meta, head, layers) if last_conv is None else _dotted(last_conv)
    if conv is not None:
        check_conv(name, model, conv)
    paths = [None if path is None else tuple(path.split(".")) for path in (head, conv)]
    network, training = (kind(meta, *paths, identity, name) for kind in (TorchNetwork, TorchTraining))
    variables, check = network.variables(model), partial(check_outputs, name, expected)
    block = find_block(meta, head, layers) if conv is None else None
    known = {"preprocess": preprocess, "card": card, "train_fn": training, "last_block": block}
    with jax.default_matmul_precision("highest"):
        if head is not None:
            return expert_of(name, network, variables, x, geometry=geometry, pooled=pooled, check=check, **known)
        check(jax.jit(network)(variables, x))
    state = {key: value for key, value in variables.items() if key != "params"}
    return Expert(name, network, variables["params"], state, features_fn=network, last_conv=conv and (*paths[1], "kernel"), **known)


def _preprocess(name: str, model, given):
    """The preprocessing: the given one, that of torchvision's weights, or that of timm's configuration; None if nothing is known."""
    if hasattr(given, "transforms"):
        return preprocess_of_torchvision(given, f"expert {name!r}")
    if given is not None and not callable(given):
        raise ModelError(f"preprocess of expert {name!r} is a {type(given).__name__}. {HOW}")
    config = getattr(model, "pretrained_cfg", None)
    return preprocess_of_timm(config, f"pretrained_cfg of expert {name!r}") if given is None and config else given


def _input(name: str, preprocess, x):
    """One network input: the given one, or random numbers of the size of the preprocessing."""
    if x is None and not isinstance(preprocess, Preprocess):
        raise ModelError(f"The input size of expert {name!r} is unknown. {HOW}, or x=one network input (1, h, w, 3)")
    x = np.random.default_rng(0).normal(size=(1, preprocess.size, preprocess.size, 3)).astype(np.float32) if x is None else x
    check_input(name, x)
    return jnp.asarray(x)


def _dotted(path: str | Path) -> str:
    return ".".join(as_path(path)).replace("/", ".")
