"""What is claimed of IMC pruning, judged on the stored conditions and pruned networks of a run.

==========================  ============================================================================================
claim                       statement (statistic; ``>`` order claim, ``~`` absence within delta)
==========================  ============================================================================================
``base_near_stationary``    the step that the gradient asks for on the fast side stays within the neighbourhood eps, so
                            that W* is a minimum there (eps over step; above 1)
``gap_within_eps``          some known gap passes the rule of the choice within eps (best gap over what the rule asks,
                            above 1; cone gap, above 0)
``gap_covers_training``     the rule has an answer as far as the training goes (coverage; above 1)
``subspace_is_coordinates`` the splitting is spanned by coordinates, so that a mask can be it (share of the smaller side
                            on as many coordinates as it has dimensions; above 0.9)
``masks_well_at_base``      right after masking, the loss is below that under random masks of equal layer counts (p,
                            the chance of so low a loss; holds up to 0.05, fails from 0.95; effect and margin are both
                            0.05 - p, not in units of a noise)
``keeps_accuracy``          training loses no test accuracy against the dense network (difference; ~, delta 0.005)
``beats_shuffle``           better test accuracy than the layer-wise shuffle of the mask (difference; >)
``beats_random``            better than random masks with the same share of every layer (difference; >)
``gap_at_every_level``      imp's minima have a gap > 4 l at every level (best gap over 4 l; above 1)
==========================  ============================================================================================

The first four are judged for every choice and replicate, the fifth for every network, the next three for every pruned
method at every level it was trained at (Holm), over replicates. Networks are compared where they keep the same fraction
to 0.1 %: what a rule chooses itself is filed under level 1, whatever it keeps. Sampled Lipschitz constants are lower
bounds: a violation is definite, and passing is ``not resolved`` unless an adversarial search meets the rule of
``landscape.manifold_claims``, which results of ``landscape.dimension`` can and those of IMC, sampled only, cannot. What
passes with less than 5 % of the weights pruned is vacuous, and so is any comparison there. The thresholds 0.9, 0.05,
0.95 and 0.005 are ours.

IMC is Zhang et al., NeurIPS 2021, of which the rule is known through FedDUAP (arXiv:2204.11536); the rest is a
reconstruction, and no verdict here is one on that paper's own experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from landscape import decisions, results
from landscape.decisions import (
    FAILS,
    HOLDS,
    NOT_RESOLVED,
    VACUOUS_PRUNED,
    Finding,
    Kind,
    Verdict,
    decide,
    decide_every,
    over_levels,
    unresolved,
)
from landscape.errors import InputError
from landscape.manifold_claims import sampling_obstacle
from landscape.noise import level_noises

DELTA = 0.005
CONCENTRATION = 0.9
P_VALUE = 0.05
SAME_KEPT = 1e-3
ORDER: tuple[Kind, float] = ("order", 0.0)
ABSENCE: tuple[Kind, float] = ("absence", DELTA)
VACUOUS = "vacuous: less than 5 % of the weights were pruned"
RECONSTRUCTED, SANITY = "Zhang et al. 2021 (reconstructed)", "Frankle et al. 2021, arXiv:2009.08576"
STATEMENTS = {
    "base_near_stationary": ("the base point is a minimum within eps", RECONSTRUCTED),
    "gap_within_eps": ("some gap passes the rule within eps", RECONSTRUCTED),
    "gap_covers_training": ("the rule has an answer as far as the training goes", RECONSTRUCTED),
    "subspace_is_coordinates": ("the splitting is spanned by coordinates", RECONSTRUCTED),
    "masks_well_at_base": ("masking costs less loss than random masks of equal layer counts", RECONSTRUCTED),
    "keeps_accuracy": ("test accuracy within 0.005 of the dense network", RECONSTRUCTED),
    "beats_shuffle": ("better than the layer-wise shuffle of the mask", SANITY),
    "beats_random": ("better than random masks of the same share of every layer", SANITY),
    "gap_at_every_level": ("imp's minima have a gap above 4 l at every level", RECONSTRUCTED),
}


def evaluate_run(root: Path) -> xr.Dataset:
    """Return the verdicts on a run of ``python -m landscape.pruning imc``; what was not measured is not resolved.

    Raises
    ------
    InputError
        If the run holds neither conditions of IMC nor pruned networks.
    """
    there = results.quantities(root)
    if not {"imc", "pruning"} & set(there):
        raise InputError(f"{root} holds no result of IMC pruning; make some with python -m landscape.pruning imc")
    found = {name: results.open_study(root, name) for name in ("imc", "pruning", "dimension") if name in there}
    return evaluate(found.get("imc"), found.get("pruning"), found.get("dimension"))


def evaluate(conditions: xr.Dataset | None, networks: xr.Dataset | None, dimension: xr.Dataset | None) -> xr.Dataset:
    """Return the verdicts from stored results, each over method, level and replicate as ``open_study`` gives them."""
    findings = [] if conditions is None else _conditions(conditions)
    if networks is not None:
        findings += _at_base(networks) + _accuracy(networks) + _against(networks)
    return decisions.table([*findings, _levels(dimension)])


def _finding(claim: str, statistic: float, verdict: Verdict, **labels: str | int) -> Finding:
    statement, source = STATEMENTS[claim]
    return Finding(claim, statement, source, statistic, verdict, dict(labels))


def _threshold(statistic: float, least: float, obstacle: str = "", noise: float = 0.0) -> Verdict:
    """Return the verdict of ``statistic > least``: definite below, above only if nothing stands in the way."""
    if np.isnan(statistic):
        return Verdict(statistic, noise, statistic, NOT_RESOLVED, "not measured")
    effect = statistic - least
    margin = effect / noise if noise > 0 else float(np.sign(effect) * np.inf if effect else 0.0)
    if abs(effect) <= noise:
        return Verdict(effect, noise, margin, NOT_RESOLVED, "within the error of the computed numbers")
    if effect < 0:
        return Verdict(effect, noise, margin, FAILS)
    return Verdict(effect, noise, margin, NOT_RESOLVED if obstacle else HOLDS, obstacle)


# ---- conditions ------------------------------------------------------------------------------------------------------


def _conditions(study: xr.Dataset) -> list[Finding]:
    found = []
    for method in study["method"].values.tolist():
        for replicate in study["replicate"].values.tolist():
            cell = study.sel({"method": method, "replicate": replicate})
            if not bool(cell["measured_imc"]):
                continue
            eps = float(cell["rho"].isel(shell=0))
            step = float(cell["newton_displacement"]) if "newton_displacement" in cell else np.nan
            near = eps / step if step > 0 else np.inf if step == 0 else np.nan
            concentration = float(cell["concentration"])
            rows = {
                "base_near_stationary": (near, _threshold(near, 1.0)),
                "gap_within_eps": _gap(cell, 0),
                "gap_covers_training": _coverage(cell),
                "subspace_is_coordinates": (concentration, _threshold(concentration, CONCENTRATION)),
            }
            found += [_finding(c, s, v, method=method, replicate=replicate) for c, (s, v) in rows.items()]
    return found


def _gap(cell: xr.Dataset, shell: int) -> tuple[float, Verdict]:
    """Judge the best gap of a choice's rule within a radius."""
    inside, obstacle = cell.isel(shell=shell), _obstacle_within(cell, shell)
    if "cone_gap" in cell and np.isfinite(float(inside["cone_gap"])):
        statistic = float(inside["cone_gap"])
        return statistic, _threshold(statistic, 0.0, obstacle)
    if "gap_ratio_lo" not in cell or np.isnan(float(inside["gap_ratio_lo"])):
        reason = "the rule has no gap condition (it is a historical baseline)"
        return np.nan, Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, reason)
    return _ratio(inside, obstacle)


def _ratio(inside: xr.Dataset, obstacle: str) -> tuple[float, Verdict]:
    """Judge the best gap over what the rule asks; one that is unknown may still be admissible."""
    high = float(inside["gap_ratio_hi"])
    low = float(inside["gap_ratio_lo"]) if "gap_ratio_lo" in inside else high
    if np.isinf(low):
        return low, _threshold(low, 1.0, obstacle)
    verdict = _threshold((low + high) / 2, 1.0, obstacle, (high - low) / 2)
    if verdict.verdict == FAILS and "status" in inside and str(inside["status"].values) == NOT_RESOLVED:
        verdict = unresolved(verdict, "an admissible gap could hide among the unknown eigenvalues")
    return (low + high) / 2, verdict


def _obstacle_within(cell: xr.Dataset, shell: int) -> str:
    """Return why passing within a radius proves nothing; how far the training went does not matter there."""
    return sampling_obstacle(cell.isel(shell=slice(0, shell + 1)).drop_vars("distance", errors="ignore"))


def _coverage(cell: xr.Dataset) -> tuple[float, Verdict]:
    coverage = float(cell["coverage"])
    if np.isnan(coverage):
        return coverage, Verdict(coverage, np.nan, coverage, NOT_RESOLVED, "the rule knows no radius")
    return coverage, _threshold(coverage, 1.0, sampling_obstacle(cell))


def _levels(dimension: xr.Dataset | None) -> Finding:
    """Judge the gap over imp's levels, from results of ``landscape.dimension`` at its minima."""
    nothing = Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, "not measured")
    claim, labels = "gap_at_every_level", {"method": "imp"}
    if dimension is None or "gap_ratio_hi" not in dimension or "gap_4l" not in dimension["rule"].values:
        return _finding(claim, np.nan, nothing, **labels)
    chosen = dimension.sel({"rule": "gap_4l"})
    for label, value in (("method", "imp"), ("point", "minimum"), ("control", "raw")):
        if label in chosen.dims:
            if value not in chosen[label].values:
                return _finding(claim, np.nan, nothing, **labels)
            chosen = chosen.sel({label: value})
    over = [d for d in ("level", "replicate", "curvature") if d in chosen["gap_ratio_hi"].dims]
    cells = [chosen.isel(dict(zip(over, place, strict=True))) for place in np.ndindex(*(chosen.sizes[d] for d in over))]
    cells = [cell for cell in cells if np.isfinite(cell["kept"]) and not np.isnan(cell["gap_ratio_hi"].values[0])]
    if "level" not in over or not cells:
        return _finding(claim, np.nan, nothing, **labels)
    judged = [_ratio(cell.isel(shell=0), _obstacle_within(cell, 0)) for cell in cells]
    levels = sorted({int(cell["level"]) for cell in cells})
    verdict = _all_of([verdict for _, verdict in judged])
    statistics = [statistic for statistic, _ in judged]
    if min(float(cell["kept"]) for cell in cells) > 1 - VACUOUS_PRUNED:
        verdict = unresolved(verdict, VACUOUS)
    elif len(levels) > 1 and len(set(statistics)) == 1:
        verdict = unresolved(verdict, "no contrast: the condition does not vary over the levels")
    return _finding(claim, min(statistics), over_levels(verdict, levels), **labels)


def _all_of(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict of a condition on all cells: one that fails decides, then one that is open, then the least."""
    for word in (FAILS, NOT_RESOLVED, HOLDS):
        found = [v for v in verdicts if v.verdict == word]
        if found:
            break
    return min(found, key=lambda v: v.effect)


# ---- networks --------------------------------------------------------------------------------------------------------


def _at_base(study: xr.Dataset) -> list[Finding]:
    """Judge the loss right after masking, over the replicates of every network, and over the levels of a method."""
    if "masked_p_value" not in study:
        return []
    found = []
    claim = "masks_well_at_base"
    for method in study["method"].values.tolist():
        chances = study["masked_p_value"].sel({"method": method}).dropna("level", how="all")
        kept = study["kept"].sel({"method": method}).mean("replicate")
        single: dict[int, tuple[float, Verdict]] = {}
        for level in chances["level"].values.tolist():
            of = chances.sel(level=level)
            single[level] = float(of.max()), _vacuous(_low_chance(of.values), float(kept.sel(level=level)), always=True)
        if not single:
            continue
        tested = {level: pair for level, pair in single.items() if pair[1].reason != VACUOUS} or single
        worst, whole = max(p for p, _ in tested.values()), _all_of([verdict for _, verdict in tested.values()])
        found.append(_finding(claim, worst, over_levels(whole, list(tested)), method=method))
        found += [_finding(claim, p, verdict, method=method, level=level) for level, (p, verdict) in single.items()]
    return found


def _low_chance(chances: np.ndarray) -> Verdict:
    """Return the verdict of the replicates' chances under random masks: 1 in 20 is the least that 19 of them can show.

    It holds if all are low and fails if all are high; the effect is that of the highest.
    """
    chances = chances[np.isfinite(chances)]
    effect = P_VALUE - float(chances.max())
    if effect > -1e-9:
        return Verdict(effect, 0.0, effect, HOLDS)
    if chances.min() > 1 - P_VALUE - 1e-9:
        return Verdict(effect, 0.0, effect, FAILS)
    return Verdict(effect, 0.0, effect, NOT_RESOLVED, "random masks lose as much by chance")


def _vacuous(verdict: Verdict, kept: float, always: bool = False) -> Verdict:
    """Return the verdict unless it passes, or ``always``, because nothing was pruned."""
    if (always or verdict.verdict == HOLDS) and kept > 1 - VACUOUS_PRUNED:
        return unresolved(verdict, VACUOUS)
    return verdict


def _accuracy(study: xr.Dataset) -> list[Finding]:
    """Judge the loss of accuracy against the dense network."""
    accuracy = _test_accuracy(study)
    if accuracy is None or "imp" not in accuracy["method"].values or 0 not in accuracy["level"].values:
        return []
    dense = accuracy.sel({"method": "imp", "level": 0})
    found = []
    for method in accuracy["method"].values.tolist():
        if not method.endswith("_shuffled"):
            lost = _trained((dense - accuracy.sel({"method": method})).drop_vars("level", errors="ignore"), accuracy)
            kept = study["kept"].sel({"method": method}).mean("replicate")
            found += _judged("keeps_accuracy", lost, kept, method)
    return found


def _against(study: xr.Dataset) -> list[Finding]:
    """Judge every method against its shuffle and against random masks, where both keep the same fraction."""
    accuracy = _test_accuracy(study)
    if accuracy is None:
        return []
    methods, found = accuracy["method"].values.tolist(), []
    kept_of = study["kept"].transpose("method", "level", "replicate")
    for method in methods:
        for claim, other in (("beats_shuffle", f"{method}_shuffled"), ("beats_random", "random_layerwise")):
            if other not in methods or method.startswith("random") or method.endswith("_shuffled"):
                continue
            gain, kept = (v.sel({"method": method}) - v.sel({"method": other}) for v in (accuracy, kept_of))
            both, own = _trained(gain, accuracy), kept_of.sel({"method": method})
            alike = _trained(gain.where(abs(kept) <= SAME_KEPT * own), accuracy)
            if both.size and not alike.size:
                other_kept = Verdict(
                    np.nan, np.nan, np.nan, NOT_RESOLVED, "no network that keeps as much to compare with"
                )
                found.append(_finding(claim, np.nan, other_kept, method=method))
            found += _judged(claim, alike, own.mean("replicate"), method, both["level"].values.tolist())
    return found


def _test_accuracy(study: xr.Dataset) -> xr.DataArray | None:
    return study["test_accuracy"].transpose("method", "level", "replicate") if "test_accuracy" in study else None


def _trained(values: xr.DataArray, accuracy: xr.DataArray) -> xr.DataArray:
    """Return differences ``(level, replicate)`` above level 0, without levels that nothing is known of."""
    values = values.assign_coords(level=accuracy["level"]).transpose("level", "replicate")
    return values.isel(level=values["level"].values > 0).dropna("level", how="all")


def _judged(
    claim: str, effects: xr.DataArray, kept: xr.DataArray, method: str, known: Sequence[int] = ()
) -> list[Finding]:
    """Return the findings of a claim about differences over every level, and at single levels.

    Where less than 5 % was pruned, accuracy that is kept shows nothing, and accuracy that is lost still fails; no
    comparison shows anything, and the claim over every level leaves such levels out.
    """
    if not effects.size:
        return []
    absence = claim == "keeps_accuracy"
    kind, delta = ABSENCE if absence else ORDER
    levels = effects["level"].values.tolist()
    means, noises = effects.mean("replicate").values.tolist(), level_noises(effects.values)
    fractions = kept.sel(level=levels).values.tolist()
    found = []
    for level, mean, noise, fraction in zip(levels, means, noises, fractions, strict=True):
        verdict = _vacuous(decide(mean, noise, kind, delta), fraction, always=not absence)
        found.append(_finding(claim, mean, verdict, method=method, level=level))
    tested = [i for i, fraction in enumerate(fractions) if absence or fraction <= 1 - VACUOUS_PRUNED]
    tested = tested or list(range(len(levels)))
    where = [levels[i] for i in tested]
    whole = decide_every([means[i] for i in tested], [noises[i] for i in tested], kind, delta, where)
    whole = _vacuous(over_levels(whole, where, known), min(fractions), always=not absence)
    return [_finding(claim, whole.effect, whole, method=method), *found]
