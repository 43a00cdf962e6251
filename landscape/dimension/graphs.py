"""The graph of an inertial manifold: approximations q = Phi(p), their defects, and training reduced to the slow side.

With the fast directions ``V (n, K)`` and curvature A_Q = V'AV at the base point W*, a state is W* + P u + V q. The
approximate inertial manifolds solve the fast equation for the fast coordinates,

    Phi_0 = 0,   Phi_{k+1}(p) = Phi_k(p) - A_Q^(-1) V' grad L(W* + p + V Phi_k(p)),

where Phi_1 is the linear one and the limit is the floor of the valley. The manifold itself differs from the floor, as
it takes the slow motion into account; ``quadratic_graph`` has its second-order coefficients.

References
----------
Foias, Manley and Temam (1988), RAIRO M2AN 22, 93; Titi (1990), J. Math. Anal. Appl. 149, 540 (approximate manifolds);
Marion and Temam (1989), SIAM J. Numer. Anal. 26, 1139 (nonlinear Galerkin).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.dimension.metric import Point
from landscape.dimension.rates import Array
from landscape.dimension.tensor import third_order
from landscape.errors import InputError
from landscape.seeds import numpy_generator

_RESONANCE = 1e-6
_FLAT = 1e-8


@dataclass(frozen=True, eq=False)
class Split:
    """A splitting at the base point.

    Parameters
    ----------
    problem
        At the base point W*.
    fast
        Orthonormal fast directions V, ``(n, K)``.
    curvature
        A_Q: the fast eigenvalues ``(K,)``, or V'AV ``(K, K)``. All must be positive.
    """

    problem: Point
    fast: Tensor
    curvature: Tensor

    def __post_init__(self) -> None:
        low = self.curvature.min() if self.curvature.ndim == 1 else torch.linalg.eigvalsh(self.curvature).min()
        if not float(low) > 0:
            raise InputError(f"a fast direction has curvature {float(low):.3g}: only positive ones can be slaved")

    def solve(self, v: Tensor) -> Tensor:
        """Return A_Q^(-1) v for ``v (K,)``."""
        return v / self.curvature if self.curvature.ndim == 1 else torch.linalg.solve(self.curvature, v)

    def parts(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return P u ``(n,)`` and q ``(K,)`` of u = theta - W*."""
        u = theta - self.problem.theta
        q = self.fast.T @ u
        return u - self.fast @ q, q

    def slaved(self, p: Tensor, iterations: int) -> Tensor:
        """Return Phi_k(p), ``(K,)``. Cost: one gradient per iteration."""
        q = torch.zeros_like(self.curvature[:, 0] if self.curvature.ndim == 2 else self.curvature)
        for _ in range(iterations):
            q = q - self.solve(self.fast.T @ self.problem.gradient(self.problem.theta + p + self.fast @ q))
        return q


def aim_defect(split: Split, states: Tensor, iterations: int = 3) -> Array:
    """Return |q - Phi_k(p)| / |q - mean q| over all states for k = 1..iterations, ``(iterations,)``.

    Parameters
    ----------
    states
        ``(T, n)``.

    Notes
    -----
    Cost: ``iterations`` gradients per state. A constant guess of the fast coordinates scores 1; values above 1 mean
    that the iteration is off, for instance outside the region where it contracts.
    """
    pairs = [split.parts(state) for state in states]
    q = torch.stack([pair[1] for pair in pairs])
    spread = float((q - q.mean(dim=0)).norm())
    if not spread > 0:
        raise InputError("the fast coordinates do not change along the trajectory; there is nothing to be slaved")
    defects = []
    guesses = torch.zeros_like(q)
    for _ in range(iterations):
        slopes = [
            split.solve(split.fast.T @ split.problem.gradient(split.problem.theta + p + split.fast @ guess))
            for (p, _), guess in zip(pairs, guesses, strict=True)
        ]
        guesses = guesses - torch.stack(slopes)
        defects.append(float((q - guesses).norm()) / spread)
    return np.array(defects)


def quadratic_graph(split: Split, slow: Tensor, slow_value: float) -> Tensor:
    """Return the coefficients of s^2 on the manifold over W* + s slow, -T_aii / (2 (lambda_a - 2 lambda_i)), ``(K,)``.

    Parameters
    ----------
    slow, slow_value
        A slow eigenvector ``(n,)`` and its eigenvalue. ``split.curvature`` must hold eigenvalues.

    Raises
    ------
    InputError
        At a resonance lambda_a = 2 lambda_i, where the manifold is not twice differentiable.
    """
    if split.curvature.ndim != 1:
        raise InputError("the quadratic graph needs fast eigenvectors with their eigenvalues")
    divisor = split.curvature - 2 * slow_value
    if bool((divisor.abs() < _RESONANCE * split.curvature).any()):
        raise InputError(
            "a fast eigenvalue is twice the slow one: at this resonance the manifold has no second derivative"
        )
    return -(split.fast.T @ third_order(split.problem, slow)) / (2 * divisor)


@dataclass(frozen=True)
class Invariance:
    """How well a fitted graph is invariant, on runs that did not take part in the fit.

    Attributes
    ----------
    residual
        Mean of |Q g - DPhi P g| / |g|.
    unexplained
        Fraction of the variance of the fast coordinates that the graph does not explain (1 - R^2).
    shuffled_residual, shuffled_unexplained
        The same with the fast coordinates of the fitted runs shuffled: what no relation at all gives.
    """

    residual: float
    unexplained: float
    shuffled_residual: float
    shuffled_unexplained: float


@dataclass(frozen=True)
class FitOptions:
    """The fit of the graph: ridge regression on quadratic features of a few slow coordinates.

    Parameters
    ----------
    coordinates
        Principal slow coordinates of the fitted runs.
    ridge
        Penalty relative to the number of states, on standardised features.
    seed
        Of the shuffle.
    """

    coordinates: int = 3
    ridge: float = 1e-6
    seed: int = 0


def invariance(problem: Point, fast: Tensor, runs: Tensor, options: FitOptions | None = None) -> Invariance:
    """Return the defect of invariance of a graph that is fitted to all but one run, averaged over the run left out.

    Parameters
    ----------
    fast
        Orthonormal ``(n, K)``.
    runs
        States ``(R, T, n)`` of R >= 2 runs.

    Notes
    -----
    Cost: one gradient per state. A regression is hopeless where the slow side has more directions than states; the
    features are then the few in which the runs differ, and the pair tests (:mod:`landscape.dimension.slaving`) are the
    ones to trust.
    """
    options = options or FitOptions()
    if runs.ndim != 3 or len(runs) < 2:
        raise InputError("the invariance test holds one run out, so it needs at least two runs of states (R, T, n)")
    gradients = torch.stack([problem.gradient(state) for state in runs.flatten(0, 1)]).view_as(runs)
    random = numpy_generator(options.seed, "invariance")
    sums = np.zeros((2, 4))
    for out in range(len(runs)):
        rest = torch.cat([runs[:out], runs[out + 1 :]]).flatten(0, 1)
        for row, order in enumerate((np.arange(len(rest)), random.permutation(len(rest)))):
            sums[row] += _held_out(rest, torch.as_tensor(order), (runs[out], gradients[out]), fast, options)
    error, spread, residual, number = sums.T
    unexplained, residual = error / spread, residual / number
    return Invariance(float(residual[0]), float(unexplained[0]), float(residual[1]), float(unexplained[1]))


def _held_out(
    train: Tensor, order: Tensor, test: tuple[Tensor, Tensor], fast: Tensor, options: FitOptions
) -> tuple[float, float, float, int]:
    """Return squared error, squared spread, sum of residuals and number of states of a run that was held out."""
    center = train.mean(dim=0)
    q = (train - center) @ fast
    slow = (train - center) - q @ fast.T
    _, singular, right = torch.linalg.svd(slow, full_matrices=False)
    axes = right[: min(options.coordinates, int((singular > _FLAT * singular[0]).sum()))].T
    scale = (slow @ axes).std(dim=0)
    weights, mean = _ridge((slow @ axes) / scale, q[order], options.ridge)
    states, gradients = test
    q_test = (states - center) @ fast
    z = ((states - center) - q_test @ fast.T) @ axes / scale
    error, spread = (q_test - mean - _features(z) @ weights).square().sum(), (q_test - q.mean(0)).square().sum()
    fast_part = gradients @ fast
    z_slope = (gradients - fast_part @ fast.T) @ axes / scale
    tangent = _feature_slopes(z, z_slope) @ weights
    residual = ((fast_part - tangent).norm(dim=1) / gradients.norm(dim=1)).sum()
    return float(error), float(spread), float(residual), len(states)


def _features(z: Tensor) -> Tensor:
    """Return z and its products in pairs."""
    i, j = torch.triu_indices(z.shape[1], z.shape[1])
    return torch.cat([z, z[:, i] * z[:, j]], dim=1)


def _feature_slopes(z: Tensor, slope: Tensor) -> Tensor:
    """Return the derivative of the features along ``slope``."""
    i, j = torch.triu_indices(z.shape[1], z.shape[1])
    return torch.cat([slope, slope[:, i] * z[:, j] + z[:, i] * slope[:, j]], dim=1)


def _ridge(z: Tensor, q: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weights and the intercept of a ridge regression of q on the features of z."""
    features = _features(z)
    mean, center = features.mean(dim=0), q.mean(dim=0)
    gram = (features - mean).T @ (features - mean) + penalty * len(z) * torch.eye(features.shape[1], dtype=z.dtype)
    weights = torch.linalg.solve(gram, (features - mean).T @ (q - center))
    return weights, center - mean @ weights


@dataclass(frozen=True)
class Reduced:
    """Training on the slow side beside full training.

    Attributes
    ----------
    distance
        |W_reduced - W_full|, ``(steps + 1,)``.
    loss_gap
        Loss of the reduced run less that of the full one, in nats, ``(steps + 1,)``.
    """

    distance: Array
    loss_gap: Array


def reduced_training(split: Split, start: Tensor, lr: float, steps: int, iterations: int = 0) -> Reduced:
    """Return how gradient descent on the slow side keeps up with full gradient descent.

    Parameters
    ----------
    iterations
        0: flat Galerkin, the fast coordinates stay where they start. k > 0: nonlinear Galerkin, they are Phi_k(p).

    Notes
    -----
    Cost: per step 2 + ``iterations`` gradients and two losses.
    """
    problem, full, reduced = split.problem, start.clone(), start.clone()
    if iterations:
        p, _ = split.parts(reduced)
        reduced = problem.theta + p + split.fast @ split.slaved(p, iterations)
    distance, gap = [], []
    for step in range(steps + 1):
        distance.append(float((reduced - full).norm()))
        gap.append(problem.loss(reduced) - problem.loss(full))
        if step == steps:
            break
        full = full - lr * problem.gradient(full)
        slope = problem.gradient(reduced)
        reduced = reduced - lr * (slope - split.fast @ (split.fast.T @ slope))
        if iterations:
            p, _ = split.parts(reduced)
            reduced = problem.theta + p + split.fast @ split.slaved(p, iterations)
    if not np.isfinite([*distance, *gap]).all():
        raise InputError("the reduced or the full run diverges; lower the learning rate")
    return Reduced(np.array(distance), np.array(gap))
