"""Channels chosen and weighted in the metric of the loss: imitation where the loss notices it, in closed form.

Imitation (``landscape.pruning.gfs_layers``) keeps the next layer's pre-activations, all of them alike, while the loss
is indifferent to most. To second order, and without the gradient, which is small at the end of training, a mask with
scales s = C a costs

    L(s) - L(1) = (s - 1)' F (s - 1) / 2,    F = mean_n E[ g_n g_n' ],  g_n = d(loss of example n)/ds

with labels drawn from the network's own predictions: the Fisher matrix of the scales, which is the Gauss-Newton matrix
of the cross entropy. One label an example is drawn, so that F takes one backward pass. Its rank is at most the number
of examples and it holds near the dense layer only; the imitation's Gram matrix K, scaled to the same trace, is added
with a small weight. As for imitation, y is the average of all Phi_c and the dense loss is zero, so that everything
follows from one Gram matrix, C^2 (F + w K).

The channels are picked by orthogonal matching pursuit and weighted freely, which the simplex of greedy selection does
not allow: k channels then need no repeated picks to get unequal weights [our combination; matching pursuit for channels
and least-squares weights are known from ThiNet, Luo et al. 2017, and He et al. 2017].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landscape import seeds
from landscape.errors import InputError
from landscape.pruning import gfs_baselines, gfs_layers
from landscape.pruning.gfs import Floats, Products, from_gram
from landscape.pruning.gfs_sites import Suffix

IMITATION_WEIGHT = 1.0  # of K, by trace


def scale_gradients(suffix: Suffix, seed: int = 0) -> Tensor:
    """Return d(loss of example n)/d(scale of channel c) at labels that the network itself draws, ``(B, C)``.

    Notes
    -----
    Cost: a forward and a backward pass (in the activations) from the site on.
    """
    features = suffix.channels().detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = suffix.outputs(features)
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise InputError("the metric of the loss wants a network with class outputs")
        draws = torch.rand(len(outputs), 1, generator=seeds.generator(seed, "labels"), dtype=torch.float64)
        below = outputs.detach().double().softmax(1).cumsum(1)
        labels = (draws.to(below.device) > below).sum(1).clamp(max=outputs.shape[1] - 1)
        loss = functional.cross_entropy(outputs, labels, reduction="sum")
        slope = torch.autograd.grad(loss, features)[0]
    return (slope * features.detach()).double().sum(2)


def sensitive_imitation(suffix: Suffix, weight: float = IMITATION_WEIGHT, seed: int = 0) -> Products:
    """Return the problem of keeping what the loss notices of the next pre-activations.

    Parameters
    ----------
    weight
        Of the imitation's Gram matrix, relative to the trace of F.
    """
    slope = scale_gradients(suffix, seed)
    fisher = np.asarray((slope.T @ slope / len(slope)).cpu().numpy())
    imitated = gfs_layers.imitation(
        suffix.features, suffix.network.modules[suffix.site.consumer], suffix.site.num_channels
    )
    kept = imitated.columns(np.arange(suffix.site.num_channels))
    ratio = np.trace(fisher) / max(float(np.trace(kept)), np.finfo(float).tiny)
    gram = suffix.site.num_channels**2 * (fisher + weight * ratio * kept)
    return from_gram(gram, gram.mean(1), float(gram.mean()))


def pursue(products: Products, num_channels: int) -> tuple[Floats, float]:
    """Return free weights a ``(C,)`` of at most ``num_channels`` channels by matching pursuit, and the loss left."""
    index, losses = gfs_baselines.matching_pursuit(products, num_channels)
    weight = np.zeros(products.num_neurons)
    if len(index):
        weight[index] = gfs_baselines.refit(products, index)[0]
    return weight, float(losses[-1]) if len(losses) else products.target_norm2 / 2
