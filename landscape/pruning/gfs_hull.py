"""How near the target is to the convex hull of the neurons: the best loss of any weighting, with certificates.

L* = min over convex weights of |sum_i w_i Phi_i - y|^2 / 2 is a lower bound on the loss of every selected subnetwork.
At any point u of the hull the Frank-Wolfe gap <u - y, u> - min_i <u - y, Phi_i> bounds l(u) - L* from above, so that
l(u) - gap <= L* needs no trust in the solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from torch import Tensor

from landscape.errors import InputError
from landscape.pruning.gfs import Floats, Path, Products
from landscape.pruning.gfs_convex import ConvexLoss
from landscape.pruning.gfs_neurons import Neurons


@dataclass(frozen=True, eq=False)
class HullLoss:
    """A point of the hull that is nearly optimal, and the proof of how nearly.

    Attributes
    ----------
    loss
        The loss at the point, an upper bound on L*.
    gap
        Frank-Wolfe gap there: ``loss - gap <= L* <= loss``.
    weight
        Its convex weights, ``(N,)``.
    """

    loss: float
    gap: float
    weight: Floats

    @property
    def lower(self) -> float:
        """The certified lower bound on L*."""
        return max(self.loss - self.gap, 0.0)


def certificate(products: Products, weight: Floats) -> HullLoss:
    """Return the loss and the Frank-Wolfe gap at the convex weights ``(N,)``. Cost: O(mNC)."""
    return _certificate(products, weight, products.combine(weight))


def _certificate(products: Products, weight: Floats, towards: Floats) -> HullLoss:
    """As :func:`certificate`, from <Phi_i, u> ``(N,)``."""
    b = products.correlation
    uu, yu = float(towards @ weight), float(b @ weight)
    gap = uu - yu - float((towards - b).min())
    return HullLoss(max(uu - 2 * yu + products.target_norm2, 0.0) / 2, max(gap, 0.0), weight)


@dataclass(frozen=True)
class HullOptions:
    """When the search for L* stops.

    Parameters
    ----------
    tolerance
        Gap relative to the loss at which it stops; or 1e-12 of |y|^2.
    max_steps
        Most neurons that may be taken in (mse) or moved to (other losses, where a step is a pass over the activations);
        reaching it leaves a larger gap, never a wrong bound.
    """

    tolerance: float = 1e-3
    max_steps: int = 400


def hull_loss(products: Products, options: HullOptions | None = None) -> HullLoss:
    """Return L* by the minimum-norm-point algorithm on the shifted neurons Phi_i - y.

    Notes
    -----
    Cost: one Gram column for each vertex taken in, and O(c^3) for c vertices held.
    Error: certified by the returned gap.

    References
    ----------
    Wolfe, "Finding the nearest point in a polytope", Mathematical Programming 11, 1976.
    """
    options = options or HullOptions()
    h, b, yy = products.norm2, products.correlation, products.target_norm2
    floor = 1e-12 * max(yy, float(h.max()))
    support, local = [int(np.argmin(h - 2 * b))], np.ones(1)
    columns: dict[int, Floats] = {}
    best: HullLoss | None = None
    while True:
        for i in support:
            if i not in columns:
                columns[i] = products.columns(np.array([i]))[:, 0]
        weight, towards = np.zeros(len(h)), np.stack([columns[i] for i in support], axis=1) @ local
        weight[support] = local
        point = _certificate(products, weight, towards)
        if best is not None and point.loss >= best.loss:  # rounding has stopped the descent
            return best
        best = point
        entering = int(np.argmin(towards - b))
        if point.gap <= max(options.tolerance * point.loss, floor) or len(columns) >= options.max_steps:
            return best
        if entering in support:
            return best
        columns[entering] = products.columns(np.array([entering]))[:, 0]
        support, local = _corral(columns, products, [*support, entering], np.append(local, 0.0))


def _corral(
    columns: dict[int, Floats], products: Products, support: list[int], local: Floats
) -> tuple[list[int], Floats]:
    """Move to the nearest point to y of the affine hull of the support, dropping vertices until it is convex."""
    b = products.correlation
    while True:
        index = np.array(support)
        gram = np.stack([columns[i][index] for i in support], axis=1)
        shifted = gram - b[index][:, None] - b[index] + products.target_norm2
        scale = max(float(np.trace(shifted)) / len(index), np.finfo(float).tiny)
        system = shifted + scale * (np.ones_like(shifted) + 1e-13 * np.eye(len(index)))
        target = scipy.linalg.solve((system + system.T) / 2, np.ones(len(index)), assume_a="sym")
        target /= target.sum()
        if (target >= 0).all():
            return support, target
        falling = target < 0
        ratio = local[falling] / (local[falling] - target[falling])
        local = np.maximum(local + ratio.min() * (target - local), 0.0)
        keep = local > 1e-14
        keep[np.flatnonzero(falling)[int(np.argmin(ratio))]] = False
        support, local = list(index[keep]), local[keep] / local[keep].sum()


def hull_loss_convex(neurons: Neurons, loss: ConvexLoss, start: Floats, options: HullOptions | None = None) -> HullLoss:
    """Return the best loss of any convex weighting for any convex loss, by pairwise Frank-Wolfe with line search.

    Parameters
    ----------
    start
        Convex weights to start from, ``(N,)``, such as those of a selected path.

    Notes
    -----
    Cost: a pass over the activations, O(mNC), a step. Error: ``lower`` is the best certificate of all points passed.

    References
    ----------
    Lacoste-Julien and Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", NeurIPS 2015.
    """
    options = options or HullOptions()
    weight, response = np.array(start, dtype=np.float64), neurons.response(start)
    lower = -np.inf
    for _ in range(options.max_steps):
        value, slope = loss.value(response), neurons.project(loss.gradient(response))
        lower = max(lower, value - float(slope @ weight - slope.min()))
        active = np.flatnonzero(weight)
        into, out = int(np.argmin(slope)), int(active[np.argmax(slope[active])])
        if value - lower <= options.tolerance * value or into == out:
            break
        pair = neurons.members(np.array([into, out]))
        direction = pair[:, :, 0] - pair[:, :, 1]
        step = _best_step(loss, response, direction, float(weight[out]))
        if step == 0.0:
            break
        weight[into] += step
        weight[out] = 0.0 if step >= weight[out] else weight[out] - step
        response = response + step * direction
    return HullLoss(value, max(value - lower, 0.0), weight)


def _best_step(loss: ConvexLoss, response: Tensor, direction: Tensor, longest: float) -> float:
    """Return the step in [0, longest] that minimises the loss along a direction, by the root of its derivative."""

    def slope(step: float) -> float:
        return float((loss.gradient(response + step * direction).double() * direction).sum()) / len(response)

    if slope(0.0) >= 0:
        return 0.0
    if slope(longest) <= 0:
        return longest
    return float(scipy.optimize.brentq(slope, 0.0, longest, xtol=1e-6 * longest))


def contains(matrix: Floats, target: Floats) -> bool:
    """Tell whether the target ``(m,)`` lies in the hull of the columns of ``(m, N)``, by linear programming.

    Feasibility of A w = y, 1'w = 1, w >= 0 (Wolfe et al. 2022, appendix B, equation 28). For a few thousand rows at
    most.
    """
    solution = scipy.optimize.linprog(
        np.zeros(matrix.shape[1]),
        A_eq=np.vstack([matrix, np.ones(matrix.shape[1])]),
        b_eq=np.append(target, 1.0),
        bounds=(0, None),
        method="highs",
    )
    if solution.status not in (0, 2):
        raise InputError(f"the hull membership program stopped without an answer: {solution.message}")
    return bool(solution.status == 0)


def margin(matrix: Floats, label: Floats) -> float:
    """Return max over the hull of min_n s_n u_n with s_n = +1 for label 1 and -1 for label 0; positive means separable.

    What Wolfe et al. (2022, equation 29) call membership for binary cross entropy: a sign condition, not membership of
    a point.

    Parameters
    ----------
    matrix
        Neuron responses ``(m, N)`` of one output.
    label
        0/1 labels ``(m,)``.
    """
    sign = np.where(np.asarray(label) > 0.5, 1.0, -1.0)
    num_neurons = matrix.shape[1]
    solution = scipy.optimize.linprog(
        np.append(np.zeros(num_neurons), -1.0),
        A_ub=np.hstack([-sign[:, None] * matrix, np.ones((len(sign), 1))]),
        b_ub=np.zeros(len(sign)),
        A_eq=np.append(np.ones(num_neurons), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * num_neurons + [(None, None)],
        method="highs",
    )
    if solution.status != 0:
        raise InputError(f"the separability program stopped without an answer: {solution.message}")
    return float(-solution.fun)


def radius_upper(products: Products, path: Path) -> float:
    """Return an upper bound on gamma, the radius of the largest ball around y in the hull.

    The hull reaches max_i <w, Phi_i - y> in direction w, which is at least gamma for every unit w; the directions
    tried are those from the points u_k of a path to y. Zero or less proves that y is not interior.
    """
    b, yy = products.correlation, products.target_norm2
    least = np.inf
    for size in range(1, len(path.picks) + 1):
        weight = path.weight(size)
        towards = products.combine(weight)
        uu, yu = float(towards @ weight), float(b @ weight)
        distance = np.sqrt(max(uu - 2 * yu + yy, 0.0))
        if distance <= 1e-10 * np.sqrt(max(yy, uu)):
            break  # u_k equals y to rounding and shows no direction
        least = min(least, float((yu - yy - (towards - b)).max()) / distance)
    return least


def radius_lower(matrix: Floats, target: Floats) -> float:
    """Return a lower bound on gamma relative to the affine hull of the neurons: 0 if y is not interior.

    Linear programs find how far the hull reaches from y along +- each of r orthogonal directions; the cross-polytope
    of these 2r points contains a ball of radius (least reach) / sqrt(r) [our derivation; the exact radius is NP-hard
    in general].

    Notes
    -----
    Cost: 2 r linear programs of size m x N; for tens of rows.
    """
    centred = matrix - matrix.mean(1, keepdims=True)
    left, value, _ = np.linalg.svd(centred, full_matrices=False)
    basis = left[:, value > 1e-10 * max(float(value[0]), np.finfo(float).tiny)]
    offset = target - matrix.mean(1)
    if not basis.shape[1] or np.linalg.norm(offset - basis @ (basis.T @ offset)) > 1e-9 * (1 + np.linalg.norm(target)):
        return 0.0
    reduced, inside = basis.T @ centred, basis.T @ offset
    reach = [_reach(reduced, inside, sign * np.eye(len(inside))[i]) for i in range(len(inside)) for sign in (1.0, -1.0)]
    return min(reach) / np.sqrt(len(inside))


def _reach(matrix: Floats, start: Floats, direction: Floats) -> float:
    """Return the largest t >= 0 with start + t direction in the hull of the columns, 0 if start is outside."""
    num_neurons = matrix.shape[1]
    solution = scipy.optimize.linprog(
        np.append(np.zeros(num_neurons), -1.0),
        A_eq=np.vstack([np.hstack([matrix, -direction[:, None]]), np.append(np.ones(num_neurons), 0.0)]),
        b_eq=np.append(start, 1.0),
        bounds=(0, None),
        method="highs",
    )
    return float(-solution.fun) if solution.status == 0 else 0.0
