"""What pruning takes and training gives back: small weights, and what it costs to remove weights.

Renewal. A level's mask was created by a threshold tau: the surviving weights of the previous minimum all lie above it,
so at `projected` the fraction below tau is exactly 0. Does training fill the region below tau again, and does it do so
beyond what the rewind point already has there?

Steps. At a minimum, removing weights is a step v = -w on the removed coordinates. Small weights are compared with as
many random and largest ones of every layer, and with random directions of the same length: length, loss increase, its
quadratic prediction g'v + v'Hv / 2, and curvature v'Hv / |v|^2.

References
----------
Paul, Chen, Larsen, Frankle, Ganguli, Dziugaite 2023, Unmasking the lottery ticket hypothesis, arXiv:2210.03044
(retraining makes new small weights).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import seeds
from landscape.alignment import Frame, share
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.pruning import criteria

# Edges of the magnitude classes, in units of the threshold.
EDGES = (0.0, 0.5, 1.0, 2.0, 4.0, float("inf"))


def thresholds(
    previous: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the magnitude below which a weight of each tensor went when ``before`` became ``after``.

    It is one number for all tensors if that explains the step (global scope), else one for every tensor.
    """
    scores = criteria.magnitude(previous, after)
    everywhere = criteria.threshold(scores, before, after)
    survivors = torch.cat([scores[name][after[name]] for name in after])
    if not len(survivors) or float(survivors.min()) >= everywhere:
        return dict.fromkeys(after, everywhere)
    return {n: criteria.threshold({n: scores[n]}, {n: before[n]}, {n: after[n]}) for n in after}


def relative_magnitudes(
    tensors: Mapping[str, Tensor], mask: Mapping[str, Tensor], tau: Mapping[str, float]
) -> np.ndarray:
    """Return |w| / tau of the weights that ``mask`` keeps, ``(num_kept,)``."""
    return np.concatenate([(tensors[n][m].detach().double().abs() / tau[n]).cpu().numpy() for n, m in mask.items()])


def renewal(
    points: Mapping[str, Mapping[str, Tensor]],
    mask: Mapping[str, Tensor],
    tau: Mapping[str, float],
    next_masks: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> xr.Dataset:
    """Measure the refilling of the region below the threshold that created a mask.

    Parameters
    ----------
    points
        Name -> tensors: ``projected``, ``rewind``, ``minimum`` and others that live on ``mask``.
    next_masks
        Name of a point -> the mask that the next pruning step makes of it.

    Returns
    -------
    ``fraction_below (at)``; ``flow (at, from_class, to_class)``: fraction of the surviving weights that went from one
    class of |w| / tau at `projected` to another at the point; ``mask_overlap (at)``: of the weights that the next step
    would remove at ``minimum``, the fraction it would also remove at the point.
    """
    ratios = {name: relative_magnitudes(tensors, mask, tau) for name, tensors in points.items()}
    edges = np.array(EDGES)
    classes = {name: np.digitize(r, edges[1:-1]) for name, r in ratios.items()}
    size = len(edges) - 1
    flows = []
    for name in points:
        pairs = classes["projected"] * size + classes[name]
        flows.append(np.bincount(pairs, minlength=size * size).reshape(size, size) / len(pairs))
    data = {
        "fraction_below": (("at",), np.array([(r < 1.0).mean() for r in ratios.values()])),
        "flow": (("at", "from_class", "to_class"), np.array(flows)),
    }
    if next_masks:
        gone = {n: torch.cat([(mask[k] & ~m[k]).reshape(-1) for k in mask]) for n, m in next_masks.items()}
        reference = gone["minimum"]
        shared = [float((gone[n] & reference).sum() / reference.sum()) if n in gone else np.nan for n in points]
        data["mask_overlap"] = (("at",), np.array(shared))
    lower = edges[:-1]
    return xr.Dataset(data, {"at": list(points), "from_class": lower, "to_class": lower})


def removals(
    problem: Problem, mask: Mapping[str, Tensor], after: Mapping[str, Tensor], seed: int, num_random: int = 5
) -> dict[str, Tensor]:
    """Return the steps v ``(n,)`` of removing weights, with the layer counts of ``after``, and random directions.

    ``smallest``, ``random_i`` and ``largest`` set weights to zero; ``direction_i`` are random directions as long as
    ``smallest``.
    """
    tensors = {name: problem.parameters[name] for name in mask}
    scores = criteria.magnitude(tensors, mask)
    chosen = {"smallest": scores}
    chosen |= {f"random_{i}": criteria.uniform(mask, seed, "removal", i) for i in range(num_random)}
    chosen["largest"] = {name: -score for name, score in scores.items()}
    steps: dict[str, Tensor] = {}
    zeros = {name: torch.zeros_like(p) for name, p in problem.parameters.items()}
    for name, score in chosen.items():
        target = criteria.to_counts(score, mask, after)
        removed = {n: torch.where((mask[n] & ~target[n]).to(p.device), -p, zeros[n]) for n, p in tensors.items()}
        steps[name] = problem.flatten({**zeros, **removed})
    length = steps["smallest"].norm()
    for i in range(num_random):
        stream = seeds.generator(seed, "direction", i)
        noise = torch.randn(problem.num_params, generator=stream, dtype=torch.float64).to(problem.theta)
        steps[f"direction_{i}"] = noise * (length / noise.norm())
    return steps


def pruning_steps(
    problem: Problem, curvature: LinearOperator, steps: Mapping[str, Tensor], frame: Frame | None = None
) -> xr.Dataset:
    """Measure what steps from a minimum cost.

    Parameters
    ----------
    curvature
        The Hessian at the point, ``(n, n)``.
    steps
        Name -> step ``(n,)``.
    frame
        Top eigenvectors at the point, whose span's share of every step is stored.

    Returns
    -------
    Over ``removal``: ``step_length``, ``loss_increase``, ``quadratic_increase`` = g'v + v'Hv / 2, ``step_curvature`` =
    v'Hv / |v|^2, ``step_share``. Cost: one product, and a forward pass, a step.
    """
    base, gradient = problem.loss(), problem.gradient().double()
    block = torch.stack([v.to(problem.theta) for v in steps.values()], 1)
    products = torch.cat([curvature @ column for column in block.split(4, 1)], 1).double()
    block = block.double()
    squares, quadratic = block.square().sum(0), (block * products).sum(0)
    data = {
        "step_length": squares.sqrt(),
        "loss_increase": torch.tensor(
            [problem.loss(problem.theta + v.to(problem.theta)) - base for v in steps.values()], dtype=torch.float64
        ),
        "quadratic_increase": gradient @ block + quadratic / 2,
        "step_curvature": quadratic / squares,
    }
    arrays = {name: (("removal",), values.double().cpu().numpy()) for name, values in data.items()}
    if frame is not None:
        arrays["step_share"] = (("removal",), np.array([share(frame.vectors, v.cpu().numpy()) for v in block.T]))
    return xr.Dataset(arrays, {"removal": list(steps)})
