"""Greedy forward selection by its definition: every candidate's loss is evaluated, nothing is precomputed."""

from collections.abc import Callable

import numpy as np


def naive_path(
    matrix: np.ndarray, num_picks: int, loss: Callable[[np.ndarray], float], replacement: bool = True
) -> tuple[list[int], np.ndarray]:
    """Return picks and losses of the columns Phi_i of ``(m, N)``; ties go to the lowest index."""
    total = np.zeros(matrix.shape[0])
    picks: list[int] = []
    losses = []
    for k in range(1, num_picks + 1):
        values = [
            np.inf if not replacement and j in picks else loss((total + matrix[:, j]) / k)
            for j in range(matrix.shape[1])
        ]
        best = min(values)
        j = next(j for j, value in enumerate(values) if value <= best + 1e-13)
        total = total + matrix[:, j]
        picks.append(j)
        losses.append(values[j])
    return picks, np.array(losses)


def square(target: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return l(u) = |u - y|^2 / 2."""
    return lambda u: 0.5 * float(((u - target) ** 2).sum())
