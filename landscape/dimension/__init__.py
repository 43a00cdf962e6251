r"""The dimension of a slow (inertial) manifold of training, the theory's preconditions and their margins.

Nothing here proves that a network has an inertial manifold. Conditions are checked on sampled regions: every sampled
Lipschitz constant is a lower bound, so every radius is an upper bound, and failing a sufficient condition is not the
absence of a manifold. ``measure_dimension`` measures an in-memory model; ``python -m landscape.dimension ckpt.pt`` a
checkpoint.

=========================== ============================================================================================
``rates``                   effective rates of modes under gradient flow, gradient descent, heavy ball, preconditioning
``rules``, ``plateau``      gap rules, heuristics with a significance test, the historical plateau rule
``lipschitz``, ``tensor``   change of the Hessian within a radius, adversarial search, third derivatives, ReLU kinks
``cone``                    the cone gap at points and over segments
``horizon``                 frozen, active and slaved modes over a finite time; effective numbers of modes
``slaving``, ``graphs``     twin runs, steady graph, approximate manifolds, invariance, reduced training
``testbed``, ``bracket``    systems with known answers; the largest are ``chafee_infante``, ``kuramoto_sivashinsky``
``lyapunov``                extended: exponents and covariant vectors of chaotic runs
``surrogates``              extended: trajectory components with their random-walk null, multipliers
=========================== ============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import identity
from landscape.dimension.gather import Effort
from landscape.dimension.measure import Training, measure
from landscape.dimension.options import DimensionOptions
from landscape.dimension.trajectory import Trajectory
from landscape.errors import InputError
from landscape.keywords import Keywords
from landscape.problem import Problem, ProblemSettings

__all__ = ["DimensionOptions", "Effort", "Training", "Trajectory", "measure", "measure_dimension"]


def measure_dimension(
    model: torch.nn.Module,
    loss: Any,
    data: Any,
    mask: Mapping[str, Tensor] | None = None,
    trajectory: Sequence[Mapping[str, Tensor]] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Measure whether the conditions of a slow manifold hold around a model's point.

    Parameters
    ----------
    model, loss, data, mask
        As in ``measure_spectrum``: the base point W*.
    trajectory
        State dicts along the training, in order. Without it, ``radius`` must say how large the region is.
    options
        Fields of ``DimensionOptions`` (``dynamics``, ``rule``, ``radius``, ``region``, ``lr``, ``momentum``, ``fast``,
        ``samples``, ``points``, ``nodes``, ``depth``, ...) and of ``ProblemSettings``; ``preconditioner``, a mapping
        from parameter names to the positive diagonal D; ``seed``; ``memory`` in GiB; ``quiet=False`` for progress bars.

    Returns
    -------
    Dataset with ``status``, ``dimension`` N (slow modes), ``num_fast`` n - N, ``gap_index`` over (``rule``,
    ``shell``); ``radius_upper`` and ``entry_step`` over ``rule``; ``coverage`` over (``rule``, ``step``); the sampled
    Lipschitz constants ``lipschitz`` and ``lipschitz_osc`` over the radius, cone margins over the number of ``fast``
    directions, and direct tests.

    Raises
    ------
    InputError
        In one line, what is wrong with the input and what to do.

    Notes
    -----
    Cost: ``2 depth`` products for each of ``samples`` Hessian differences, ``fast + depth`` for each of ``points``
    points and ``nodes`` times that for each of as many segments. Error: sampled, not certified (see the module).

    Examples
    --------
    >>> x, y = torch.eye(2, dtype=torch.float64).repeat(8, 1), torch.zeros(16, 1, dtype=torch.float64)
    >>> line = torch.nn.Linear(2, 1, bias=False).double()
    >>> found = measure_dimension(line, "mse", (x * torch.tensor([1.0, 3.0]), y), radius=(1.0,), fast=1, smallest=1)
    >>> found["dimension"].sel(rule="gap_2l").values.tolist()  # a quadratic loss: every gap is admissible
    [1.0]
    """
    given = Keywords(options, "measure_dimension")
    diagonal = given.rest.pop("preconditioner", None)  # of the options of the same name, the command's is a file
    settings, chosen, effort = given.take(ProblemSettings), given.take(DimensionOptions), given.effort(Effort)
    given.finish()
    problem = Problem.from_model(model, loss, data, mask, settings)
    states = None if trajectory is None else _trajectory(problem, trajectory)
    training = Training(states, None if diagonal is None else problem.flatten(_of(problem, diagonal, "preconditioner")))
    result = measure(problem, chosen, effort, training)
    return identity.labelled(result, problem, "dimension", {"dimension": chosen, "seed": effort.seed})


def _of(problem: Problem, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Return the tensors of the measured parameters, checked."""
    for name, p in problem.parameters.items():
        if name not in tensors or tensors[name].shape != p.shape:
            raise InputError(f"the {what} has no {name!r} of shape {tuple(p.shape)}")
    return {name: tensors[name].detach().to(p) for name, p in problem.parameters.items()}


def _trajectory(problem: Problem, states: Sequence[Mapping[str, Tensor]]) -> Trajectory:
    if len(states) < 2:
        raise InputError(f"a trajectory needs at least two states, not {len(states)}")
    flat = torch.stack([problem.flatten(_of(problem, state, "trajectory")) for state in states])
    if not bool(torch.isfinite(flat).all()):
        raise InputError("the trajectory holds NaN or infinite weights")
    return Trajectory(flat, np.arange(len(states)))
