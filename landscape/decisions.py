"""The decision rule of a verdict: ``holds``, ``fails`` or ``not resolved``, from replicates.

The effect is the mean paired difference over replicates. Its noise is the larger of two standard errors, combined in
quadrature with the standard error of the estimator: that of the replicates, pooled over the levels of a claim unless
their variances differ grossly, and that of `retrained`, the floor that training twice with another data order gives
(``landscape.noise``).

    order claim    holds if effect > 2 noise, fails if effect < -2 noise
    absence claim  holds if |effect| + 2 noise < delta, fails if |effect| - 2 noise > delta

A claim about every level is a family of tests: Holm's step-down procedure keeps the chance of any wrong word at that of
a single test.

References
----------
Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.stats import norm

from landscape.noise import ALPHA

HOLDS, FAILS, NOT_RESOLVED = "holds", "fails", "not resolved"
Kind = Literal["order", "absence"]

# Below this fraction of pruned weights a condition holds because nothing was pruned.
VACUOUS_PRUNED = 0.05


@dataclass(frozen=True)
class Verdict:
    """What was found, against which noise, and the word.

    Parameters
    ----------
    effect
        Mean paired difference, in the unit of the statistic; the sign in which the claim is stated.
    noise
        Its standard error.
    margin
        By how many ``noise`` the effect passes its threshold (0, or delta for an absence); negative if it does not.
    reason
        Why it is not resolved, or what the word rests on; empty where the numbers say it.
    """

    effect: float
    noise: float
    margin: float
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict, as one row of the table of a theory.

    Parameters
    ----------
    claim
        Its short name.
    statement
        The claim in words.
    source
        Who made it: authors and year.
    statistic
        The measured number that the verdict is about.
    labels
        Where it was judged, any of ``method``, ``level``, ``replicate``, ``point``, ``control``; without ``level`` it
        is about every level.
    """

    claim: str
    statement: str
    source: str
    statistic: float
    verdict: Verdict
    labels: Mapping[str, str | int] = field(default_factory=dict)


def decide(effect: float, noise: float, kind: Kind = "order", delta: float = 0.0, width: float = 2.0) -> Verdict:
    """Return the verdict of one effect.

    Parameters
    ----------
    delta
        The size below which an effect counts as absent (absence claims only).
    width
        Number of standard errors; 2 except under Holm's correction.
    """
    if not np.isfinite(effect):
        return Verdict(effect, noise, float("nan"), NOT_RESOLVED, "not measured")
    if not np.isfinite(noise):
        return Verdict(effect, noise, float("nan"), NOT_RESOLVED, "noise unknown: one replicate and no retrained twin")
    distance = effect if kind == "order" else delta - abs(effect)
    margin = distance / noise if noise > 0 else float(np.sign(distance) * np.inf if distance else 0.0)
    if margin > width:
        return Verdict(effect, noise, margin, HOLDS)
    if margin < -width:
        return Verdict(effect, noise, margin, FAILS)
    return Verdict(effect, noise, margin, NOT_RESOLVED, "effect within its noise")


def holm_widths(margins: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Return the number of standard errors that each of several one-sided tests must pass under Holm's procedure.

    The smallest p-value is held against alpha / m, the next against alpha / (m - 1), and so on; once one fails, all
    larger ones fail (their width is infinite).
    """
    order = sorted(range(len(margins)), key=lambda i: -margins[i])
    widths, stopped = [float("inf")] * len(margins), False
    for rank, position in enumerate(order):
        width = float(norm.isf(alpha / (len(margins) - rank)))
        stopped = stopped or not margins[position] > width
        widths[position] = float("inf") if stopped else width
    return widths


def decide_every(
    effects: Sequence[float],
    noises: Sequence[float],
    kind: Kind = "order",
    delta: float = 0.0,
    levels: Sequence[int] = (),
) -> Verdict:
    """Return the verdict of a claim about every level.

    It holds if it holds at every level, and fails if it fails at any, each after Holm's correction over the levels. The
    effect, noise and margin are those of the level that decides: the one with the smallest margin. Where the noise of
    some of the ``levels`` keeps it open, the reason names them.
    """
    single = [decide(e, n, kind, delta) for e, n in zip(effects, noises, strict=True)]
    if not single:
        return Verdict(float("nan"), float("nan"), float("nan"), NOT_RESOLVED, "not measured")
    margins = [v.margin for v in single]
    unknown = [v for v in single if np.isnan(v.margin)]
    known = [m for m in margins if not np.isnan(m)]
    if not known:
        return unknown[0]
    weakest = single[margins.index(min(known))]
    if any(np.isfinite(w) for w in holm_widths([-m for m in known])):
        return Verdict(weakest.effect, weakest.noise, weakest.margin, FAILS)
    if unknown:
        where = [level for level, v in zip(levels, single, strict=False) if np.isnan(v.margin)]
        return replace(unknown[0], reason=f"{unknown[0].reason} ({_named(where)})") if where else unknown[0]
    if all(np.isfinite(w) for w in holm_widths(known)):
        return Verdict(weakest.effect, weakest.noise, weakest.margin, HOLDS)
    return Verdict(weakest.effect, weakest.noise, weakest.margin, NOT_RESOLVED, "some level within its noise")


def over_levels(verdict: Verdict, levels: Sequence[int], known: Sequence[int] = (), noun: str = "level") -> Verdict:
    """Return a verdict over every level with the levels that it is about as its reason, where it has none.

    Parameters
    ----------
    levels
        The levels that were judged.
    known
        Those at which the claim was measured otherwise (raw): the word is about fewer where some are missing.
    """
    if verdict.reason or not len(levels):
        return verdict
    reason = _named(levels, noun)
    if set(known) - set(levels):
        reason = f"only {reason} of {_listed(sorted({*known, *levels}))}"
    return replace(verdict, reason=reason)


def _named(levels: Sequence[int], noun: str = "level") -> str:
    return f"{noun}{'s' if len(levels) > 1 else ''} {_listed(levels)}"


def _listed(levels: Sequence[int]) -> str:
    """Return levels as text, four and more in a row as ``first-last``."""
    runs: list[list[int]] = []
    for level in levels:
        if runs and level == runs[-1][-1] + 1:
            runs[-1].append(level)
        else:
            runs.append([level])
    parts = [[f"{run[0]}-{run[-1]}"] if len(run) > 3 else list(map(str, run)) for run in runs]
    return ", ".join(part for run in parts for part in run)


def unresolved(verdict: Verdict, reason: str) -> Verdict:
    """Return the verdict as ``not resolved`` for a reason that no number overrules."""
    return Verdict(verdict.effect, verdict.noise, verdict.margin, NOT_RESOLVED, reason)


def decide_condition(values: Sequence[float], threshold: float, kept: Sequence[float]) -> Verdict:
    """Return the verdict of a condition ``value > threshold`` over the levels, safe against two empty successes.

    Parameters
    ----------
    values, kept
        The condition's statistic and the fraction of weights kept, one entry a level.

    Notes
    -----
    Where every level agrees on the word and the statistic does not vary, the levels say nothing about pruning (``no
    contrast``); where less than 5 % was pruned anywhere, nothing was tested (``vacuous``).
    """
    array = np.asarray(values, dtype=float)
    known = np.isfinite(array)
    if not known.any():
        return Verdict(float("nan"), float("nan"), float("nan"), NOT_RESOLVED, "not measured")
    effect = float((array[known] - threshold).min())
    verdict = Verdict(effect, 0.0, effect, HOLDS if effect > 0 else FAILS)
    if float(np.min(np.asarray(kept)[known])) > 1 - VACUOUS_PRUNED:
        return unresolved(verdict, "vacuous: less than 5 % of the weights were pruned")
    if known.sum() > 1 and np.ptp(array[known]) == 0:
        return unresolved(verdict, "no contrast: the condition does not vary over the levels")
    return verdict


def decide_exactly_where(outcomes: Sequence[Verdict], conditions: Sequence[Verdict], levels: Sequence[int]) -> Verdict:
    """Return the verdict of "the outcome holds exactly where the condition holds", one entry a level each.

    A level supports the claim if outcome and condition resolve to the same word, and contradicts it if to different
    ones. Levels at which either is not resolved say nothing. It fails if a level contradicts it after Holm's correction
    over all levels, at each of which noise may turn a word round. It holds if none does even before the correction, and
    if after it there is a level where the condition holds and one where it fails. The effect is the fraction of
    supporting levels minus that of contradicting ones.
    """
    known = {level: pair for level, *pair in zip(levels, outcomes, conditions, strict=True) if all(map(_says, pair))}
    supported = {level: (o.margin, c.margin) for level, (o, c) in known.items()}
    contradicted = {level: (o.margin, -c.margin) for level, (o, c) in known.items()}
    yes, no = ([v for v, pair in ways.items() if _alike(*pair) > 2] for ways in (supported, contradicted))
    nan = float("nan")
    if not yes and not no:
        return Verdict(nan, nan, nan, NOT_RESOLVED, "no level resolves both sides")
    effect = (len(yes) - len(no)) / (len(yes) + len(no))
    reason = f"{len(yes)} of {len(yes) + len(no)} levels: {_listed(yes)}" + (f"; not at {_listed(no)}" if no else "")
    verdict = Verdict(effect, 0.0, effect, FAILS if no else HOLDS, reason)
    if no:
        chance = f"{reason}, which Holm's correction leaves to chance"
        return verdict if _surviving(contradicted) else unresolved(verdict, chance)
    if len({known[level][1].verdict for level in yes}) == 1:
        return unresolved(verdict, "no contrast: the condition does not vary over the levels")
    if len({known[level][1].verdict for level in _surviving(supported)}) < 2:
        return unresolved(verdict, f"{reason}; Holm's correction leaves the contrast to chance")
    return verdict


def _says(verdict: Verdict) -> bool:
    """Return whether a verdict is about its noise alone: measured, and overruled by nothing else."""
    return verdict.verdict != NOT_RESOLVED or abs(verdict.margin) <= 2


def _alike(first: float, second: float) -> float:
    """Return by how many noises two margins have the same sign: both must."""
    return max(min(first, second), min(-first, -second))


def _surviving(pairs: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the levels whose two margins have the same sign after Holm's correction; either sign is one test."""
    tests = [(level, min(sign * one, sign * other)) for level, (one, other) in pairs.items() for sign in (1, -1)]
    widths = holm_widths([margin for _, margin in tests])
    return [level for (level, _), width in zip(tests, widths, strict=True) if np.isfinite(width)]


DIMS = ("method", "replicate", "point", "control")
NOT_APPLICABLE = "does not apply"


def table(findings: Sequence[Finding]) -> xr.Dataset:
    """Return findings as a Dataset.

    Returns
    -------
    Over ``claim`` and those of ``method``, ``replicate``, ``point``, ``control`` that any finding has: ``statistic``,
    ``effect``, ``noise``, ``margin``, ``verdict``, ``reason``; those of single levels as ``level_*`` with the dim
    ``level``; over ``claim``: ``statement``, ``source``. Combinations that no finding has are ``not resolved`` with the
    reason ``does not apply``.
    """
    dims = [d for d in DIMS if any(d in f.labels for f in findings)]
    claims = {f.claim: f for f in findings}
    coords: dict[str, list[Any]] = {"claim": list(claims)}
    coords |= {d: list(dict.fromkeys(f.labels.get(d, _empty(d)) for f in findings)) for d in dims}
    dataset = xr.Dataset(coords=coords)
    for name in ("statement", "source"):
        dataset[name] = ("claim", np.array([getattr(f, name) for f in claims.values()]))
    whole = [f for f in findings if "level" not in f.labels]
    dataset = dataset.assign(_arrays(whole, coords, ""))
    single = [f for f in findings if "level" in f.labels]
    if single:
        levels = sorted({int(f.labels["level"]) for f in single})
        dataset = dataset.assign_coords(level=levels)
        dataset = dataset.assign(_arrays(single, {**coords, "level": levels}, "level_"))
    return dataset


def _empty(label: str) -> str | int:
    return -1 if label in ("replicate", "level") else ""


def _arrays(findings: Sequence[Finding], coords: dict[str, list[Any]], prefix: str) -> dict[str, Any]:
    """Place findings into arrays over the coordinates."""
    labels = [d for d in coords if d != "claim"]
    placed = {(f.claim, *(f.labels.get(d, _empty(d)) for d in labels)): f for f in findings}
    if len(placed) < len(findings):
        raise ValueError("two findings have the same claim and labels")
    shape = tuple(len(values) for values in coords.values())
    nan = float("nan")
    nothing = Finding("", "", "", nan, Verdict(nan, nan, nan, NOT_RESOLVED, NOT_APPLICABLE))
    cells = [placed.get(key, nothing) for key in product(*coords.values())]

    def array(values: list[Any]) -> tuple[tuple[str, ...], np.ndarray]:
        return tuple(coords), np.array(values).reshape(shape)

    arrays = {f"{prefix}statistic": array([float(f.statistic) for f in cells])}
    arrays |= {
        f"{prefix}{n}": array([float(getattr(f.verdict, n)) for f in cells]) for n in ("effect", "noise", "margin")
    }
    return arrays | {f"{prefix}{n}": array([str(getattr(f.verdict, n)) for f in cells]) for n in ("verdict", "reason")}
