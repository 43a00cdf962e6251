"""PyHessian (Yao et al. 2020, arXiv 1912.07145) through the same interface: top eigenvalues and trace.

PyHessian knows no masks, no weights and no ragged batches. It is therefore handed a network whose only parameter is
``theta (n,)`` and whose output is the mean loss, so that what it differentiates is exactly the restricted problem. Its
power iteration finds eigenvalues by magnitude; release 0.1 cannot compute a density, as ``torch.eig`` is gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.problem import Problem, second_order_kernels

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
    """Measure the top eigenpairs (sorted algebraically) and the trace with PyHessian.

    Returns
    -------
    ``eigenvalue (k,)``, ``eigenvector (n, k)``, ``trace_samples (p,)``.

    Notes
    -----
    Cost: up to 1000 products for each eigenvalue, as power iteration converges with the ratio of neighbours.
    PyHessian draws from the global generator; its state is restored.
    """
    try:
        from pyhessian import hessian
    except ImportError as error:
        raise InputError(f"--engine pyhessian needs the package pyhessian ({error})") from error
    dummy = torch.zeros(1, device=problem.device)
    devices = [problem.device] if problem.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), second_order_kernels(problem.model):
        torch.manual_seed(seed)
        peer = hessian(
            _Restricted(problem), lambda value, _: value, data=(dummy, dummy), cuda=problem.device.type == "cuda"
        )
        values, vectors, trace = [], [], []
        if largest:
            values, vectors = peer.eigenvalues(maxIter=MOST_STEPS, tol=tolerance, top_n=largest)
        trace = peer.trace(maxIter=100, tol=TRACE_TOLERANCE)
    stacked = torch.stack([torch.cat([part.reshape(-1) for part in v]) for v in vectors], 1) if largest else None
    order = sorted(range(largest), key=lambda i: -values[i])
    return {
        "eigenvalue": torch.tensor([values[i] for i in order], dtype=torch.float64),
        "eigenvector": None if stacked is None else stacked[:, order].detach(),
        "trace_samples": torch.tensor([float(t) for t in trace], dtype=torch.float64),
    }
