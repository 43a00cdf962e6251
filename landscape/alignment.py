"""How the top curvature directions of two points lie to each other, and to a third direction.

Eigenvectors live on the active coordinates of their own mask. They are embedded in the coordinates of the whole
network, restricted to the later mask and made orthonormal again; a vector that loses more than 90 % of its squared norm
there says nothing about a direction and is left out. Two bases of k vectors are compared by their overlap
tr(P1 P2) / k in [0, 1] and by the cosines of their principal angles. Single eigenvectors are not compared: within a
near-degenerate group they are arbitrary, so overlaps mean something only at cuts k whose gap is resolved at both
points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from landscape.errors import InputError

LEAST_MASS = 0.1


@dataclass(frozen=True, eq=False)
class Frame:
    """Top eigenvectors of one point.

    Parameters
    ----------
    vectors
        Orthonormal columns ``(n, k)`` on the active coordinates, largest eigenvalue first.
    places
        Sorted positions ``(n,)`` of the active coordinates among all D.
    resolved
        ``(k,)``: whether the gap below eigenvalue i is resolved.
    """

    vectors: np.ndarray
    places: np.ndarray
    resolved: np.ndarray

    def __post_init__(self) -> None:
        if len(self.places) != len(self.vectors) or len(self.resolved) != self.vectors.shape[1]:
            raise InputError("eigenvectors, coordinates and resolved gaps do not fit each other")


def restrict(frame: Frame, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Restrict the eigenvectors to other coordinates.

    Returns
    -------
    The vectors ``(len(places), k)``, zero where the frame has no coordinate, not orthonormal; and the squared norm
    that every one retained, ``(k,)``.
    """
    at = np.searchsorted(frame.places, places)
    at[at == len(frame.places)] = 0
    present = frame.places[at] == places
    vectors = np.where(present[:, None], frame.vectors[at], 0.0)
    return vectors, np.square(vectors).sum(0)


def orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the same span (full column rank is meant)."""
    return np.linalg.qr(vectors)[0]


def principal_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosines of the principal angles of two orthonormal bases, largest first."""
    return np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return tr(P1 P2) / k of two orthonormal bases: 1 if the smaller span lies in the other; k / n by chance."""
    return float(np.square(first.T @ second).sum() / min(first.shape[1], second.shape[1]))


def share(basis: np.ndarray, direction: np.ndarray) -> float:
    """Return the part |P g|^2 / |g|^2 of a direction in the span (NaN for the zero direction)."""
    norm = float(np.square(direction).sum())
    return float(np.square(basis.T @ direction).sum()) / norm if norm else float("nan")


def measure(
    earlier: Frame,
    later: Frame,
    cuts: Sequence[int],
    directions: Mapping[str, np.ndarray] | None = None,
) -> xr.Dataset:
    """Compare the top eigenspaces of two points in the coordinates of the later one.

    Parameters
    ----------
    cuts
        Numbers k of leading vectors that are compared.
    directions
        Name -> vector over all D coordinates of the network, such as the gradient or the pruning step, whose share in
        the earlier eigenspace (in the earlier point's coordinates) is stored.

    Returns
    -------
    ``retained_mass (eigen)``; over ``cut``: ``overlap``, ``left_out`` (vectors below the least mass), ``resolved``
    (at both points), ``chance`` (the expected overlap of a random subspace) and ``share (direction, cut)``;
    ``principal_cosine (cut, angle)``, NaN beyond the vectors that are left.
    """
    size = min(earlier.vectors.shape[1], later.vectors.shape[1])
    cuts = [k for k in cuts if 1 <= k <= size]
    if not cuts:
        raise InputError(f"no cut lies between 1 and {size}, the number of eigenvectors")
    restricted, mass = restrict(earlier, later.places)
    rows: dict[str, list[float]] = {"overlap": [], "chance": []}
    left_out, resolved, cosines = [], [], np.full((len(cuts), max(cuts)), np.nan)
    for row, k in enumerate(cuts):
        usable = np.flatnonzero(mass[:k] >= LEAST_MASS)
        left_out.append(k - len(usable))
        resolved.append(bool(earlier.resolved[k - 1] and later.resolved[k - 1]))
        rows["chance"].append(k / len(later.places))
        if not len(usable):
            rows["overlap"].append(float("nan"))
            continue
        basis = orthonormal(restricted[:, usable])
        rows["overlap"].append(overlap(basis, later.vectors[:, :k]))
        found = principal_cosines(basis, later.vectors[:, :k])
        cosines[row, : len(found)] = found
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "retained_mass": (("eigen",), mass[:size]),
        "left_out": (("cut",), np.array(left_out)),
        "resolved": (("cut",), np.array(resolved)),
        "principal_cosine": (("cut", "angle"), cosines),
        **{name: (("cut",), np.array(values)) for name, values in rows.items()},
    }
    if directions:
        shares = [[share(earlier.vectors[:, :k], d[earlier.places]) for k in cuts] for d in directions.values()]
        data["share"] = (("direction", "cut"), np.array(shares))
    coords = {"eigen": np.arange(1, size + 1), "cut": np.array(cuts), "angle": np.arange(1, max(cuts) + 1)}
    return xr.Dataset(data, {**coords, **({"direction": list(directions)} if directions else {})})
