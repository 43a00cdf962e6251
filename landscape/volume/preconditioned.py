"""Preconditioned sampling with the preconditioner chosen on a pilot and the final number drawn afresh.

Every estimate is a stochastic lower bound (Jensen), so the largest one is the best; choosing it inflates it a little,
which is why its directions are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError
from landscape.volume import preconditioners, star
from landscape.volume.geometry import Geometry
from landscape.volume.preconditioners import Preconditioner
from landscape.volume.sampling import LogVolume, Rays, log_volume, shoot

Evaluate = Callable[[Rays, Preconditioner], LogVolume]
POWERS = (0.25, 0.5)


@dataclass(frozen=True)
class Pilot:
    """One candidate and what it gave on the pilot directions."""

    preconditioner: Preconditioner
    volume: LogVolume
    rays: Rays


def build(geometry: Geometry, name: str) -> Iterator[Preconditioner]:
    """Yield the candidates of a kind, one for each shrinkage (and power, for ``diagonal``).

    Shrinkages are relative to the largest eigenvalue. Where all eigenvalues are known, the spectral kinds are one.
    """
    if name == "identity":
        yield preconditioners.identity()
        return
    if name == "filter":
        yield star.filter_normalised(geometry.problem)
        return
    values, _, vectors = geometry.pairs
    for relative in geometry.options.shrinkage:
        shrinkage = relative * float(values.max())
        if name == "diagonal":
            for power in POWERS:
                scale = preconditioners.inverse_power(geometry.diagonal, shrinkage, power)
                yield preconditioners.diagonal(scale, shrinkage=shrinkage)
        elif name == "low_rank":
            yield preconditioners.low_rank(values, vectors, geometry.bulk, shrinkage)
        elif name == "low_rank_diagonal":
            yield preconditioners.low_rank_diagonal(values, vectors, geometry.bulk_diagonal, shrinkage)
        else:
            degree = geometry.options.degree
            yield preconditioners.polynomial(geometry.operator, geometry.probes, degree, shrinkage, vectors)
    if name == "low_rank" and geometry.is_exact and values.min() > 0:
        yield preconditioners.low_rank(values, vectors, 0.0, 0.0)


def pilots(geometry: Geometry, names: tuple[str, ...]) -> list[Pilot]:
    """Try every candidate on the same few directions.

    Notes
    -----
    Cost: ``pilot`` directions a candidate, each 5 to 8 forward passes and the candidate's products.
    """
    basin, options, seed = geometry.basin, geometry.options, geometry.effort.seed
    found = []
    spectral = {name: "low_rank" for name in ("low_rank", "low_rank_diagonal", "polynomial") if geometry.is_exact}
    for name in dict.fromkeys(spectral.get(name, name) for name in names):
        for candidate in build(geometry, name):
            rays = shoot(basin, candidate, options.pilot, seed, "pilot")
            found.append(Pilot(candidate, log_volume(rays, basin, candidate), rays))
    if not found:
        raise InputError("no preconditioner can be built from these options; give another --shrinkage")
    return found


def best(found: list[Pilot], evaluate: Evaluate) -> Preconditioner:
    """Return the candidate with the largest estimate; infinite ones win over all others."""
    values = [evaluate(pilot.rays, pilot.preconditioner).value for pilot in found]
    return found[int(np.argmax(values))].preconditioner


def draw(geometry: Geometry, preconditioner: Preconditioner) -> Rays:
    """Find the radii along fresh directions, the same for every point that is measured with this seed."""
    return shoot(geometry.basin, preconditioner, geometry.options.directions, geometry.effort.seed)
