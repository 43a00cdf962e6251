"""The shape of the set of neurons: what the bounds of ``landscape.pretraining.bounds`` are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.pruning.gfs import Products


@dataclass(frozen=True)
class HullStatistics:
    """The shape of the set of neurons.

    Attributes
    ----------
    dense_loss
        L_N = |mean Phi - y|^2 / 2.
    variance
        V, in squared output units.
    radius
        R = max_i |Phi_i - mean Phi|; the diameter lies in [R, 2R].
    first_loss
        l(u_1), the loss of the best single neuron.
    target_norm2
        |y|^2: the bounds say nothing where V / |y|^2 is not small against k.
    """

    dense_loss: float
    variance: float
    radius: float
    first_loss: float
    target_norm2: float


def statistics(products: Products) -> HullStatistics:
    """Return L_N, V, R and l(u_1) of a problem. Cost: one combination of the neurons, O(mNC)."""
    h, b, yy = products.norm2, products.correlation, products.target_norm2
    towards = products.combine(np.full(len(h), 1 / len(h)))  # <Phi_i, mean Phi>
    centre2 = float(towards.mean())
    return HullStatistics(
        dense_loss=max(centre2 - 2 * float(b.mean()) + yy, 0.0) / 2,
        variance=max(float(h.mean()) - centre2, 0.0),
        radius=float(np.sqrt(np.maximum(h - 2 * towards + centre2, 0.0).max())),
        first_loss=max(float((h - 2 * b).min()) + yy, 0.0) / 2,
        target_norm2=yy,
    )


def diameter2(products: Products, block: int = 512) -> float:
    """Return D^2 = max_ij |Phi_i - Phi_j|^2, exactly, block by block. Cost: O(mN^2), or O(N^2) after ``with_gram``."""
    h, largest = products.norm2, 0.0
    for start in range(0, len(h), block):
        index = np.arange(start, min(start + block, len(h)))
        largest = max(largest, float((h[:, None] + h[index] - 2 * products.columns(index)).max()))
    return largest
