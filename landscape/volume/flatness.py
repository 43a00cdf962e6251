"""Relative flatness of a layer, matrix-free: kappa = sum_{s,s'} <w_s, w_s'> Tr H_{s,s'}."""

from __future__ import annotations

import numpy as np
import torch

from landscape import seeds
from landscape.errors import InputError
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.volume.multilevel import Trace


def relative_flatness(
    problem: Problem, operator: LinearOperator, layer: str, num_probes: int = 30, seed: int = 0
) -> Trace:
    """Return kappa of one weight, with its standard error, in nats.

    Parameters
    ----------
    operator
        The Hessian of the mean loss on the active coordinates.
    layer
        Name of a parameter with at least two axes; rows w_s are the weights of one output (neuron, channel).

    Notes
    -----
    With G = W W', kappa = E[vec(G^(1/2) Z)' H vec(G^(1/2) Z)] for Rademacher Z of W's shape (our derivation). Masked
    weights are zero in W and are left out of vec(G^(1/2) Z). Unchanged when the layer is scaled by a > 0 and the next
    one by 1 / a in a ReLU network. Cost: ``num_probes`` products.

    References
    ----------
    Petzka et al. (2021), "Relative flatness and generalization", definition 3.
    """
    weight = problem.parameters.get(layer)
    if weight is None or weight.ndim < 2:
        raise InputError(f"{layer!r} is no active weight with rows; relative flatness needs a matrix or a kernel")
    if num_probes < 2:
        raise InputError("relative flatness needs at least 2 probes for its error bar")
    rows = weight.double().reshape(weight.shape[0], -1)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    zeros = {name: torch.zeros_like(p) for name, p in problem.parameters.items()}
    samples = []
    for number in range(num_probes):
        source = seeds.generator(seed, "flatness", layer, number)
        signs = torch.randint(0, 2, rows.shape, generator=source).to(rows) * 2 - 1
        direction = problem.flatten({**zeros, layer: (root @ signs).reshape(weight.shape).to(weight)})
        samples.append(float((direction.double() * (operator @ direction).double()).sum()))
    return Trace(float(np.mean(samples)), float(np.std(samples, ddof=1) / np.sqrt(num_probes)), num_probes - 1)
