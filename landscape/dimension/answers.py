"""The answers of all rules over radii, the radius up to which each has one, and how much of the run that covers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.dimension.base import Base
from landscape.dimension.lipschitz import ROUNDING, Extremes, LipschitzSamples
from landscape.dimension.plateau import slq_plateau
from landscape.dimension.rates import Array, Rates
from landscape.dimension.rules import (
    FOUND,
    HEURISTIC_RULES,
    LIPSCHITZ_RULES,
    NONE,
    NOT_RESOLVED,
    GapResult,
    gap_dimension,
    gap_ratio,
    heuristic_dimension,
)
from landscape.dimension.sampling import Region

POINTWISE, SEGMENT = "cone_gap", "cone_gap_segment"


@dataclass(frozen=True)
class ConeSamples:
    """Cone margins at sampled points, or over sampled segments.

    Attributes
    ----------
    radius
        Distance of the point, or of the farther end, from the base point, ``(s,)``.
    attraction, ceiling, residual
        As in :class:`landscape.dimension.cone.Margins`, ``(s, K)``.
    num_products
        Cost.
    """

    radius: Array
    attraction: Array
    ceiling: Array
    residual: Array
    num_products: int

    def within(self, radius: float) -> tuple[Array, Array]:
        """Return the smallest cone gap and attraction within a radius, ``(K,)`` each; NaN without a sample."""
        inside = self.radius <= radius * (1 + ROUNDING)
        if not inside.any():
            empty = np.full(self.attraction.shape[1], np.nan)
            return empty, empty
        return (self.attraction - self.ceiling)[inside].min(axis=0), self.attraction[inside].min(axis=0)


@dataclass(frozen=True)
class Evidence:
    """All that the rules answer from.

    Attributes
    ----------
    base
        The curvature at the base point.
    known
        The rates of the modes under the dynamics.
    samples
        Hessian differences of the region.
    points, segments
        Cone samples, or None where they were not taken.
    retain
        Side that is kept.
    """

    base: Base
    known: Rates
    samples: LipschitzSamples
    points: ConeSamples | None
    segments: ConeSamples | None
    retain: str = "slow"

    @property
    def size(self) -> int:
        """The number of modes."""
        return self.known.size


def answer(rule: str, radius: float, evidence: Evidence) -> GapResult:
    """Return the answer of a rule for the region within a radius."""
    constants = evidence.samples.constants(np.array([radius]))
    lipschitz, oscillation = float(constants[0][0]), float(constants[1][0])
    if rule in (POINTWISE, SEGMENT):
        samples = evidence.points if rule == POINTWISE else evidence.segments
        return GapResult(NOT_RESOLVED) if samples is None else cone_answer(*samples.within(radius), evidence)
    if rule == "slq_plateau":
        density = evidence.base.density
        assert density is not None
        count = round(density.size * (1 - slq_plateau(density.value, density.weight)))
        return GapResult(FOUND, count, count, _retained(count, evidence))
    if np.isnan(lipschitz):
        return GapResult(NOT_RESOLVED)
    if rule in LIPSCHITZ_RULES:
        return gap_dimension(evidence.known, lipschitz, rule, oscillation, evidence.retain)
    assert rule in HEURISTIC_RULES
    return heuristic_dimension(evidence.known, rule, lipschitz * evidence.known.factor)


def cone_answer(gap: Array, attraction: Array, evidence: Evidence) -> GapResult:
    """Return the smallest tested N with positive cone gap and attraction.

    With ``retain="stiff"``: the largest. If the largest k that was tested passes, a larger one might too, and the
    answer is not resolved.
    """
    if np.isnan(gap).any():
        return GapResult(NOT_RESOLVED)
    good = np.flatnonzero((gap > 0) & (attraction > 0)) + 1
    if not len(good):
        return GapResult(NONE)
    fast = int(good[-1] if evidence.retain == "slow" else good[0])
    count = evidence.size - fast
    open_end = evidence.retain == "slow" and fast == len(gap) < evidence.size - 1
    if open_end:
        return GapResult(NOT_RESOLVED, dimension_upper=count, gap=float(gap[fast - 1]))
    return GapResult(FOUND, count, count, _retained(count, evidence), float(gap[fast - 1]))


def _retained(count: int, evidence: Evidence) -> int:
    return count if evidence.retain == "slow" else evidence.size - count


def fails(rule: str, found: Extremes, evidence: Evidence) -> bool:
    """Return whether a single Hessian difference leaves a Lipschitz rule without a known admissible gap."""
    oscillation = (max(found.high, 0.0) - min(found.low, 0.0)) / 2
    return gap_dimension(evidence.known, found.norm, rule, oscillation).dimension_upper is None


def first_failure(rule: str, evidence: Evidence) -> float:
    """Return the smallest sampled radius within which a rule has no known N; infinity if it has one everywhere.

    Notes
    -----
    Known means among the computed eigenvalues: a gap that hides in the unresolved bulk does not count.
    """
    samples: LipschitzSamples | ConeSamples | None = evidence.samples
    if rule in (POINTWISE, SEGMENT):
        samples = evidence.points if rule == POINTWISE else evidence.segments
    if samples is None:
        return float("inf")
    for radius in np.unique(samples.radius):
        if answer(rule, float(radius), evidence).dimension_upper is None:
            return float(radius)
    return float("inf")


def tabulate(rules: tuple[str, ...], radii: Array, evidence: Evidence) -> xr.Dataset:
    """Return the answers over ``rule`` and ``shell``; a number that does not exist is NaN, and ``status`` says why."""
    grid = [[answer(rule, float(radius), evidence) for radius in radii] for rule in rules]

    def column(get: Callable[[GapResult], float | int | None]) -> tuple[tuple[str, str], Array]:
        values = [[np.nan if get(found) is None else get(found) for found in row] for row in grid]
        return ("rule", "shell"), np.array(values, dtype=float)

    ratios = [[_ratio(rule, float(radius), evidence) for radius in radii] for rule in rules]

    def rest(count: int | None) -> int | None:
        return None if count is None else evidence.size - count

    return xr.Dataset(
        {
            "status": (("rule", "shell"), np.array([[found.status for found in row] for row in grid], dtype=object)),
            "dimension": column(lambda found: found.dimension),
            "dimension_upper": column(lambda found: found.dimension_upper),
            "num_retained": column(lambda found: found.num_retained),
            "num_fast": column(lambda found: rest(found.dimension)),
            "gap_index": column(lambda found: rest(found.dimension_upper)),
            "gap_width": column(lambda found: found.gap),
            "gap_ratio": (("rule", "shell"), np.array(ratios).mean(axis=2)),
            "gap_ratio_lo": (("rule", "shell"), np.array(ratios)[:, :, 0]),
            "gap_ratio_hi": (("rule", "shell"), np.array(ratios)[:, :, 1]),
            "unknown_low": column(lambda found: None if found.interval is None else found.interval[0]),
            "unknown_high": column(lambda found: None if found.interval is None else found.interval[1]),
        },
        {"rule": np.array(rules, dtype=object), "shell": np.arange(len(radii))},
    )


def _ratio(rule: str, radius: float, evidence: Evidence) -> tuple[float, float]:
    """Return the bounds of :func:`landscape.dimension.rules.gap_ratio`; NaN for other rules and without samples."""
    lipschitz, oscillation, number = evidence.samples.constants(np.array([radius]))
    if rule not in LIPSCHITZ_RULES or not number[0]:
        return np.nan, np.nan
    return gap_ratio(evidence.known, float(lipschitz[0]), rule, float(oscillation[0]))


def covered(radius_upper: dict[str, float], region: Region, step: NDArray[np.int64]) -> xr.Dataset:
    """Return coverage(t) = radius_upper / |W_t - W*| and the step from which it stays at least 1.

    Parameters
    ----------
    radius_upper
        By rule; infinity where no violation was found in the region.
    step
        Of the states of the trajectory, ``(T,)``; none of them is the base point.

    Notes
    -----
    Without a violation nothing is known of states outside the sampled region: their coverage is NaN, and counts as
    outside.
    """
    bound, distance = np.array(list(radius_upper.values())), region.distance
    coverage = bound[:, None] / distance[None]
    coverage[np.isinf(bound)[:, None] & (distance > region.radii[-1] * (1 + ROUNDING))] = np.nan
    entry = []
    for row in coverage:
        outside = np.flatnonzero(~(row >= 1))
        first = int(outside[-1]) + 1 if len(outside) else 0
        entry.append(float(step[first]) if first < len(step) else np.nan)
    return xr.Dataset(
        {
            "distance": ("step", distance),
            "coverage": (("rule", "step"), coverage),
            "entry_step": ("rule", np.array(entry)),
        },
        {"rule": np.array(list(radius_upper), dtype=object), "step": np.asarray(step, dtype=np.int64)},
    )
