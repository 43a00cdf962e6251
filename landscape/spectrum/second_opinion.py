"""PyHessian (Yao et al. 2020, arXiv 1912.07145) through the same interface: top eigenvalues and trace.

PyHessian knows no masks, no weights and no ragged batches. It is therefore handed a network whose only parameter is
``theta (n,)`` and whose output is the mean loss, so that what it differentiates is exactly the restricted problem. Its
power iteration finds eigenvalues by magnitude; release 0.1 cannot compute a density, as ``torch.eig`` is gone.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.networks import second_order_kernels
from landscape.problem import Problem

MOST_STEPS = 1000
TRACE_TOLERANCE = 1e-3


class _Restricted(nn.Module):
    """The mean loss as a function of the active coordinates, dressed as a network."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.theta = nn.Parameter(problem.theta.clone())

    def forward(self, _: Tensor) -> Tensor:
        parameters = self.problem.parameters_at(self.theta)
        total = torch.stack([self.problem.batch_loss(parameters, batch)[0] for batch in self.problem.batches]).sum()
        return total / self.problem.count + 0.5 * self.problem.weight_decay * self.theta.square().sum()


def second_opinion(problem: Problem, largest: int, tolerance: float, seed: int) -> dict[str, Any]:
    """Measure the largest eigenpairs by magnitude until ``largest`` are positive, and the trace, with PyHessian.

    Returns
    -------
    ``eigenvalue (k,)`` descending, ``eigenvector (n, k)``, ``trace_samples (p,)``. Negative eigenvalues that it came
    upon are those of largest magnitude, from the bottom of the spectrum.

    Notes
    -----
    Cost: up to 1000 products for each eigenvalue, as power iteration converges with the ratio of neighbours; again with
    a larger number where negative eigenvalues took places.
    PyHessian draws from the global generator; its state is restored.
    """
    try:
        from pyhessian import hessian
    except ImportError as error:
        raise InputError(f"--engine pyhessian needs the package pyhessian ({error})") from error
    dummy = torch.zeros(1, device=problem.device)
    devices = [problem.device] if problem.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), second_order_kernels(problem.model), warnings.catch_warnings():
        # PyHessian keeps the graph in .grad; the network that it is handed lives no longer than this call.
        warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
        torch.manual_seed(seed)
        peer = hessian(
            _Restricted(problem), lambda value, _: value, data=(dummy, dummy), cuda=problem.device.type == "cuda"
        )
        values, vectors = _from_the_top(peer, largest, tolerance, problem.num_params)
        trace = peer.trace(maxIter=100, tol=TRACE_TOLERANCE)
    order = sorted(range(len(values)), key=lambda i: -values[i])
    columns = [torch.cat([part.reshape(-1) for part in vectors[i]]).detach() for i in order]
    return {
        "eigenvalue": torch.tensor([values[i] for i in order], dtype=torch.float64),
        "eigenvector": torch.stack(columns, 1) if columns else problem.theta[:, None][:, :0],
        "trace_samples": torch.tensor([float(t) for t in trace], dtype=torch.float64),
    }


def _from_the_top(peer: Any, largest: int, tolerance: float, n: int) -> tuple[list[float], list[list[Tensor]]]:
    """Ask for more eigenpairs by magnitude until ``largest`` of them are positive, or there are no more."""
    wanted = largest
    while wanted:
        values, vectors = peer.eigenvalues(maxIter=MOST_STEPS, tol=tolerance, top_n=wanted)
        negative = sum(value < 0 for value in values)
        if wanted - negative >= largest or wanted == n:
            return values, vectors
        wanted = min(largest + negative, n)
    return [], []
