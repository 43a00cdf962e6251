"""The largest fraction that can be pruned at once: from the spectrum, on the axes, and tried out.

In a quadratic well with radii r_i^2 = 2 eps / lambda_i, the sublevel set seen from distance R has local dimension
sum_i r_i^2 / (R^2 + r_i^2); a subspace of the other coordinates meets it while the pruned fraction is at most that sum
over n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operators import LinearOperator, restrict
from landscape.problem import Problem
from landscape.volume.multilevel import Probes


def squared_lengths(weights: np.ndarray, order: str) -> np.ndarray:
    """Return the squared length of the pruning projection for 0, 1, ..., d pruned weights, ``(d + 1,)``.

    Parameters
    ----------
    weights
        The prunable weights, ``(d,)``.
    order
        ``magnitude`` prunes the smallest first; ``random`` gives the mean over random masks, p |w|^2.
    """
    squares = np.square(np.asarray(weights, dtype=np.float64))
    if order == "magnitude":
        return np.concatenate([[0.0], np.cumsum(np.sort(squares))])
    if order == "random":
        return np.linspace(0.0, squares.sum(), len(squares) + 1)
    raise InputError(f"unknown pruning order {order!r}; use magnitude or random")


def predicted_fraction(probes: Probes, weights: np.ndarray, cutoff: float, order: str = "magnitude") -> float:
    """Return the largest fraction of the prunable weights with pruned / n <= (1/n) sum_i r_i^2 / (R^2 + r_i^2).

    Parameters
    ----------
    probes
        The spectrum of the n active coordinates; directions without positive curvature count with infinite radius.
    weights
        The prunable ones among them, ``(d,)``.
    cutoff
        Loss increase eps that is allowed, in nats.

    Notes
    -----
    The sum is conservative: a random subspace meets an isotropic ball of radius r at distance R with even odds once its
    dimension exceeds n (1 - r^2 / R^2), which for n = 80, r/R = 0.7 is 40.8, where the sum says 53.7.

    References
    ----------
    Larsen et al. (2022), "How many degrees of freedom do we need to train deep networks"; Paul et al. (2023),
    arXiv 2210.03044, section 3.3. The formula is reconstructed, not read there.
    """
    lengths = squared_lengths(weights, order)

    def feasible(pruned: int) -> bool:
        ratio = lengths[pruned] / (2 * cutoff)
        return pruned <= (1 + 1e-6) * probes.trace(lambda value: 1.0 / (1.0 + ratio * np.maximum(value, 0.0))).value

    low, high = 0, len(weights)
    while low < high:  # pruned grows and the sum falls, so the feasible numbers are 0, ..., low
        middle = (low + high + 1) // 2
        low, high = (middle, high) if feasible(middle) else (low, middle - 1)
    return low / len(weights)


@dataclass(frozen=True)
class Relaxation:
    """How the kept coordinates are moved to their optimum.

    Attributes
    ----------
    damping
        Added to the curvature of the kept coordinates, in nats / parameter^2; it must make it positive definite.
    steps
        Most steps of conjugate gradients, 50 to 200 for an optimum.
    tolerance
        Relative residual at which they end.
    """

    damping: float
    steps: int = 200
    tolerance: float = 1e-6


@dataclass(frozen=True)
class AxialIncrease:
    """Loss increase, in nats, on the local quadratic model when some coordinates go to zero.

    Attributes
    ----------
    projected
        With the other coordinates unmoved, -g_p w_p + 1/2 w_p' H_pp w_p.
    relaxed
        With the other coordinates at their optimum; at a minimum 1/2 w_p' [(H^-1)_pp]^-1 w_p.
    residual
        Relative residual of the linear system.
    num_products
        Products spent.
    """

    projected: float
    relaxed: float
    residual: float
    num_products: int


def axial_increase(
    operator: LinearOperator, gradient: Tensor, theta: Tensor, pruned: Tensor, relaxation: Relaxation
) -> AxialIncrease:
    """Return the loss increase of pruning the coordinates where ``pruned (n,)`` is true.

    Parameters
    ----------
    operator, gradient, theta
        Curvature, gradient ``(n,)`` and point ``(n,)`` of the mean loss.

    Notes
    -----
    A mask meets the sublevel set of the quadratic model if and only if ``relaxed <= eps``.
    Cost: 3 products, and one for each step of conjugate gradients.
    """
    before = operator.num_products
    step = torch.where(pruned, -theta, torch.zeros_like(theta))
    bent = operator @ step
    projected = float((gradient.double() * step.double()).sum() + 0.5 * (step.double() * bent.double()).sum())
    kept = torch.nonzero(~pruned).squeeze(1)
    if not len(kept):
        return AxialIncrease(projected, projected, 0.0, operator.num_products - before)
    pull = -(gradient + bent).index_select(0, kept).double().cpu().numpy()
    inner = restrict(operator, kept).to_scipy()
    shifted = scipy.sparse.linalg.LinearOperator(
        inner.shape, matvec=lambda v: inner.matvec(v).astype(np.float64) + relaxation.damping * v, dtype=np.float64
    )
    free, _ = scipy.sparse.linalg.cg(shifted, pull, rtol=relaxation.tolerance, maxiter=relaxation.steps)
    size = float(np.linalg.norm(pull))
    residual = float(np.linalg.norm(shifted.matvec(free) - pull)) / size if size else 0.0
    # The model's value at any point is an upper bound of its minimum, so an unconverged step errs on the safe side.
    change = 0.5 * float(free @ shifted.matvec(free)) - float(pull @ free)
    return AxialIncrease(projected, projected + change, residual, operator.num_products - before)


def prune_order(weights: Tensor, prunable: Tensor, order: str, seed_generator: torch.Generator | None = None) -> Tensor:
    """Return the prunable positions in the order in which they are pruned, smallest first or random."""
    positions = torch.nonzero(prunable).squeeze(1)
    if order == "magnitude":
        return positions[torch.argsort(weights[positions].abs(), stable=True)]
    if order == "random":
        return positions[torch.randperm(len(positions), generator=seed_generator).to(positions.device)]
    raise InputError(f"unknown pruning order {order!r}; use magnitude or random")


def prunable_coordinates(problem: Problem) -> Tensor:
    """Return which active coordinates are weights of matrices and kernels (not biases or norms), ``(n,)`` bool."""
    flags = {name: torch.full_like(p, float(p.ndim > 1)) for name, p in problem.parameters.items()}
    return problem.flatten(flags) > 0


def empirical_scan(problem: Problem, order: Tensor, fractions: tuple[float, ...]) -> np.ndarray:
    """Return loss increase and accuracy after the projection, for each pruned fraction, ``(fractions, 2)``.

    Parameters
    ----------
    order
        Prunable positions in the order of pruning.

    Notes
    -----
    Accuracy is NaN where the loss knows no classes. Cost: two forward passes a fraction.
    """
    anchor = problem.loss()
    rows = []
    for fraction in fractions:
        theta = problem.theta.clone()
        theta[order[: round(fraction * len(order))]] = 0.0
        accuracy = problem.accuracy(theta)
        rows.append([problem.loss(theta) - anchor, np.nan if accuracy is None else accuracy])
    return np.array(rows)
