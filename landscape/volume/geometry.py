"""The curvature of a point, computed once and shared by all estimators: top eigenpairs, probes, diagonal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from landscape import dense, lanczos, operators, seeds
from landscape.errors import InputError
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.volume.multilevel import ProbeBudget, Probes, complement, sample
from landscape.volume.neighbourhood import Neighbourhood
from landscape.volume.options import Effort, VolumeOptions
from landscape.volume.sampling import Basin

BLOCK = 16


@dataclass(frozen=True, eq=False)
class Geometry:
    """A point with its neighbourhood and its curvature; what is expensive is computed when first asked for."""

    problem: Problem
    neighbourhood: Neighbourhood
    options: VolumeOptions
    effort: Effort

    @property
    def kind(self) -> str:
        """Which curvature: as asked for, or what the neighbourhood's quadratic model has (ggn in place of hessian)."""
        return self.options.curvature or ("jtj" if self.neighbourhood.kind == "function" else "ggn")

    @cached_property
    def operator(self) -> LinearOperator:
        """The curvature of the neighbourhood's quadratic model.

        The weight decay belongs to the loss, not to the distances ``kl`` and ``function``.
        """
        hood = self.neighbourhood
        distance = hood.kind in ("kl", "function")
        problem = replace(self.problem, weight_decay=0.0) if distance else self.problem
        build = {"hessian": operators.hessian, "ggn": operators.ggn, "jtj": operators.jtj}[self.kind]
        return hood.curvature_scale * build(problem)

    @cached_property
    def basin(self) -> Basin:
        """The neighbourhood as sampling sees it."""
        return Basin(self.neighbourhood.excess, self.neighbourhood.threshold, self.problem.theta)

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Eigenvalues ``(k,)`` from the top, residuals ``(k,)`` and vectors ``(n, k)``; all n of them if n is small.

        Raises
        ------
        InputError
            If no eigenvalue is positive.
        """
        n = self.problem.num_params
        if n <= self.options.dense:
            values, vectors = dense.spectrum(self.operator, memory=self.effort.memory)
            found = values.cpu().numpy(), np.zeros(n), vectors.to(self.problem.theta)
        else:
            chosen = lanczos.EigenOptions(
                largest=min(self.options.rank, n),
                smallest=0,
                tolerance=self.options.pair_tolerance,
                seed=self.effort.seed,
                memory=self.effort.memory // 2,
            )
            journal = self.effort.journal
            pairs = lanczos.eigenpairs(
                self.operator, chosen, state=journal.load("eigenpairs"), save_state=journal.saver("eigenpairs")
            )
            found = pairs.eigenvalue.cpu().numpy(), pairs.residual.cpu().numpy(), pairs.eigenvector
        if not found[0].max() > 0:
            raise InputError("the curvature has no positive eigenvalue at this point: there is no basin to measure")
        return found

    @property
    def is_exact(self) -> bool:
        """Whether all eigenvalues are known."""
        return len(self.pairs[0]) == self.problem.num_params

    @cached_property
    def probes(self) -> Probes:
        """The spectrum: the pairs exactly, the rest by stochastic quadrature."""
        values, _, vectors = self.pairs
        chosen = self.options
        budget = ProbeBudget(chosen.trace_probes, chosen.trace_depth, chosen.shallow_products, self.effort.seed)
        return sample(self.operator, budget, (values, vectors))

    @cached_property
    def bulk(self) -> float:
        """Mean of the eigenvalues beyond the pairs (never negative)."""
        rest = self.problem.num_params - len(self.pairs[0])
        return max(0.0, (self.probes.trace(lambda v: v).value - float(self.pairs[0].sum())) / rest) if rest else 0.0

    @cached_property
    def diagonal(self) -> Tensor:
        """The diagonal of the curvature, ``(n,)``: of the pairs exactly, of the rest estimated (Bekas et al. 2007)."""
        return self.bulk_diagonal + (self.pairs[2].double().square() @ self._known).to(self.problem.theta)

    @property
    def _known(self) -> Tensor:
        return torch.as_tensor(self.pairs[0], device=self.problem.device).double()

    @cached_property
    def bulk_diagonal(self) -> Tensor:
        """The diagonal of what the pairs leave of the curvature, ``(n,)``, not negative; zero where all are known.

        The mean of z * (A z) over random signs z; the noise of an entry is the norm of the rest of its row over the
        root of the number of signs.
        """
        theta = self.problem.theta
        if self.is_exact:
            return torch.zeros_like(theta)
        rest = complement(self.operator, self.pairs[2])
        total = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
        for start in range(0, self.options.diagonal_probes, BLOCK):
            numbers = range(start, min(start + BLOCK, self.options.diagonal_probes))
            signs = torch.stack([self._signs(number) for number in numbers], dim=1).to(theta)
            total += (signs * (rest @ signs)).double().sum(1)
        return (total / self.options.diagonal_probes).clamp(min=0.0).to(theta)

    def _signs(self, number: int) -> Tensor:
        source = seeds.generator(self.effort.seed, "volume diagonal", number)
        return torch.randint(0, 2, (self.problem.num_params,), generator=source).double() * 2 - 1

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of the mean loss, ``(n,)``."""
        return self.problem.gradient()

    @cached_property
    def newton(self) -> tuple[float, float]:
        """The Newton decrement g' (max(A, 0) + c)^-1 g in nats, and its damping c = 1e-6 of the largest eigenvalue.

        By Gauss quadrature from the start g: a lower bound for A >= 0 that rises with the depth.
        """
        damping = 1e-6 * float(self.pairs[0].max())
        size = float(self.gradient.double().square().sum())
        return size * self.smoothed_gradient(damping), damping

    def smoothed_gradient(self, damping: float) -> float:
        """Return u' (max(A, 0) + damping)^-1 u for the unit vector u along the gradient; 0 without gradient."""
        if not bool(self.gradient.any()):
            return 0.0
        depth = min(self.options.trace_depth, self.problem.num_params)
        run = lanczos.krylov(self.operator, self.gradient, depth)
        single = Probes(self.problem.num_params, np.zeros(0), [(run.alpha.numpy(), run.beta.numpy())], (depth,), 0)
        nodes, weights = single.quadrature(depth)[0]
        return float(weights @ (1.0 / (np.maximum(nodes, 0.0) + damping)))

    @cached_property
    def prior_sd(self) -> float:
        """The width of the prior: as asked for, or the rms of the weights."""
        if self.options.prior_sd is not None:
            return self.options.prior_sd
        rms = float(self.problem.theta.double().square().mean().sqrt())
        if rms <= 0:
            raise InputError("all weights are zero, so the prior needs a width of its own (--prior-sd)")
        return rms
