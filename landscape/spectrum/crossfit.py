"""Cross-fitted eigenvalues: vectors from one half of the data, curvature from the other.

The top eigenvalues of a sample are biased upwards, as their vectors were chosen on the same examples. The Rayleigh
quotient of those vectors on examples that did not choose them has no such bias (it is at most the population's
eigenvalue in expectation); the difference shows how much of an eigenvalue is the sample's own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from landscape import lanczos
from landscape.batches import batch_length
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.operators import LinearOperator
from landscape.problem import Problem


def halves(problem: Problem) -> tuple[Problem, Problem]:
    """Split the examples of every batch into those at even and at odd positions.

    Raises
    ------
    InputError
        If there are fewer than two examples, or the loss is defined by whole batches (BatchNorm policy ``batch``).
    """
    if problem.batchnorm == "batch":
        raise InputError("--cross-fit cannot split batches whose statistics BatchNorm uses; use --batchnorm running")
    if problem.num_examples < 2:
        raise InputError("--cross-fit needs at least two examples")
    parts = []
    for start in (0, 1):
        batches = tuple(_every_other(batch, start) for batch in problem.batches)
        kept = tuple(batch for batch in batches if batch_length(batch))
        parts.append(replace(problem, batches=kept).recounted())
    return parts[0], parts[1]


def _every_other(batch: object, start: int) -> object:
    if isinstance(batch, dict):
        return {name: value[start::2] if isinstance(value, Tensor) else value for name, value in batch.items()}
    assert isinstance(batch, tuple)
    return tuple(value[start::2] if isinstance(value, Tensor) else value for value in batch)


def cross_fitted(
    operators: tuple[LinearOperator, LinearOperator], options: lanczos.EigenOptions, journal: Journal
) -> tuple[np.ndarray, int]:
    """Return the cross-fitted Rayleigh quotients, ``(k,)`` in the order of ``lanczos.eigenpairs``, and their cost.

    Parameters
    ----------
    operators
        The curvatures of the two halves of the data.
    journal
        Keeps the states of both searches.

    Notes
    -----
    Cost: two searches for eigenpairs on half the data, together about one on all of it; in products on all of it.
    """
    total, spent = torch.zeros(options.num_pairs, dtype=torch.float64), 0
    for number, (chosen, other) in enumerate((operators, operators[::-1])):
        stage = f"half_{number}"
        pairs = lanczos.eigenpairs(chosen, options, journal.load(stage), journal.saver(stage))
        vectors = pairs.eigenvector
        total += ((vectors * (other @ vectors)).double().sum(0) / vectors.double().square().sum(0)).cpu()
        spent += pairs.num_products + options.num_pairs
    return (total / 2).numpy(), -(-spent // 2)
