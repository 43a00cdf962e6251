"""Upper bounds on the loss of a greedily selected subnetwork, and the quantities that they are made of.

With L_N the loss of the dense network (the average of all neurons), V = mean |Phi_i|^2 - |mean Phi|^2 the variance of
the neurons and D the diameter of their convex hull, after k picks with replacement

    B1  l(u_k) <= l(u_1)/k + D^2/(2k) + (k-1)/k L_N             (empirical: the printed proof has a gap, see below)
    B2  l(u_k) <= l(u_1)/k + H V (H_k - 1)/(2k) + (k-1)/k L_N    (H_k = 1 + 1/2 + ... + 1/k)
    B3  l(u_k) <= ( sqrt(L_N) + sqrt(V / 2k) )^2                (mse)

B1 is Lemma 1 of Wolfe et al. (arXiv 2108.00259). Its recursion is right, but the unrolling spends D^2/k of step k
again at step k - 1, where it should be D^2/(k-1); a correct unrolling leaves a harmonic sum. No counterexample is
known to us; it is reported as an empirical statement. B2 and B3 are our derivations: the minimum over candidates is at
most their mean, which for B2 is summed up directly, and for B3 gives |w_k|^2 <= |w_{k-1} + e|^2 + V for w_k = k (u_k -
y), e = mean Phi - y. B2 holds for any convex loss of smoothness H. A random subset of k distinct neurons has E l = L_N
+ (V / 2k) (N - k)/(N - 1) exactly, the same 1/k: whatever is claimed for greedy selection has to be seen beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape.errors import InputError

Floats = NDArray[np.float64]


def bound_printed(first_loss: ArrayLike, dense_loss: ArrayLike, diameter2: ArrayLike, size: ArrayLike) -> Floats:
    """Return B1 from l(u_1), L_N, D^2 and k (Wolfe et al., Lemma 1 as printed; an empirical statement)."""
    first, dense, spread, k = (np.asarray(a, dtype=np.float64) for a in (first_loss, dense_loss, diameter2, size))
    return first / k + spread / (2 * k) + (k - 1) / k * dense


def bound_harmonic(
    first_loss: ArrayLike, dense_loss: ArrayLike, variance: ArrayLike, size: ArrayLike, smoothness: float = 1.0
) -> Floats:
    """Return B2 from l(u_1), L_N, V, k and the smoothness H of the loss (1 mse, 1/4 bce, 1/2 cross entropy)."""
    first, dense, spread, k = (np.asarray(a, dtype=np.float64) for a in (first_loss, dense_loss, variance, size))
    return first / k + (k - 1) / k * dense + smoothness * spread * (harmonic(k) - 1) / (2 * k)


def bound_root(dense_loss: ArrayLike, variance: ArrayLike, size: ArrayLike) -> Floats:
    """Return B3 from L_N, V and k: no first pick, no diameter, no logarithm (mse only)."""
    dense, spread, k = (np.asarray(a, dtype=np.float64) for a in (dense_loss, variance, size))
    return (np.sqrt(dense) + np.sqrt(np.maximum(spread, 0.0) / (2 * k))) ** 2


def random_subset_loss(dense_loss: ArrayLike, variance: ArrayLike, size: ArrayLike, num_neurons: int = 0) -> Floats:
    """Return the expected loss of a random subset of k neurons: of distinct ones from N, or with replacement (N = 0).

    E l = L_N + (V / 2k) (N - k)/(N - 1), exact for mse [our derivation]; k = N gives L_N.
    """
    dense, spread, k = (np.asarray(a, dtype=np.float64) for a in (dense_loss, variance, size))
    if num_neurons and np.any(k > num_neurons):
        raise InputError(f"no {int(k.max())} distinct neurons among {num_neurons}")
    finite = (num_neurons - k) / (num_neurons - 1) if num_neurons > 1 else float(num_neurons != 1)
    return dense + spread / (2 * k) * finite


def bound_interior(diameter2: ArrayLike, radius: float, size: ArrayLike) -> Floats:
    """Return D^4 / (8 gamma^2 k^2): the fast rate when the ball of radius gamma around y lies in the hull.

    Our explicit constant for the O(1/k^2) of Ye et al. and of Lemma 7 of Wolfe et al., whose printed exponents
    disagree.
    """
    return np.asarray(diameter2, dtype=np.float64) ** 2 / (8 * radius**2 * np.asarray(size, dtype=np.float64) ** 2)


def line_search_factor(diameter2: float, radius: float) -> float:
    """Return 1 - gamma^2 / D^2, by which selection with line search lowers the loss at every step if y is interior.

    Frank-Wolfe's standard linear rate (Guelat and Marcotte 1986), here for the joint choice of vertex and step.
    """
    return 1 - radius**2 / diameter2


def harmonic(size: ArrayLike) -> Floats:
    """Return the harmonic numbers H_k = 1 + 1/2 + ... + 1/k."""
    k = np.asarray(size).astype(np.int64)
    sums = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, int(k.max(initial=0)) + 1))])
    return sums[k]
