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
``masks_well_at_base``      right after masking, the loss is below that under random masks of equal layer counts
                            (0.05 minus the chance of so low a loss; 0 or above)
``keeps_accuracy``          training loses no test accuracy against the dense network (difference; ~, delta 0.005)
``beats_shuffle``           better test accuracy than the layer-wise shuffle of the mask (difference; >)
``beats_random``            better than random masks with the same share of every layer (difference; >)
``gap_at_every_level``      imp's minima have a gap > 4 l at every level (best gap over 4 l; above 1)
==========================  ============================================================================================

The first four are judged for every choice and replicate, the fifth for every network, the next three for every pruned
method at every level it was trained at (Holm), over replicates. Sampled Lipschitz constants are lower bounds: a
violation is definite, and passing is ``not resolved`` without an adversarial search. What passes with less than 5 % of
the weights pruned is vacuous. The thresholds 0.9, 0.05 and 0.005 are ours.

IMC is Zhang et al., NeurIPS 2021, of which the rule is known through FedDUAP (arXiv:2204.11536); the rest is a
reconstruction, and no verdict here is one on that paper's own experiments.
"""

from __future__ import annotations

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
    decide_condition,
    decide_every,
    unresolved,
)
from landscape.errors import InputError

DELTA = 0.005
CONCENTRATION = 0.9
P_VALUE = 0.05
SAMPLED = "sampled without adversarial search"
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
    inside = cell.isel(shell=shell)
    if "cone_gap" in cell and np.isfinite(float(inside["cone_gap"])):
        statistic = float(inside["cone_gap"])
        return statistic, _threshold(statistic, 0.0, SAMPLED)
    if "gap_ratio_lo" not in cell or np.isnan(float(inside["gap_ratio_lo"])):
        reason = "the rule has no gap condition (it is a historical baseline)"
        return np.nan, Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, reason)
    low, high = float(inside["gap_ratio_lo"]), float(inside["gap_ratio_hi"])
    if np.isinf(low):
        return low, _threshold(low, 1.0, SAMPLED)
    statistic = (low + high) / 2
    verdict = _threshold(statistic, 1.0, SAMPLED, (high - low) / 2)
    if verdict.verdict == FAILS and str(inside["status"].values) == NOT_RESOLVED:
        verdict = unresolved(verdict, "an admissible gap could hide among the unknown eigenvalues")
    return statistic, verdict


def _coverage(cell: xr.Dataset) -> tuple[float, Verdict]:
    coverage = float(cell["coverage"])
    if np.isnan(coverage):
        return coverage, Verdict(coverage, np.nan, coverage, NOT_RESOLVED, "the rule knows no radius")
    return coverage, _threshold(coverage, 1.0, SAMPLED)


def _levels(dimension: xr.Dataset | None) -> Finding:
    """Judge the gap over imp's levels, from results of ``landscape.dimension`` at its minima."""
    nothing = Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, "not measured")
    claim, labels = "gap_at_every_level", {"method": "imp"}
    if dimension is None or "gap_ratio_hi" not in dimension or "gap_4l" not in dimension["rule"].values:
        return _finding(claim, np.nan, nothing, **labels)
    chosen = dimension.sel({"rule": "gap_4l"}).isel(shell=0)
    for label, value in (("method", "imp"), ("point", "minimum"), ("control", "raw")):
        if label in chosen.dims:
            if value not in chosen[label].values:
                return _finding(claim, np.nan, nothing, **labels)
            chosen = chosen.sel({label: value})
    over = [d for d in chosen["gap_ratio_hi"].dims if d != "level"]
    values = chosen["gap_ratio_hi"].mean(over).values if "level" in chosen.dims else np.array([])
    kept = chosen["kept"].mean([d for d in chosen["kept"].dims if d != "level"]).values if len(values) else values
    if not np.isfinite(values).any():
        return _finding(claim, np.nan, nothing, **labels)
    verdict = decide_condition(values.tolist(), 1.0, kept.tolist())
    if verdict.verdict == HOLDS:
        verdict = unresolved(verdict, SAMPLED)
    return _finding(claim, float(np.nanmin(values)), verdict, **labels)


# ---- networks --------------------------------------------------------------------------------------------------------


def _at_base(study: xr.Dataset) -> list[Finding]:
    """Judge the loss right after masking, for every network: the worst replicate counts."""
    if "masked_p_value" not in study:
        return []
    found = []
    for method in study["method"].values.tolist():
        chances = study["masked_p_value"].sel({"method": method}).max("replicate")
        kept = study["kept"].sel({"method": method}).mean("replicate")
        for level in study["level"].values.tolist():
            chance = float(chances.sel(level=level))
            if np.isfinite(chance):
                verdict = _vacuous(_at_most(chance), float(kept.sel(level=level)))
                found.append(_finding("masks_well_at_base", chance, verdict, method=method, level=level))
        worst = float(chances.max())
        if np.isfinite(worst):
            verdict = _vacuous(_at_most(worst), float(kept.min()))
            found.append(_finding("masks_well_at_base", worst, verdict, method=method))
    return found


def _at_most(chance: float) -> Verdict:
    """Return the verdict of a chance under random masks: 1 in 20 is the smallest that 19 of them can show."""
    effect = P_VALUE - chance
    return Verdict(effect, 0.0, effect, HOLDS if effect > -1e-9 else FAILS)


def _vacuous(verdict: Verdict, kept: float) -> Verdict:
    if verdict.verdict == HOLDS and kept > 1 - VACUOUS_PRUNED:
        return unresolved(verdict, "vacuous: less than 5 % of the weights were pruned")
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
            found += _judged("keeps_accuracy", lost, method, kept=kept)
    return found


def _against(study: xr.Dataset) -> list[Finding]:
    """Judge every method against its shuffle and against random masks."""
    accuracy = _test_accuracy(study)
    if accuracy is None:
        return []
    methods, found = accuracy["method"].values.tolist(), []
    for method in methods:
        for claim, other in (("beats_shuffle", f"{method}_shuffled"), ("beats_random", "random_layerwise")):
            if other in methods and not method.startswith("random") and not method.endswith("_shuffled"):
                gain = accuracy.sel({"method": method}) - accuracy.sel({"method": other})
                found += _judged(claim, _trained(gain, accuracy), method)
    return found


def _test_accuracy(study: xr.Dataset) -> xr.DataArray | None:
    return study["test_accuracy"].transpose("method", "level", "replicate") if "test_accuracy" in study else None


def _trained(values: xr.DataArray, accuracy: xr.DataArray) -> xr.DataArray:
    """Return differences ``(level, replicate)`` above level 0, without levels that nothing is known of."""
    values = values.assign_coords(level=accuracy["level"]).transpose("level", "replicate")
    return values.isel(level=values["level"].values > 0).dropna("level", how="all")


def _judged(claim: str, effects: xr.DataArray, method: str, kept: xr.DataArray | None = None) -> list[Finding]:
    """Return the findings of a claim about differences over every level, and at single levels."""
    if not effects.size:
        return []
    se = decisions.pooled_se(effects.values)
    means = effects.mean("replicate").values.tolist()
    noises = [decisions.total_noise(se, np.nan, int(np.isfinite(row).sum())) for row in effects.values]
    kind: Kind = "order" if kept is None else "absence"
    delta = 0.0 if kept is None else DELTA
    levels = effects["level"].values.tolist()
    found = []
    for level, mean, noise in zip(levels, means, noises, strict=True):
        verdict = decide(mean, noise, kind, delta)
        if kept is not None:
            verdict = _vacuous(verdict, float(kept.sel(level=level)))
        found.append(_finding(claim, mean, verdict, method=method, level=level))
    whole = decide_every(means, noises, kind, delta)
    if kept is not None:
        whole = _vacuous(whole, float(kept.sel(level=levels).min()))
    return [_finding(claim, whole.effect, whole, method=method), *found]
