"""Scores of weights from the loss: SNIP, GraSP, SynFlow, OBD and OBS. The weights of smallest score go.

===========  ======================  ====================  ============================================================
criterion    score                   usual point           source
===========  ======================  ====================  ============================================================
``snip``     |g w|                   initialisation        Lee, Ajanthan, Torr 2019, arXiv:1810.02340
``grasp``    w (H g)                 initialisation        Wang, Zhang, Grosse 2020, arXiv:2002.07376 (temperature 1)
``synflow``  w dR/dw, 100 rounds     initialisation        Tanaka et al. 2020, arXiv:2006.05467 (biases left out)
``obd``      G_ii w^2 / 2            minimum               LeCun, Denker, Solla 1990
``obs``      w^2 / (2 [G^-1]_ii)     minimum               Hassibi, Stork 1993
===========  ======================  ====================  ============================================================

G is the Gauss-Newton matrix, which has no negative diagonal. GraSP's paper removes the weights of largest -w (H g),
which is the same order. OBS here is one-shot: the update of the other weights, which the paper makes after each
removal, is left to training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from landscape import operators, seeds
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.pruning import criteria
from landscape.pruning.criteria import Mask
from landscape.pruning.flow import Flow

ROUNDS = 100
CG_STEPS = 50
CG_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores by parameter name, and what they cost in gradients and curvature products over the examples."""

    values: dict[str, Tensor]
    num_gradients: int = 0
    num_products: int = 0


def snip(problem: Problem, names: list[str]) -> Scores:
    """Return |g w|, the first-order change of the loss when a weight goes. Cost: one gradient."""
    gradient = problem.unflatten(problem.gradient())
    return Scores({n: (gradient[n] * problem.parameters[n]).abs().cpu() for n in names}, num_gradients=1)


def grasp(problem: Problem, names: list[str]) -> Scores:
    """Return w (H g): minus the first-order change of |g|^2 / 2 when a weight goes. Cost: one gradient, one product."""
    slope = problem.gradient()
    change = problem.unflatten(operators.hessian(problem) @ slope)
    return Scores({n: (problem.parameters[n] * change[n]).cpu() for n in names}, num_gradients=1, num_products=1)


def obd(problem: Problem, names: list[str], loss: str, num_probes: int = 64, seed: int = 0) -> Scores:
    """Return G_ii w_i^2 / 2, the quadratic change of the loss at a minimum when a weight goes.

    Cost: ``num_probes`` gradients. Error: each score scatters by sqrt(2 / num_probes) of itself.
    """
    diagonal = problem.unflatten(gauss_newton_diagonal(problem, loss, num_probes, seed))
    values = {n: (diagonal[n] * problem.parameters[n].double().square() / 2).cpu() for n in names}
    return Scores(values, num_gradients=num_probes)


def obs(problem: Problem, names: list[str], damping: float = 1e-3, num_probes: int = 8, seed: int = 0) -> Scores:
    """Return w_i^2 / (2 [(G + delta)^-1]_ii), the change of the loss when a weight goes and the others make up for it.

    Parameters
    ----------
    damping
        delta, in units of the mean diagonal of G, itself estimated by one probe.

    Notes
    -----
    Cost: at most 50 products for each probe, in conjugate gradients; for n <= ``num_probes`` the columns are solved
    one by one, and the score is exact up to their tolerance.
    """
    inverse, spent = inverse_diagonal(problem, damping, num_probes, seed)
    diagonal = problem.unflatten(inverse)
    values = {n: (problem.parameters[n].double().square() / (2 * diagonal[n])).cpu() for n in names}
    return Scores(values, num_products=spent)


def gauss_newton_diagonal(problem: Problem, loss: str, num_probes: int, seed: int = 0) -> Tensor:
    """Estimate the diagonal of the Gauss-Newton matrix, ``(n,)`` float64, not negative.

    For independent residuals r_n of mean zero whose covariance is the Hessian S_n of the loss in the outputs (for cross
    entropy p - e_y with y from the model's own p), g = sum_n J_n' r_n has E[g_i^2] = sum_n [J_n' S_n J_n]_ii.
    """
    stream = seeds.generator(seed, "gauss_newton_diagonal")
    total = torch.zeros(problem.num_params, dtype=torch.float64, device=problem.device)
    for _ in range(num_probes):
        gradient = torch.zeros_like(total)
        for batch in problem.batches:
            leaves = {name: p.detach().requires_grad_() for name, p in problem.parameters.items()}
            outputs = problem.outputs(leaves, batch)
            residual = _residual(loss, outputs.detach(), stream)
            found = torch.autograd.grad((outputs * residual).sum(), list(leaves.values()), allow_unused=True)
            full = {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)}
            gradient += problem.flatten(full)
        total += gradient.square()
    return total / (num_probes * problem.count)


def _residual(loss: str, outputs: Tensor, stream: torch.Generator) -> Tensor:
    """Draw residuals with mean zero and the covariance of the Hessian of an example's loss in its outputs."""
    if loss == "mse":
        return torch.randn(outputs.shape, generator=stream, dtype=torch.float64).to(outputs)
    if loss == "bce":
        p = torch.sigmoid(outputs)
        return p - (torch.rand(p.shape, generator=stream, dtype=torch.float64).to(p) < p).to(p)
    if loss != "cross_entropy" or outputs.ndim != 2:
        raise InputError("OBD needs the loss cross_entropy (one label an example), mse or bce")
    p = torch.softmax(outputs, dim=1)
    drawn = torch.multinomial(p.cpu().double(), 1, generator=stream).to(p.device)
    return p - torch.zeros_like(p).scatter_(1, drawn, 1.0)


def inverse_diagonal(problem: Problem, damping: float, num_probes: int, seed: int = 0) -> tuple[Tensor, int]:
    """Estimate the diagonal of (G + delta)^-1, ``(n,)`` float64, by conjugate gradients on random signs; and the cost.

    An estimate outside [1 / (delta + tr G), 1 / delta], where the diagonal lies, is brought back to these bounds.
    """
    operator, n = operators.ggn(problem), problem.num_params
    draws = torch.rand(n, num_probes, generator=seeds.generator(seed, "inverse_diagonal"), dtype=torch.float64)
    signs = torch.where(draws < 0.5, -1.0, 1.0).double()
    trace = float(signs[:, 0] @ (operator @ signs[:, 0].to(problem.theta)).double().cpu())
    delta = damping * trace / n if trace > 0 else damping
    multiply = operator.to_scipy().matvec
    kind = np.float64 if problem.dtype == torch.float64 else np.float32
    shifted = scipy.sparse.linalg.LinearOperator(
        (n, n), matvec=lambda v: multiply(v.astype(kind)) + delta * v, dtype=np.float64
    )
    exact = n <= num_probes
    probes = np.eye(n) if exact else signs.T.numpy()
    total = np.zeros(n)
    for probe in probes:
        total += probe * scipy.sparse.linalg.cg(shifted, probe, rtol=CG_TOLERANCE, maxiter=CG_STEPS)[0]
    mean = total if exact else total / len(probes)
    return torch.as_tensor(np.clip(mean, 1 / (delta + max(trace, 0.0)), 1 / delta)), operator.num_products


def iterate(
    score: Callable[[Mask], Mapping[str, Tensor]], full: Mask, num_kept: int, rounds: int = ROUNDS
) -> tuple[Mask, int]:
    """Prune in rounds, scoring anew under the mask of each: after round r of R, size^(1 - r/R) kept^(r/R) are left.

    Returns
    -------
    The last mask (each nests in the one before) and the number of rounds.

    References
    ----------
    Tanaka et al. 2020, arXiv:2006.05467, algorithm 1 (exponential schedule).
    """
    mask, size = full, criteria.num_kept(full)
    for r in range(1, rounds + 1):
        target = num_kept if r == rounds else round(size * (num_kept / size) ** (r / rounds))
        mask = criteria.remove_smallest(score(mask), mask, criteria.num_kept(mask) - max(target, num_kept))
    return mask, rounds


def synflow(flow: Flow, weights: Mapping[str, Tensor], full: Mask, num_kept: int, rounds: int = ROUNDS) -> Mask:
    """Return the mask of SynFlow: in each round, w dR/dw of the weights that are left. No data are needed."""

    def score(mask: Mask) -> dict[str, Tensor]:
        left = {n: (weights[n].detach().cpu().double().abs() * m) for n, m in mask.items()}
        gradient = flow.gradient(left)
        return {n: gradient[n] * left[n] for n in mask}

    return iterate(score, full, num_kept, rounds)[0]
