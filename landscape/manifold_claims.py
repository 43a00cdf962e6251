"""Conditions of inertial-manifold theory on measured networks: a verdict with its margin for every result.

===================  ===================================================================================================
claim                statement (statistic; it passes above its threshold)
===================  ===================================================================================================
``gap_2l``           some known gap exceeds 2 l and its upper end exceeds l, within the farthest state (ratio; 1)
``cone_gap``         some number of fast directions has a positive cone gap and attraction at all samples (margin; 0)
``attraction``       at that number the fast directions attract at all samples (rate over largest eigenvalue; 0)
``coverage_gap``     the radius of the rule ``gap_2l`` reaches the farthest state (coverage; 1)
``coverage_cone``    the radius of the rule ``cone_gap`` reaches the farthest state (coverage; 1)
``stationarity``     the gradient at the base point asks for a fast step inside the region (radius over step; 1)
``steady_graph``     late states lie on a graph of slope below 1, unlike shuffled ones (1 / slope; 1)
``slaving``          an approximate manifold predicts the fast coordinates, defect below 0.5 (1 - defect; 0.5)
===================  ===================================================================================================

A sampled Lipschitz constant is a lower bound and a sampled cone gap an upper bound: a violation is definite, and
``holds`` needs an adversarial region in which two independent halves of the searches agree on l to 5 %. Failing a
sufficient condition is not the absence of a manifold; thresholds of ``slaving`` and ``steady_graph`` are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import xarray as xr

from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED, Verdict

LABELS = ("method", "level", "replicate", "point", "control", "curvature")
GROWTH = 0.05
DEFECT = 0.5
P_VALUE = 0.05
ROUNDING = 1e-5


def evaluate(result: xr.Dataset) -> xr.Dataset:
    """Return the verdicts of a ``dimension`` Dataset, or of a study of them.

    Parameters
    ----------
    result
        One result, or several along any of the dims ``method``, ``level``, ``replicate``, ``point``, ...; cells that
        were not measured are NaN.

    Returns
    -------
    xarray.Dataset
        ``statistic``, ``effect`` (its distance from the threshold, relative where the threshold is 1), ``noise`` (error
        of the computed numbers, none of the sampling), ``margin``, ``verdict`` and ``reason`` over ``claim`` and these
        dims.
    """
    dims = [name for name in LABELS if name in result.dims]
    shape = [result.sizes[name] for name in dims]
    names = [name for name, _ in CLAIMS]
    numbers, words = ("statistic", "effect", "noise", "margin"), ("verdict", "reason")
    table: dict[str, np.ndarray] = {name: np.full((len(names), *shape), np.nan) for name in numbers}
    table |= {name: np.full((len(names), *shape), "", dtype=object) for name in words}
    for place in itertools.product(*map(range, shape)):
        cell = _own_shells(result.isel(dict(zip(dims, place, strict=True))))
        for number, (_, judge) in enumerate(CLAIMS):
            statistic, verdict = judge(cell) if _measured(cell) else _absent()
            table["statistic"][(number, *place)] = statistic
            for name in ("effect", "noise", "margin", "verdict", "reason"):
                table[name][(number, *place)] = getattr(verdict, name)
    coords = {name: result[name].values for name in dims if name in result.coords}
    return xr.Dataset({name: (("claim", *dims), values) for name, values in table.items()}, {"claim": names, **coords})


def _own_shells(cell: xr.Dataset) -> xr.Dataset:
    """Return a cell without the radii that only other results of the study have."""
    if "rho" not in cell:
        return cell
    own = np.flatnonzero(np.isfinite(cell["rho"].values))
    return cell.isel(shell=slice(0, int(own[-1]) + 1)) if len(own) else cell


def _measured(cell: xr.Dataset) -> bool:
    return "lipschitz" in cell and bool(np.isfinite(cell["lipschitz"].values[-1]))


def _absent() -> tuple[float, Verdict]:
    return np.nan, Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, "not measured")


def _judge(statistic: float, threshold: float, noise: float, obstacle: str) -> tuple[float, Verdict]:
    """Return the verdict of a condition: definite below its threshold, above it only if nothing stands in the way.

    Parameters
    ----------
    noise
        Error of the computed numbers, in units of the statistic.
    obstacle
        Why passing proves nothing; empty if it does.
    """
    if not np.isfinite(statistic) and not np.isposinf(statistic):
        return _absent()
    effect = statistic - threshold
    margin = effect / noise if noise > 0 else float(np.sign(effect) * np.inf if effect else 0.0)
    if effect < -noise:
        return statistic, Verdict(effect, noise, margin, FAILS)
    if effect <= noise:
        return statistic, Verdict(effect, noise, margin, NOT_RESOLVED, "within the error of the computed numbers")
    return statistic, Verdict(effect, noise, margin, NOT_RESOLVED if obstacle else HOLDS, obstacle)


def sampling_obstacle(cell: xr.Dataset) -> str:
    """Return why passing on the samples does not let a condition hold on the region; empty if it does."""
    if "distance" in cell and float(cell["distance"].max()) > float(cell["rho"].values[-1]) * (1 + ROUNDING):
        return "the sampled region does not reach the farthest state"
    if "region" not in cell or str(cell["region"].values) != "adversarial":
        return "sampled without adversarial search"
    whole, half = float(cell["lipschitz"].values[-1]), float(cell["lipschitz_half"].values[-1])
    if not whole <= (1 + GROWTH) * half:
        return f"two halves of the searches differ in l by more than {GROWTH:.0%}"
    return ""


def _gap_2l(cell: xr.Dataset) -> tuple[float, Verdict]:
    """Compare the best known gap with what the rule asks within the farthest state."""
    if "gap_2l" not in cell["rule"].values:
        return _absent()
    found = cell.sel(rule="gap_2l").isel(shell=-1)
    low, high = float(found["gap_ratio_lo"]), float(found["gap_ratio_hi"])
    if np.isposinf(low):
        return _judge(np.inf, 1.0, 0.0, sampling_obstacle(cell))
    statistic, verdict = _judge((low + high) / 2, 1.0, (high - low) / 2, sampling_obstacle(cell))
    if verdict.verdict == FAILS and np.isfinite(float(found["unknown_high"])):
        ends = f"({float(found['unknown_low']):.3g}, {float(found['unknown_high']):.3g})"
        reason = f"an admissible gap could hide among the unknown eigenvalues in {ends}"
        verdict = Verdict(verdict.effect, verdict.noise, verdict.margin, NOT_RESOLVED, reason)
    return statistic, verdict


def _best_fast(cell: xr.Dataset) -> int | None:
    """Return the position of the number of fast directions with the best worst margin, or None."""
    if "cone_gap" not in cell:
        return None
    worst = np.minimum(cell["cone_gap"].values, cell["cone_attraction"].values)
    return int(np.nanargmax(worst)) if np.isfinite(worst).any() else None


def _cone_gap(cell: xr.Dataset) -> tuple[float, Verdict]:
    """Compare the best number's smaller side with zero, in units of the largest eigenvalue."""
    best = _best_fast(cell)
    if best is None:
        return _absent()
    scale = float(np.nanmax(np.abs(cell["eigenvalue"].values)))
    worst = float(min(cell["cone_gap"].values[best], cell["cone_attraction"].values[best])) / scale
    noise = float(cell["cone_residual"].values[best]) / scale
    # the ceiling is approached from below: only a positive gap can be wrong by the residual
    return _judge(worst, 0.0, noise if worst > 0 else 0.0, sampling_obstacle(cell))


def _attraction(cell: xr.Dataset) -> tuple[float, Verdict]:
    best = _best_fast(cell)
    if best is None:
        return _absent()
    scale = float(np.nanmax(np.abs(cell["eigenvalue"].values)))
    return _judge(float(cell["cone_attraction"].values[best]) / scale, 0.0, 0.0, sampling_obstacle(cell))


def _coverage(rule: str) -> Callable[[xr.Dataset], tuple[float, Verdict]]:
    """Return the judge of a rule's coverage of the farthest state."""

    def judge(cell: xr.Dataset) -> tuple[float, Verdict]:
        if "coverage" not in cell or rule not in cell["rule"].values:
            return _absent()
        found = cell.sel(rule=rule)
        known = found["coverage"].values[np.isfinite(cell["distance"].values)]
        if np.isnan(known).any():
            return np.nan, Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, "some states lie outside the sampled region")
        least = float(known.min(initial=np.inf))
        statistic, verdict = _judge(least, 1.0, 0.0, sampling_obstacle(cell))
        if verdict.verdict == FAILS:
            entry = float(found["entry_step"])
            when = "it never enters" if np.isnan(entry) else f"it enters at step {entry:.0f}"
            verdict = Verdict(verdict.effect, verdict.noise, verdict.margin, FAILS, when)
        return statistic, verdict

    return judge


def _stationarity(cell: xr.Dataset) -> tuple[float, Verdict]:
    """Compare the region's radius with the fast step that the gradient asks for."""
    step = cell["newton_displacement"].values
    step = step[np.isfinite(step)]
    if not len(step):
        return _absent()
    radius = float(cell["rho"].values[-1])
    return _judge(radius / step[-1] if step[-1] > 0 else np.inf, 1.0, 0.0, "")


def _steady_graph(cell: xr.Dataset) -> tuple[float, Verdict]:
    if "steady_slope" not in cell or not np.isfinite(cell["steady_slope"].values).any():
        return _absent()
    known = np.flatnonzero(np.isfinite(cell["steady_slope"].values))
    best = int(known[-1])  # all fast directions together: no choice among them that would need a correction
    p_value = float(cell["steady_p_value"].values[best])
    obstacle = "" if p_value <= P_VALUE else f"shuffled states have as small a slope (p = {p_value:.2g})"
    slope = float(cell["steady_slope"].values[best])
    return _judge(1 / slope if slope > 0 else np.inf, 1.0, 0.0, obstacle)


def _slaving(cell: xr.Dataset) -> tuple[float, Verdict]:
    if "aim_defect" not in cell or not np.isfinite(cell["aim_defect"].values).any():
        return _absent()
    return _judge(1 - float(np.nanmin(cell["aim_defect"].values)), 1 - DEFECT, 0.0, "")


CLAIMS: tuple[tuple[str, Callable[[xr.Dataset], tuple[float, Verdict]]], ...] = (
    ("gap_2l", _gap_2l),
    ("cone_gap", _cone_gap),
    ("attraction", _attraction),
    ("coverage_gap", _coverage("gap_2l")),
    ("coverage_cone", _coverage("cone_gap")),
    ("stationarity", _stationarity),
    ("steady_graph", _steady_graph),
    ("slaving", _slaving),
)
