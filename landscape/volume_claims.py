"""What is claimed of basin volumes along iterative magnitude pruning, each claim with its statistic.

==================================  ====================================================================================
claim                               statement (effect; ``>`` order claim, ``~`` absence within delta)
==================================  ====================================================================================
``minimum_over_projected_NUMBER``   the basin of a level's minimum is larger than that of the previous minimum projected
                                    (difference of NUMBER; >), as published
``imp_over_fine_tune_NUMBER``       rewinding and retraining end in a larger basin than training on (same difference,
                                    imp minus fine_tune; >): the primary claim
``noise_tolerance_falls``           a weight tolerates less noise, relative to the weights, than a level before (log
                                    ratio of ``relative_noise_tolerance``, level before over level; >)
``prunable_fraction_falls``         the spectrum allows to prune less than a level before (fraction; >)
``random_pruning_as_predicted``     the spectrum predicts which fraction of random weights can go before the loss rises
                                    by the cutoff with the others at their optimum (that fraction on the quadratic model
                                    minus the predicted one; ~ 0.05)
``magnitude_beats_prediction``      smallest weights first, more can go than it predicts (same difference; >)
==================================  ====================================================================================

======================  ================================================================================================
NUMBER                  of a point
======================  ================================================================================================
``section_K``           -1/2 sum of the logarithms of the K largest eigenvalues (nats); K = 100 is the published one
``star``                mean log radius of plain sampling, paired by direction (log of a noise per weight): the
                        published Monte Carlo volume, which measures the trace of the curvature
``occam``               Occam factor under a prior as wide as the weights (nats)
``tolerance``           log of the noise per weight of a ball of the same volume over the rms of the weights, from the
                        preconditioned volume; resolved only where both volumes are calibrated
``prunable``            predicted prunable fraction, smallest weights first
======================  ================================================================================================

Controls: ``raw`` (KL neighbourhood), ``loss_matched`` (the point of lower loss softened), ``function`` (normalised
distance of outputs), and ``geometric``, which holds where the last two hold and fails where one fails. Comparisons of
points stay within one mask, one set of examples and one set of directions. Claims across levels are ``not resolved:
sample-limited`` where the examples bound the rank of the curvature below 3 times the number of parameters, and so are
those of prunable fractions, which a curvature of low rank makes large by itself. Noise:
replicates and ``retrained``. Sources: Saleem, Ahuja, Prasad, Lall 2024, arXiv:2403.15022 (their volumes, section and
Monte Carlo); Paul et al. 2023, arXiv:2210.03044 (prunable fraction; our reconstruction). The delta is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from landscape import decisions
from landscape.decisions import (
    FAILS,
    HOLDS,
    NOT_RESOLVED,
    Finding,
    Verdict,
    decide,
    decide_every,
    over_levels,
    unresolved,
)
from landscape.errors import InputError
from landscape.imp_claims import PAUL, SALEEM, Evidence, order_claim
from landscape.imp_evidence import Values, logarithm
from landscape.noise import level_noises

PREDICTION_DELTA = 0.05
LIMITED = 3
ROUGH = 0.1  # relative residual of the optimum beside pruned weights
KL, FUNCTION = "ggn", "jtj"  # the curvature of a neighbourhood is its label in a study
CONTROLS = ("raw", "loss_matched", "function")
CALIBRATED = "calibrated"
PAIRS = (
    ("minimum_over_projected", "imp", "the basin of the minimum is larger than that of the projected point"),
    ("imp_over_fine_tune", "fine_tune", "rewinding and retraining end in a larger basin than fine-tuning"),
)

# ---- numbers of a point --------------------------------------------------------------------------------------------


def cells(study: xr.Dataset, method: str, point: str, control: str, curvature: str) -> xr.Dataset | None:
    """Return the results at labels over (level, replicate), or None where there are none."""
    wanted = {"method": method, "point": point, "control": control, "curvature": curvature}
    if any(label not in study.dims or value not in study[label].values for label, value in wanted.items()):
        return None
    return study.sel(wanted)


def numbers(found: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the name and ``value``, ``se`` and ``sure`` of every number of a point, over (level, replicate)."""

    def table(value: xr.DataArray, se: xr.DataArray | float, sure: xr.DataArray | bool = True) -> xr.Dataset:
        value = value.where(np.isfinite(value))
        return xr.Dataset({"value": value, "se": xr.zeros_like(value) + se, "sure": value.notnull() & sure})

    if "section_stiffness" in found:
        for size in found["section_size"].values.tolist():
            one = found.sel(section_size=size)
            yield f"section_{size}", table(one["section_stiffness"], one["section_error"])
    if "log_radius" in found and "identity" in found["sampler"].values:
        yield "star", table(found["log_radius"].sel(sampler="identity"), 0.0)
    if "occam_factor" in found:
        one = found.sel(prior_factor=1.0, method="nearest")
        yield "occam", table(one["occam_factor"], one["occam_factor_se"])
    if "log_volume" in found and "preconditioned" in found["sampler"].values:
        one = found.sel(sampler="preconditioned")
        se = one["log_volume_se"] / one["num_params"]
        yield "tolerance", table(_log(one["relative_noise_tolerance"]), se, one["log_volume_verdict"] == CALIBRATED)
    if "prunable_fraction" in found:
        yield "prunable", table(found["prunable_fraction"].sel(order="magnitude"), 0.0)


def _log(values: xr.DataArray) -> xr.DataArray:
    return logarithm(values.where(values > 0))


def pair(study: xr.Dataset, method: str, control: str) -> dict[str, tuple[xr.Dataset, xr.Dataset]]:
    """Return, by number, imp's minimum and what it is compared with: projected for the method imp, else its minimum.

    Under loss matching one of the two was replaced, and the other stays raw.
    """
    curvature = FUNCTION if control == "function" else KL
    place = ("imp", "projected") if method == "imp" else (method, "minimum")
    own, other = cells(study, "imp", "minimum", "raw", curvature), cells(study, *place, "raw", curvature)
    if own is None or other is None:
        return {}
    both = _joined(own, other)
    if control != "loss_matched":
        return both
    which = "matched_point" if method == "imp" else "matched_method"
    replaced = cells(study, method, "minimum", control, curvature)
    if replaced is None or which not in replaced:
        return {}
    is_other, matched = replaced[which] == place[1 if method == "imp" else 0], dict(numbers(replaced))
    return {
        name: (xr.where(is_other, mine, matched[name]), xr.where(is_other, matched[name], theirs))
        for name, (mine, theirs) in both.items()
        if name in matched
    }


def _joined(own: xr.Dataset, other: xr.Dataset) -> dict[str, tuple[xr.Dataset, xr.Dataset]]:
    first, second = dict(numbers(own)), dict(numbers(other))
    return {name: (table, second[name]) for name, table in first.items() if name in second}


def paired(own: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Return own minus other with its standard error; numbers of common directions are compared one by one."""
    step = own["value"] - other["value"]
    if "ray" in step.dims:
        count = step.count("ray")
        se = step.std("ray", ddof=1) / np.sqrt(count.where(count > 1))
        return xr.Dataset({"value": step.mean("ray"), "se": se, "sure": (own["sure"] & other["sure"]).all("ray")})
    return xr.Dataset(
        {"value": step, "se": np.hypot(own["se"], other["se"]), "sure": own["sure"] & other["sure"]},
    )


# ---- verdicts ------------------------------------------------------------------------------------------------------


def _known(values: xr.DataArray) -> Values:
    values = values.transpose("level", "replicate").dropna("level", how="all").dropna("replicate", how="all")
    return values if values.size else None


def stopped(findings: Sequence[Finding], obstacles: dict[int, str]) -> list[Finding]:
    """Return findings whose levels with an obstacle, and with them the claim about every level, are not resolved."""
    whole = f"{next(iter(obstacles.values()))} (levels {', '.join(map(str, obstacles))})" if obstacles else ""
    found = []
    for finding in findings:
        level = finding.labels.get("level")
        reason = whole if level is None else obstacles.get(int(level), "")
        stops = reason and np.isfinite(finding.verdict.effect)
        found.append(replace(finding, verdict=unresolved(finding.verdict, reason)) if stops else finding)
    return found


def _comparisons(study: xr.Dataset) -> list[Finding]:
    found = []
    for prefix, method, statement in PAIRS:
        by_control: dict[str, dict[str, list[Finding]]] = {}
        raw: dict[str, Values] = {}  # the first of the controls
        for control in CONTROLS:
            floors = {name: paired(*both) for name, both in pair(study, "retrained", control).items()}
            for name, both in pair(study, method, control).items():
                step, floor = paired(*both), floors.get(name)
                effects = _known(step["value"])
                raw.setdefault(name, effects)
                evidence = Evidence(
                    effects,
                    None if floor is None else _known(floor["value"]),
                    _rms(step["se"]),
                    raw=raw[name],
                    labels={"control": control},
                )
                unsure = step["value"].notnull() & ~step["sure"].astype(bool)
                levels = unsure["level"].values[unsure.any("replicate").values].tolist()
                obstacles = dict.fromkeys(levels, "lower bound: the volumes are not calibrated")
                findings = order_claim(f"{prefix}_{name}", statement, SALEEM, evidence)
                by_control.setdefault(name, {})[control] = stopped(findings, obstacles)
        for findings_of in by_control.values():
            found += [finding for findings in findings_of.values() for finding in findings]
            found += _geometric(findings_of)
    return found


def _rms(se: xr.DataArray) -> float:
    known = se.values[np.isfinite(se.values)]
    return float(np.sqrt(np.mean(np.square(known)))) if known.size else 0.0


def _geometric(findings: dict[str, list[Finding]]) -> list[Finding]:
    """Return the findings of the control ``geometric``: loss matching and normalised outputs say the same."""
    matched, function = (
        {f.labels.get("level"): f for f in findings.get(control, [])} for control in ("loss_matched", "function")
    )
    found = []
    for level in [level for level in matched if level in function]:
        both = [matched[level], function[level]]
        weakest = min(both, key=lambda f: np.nan_to_num(f.verdict.margin, nan=0.0))
        words = {f.verdict.verdict for f in both}
        word = FAILS if FAILS in words else HOLDS if words == {HOLDS} else NOT_RESOLVED
        saying = [f.verdict.reason for f in both if f.verdict.verdict == word]
        reason = "; ".join(dict.fromkeys(text for text in saying if text))
        verdict = replace(weakest.verdict, verdict=word, reason=reason)
        found.append(replace(weakest, verdict=verdict, labels={**weakest.labels, "control": "geometric"}))
    return found


def _across_levels(study: xr.Dataset) -> list[Finding]:
    own = cells(study, "imp", "minimum", "raw", KL)
    if own is None:
        return []
    tables, found = dict(numbers(own)), []
    limited = _limited(own)
    rows = (
        ("noise_tolerance_falls", "tolerance", "a weight tolerates less relative noise than a level before", SALEEM),
        ("prunable_fraction_falls", "prunable", "less can be pruned than a level before", PAUL),
    )
    for claim, name, statement, source in rows:
        values = _known(tables[name]["value"]) if name in tables else None
        if values is None or values.sizes["level"] < 2:
            continue
        levels = values["level"].values
        step = xr.DataArray(
            values.values[:-1] - values.values[1:],
            {"level": levels[1:], "replicate": values["replicate"]},
            ("level", "replicate"),
        )
        short = np.isin(levels, limited)
        obstacles = {
            int(level): "sample-limited"
            for level, a, b in zip(levels[1:], short[:-1], short[1:], strict=True)
            if a or b
        }
        unsure = (values.notnull() & ~tables[name]["sure"].sel(level=levels)).any("replicate").values
        for level, a, b in zip(levels[1:].tolist(), unsure[:-1], unsure[1:], strict=True):
            if (a or b) and level not in obstacles:
                obstacles[level] = "lower bound: the volumes are not calibrated"
        evidence = Evidence(step, None, np.sqrt(2) * _rms(tables[name]["se"]), labels={"control": "raw"})
        found += stopped(order_claim(claim, statement, source, evidence), obstacles)
    return found


def crossing_fraction(increase: xr.DataArray, cutoff: xr.DataArray) -> xr.DataArray:
    """Return the fraction at which an increase reaches the cutoff, between the fractions known (0 costs nothing).

    Where even the largest fraction costs less, that one is returned: a lower bound.
    """
    fraction = np.concatenate([[0.0], increase["fraction"].values])

    def crossing(row: np.ndarray, limit: float) -> float:
        if not np.isfinite(row).all():
            return float("nan")
        cost = np.concatenate([[0.0], row])
        above = np.flatnonzero(cost > limit)
        if not len(above):
            return float(fraction[-1])
        i = int(above[0])
        return float(
            fraction[i - 1] + (fraction[i] - fraction[i - 1]) * (limit - cost[i - 1]) / (cost[i] - cost[i - 1])
        )

    return xr.apply_ufunc(crossing, increase, cutoff, input_core_dims=[["fraction"], []], vectorize=True)


def _prunable(study: xr.Dataset) -> list[Finding]:
    own = cells(study, "imp", "minimum", "raw", KL)
    if own is None or not {"relaxed_increase", "prunable_fraction", "cutoff"} <= set(own.data_vars):
        return []
    rough = (own["relaxed_residual"] > ROUGH).any(["fraction", "order", "replicate"])
    obstacles = {
        int(level): "the other weights are not at their optimum" for level in rough["level"].values[rough.values]
    }
    obstacles |= dict.fromkeys(_limited(own), "sample-limited")
    raw, gain = {"control": "raw"}, {}
    for order in ("random", "magnitude"):
        allowed = crossing_fraction(own["relaxed_increase"].sel(order=order), own["cutoff"])
        gain[order] = _known(allowed - own["prunable_fraction"].sel(order=order))
    found = absence_claim(
        "random_pruning_as_predicted", "the spectrum predicts what random pruning costs", gain["random"]
    )
    statement = "smallest weights first, more can go than the spectrum predicts"
    found += order_claim("magnitude_beats_prediction", statement, PAUL, Evidence(gain["magnitude"], labels=raw))
    return stopped(found, obstacles)


def _limited(found: xr.Dataset) -> list[int]:
    """Return the levels at which the examples bound the rank of the curvature too low."""
    short = (found["rank_bound"] < LIMITED * found["num_params"]).any("replicate")
    levels: list[int] = short["level"].values[short.values].tolist()
    return levels


def absence_claim(claim: str, statement: str, effects: Values) -> list[Finding]:
    """Return the findings of a claim that an effect is absent within `PREDICTION_DELTA`."""
    labels: dict[str, str | int] = {"control": "raw"}
    if effects is None:
        return [
            Finding(
                claim, statement, PAUL, np.nan, Verdict(np.nan, np.nan, np.nan, NOT_RESOLVED, "not measured"), labels
            )
        ]
    means, noises = effects.mean("replicate").values.tolist(), level_noises(effects.values)
    levels = effects["level"].values.tolist()
    whole = over_levels(decide_every(means, noises, "absence", PREDICTION_DELTA, levels), levels)
    found = [Finding(claim, statement, PAUL, whole.effect, whole, labels)]
    for level, mean, noise in zip(levels, means, noises, strict=True):
        verdict = decide(mean, noise, "absence", PREDICTION_DELTA)
        found.append(Finding(claim, statement, PAUL, mean, verdict, {**labels, "level": level}))
    return found


def evaluate(study: xr.Dataset) -> xr.Dataset:
    """Judge all claims on the volumes of a run (``landscape.open_study``); what was not measured has no row.

    Returns
    -------
    xarray.Dataset
        Over ``claim`` and ``control`` as :func:`landscape.decisions.table` has it; single levels in ``level_*``.
    """
    found = [*_comparisons(study), *_across_levels(study), *_prunable(study)]
    if not found:
        raise InputError("these volumes compare nothing: measure imp's points minimum and projected at some levels")
    return decisions.table(found)
