"""Greedy forward selection of neurons, exact, from inner products alone.

A network that averages N neurons, f = mean_i phi_i, is pruned by growing a multiset: start from nothing and add, k
times, the neuron whose addition leaves the average of those chosen closest to the target. In scaled vectors Phi_i =
phi_i(X) / sqrt(m) and y / sqrt(m) the loss is l(u) = |u - y|^2 / 2, the mean loss ``mse``, and the choice of step k
needs no forward pass:

    argmin_j l((z + Phi_j) / k) = argmin_j  |Phi_j|^2 + 2 (<Phi_j, z> - k <Phi_j, y>)

with z the sum of those chosen.

The paths of all sizes k = 1..K come from one run, because each is a prefix of the next.

References
----------
Ye, Gong, Nie, Zhou, Klivans, Liu, "Good subnetworks provably exist: pruning via greedy forward selection", ICML 2020.
Wolfe, Wang, Kim, Kyrillidis, "How much pre-training is enough to discover a good subnetwork?", arXiv 2108.00259,
equations 8-10. The closed form in inner products is our derivation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TIE = 1e-12  # scores that agree to this fraction of their largest term count as equal: rounding cannot rank them


@dataclass(frozen=True, eq=False)
class Products:
    """A least-squares selection problem, seen through the inner products of its neurons Phi_1..Phi_N and its target y.

    Attributes
    ----------
    norm2
        |Phi_i|^2, ``(N,)``.
    correlation
        <Phi_i, y>, ``(N,)``.
    target_norm2
        |y|^2, twice the loss of the empty network.
    columns
        Maps indices ``(c,)`` to Gram columns <Phi_i, Phi_j>, ``(N, c)``; the expensive product.
    combine
        Maps weights ``w (N,)`` to <Phi_i, sum_j w_j Phi_j>, ``(N,)``.
    """

    norm2: Floats
    correlation: Floats
    target_norm2: float
    columns: Callable[[Integers], Floats]
    combine: Callable[[Floats], Floats]

    def __post_init__(self) -> None:
        """Refuse what has no minimiser: no neurons, or numbers that are not finite."""
        if self.norm2.ndim != 1 or self.norm2.shape != self.correlation.shape or not len(self.norm2):
            raise InputError(f"there is nothing to select from: neuron norms of shape {self.norm2.shape}")
        if not (
            np.isfinite(self.norm2).all() and np.isfinite(self.correlation).all() and np.isfinite(self.target_norm2)
        ):
            raise InputError("neurons or targets hold NaN or infinite values; check the checkpoint and the data")

    @property
    def num_neurons(self) -> int:
        """The number N of neurons."""
        return len(self.norm2)

    def with_gram(self, block: int = 1024) -> Products:
        """Return the problem with all N^2 inner products held, ``8 N^2`` bytes, so that every later step is O(N)."""
        parts = [
            self.columns(np.arange(i, min(i + block, self.num_neurons))) for i in range(0, self.num_neurons, block)
        ]
        return from_gram(np.concatenate(parts, axis=1), self.correlation, self.target_norm2)


def from_gram(gram: Floats, correlation: Floats, target_norm2: float) -> Products:
    """Return the problem of a Gram matrix ``(N, N)``, of <Phi_i, y> ``(N,)`` and of |y|^2."""
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise InputError(f"a Gram matrix of shape {gram.shape} is not square")

    def columns(index: Integers) -> Floats:
        return gram[:, index]

    def combine(weight: Floats) -> Floats:
        return gram @ weight

    return Products(np.diag(gram).copy(), np.asarray(correlation, np.float64), float(target_norm2), columns, combine)


def from_matrix(neurons: Floats, target: Floats) -> Products:
    """Return the problem of a matrix with columns Phi_i, ``(m, N)``, and a target ``(m,)``, both already scaled."""
    if neurons.ndim != 2 or target.shape != neurons.shape[:1]:
        raise InputError(f"neurons of shape {neurons.shape} do not fit a target of shape {target.shape}")
    return from_gram(neurons.T @ neurons, neurons.T @ target, float(target @ target))


@dataclass(frozen=True)
class SelectOptions:
    """How neurons are selected.

    Parameters
    ----------
    num_picks
        The number K of picks.
    replacement
        Whether a neuron may be picked again, which gives it an integer weight. The published theorems need it; the
        code released with them picks each channel once.
    weighting
        ``uniform``: the k-th average weighs all picks 1/k. ``line_search``: the new pick gets the step that minimises
        the loss.
    rule
        ``exact``: the pick that lowers the loss most. ``first_order``: the steepest descent vertex of Frank and Wolfe.
    """

    num_picks: int = 200
    replacement: bool = True
    weighting: str = "uniform"
    rule: str = "exact"

    def __post_init__(self) -> None:
        """Refuse unknown words and an empty selection."""
        if self.num_picks < 1:
            raise InputError(f"cannot pick {self.num_picks} neurons; ask for at least 1")
        if self.weighting not in ("uniform", "line_search"):
            raise InputError(f"unknown weighting {self.weighting!r}; use uniform or line_search")
        if self.rule not in ("exact", "first_order"):
            raise InputError(f"unknown rule {self.rule!r}; use exact or first_order")

    def check(self, num_neurons: int) -> None:
        """Refuse more picks than neurons where none may be picked twice."""
        if not self.replacement and self.num_picks > num_neurons:
            raise InputError(f"{self.num_picks} picks without replacement from {num_neurons} neurons; lower the size")


@dataclass(frozen=True, eq=False)
class Path:
    """The nested selections u_1, u_2, ..., u_K of one run.

    Attributes
    ----------
    picks
        The neuron added at step k = 1..K, ``(K,)``.
    loss
        l(u_k), ``(K,)``.
    step
        The weight that pick k entered with, ``(K,)``: u_k = (1 - step) u_{k-1} + step Phi; 1/k if uniform.
    num_neurons
        The number N that was chosen from.
    certified
        For losses other than ``mse``: whether pick k is proven to be the best of all N, ``(K,)``.
    """

    picks: Integers
    loss: Floats
    step: Floats
    num_neurons: int
    certified: NDArray[np.bool_] | None = None

    @property
    def num_distinct(self) -> Integers:
        """The number of distinct neurons among the first k picks, ``(K,)``: the size of the pruned network."""
        _, first = np.unique(self.picks, return_index=True)
        return np.cumsum(np.isin(np.arange(len(self.picks)), first))

    def weight(self, size: int) -> Floats:
        """Return the convex weights ``(N,)`` of the neurons after ``size`` picks."""
        weight = np.zeros(self.num_neurons)
        tail = np.concatenate([np.cumprod((1 - self.step[1:size])[::-1])[::-1], [1.0]])
        np.add.at(weight, self.picks[:size], self.step[:size] * tail)
        return weight


def select(products: Products, options: SelectOptions | None = None) -> Path:
    """Select neurons greedily for the loss l(u) = |u - y|^2 / 2.

    Notes
    -----
    Cost: one Gram column, O(mN), for every neuron that is new; O(N) for everything else (O(N) throughout
    after ``with_gram``). Scores are float64. Ties go to the lowest index; scores count as tied when they agree to
    1e-12 of their largest term. Error: the loss is a difference of terms of size |u|^2 and |y|^2, so it is good to
    about 1e-16 of these, never negative.
    """
    options = options or SelectOptions()
    options.check(products.num_neurons)
    return _uniform(products, options) if options.weighting == "uniform" else _line_search(products, options)


def _lowest(score: Floats, scale: float) -> int:
    """Return the lowest index whose score is within rounding, ``TIE * scale``, of the smallest."""
    return int(np.argmax(score <= score.min() + TIE * scale))


def _size(values: Floats) -> float:
    return float(np.abs(values).max())


def _uniform(products: Products, options: SelectOptions) -> Path:
    """Run the selection with weights 1/k; the sums s = <Phi, z>, |z|^2 and <y, z> are all that is kept of z."""
    h, b = products.norm2, products.correlation
    s, banned, cache = np.zeros_like(h), np.zeros(len(h)), dict[int, Floats]()
    zz = yz = 0.0
    picks, loss = [], []
    for k in range(1, options.num_picks + 1):
        if options.rule == "exact" or k == 1:  # before the first pick there is no point whose gradient could be taken
            score, scale = h + 2 * (s - k * b), _size(h) + 2 * _size(s) + 2 * k * _size(b)
        else:
            score, scale = s - (k - 1) * b, _size(s) + k * _size(b)
        j = _lowest(score + banned, scale)
        zz += 2 * s[j] + h[j]
        yz += b[j]
        if j not in cache:
            cache[j] = products.columns(np.array([j]))[:, 0]
        s = s + cache[j]
        if not options.replacement:
            banned[j] = np.inf
        picks.append(j)
        loss.append(max(zz / k**2 - 2 * yz / k + products.target_norm2, 0.0) / 2)
    step = 1.0 / np.arange(1, options.num_picks + 1)
    return Path(np.array(picks), np.array(loss), step, products.num_neurons)


def _line_search(products: Products, options: SelectOptions) -> Path:
    """Run the selection with the best step for every candidate: Frank-Wolfe with line search over all vertices."""
    h, b, yy = products.norm2, products.correlation, products.target_norm2
    j = _lowest(h - 2 * b, _size(h) + 2 * _size(b))
    cache = {j: products.columns(np.array([j]))[:, 0]}
    g, uu, yu = cache[j].copy(), float(h[j]), float(b[j])  # <Phi, u>, |u|^2, <y, u>
    banned = np.zeros(len(h))
    picks, loss, steps = [j], [max(uu - 2 * yu + yy, 0.0) / 2], [1.0]
    for _ in range(1, options.num_picks):
        if not options.replacement:
            banned[picks[-1]] = np.inf
        slope, curvature = g - b - uu + yu, np.maximum(h - 2 * g + uu, 0.0)
        safe = np.where(curvature > TIE * (_size(h) + uu), curvature, np.inf)  # a vertex that equals u cannot move it
        step = np.clip(-slope / safe, 0.0, 1.0)
        score = step * slope + step**2 * curvature / 2 if options.rule == "exact" else slope
        j = _lowest(score + banned, _size(h) + _size(b) + uu)
        if j not in cache:
            cache[j] = products.columns(np.array([j]))[:, 0]
        t = float(step[j])
        uu, yu = (1 - t) ** 2 * uu + 2 * t * (1 - t) * g[j] + t**2 * h[j], (1 - t) * yu + t * b[j]
        g = (1 - t) * g + t * cache[j]
        picks.append(j)
        steps.append(t)
        loss.append(max(uu - 2 * yu + yy, 0.0) / 2)
    return Path(np.array(picks), np.array(loss), np.array(steps), products.num_neurons)
