"""Between a two-layer network and its neurons: read them off, and build the pruned network from selected ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.models import TwoLayer, build
from landscape.pruning.gfs import Floats
from landscape.pruning.gfs_convex import ConvexLoss
from landscape.pruning.gfs_neurons import Neurons, activations


@torch.no_grad()
def neurons_of(model: torch.nn.Module, x: Tensor, memory: float | None = None) -> Neurons:
    """Return the neurons of a ``two_layer`` network on inputs ``(m, ...)``.

    Parameters
    ----------
    memory
        Bytes that the activations ``(m, N)`` may take.

    Notes
    -----
    Cost: 2 m N d operations, and m N numbers of memory.
    """
    if not isinstance(model, TwoLayer):
        raise InputError("neurons are selected from a two_layer network; gfs_channels selects channels of others")
    hidden = activations(x.flatten(1), model.hidden.weight, None, model.activation, memory)
    return Neurons(hidden, model.output.weight.T.contiguous())


def importance_of(model: TwoLayer) -> Floats:
    """Return |b_i| |a_i| of every neuron, ``(N,)``."""
    size = model.hidden.weight.detach().double().norm(dim=1) * model.output.weight.detach().double().norm(dim=0)
    return np.asarray(size.cpu().numpy())


@torch.no_grad()
def subnetwork(model: TwoLayer, weight: Floats) -> TwoLayer:
    """Return the pruned network of convex weights ``(N,)``: only the neurons with weight, which enters their b_i.

    With n neurons left the network averages n instead of N, so that b_i becomes n w_i b_i.
    """
    kept = torch.as_tensor(np.flatnonzero(weight), device=model.hidden.weight.device)
    if not len(kept):
        raise InputError("no neuron has weight")
    inputs, outputs = model.hidden.in_features, model.output.out_features
    pruned = build("two_layer", input_shape=(inputs,), num_outputs=outputs, width=len(kept))
    assert isinstance(pruned, TwoLayer)
    pruned.activation = model.activation
    pruned.to(model.hidden.weight)
    scale = torch.as_tensor(weight, device=kept.device)[kept] * len(kept)
    pruned.hidden.weight.copy_(model.hidden.weight[kept])
    pruned.output.weight.copy_(model.output.weight[:, kept] * scale.to(model.output.weight))
    return pruned


def loss_of(name: str, target: Tensor, num_outputs: int, like: Tensor) -> ConvexLoss:
    """Return the loss of targets for networks without an output bias, on the device and in the dtype of a tensor.

    Class labels become one-hot targets under ``mse``, and the column of targets that ``bce`` wants.
    """
    y = target.to(like.device)
    if name != "cross_entropy":
        if not y.is_floating_point() and num_outputs > 1:
            y = torch.nn.functional.one_hot(y, num_outputs)
        y = y.reshape(len(y), -1).to(like.dtype)
    return ConvexLoss(name, y, like.new_zeros(len(y), num_outputs))
