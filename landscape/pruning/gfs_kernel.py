"""The tangent kernel of a two-layer network: how fast gradient descent would contract the loss were it linear.

For f(x) = (1/N) sum_i b_i s(a_i x) and the mean loss, gradient descent with rate eta multiplies the residual on m
examples by 1 - eta K / m, K = J J', as long as the kernel does not move. The theorems that Wolfe et al. (arXiv
2108.00259, theorems 8 and 9) import take the contraction c d / m or c d / m^2 from such a kernel; the best rate of a
fixed kernel is 1 - 1 / kappa(K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.pruning.gfs import Floats

MOST_ROWS = 4000


def tangent_kernel(x: Tensor, incoming: Tensor, outgoing: Tensor, activation: Callable[[Tensor], Tensor]) -> Floats:
    """Return K = J J', ``(mC, mC)`` in float64, row n C + c for output c of example n.

    K = ( H H' [c = c'] + (X X') * (S_c S_c')) ) / N^2 with H the activations and S_c their slopes times b_c: the parts
    of the outgoing and of the incoming weights.

    Parameters
    ----------
    x
        Inputs ``(m, d)``.
    incoming, outgoing
        a ``(N, d)`` and b ``(N, C)``.

    Raises
    ------
    InputError
        mC is more than 4000 (a kernel of 128 MB and an eigenvalue problem of a minute).
    """
    rows, outputs = x.shape[0], outgoing.shape[1]
    if rows * outputs > MOST_ROWS:
        raise InputError(
            f"the tangent kernel of {rows} x {outputs} outputs is too large; take {MOST_ROWS // outputs} examples"
        )
    inputs, incoming, outgoing = x.double(), incoming.detach().double(), outgoing.detach().double()
    before = (inputs @ incoming.T).requires_grad_()
    hidden = activation(before)
    (slope,) = torch.autograd.grad(hidden.sum(), before)
    hidden = hidden.detach()
    gram, kernel = inputs @ inputs.T, inputs.new_zeros(rows, outputs, rows, outputs)
    for c in range(outputs):
        kernel[:, c, :, c] = hidden @ hidden.T
    weighted = [slope * outgoing[:, c] for c in range(outputs)]
    for c in range(outputs):
        for other in range(outputs):
            kernel[:, c, :, other] += gram * (weighted[c] @ weighted[other].T)
    return np.asarray(kernel.reshape(rows * outputs, -1).cpu().numpy() / incoming.shape[0] ** 2)


@dataclass(frozen=True)
class Conditioning:
    """What a tangent kernel says about the speed of training.

    Attributes
    ----------
    smallest, largest
        Extreme eigenvalues of K.
    inverse_condition
        1 / kappa(K), the best contraction per step of a fixed kernel; what c d / m^order would have to be.
    assumptions
        Whether N d > m^2 and m > d, which the imported theorems need.
    """

    smallest: float
    largest: float
    inverse_condition: float
    assumptions: bool

    def contraction(self, rate: float, num_examples: int) -> float:
        """Return 1 - rate * smallest / m, the factor of the slowest residual per step."""
        return 1 - rate * self.smallest / num_examples


def conditioning(kernel: Floats, num_examples: int, num_neurons: int, input_size: int) -> Conditioning:
    """Return the conditioning of a tangent kernel. Cost: its eigenvalues, O((mC)^3)."""
    value = np.linalg.eigvalsh(kernel)
    smallest, largest = max(float(value[0]), 0.0), float(value[-1])
    holds = num_neurons * input_size > num_examples**2 and num_examples > input_size
    return Conditioning(smallest, largest, smallest / largest if largest > 0 else 0.0, holds)
