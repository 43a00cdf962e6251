"""Third derivatives of the loss: T[v, v, .] and the norm of T, which is the slope of l(rho) at zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape import parallel
from landscape.dimension.metric import Point, Scaled
from landscape.errors import InputError
from landscape.networks import second_order_kernels
from landscape.seeds import generator


def third_order(point: Point, v: Tensor) -> Tensor:
    """Return T[v, v, .], the gradient of v' H v, at the problem's point, ``(n,)``.

    Notes
    -----
    Cost: three nested backward passes, about two products; the graph of all three is held for one batch at a time.
    Piecewise linear activations contribute nothing: their third derivative sits on the kinks.
    """
    if isinstance(point, Scaled):
        return point.scale * third_order(point.problem, point.scale * v)
    problem, direction = point, point.unflatten(v)
    total = torch.zeros(problem.num_params, dtype=torch.float64, device=problem.device)
    with second_order_kernels(problem.model):
        for batch in problem.batches:
            leaves = {name: p.detach().requires_grad_() for name, p in problem.parameters.items()}
            value = problem.batch_loss(leaves, batch)[0]
            for _ in range(2):
                value = _along(value, leaves, direction)
            slopes = _gradient(value, leaves)
            total += problem.flatten({name: slope.detach() for name, slope in slopes.items()})
    return (parallel.sum_ranks(total) / problem.count).to(problem.dtype)


def _gradient(value: Tensor, leaves: dict[str, Tensor], keep: bool = False) -> dict[str, Tensor]:
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), create_graph=keep, allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(leaf) if slope is None else slope for (name, leaf), slope in pairs}


def _along(value: Tensor, leaves: dict[str, Tensor], direction: dict[str, Tensor]) -> Tensor:
    """Return the derivative of a scalar along a direction, itself differentiable."""
    slopes = _gradient(value, leaves, keep=True)
    return torch.stack([(slopes[name] * direction[name]).sum() for name in leaves]).sum()


@dataclass(frozen=True)
class TensorNorm:
    """The largest |T[v, v, v]| over unit vectors that was found.

    Attributes
    ----------
    value
        A lower bound of |T|, in nat / parameter^3; l(rho) / rho tends to |T| as rho goes to zero.
    vector
        Where it is attained, ``(n,)``.
    converged
        Whether the best start became stationary.
    num_derivatives
        Cost, in third derivatives.
    """

    value: float
    vector: Tensor
    converged: bool
    num_derivatives: int


def tensor_norm(
    problem: Point, restarts: int = 4, steps: int = 100, tolerance: float = 1e-10, seed: int = 0
) -> TensorNorm:
    """Return |T| at the problem's point by the shifted symmetric power method, v <- T[v, v, .] + alpha v, normalised.

    Parameters
    ----------
    tolerance
        Relative change of the value at which a start counts as stationary.

    Notes
    -----
    Cost: one third derivative per step. The shift alpha begins at the present value and is doubled whenever the value
    would fall, which keeps the iteration ascending. Error: a lower bound, since there are local maxima; for symmetric T
    the supremum of |T[u, v, w]| is attained on the diagonal.

    References
    ----------
    Kolda and Mayo (2011), SIAM J. Matrix Anal. Appl. 32, 1095; Banach (1938), Studia Math. 7 (diagonal maximum).
    """
    best: TensorNorm | None = None
    used = 0
    for restart in range(restarts):
        start = torch.randn(problem.num_params, generator=generator(seed, "tensor", restart), dtype=torch.float64)
        value, vector, converged, cost = _climb(problem, (start / start.norm()).to(problem.theta), steps, tolerance)
        used += cost
        if best is None or value > best.value:
            best = TensorNorm(value, vector, converged, 0)
    if best is None:
        raise InputError("the power method needs at least one start")
    return TensorNorm(best.value, best.vector, best.converged, used)


def _climb(problem: Point, v: Tensor, steps: int, tolerance: float) -> tuple[float, Tensor, bool, int]:
    """Return the value, the vector, whether it is stationary, and the number of third derivatives."""
    slope, cost = third_order(problem, v), 1
    value = float(slope @ v)
    if value < 0:
        v, value = -v, -value
    shift = abs(value)
    for _ in range(steps):
        trial = slope + shift * v
        if not float(trial.norm()) > 0:
            return value, v, True, cost
        trial = trial / trial.norm()
        new_slope, cost = third_order(problem, trial), cost + 1
        new_value = float(new_slope @ trial)
        if new_value < value * (1 - 1e-14):
            shift = 2 * shift + 1e-300
            continue
        still = new_value - value <= tolerance * max(new_value, 1e-300)
        v, slope, value = trial, new_slope, new_value
        if still:
            return value, v, True, cost
    return value, v, False, cost
