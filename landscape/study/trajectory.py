"""The leading curvature along the epochs of a training: whether the point at its end has settled."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape import lanczos, operators
from landscape.errors import InputError
from landscape.study.computations import facts
from landscape.study.points import Point, problem_of, read
from landscape.study.requests import Job


def trajectory_of(job: Job) -> xr.Dataset:
    """Measure loss, gradient norm and the leading Hessian eigenvalues at every saved epoch of a cell's training.

    Returns
    -------
    ``epoch_eigenvalue``, ``epoch_residual``, ``epoch_converged`` over ``epoch`` and ``eigen``; ``epoch_loss``,
    ``epoch_gradient_norm`` over ``epoch``. Cost: the products of a spectrum, an epoch.
    """
    run, cell, options = job.run, job.request.cell, job.options
    epochs = run.epochs(cell)
    if not epochs:
        raise InputError(f"{cell} has no checkpoints of its epochs")
    rows = []
    for epoch in epochs:
        checkpoint = read(run.epoch(cell, epoch))
        problem = problem_of(checkpoint, options.problem)
        wanted = lanczos.EigenOptions(
            largest=min(options.alignment.num_aligned, problem.num_params),
            smallest=0,
            tolerance=options.alignment.alignment_tolerance,
            seed=options.problem.seed,
            memory=options.memory,
        )
        pairs = lanczos.eigenpairs(operators.hessian(problem), wanted)
        data = {
            "epoch_eigenvalue": ("eigen", pairs.eigenvalue.double().cpu().numpy()),
            "epoch_residual": ("eigen", pairs.residual.double().cpu().numpy()),
            "epoch_converged": ("eigen", pairs.converged.cpu().numpy()),
            "epoch_loss": problem.loss(),
            "epoch_gradient_norm": float(problem.gradient().double().norm()),
        }
        rows.append(xr.Dataset(data, {"eigen": np.arange(1, wanted.largest + 1)}))
    result = xr.concat(rows, "epoch").assign_coords(epoch=epochs)
    result.attrs |= facts(Point(problem, str(checkpoint.sha256), {}), job)
    return result
