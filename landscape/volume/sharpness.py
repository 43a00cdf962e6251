"""Adaptive sharpness: how much the loss rises when every weight moves in proportion to its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.volume.multilevel import Trace
from landscape.volume.neighbourhood import Excess

BLOCK, NUDGE = 8, 1e-2


def average_sharpness(excess: Excess, theta: Tensor, rho: float, num_pairs: int = 50, seed: int = 0) -> Trace:
    """Return E[L(w + d) - L(w)], d ~ N(0, rho^2 diag(w^2)), in nats.

    Parameters
    ----------
    excess
        Loss increase of displacements ``(n, k)`` -> ``(k,)``.
    theta
        The point w, ``(n,)``; pruned coordinates are no coordinates, and zero weights do not move.
    rho
        Relative size of the noise.

    Notes
    -----
    Noise comes in pairs d, -d, which cancels the gradient's part. For a quadratic it is rho^2 / 2 sum w_i^2 H_ii.
    Unchanged under the rescaling of ReLU neurons. Cost: 2 forward passes a pair.

    References
    ----------
    Kwon et al. (2021), "ASAM", arXiv 2102.11600; Andriushchenko et al. (2023), arXiv 2302.07011.
    """
    _check(rho)
    if num_pairs < 2:
        raise InputError("average sharpness needs at least 2 pairs for its error bar")
    means = []
    for start in range(0, num_pairs, BLOCK):
        numbers = range(start, min(start + BLOCK, num_pairs))
        noise = [
            torch.randn(len(theta), generator=seeds.generator(seed, "sharpness", i), dtype=torch.float64)
            for i in numbers
        ]
        step = rho * theta.abs()[:, None] * torch.stack(noise, dim=1).to(theta)
        rise = excess(torch.cat([step, -step], dim=1)).double().cpu().numpy()
        means.append(0.5 * (rise[: len(numbers)] + rise[len(numbers) :]))
    samples = np.concatenate(means)
    return Trace(float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(num_pairs)), num_pairs - 1)


@dataclass(frozen=True)
class WorstSharpness:
    """The largest loss increase found within an adaptive ball, in nats.

    Attributes
    ----------
    value
        Found by projected ascent: a lower bound of the maximum.
    linearised
        rho |w * g| in the dual norm: exact to first order in rho.
    num_gradients
        Gradients spent.
    """

    value: float
    linearised: float
    num_gradients: int


def worst_sharpness(problem: Problem, rho: float, norm: str = "l2", steps: int = 20, seed: int = 0) -> WorstSharpness:
    """Return max L(w + d) - L(w) over |d / |w|| <= rho, on the whole data set (m-sharpness with m = N).

    Parameters
    ----------
    norm
        ``l2`` or ``linf``.

    Notes
    -----
    Ascent starts along the gradient at a random point near the centre (at the centre of a minimum there is none); the
    step is the radius and is halved whenever the loss does not rise. Cost: one gradient and one forward pass a step.
    """
    _check(rho)
    if norm not in ("l2", "linf"):
        raise InputError(f"unknown norm {norm!r}; use l2 or linf")
    theta, anchor = problem.theta, problem.loss()
    scale = theta.abs()
    slope = scale * problem.gradient()
    linearised = rho * float(slope.double().norm() if norm == "l2" else slope.double().abs().sum())
    nudge = torch.randn(len(theta), generator=seeds.generator(seed, "ascent"), dtype=torch.float64).to(theta)
    slope = scale * problem.gradient(theta + scale * (NUDGE * rho * nudge / nudge.norm()))
    best, best_value, size = torch.zeros_like(theta), 0.0, rho
    for _ in range(steps):
        candidate = _project(best + size * _steepest(slope, norm), rho, norm)
        value = problem.loss(theta + scale * candidate) - anchor
        if value > best_value:
            best, best_value = candidate, value
            slope = scale * problem.gradient(theta + scale * best)
        else:
            size *= 0.5
    return WorstSharpness(best_value, linearised, steps + 2)


def _check(rho: float) -> None:
    if not 0 < rho < np.inf:
        raise InputError(f"rho must be positive, not {rho}")


def _steepest(slope: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return slope.sign()
    return slope / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny)


def _project(step: Tensor, rho: float, norm: str) -> Tensor:
    if norm == "linf":
        return step.clamp(-rho, rho)
    return step * (rho / step.norm().clamp(min=rho))
