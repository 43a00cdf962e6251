"""The loss on a line or a plane through a point: pictures, with coordinates that mean something.

Directions are random and filter-normalised, eigenvectors, or spanned by three checkpoints. A picture shows two of n
dimensions: it can show a barrier or a valley along given directions, and nothing about all the others.

References
----------
Li, Xu, Taylor, Studer, Goldstein 2018, Visualizing the loss landscape of neural nets, arXiv:1712.09913.
Garipov, Izmailov, Podoprikhin, Vetrov, Wilson 2018, Loss surfaces, mode connectivity, arXiv:1802.10026 (three points).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError
from landscape.problem import Problem

Direction = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Plane:
    """The affine plane origin + x first + y second.

    Parameters
    ----------
    markers
        Coordinates ``(m, 2)`` of points that are shown in it.
    off_plane
        Distances ``(m,)`` of these points from the plane.
    """

    first: Direction
    second: Direction
    markers: np.ndarray
    off_plane: np.ndarray


def filter_normalised(problem: Problem, seed: int, *key: int | str) -> Direction:
    """Draw a random direction on the active coordinates with the norms of the network's filters.

    Every row of a weight (a filter, the weights into a neuron) is scaled to the norm of the network's row; biases and
    normalisation, which have one axis, do not move.
    """
    stream = seeds.generator(seed, "surface", *key)
    noise = problem.unflatten(torch.randn(problem.num_params, generator=stream, dtype=torch.float64).to(problem.theta))
    direction: Direction = {}
    for name, values in noise.items():
        weight = problem.parameters[name]
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(values)
            continue
        rows, own = values.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)
        scale = torch.where(rows > 0, own / rows.clamp_min(torch.finfo(rows.dtype).tiny), torch.zeros_like(rows))
        direction[name] = values * scale.view(-1, *[1] * (values.ndim - 1))
    return direction


def along(problem: Problem, v: Tensor) -> Direction:
    """Return a vector ``(n,)`` on the active coordinates, such as an eigenvector, as a direction."""
    if v.shape != (problem.num_params,):
        raise InputError(f"a direction of shape {tuple(v.shape)} does not fit {problem.num_params} active parameters")
    return problem.unflatten(v.to(problem.theta))


def through(points: Sequence[Problem]) -> Plane:
    """Return the plane through three points: origin the first, x-axis towards the second, axes of unit length."""
    if len(points) != 3:
        raise InputError(f"a plane goes through three points, not {len(points)}")
    tensors = [p.tensors() for p in points]
    names = list(tensors[0])
    flat = [torch.cat([t[n].double().reshape(-1) for n in names]) for t in tensors]
    first, second = flat[1] - flat[0], flat[2] - flat[0]
    length = float(first.norm())
    if not length:
        raise InputError("the first two points are the same, so they span no plane")
    first = first / length
    slope = float(second @ first)
    second = second - slope * first
    height = float(second.norm())
    if height < 1e-9 * length:
        raise InputError("the three points lie on a line, so they span no plane")
    axes = [_split(axis, tensors[0]) for axis in (first, second / height)]
    markers = np.array([[0.0, 0.0], [length, 0.0], [slope, height]])
    return Plane(axes[0], axes[1], markers, np.zeros(3))


def _split(flat: Tensor, like: Direction) -> Direction:
    parts = flat.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape).to(t) for (name, t), part in zip(like.items(), parts, strict=True)}


def _at(origin: Problem, steps: Sequence[tuple[float, Direction]]) -> Problem:
    tensors = origin.tensors()
    for length, direction in steps:
        tensors |= {name: tensors[name] + length * d for name, d in direction.items()}
    return origin.with_tensors(tensors)


def line(problem: Problem, direction: Direction, x: np.ndarray) -> xr.Dataset:
    """Evaluate the loss at origin + x d.

    Returns
    -------
    ``line_loss (x)`` and, with classes, ``line_accuracy (x)``. Cost: one forward pass a point. BatchNorm: the
    statistics of the problem's policy, measured anew at every point under ``recalibrate``.
    """
    points = [_at(problem, [(float(a), direction)]) for a in x]
    return _dataset(np.array([[p.loss(), _accuracy(p)] for p in points]), {"x": x})


def plane(problem: Problem, span: Plane, x: np.ndarray, y: np.ndarray) -> xr.Dataset:
    """Evaluate the loss at origin + x first + y second.

    Returns
    -------
    ``surface_loss (x, y)``, ``surface_accuracy (x, y)``, and over ``marker`` the coordinates ``marker_x``, ``marker_y``
    and the distance from the plane ``off_plane``. Cost: len(x) len(y) forward passes.
    """
    values = []
    for a in x:
        row = [_at(problem, [(float(a), span.first), (float(b), span.second)]) for b in y]
        values.append([[p.loss(), _accuracy(p)] for p in row])
    result = _dataset(np.array(values), {"x": x, "y": y})
    if len(span.markers):
        result["marker_x"] = ("marker", span.markers[:, 0])
        result["marker_y"] = ("marker", span.markers[:, 1])
        result["off_plane"] = ("marker", span.off_plane)
    return result


def _accuracy(problem: Problem) -> float:
    accuracy = problem.accuracy()
    return float("nan") if accuracy is None else accuracy


def _dataset(values: np.ndarray, axes: dict[str, np.ndarray]) -> xr.Dataset:
    kind = "line" if len(axes) == 1 else "surface"
    data = {f"{kind}_loss": (tuple(axes), values[..., 0])}
    if np.isfinite(values[..., 1]).any():
        data[f"{kind}_accuracy"] = (tuple(axes), values[..., 1])
    return xr.Dataset(data, {name: np.asarray(axis, dtype=float) for name, axis in axes.items()})
