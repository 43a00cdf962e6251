"""What is claimed of the geometry of iterative magnitude pruning, each claim with its statistic.

==================================  ====================================================================================
claim                               statement (effect; ``>`` order claim, ``~`` absence within delta)
==================================  ====================================================================================
``imp_flatter_than_fine_tune``      rewinding and retraining end flatter than training on (mean log ratio of the leading
                                    eigenvalues, fine_tune over imp; >): the primary claim
``minimum_flatter_than_projected``  the top eigenvalues at a level's minimum lie below those at the previous minimum
                                    projected (same ratio, projected over minimum; >), as published
``barrier_vanishes_where_matching`` successive minima have no barrier (test error, delta 0.005) exactly where the level
                                    is matching (test error within max(sd, 0.005) of the dense networks)
``one_shot_barrier``                one-shot pruning has a barrier to the dense minimum (above delta, test error; >)
                                    where imp at the same level has none
``one_shot_barrier_above_imp``      barrier to the dense minimum, one-shot minus imp (test error; >)
``imp_best``                        imp has the lowest test error at level 10, or the highest below (other minus imp; >)
``training_refills``                training makes new weights below the threshold that created the mask (fraction at
                                    the minimum minus fraction at the rewind point; >)
``refilling_is_not_rewinding``      fine-tuning, without rewinding, refills that region too, which is empty where it
                                    starts (fraction at its minimum minus 0.001; >)
``refilling_beyond_random_mask``    imp's refilling minus that of random masks of equal layer counts (>)
``small_weights_cost_less``         removing the smallest weights raises the loss less than removing as many random ones
                                    of every layer (log ratio, random over smallest; >)
``small_weights_cost_less_than_largest``  the same against the largest
``small_weights_are_flat``          curvature along the step, per squared length (log ratio, random over smallest; >):
                                    what is left when the length of the step is taken out
``eigenspace_persists``             overlap of the top eigenspaces of successive minima (cut C - 1), imp minus random
                                    masks of equal layer counts (>), where the gap behind the cut is resolved
``tickets_relearn``                 imp predicts more like the solution that it was pruned from than fresh weights under
                                    the same mask do (disagreement, random_init minus imp; >)
==================================  ====================================================================================

All are judged at every level above 0 (Holm), raw and, for the spectra, under the controls; the reason names the levels,
and says of raw spectra where no earlier checkpoint shows that they have settled. Noise: replicates and `retrained`.
Sources: Saleem, Ahuja, Prasad, Lall 2024, arXiv:2403.15022; Paul et al. 2023, arXiv:2210.03044; Frankle et al. 2020,
arXiv:1912.05671; Evci et al. 2022, arXiv:2010.03533 (lottery tickets relearn). The deltas are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import xarray as xr

from landscape import decisions
from landscape.decisions import HOLDS, NOT_RESOLVED, Finding, Verdict, decide, decide_every, over_levels, unresolved
from landscape.errors import InputError
from landscape.imp_evidence import (
    CONTROLS,
    Values,
    cut_of,
    difference,
    earlier_pair,
    error_above_imp,
    pick,
    spectral_pair,
    test_error,
)
from landscape.noise import level_noises, retrained_sd

BARRIER_DELTA = 0.005
MATCHING_DELTA = 0.005
REFILLING_DELTA = 0.001
RANKING_LEVEL = 10
SALEEM, PAUL = "Saleem et al. 2024", "Paul et al. 2023"


@dataclass(frozen=True)
class Evidence:
    """The paired differences of an order claim, stated so that a positive effect supports it.

    Parameters
    ----------
    effects
        ``(level, replicate)``.
    floor
        The same difference between imp and its `retrained` twin, or None.
    estimator_se
        Standard error of a single effect from the estimator, one for all or ``(level,)``, 0 where it is exact.
    earlier
        The differences at the checkpoint before the last, or None.
    pool
        Differences at more levels, from which the replicate noise is pooled; ``effects`` where None.
    raw
        The same differences without the control under which they stand here, or None.
    settles
        Whether the claim is about the end of a training, which must have settled.
    """

    effects: Values
    floor: Values = None
    estimator_se: float | xr.DataArray = 0.0
    earlier: Values = None
    pool: Values = None
    raw: Values = None
    settles: bool = False
    labels: dict[str, str] = field(default_factory=dict)


# ---- verdicts ------------------------------------------------------------------------------------------------------


def judge(evidence: Evidence) -> tuple[Verdict, dict[int, Verdict], dict[int, float]]:
    """Return the verdict over every level, those of single levels, and the mean effects."""
    if evidence.effects is None:
        nothing = Verdict(float("nan"), float("nan"), float("nan"), NOT_RESOLVED, "not measured")
        return nothing, {}, {}
    effects = _pruned(evidence.effects)
    pool = effects if evidence.pool is None else _pruned(evidence.pool)
    floor = float("nan") if evidence.floor is None else retrained_sd(evidence.floor.values)
    everywhere = _noises(pool, floor, evidence.estimator_se)
    levels: list[int] = effects["level"].values.tolist()
    noises = [everywhere[level] for level in levels]
    means: list[float] = effects.mean("replicate").values.tolist()
    single = {level: decide(m, n) for level, m, n in zip(levels, means, noises, strict=True)}
    known = [] if evidence.raw is None else _pruned(evidence.raw)["level"].values.tolist()
    whole = over_levels(decide_every(means, noises, levels=levels), levels, known)
    if evidence.settles:
        whole, single = _settled(whole, single, evidence.earlier, dict(zip(levels, means, strict=True)))
    return whole, single, dict(zip(levels, means, strict=True))


def _pruned(values: xr.DataArray) -> xr.DataArray:
    """Return values ``(level, replicate)`` above level 0, where nothing was pruned, unless it is all there is."""
    values = values.transpose("level", "replicate")
    return values.isel(level=values["level"].values > 0) if values.sizes["level"] > 1 else values


def _noises(values: xr.DataArray, floor: float, estimator_se: float | xr.DataArray) -> dict[int, float]:
    """Return the noise of the mean at every level."""
    levels: list[int] = values["level"].values.tolist()
    error = estimator_se.reindex(level=levels).values if isinstance(estimator_se, xr.DataArray) else estimator_se
    return dict(zip(levels, level_noises(values.values, floor, error), strict=True))


def _settled(
    whole: Verdict, single: dict[int, Verdict], earlier: Values, means: dict[int, float]
) -> tuple[Verdict, dict[int, Verdict]]:
    """Overrule verdicts whose sign changes between the last checkpoints, and say where there is no earlier one."""
    before = {} if earlier is None else earlier.mean("replicate").reindex(level=list(means)).to_series().dropna()
    flipped = {level for level, mean in means.items() if level in before and before[level] * mean < 0}
    changes = "not converged: the sign changes between the last checkpoints"
    single = {level: unresolved(v, changes) if level in flipped else v for level, v in single.items()}
    if flipped:
        return unresolved(whole, changes), single
    unchecked = [level for level in means if level not in before]
    if unchecked:
        where = "" if len(unchecked) == len(means) else f" at {', '.join(map(str, unchecked))}"
        whole = replace(whole, reason=f"{whole.reason}; convergence not checked{where}")
    return whole, single


def order_claim(claim: str, statement: str, source: str, evidence: Evidence) -> list[Finding]:
    """Return the findings of an order claim: over every level, and at single levels."""
    whole, single, means = judge(evidence)
    found = [Finding(claim, statement, source, whole.effect, whole, evidence.labels)]
    for level, verdict in single.items():
        found.append(Finding(claim, statement, source, means[level], verdict, {**evidence.labels, "level": level}))
    return found


def _spectra(study: xr.Dataset) -> list[Finding]:
    found = []
    for control in CONTROLS:
        floor = spectral_pair(study, "retrained", control)
        relative_error = _relative_residual(study)
        for claim, statement, method in (
            ("imp_flatter_than_fine_tune", "rewinding and retraining end flatter than fine-tuning", "fine_tune"),
            ("minimum_flatter_than_projected", "top eigenvalues at the minimum below those at projected", "imp"),
        ):
            settles = control == "raw"
            earlier = earlier_pair(study, method) if settles else None
            effects, raw = (spectral_pair(study, method, name) for name in (control, "raw"))
            evidence = Evidence(
                effects, floor, relative_error, earlier, raw=raw, settles=settles, labels={"control": control}
            )
            found += order_claim(claim, statement, SALEEM, evidence)
    return found


def _relative_residual(study: xr.Dataset) -> float:
    """Return the error of a mean log ratio from the residuals of the eigenvalues, at most."""
    if "residual" not in study or "eigenvalue" not in study:
        return 0.0
    values, residuals = study["eigenvalue"].where(study["eigen"] > 0), study["residual"]
    ratio = (residuals / values.where(values > 0)).values
    ratio = ratio[np.isfinite(ratio)]
    return float(np.sqrt(2 * np.mean(ratio**2) / max(study.sizes["eigen"], 1))) if ratio.size else 0.0


def barrier_error(study: xr.Dataset, method: str, pair: str) -> Values:
    """Return the barrier of a pair in test error, ``(level, replicate)``."""
    return pick(study, "barrier_error", method=method, split="test", pair=pair)


def _barrier_se(study: xr.Dataset, pair: str, *methods: str) -> float | xr.DataArray:
    """Return the standard error of a barrier, or of a difference of two, from its examples, ``(level,)``; 0 if unknown.

    The replicates share their examples, so that it is no smaller for their mean.
    """
    found = [pick(study, "barrier_error_se", method=name, split="test", pair=pair) for name in methods]
    squares = [(values**2).mean("replicate") for values in found if values is not None]
    if not squares:
        return 0.0
    root: xr.DataArray = xr.apply_ufunc(np.sqrt, sum(xr.align(*squares, join="outer", fill_value=0.0)))
    return root


def _per_level(
    values: Values, verdict: Callable[[float, float], Verdict], floor: Values, estimator_se: float | xr.DataArray = 0.0
) -> dict[int, Verdict]:
    """Return the verdict of every level above 0 from its mean and noise."""
    if values is None:
        return {}
    values = values.transpose("level", "replicate")
    # at level 0 many differences vanish by definition, and no noise is known from them
    values = values.isel(level=values["level"].values > 0)
    floor_sd = float("nan") if floor is None else retrained_sd(floor.values)
    noises = _noises(values, floor_sd, estimator_se)
    return {level: verdict(float(values.sel(level=level).mean()), noise) for level, noise in noises.items()}


def matching(study: xr.Dataset) -> dict[int, Verdict]:
    """Return, by level, whether imp is matching: test error at most that of the dense networks plus epsilon."""
    errors = test_error(study, "imp")
    if errors is None or 0 not in errors["level"].values:
        return {}
    dense = errors.sel(level=0)
    spread = float(dense.std(ddof=1)) if dense.notnull().sum() > 1 else 0.0
    margin = max(spread, MATCHING_DELTA) - (errors - dense)
    return _per_level(margin, decide, error_above_imp(study, "retrained"))


def _no_barrier(study: xr.Dataset, pair: str) -> dict[int, Verdict]:
    """Return, by level, whether imp has no barrier between two points."""
    own, twin = (barrier_error(study, name, pair) for name in ("imp", "retrained"))
    absent = partial(decide, kind="absence", delta=BARRIER_DELTA)
    return _per_level(own, absent, difference(twin, own), _barrier_se(study, pair, "imp"))


def _barriers(study: xr.Dataset) -> list[Finding]:
    absent, condition = _no_barrier(study, "previous -> minimum"), matching(study)
    levels = sorted(set(absent) & set(condition))
    verdict = decisions.decide_exactly_where([absent[v] for v in levels], [condition[v] for v in levels], levels)
    claim, statement = "barrier_vanishes_where_matching", "no barrier between successive minima exactly where matching"
    raw, pair = {"control": "raw"}, "dense -> minimum"
    found = [Finding(claim, statement, PAUL, verdict.effect, verdict, raw)]
    found += [Finding(claim, statement, PAUL, absent[v].effect, absent[v], {**raw, "level": v}) for v in levels]
    once, imp, twin = (barrier_error(study, m, pair) for m in ("one_shot", "imp", "retrained"))
    floor = difference(twin, imp)
    found += order_claim(
        "one_shot_barrier_above_imp", "one-shot pruning has the higher barrier to the dense minimum", PAUL,
        Evidence(difference(once, imp), floor, _barrier_se(study, pair, "one_shot", "imp"), labels=raw),
    )  # fmt: skip
    connected = [level for level, v in _no_barrier(study, pair).items() if v.verdict == HOLDS]
    chosen = None if once is None else once.isel(level=[level in connected for level in once["level"].values.tolist()])
    effects = None if chosen is None or not chosen.size else chosen - BARRIER_DELTA
    statement = "one-shot pruning has a barrier to the dense minimum where imp has none"
    evidence = Evidence(effects, floor, _barrier_se(study, pair, "one_shot"), labels=raw)
    return found + order_claim("one_shot_barrier", statement, PAUL, evidence)


def _ranking(study: xr.Dataset) -> list[Finding]:
    found = []
    floor = error_above_imp(study, "retrained")
    for method in study["method"].values.tolist() if "method" in study.dims else []:
        effect = error_above_imp(study, method)
        if method in ("imp", "retrained") or effect is None:
            continue
        levels = [level for level in effect["level"].values.tolist() if 0 < level <= RANKING_LEVEL]
        if levels:
            chosen = effect.sel(level=[max(levels)])
            evidence = Evidence(chosen, floor, pool=effect, labels={"method": method, "control": "raw"})
            found += order_claim("imp_best", "imp has the lowest test error at this sparsity", SALEEM, evidence)
    return found


def _renewal(study: xr.Dataset) -> list[Finding]:
    def below(method: str, at: str) -> Values:
        return pick(study, "fraction_below", method=method, at=at)

    refill = difference(below("imp", "minimum"), below("imp", "rewind"))
    floor = difference(below("retrained", "minimum"), below("imp", "minimum"))
    masked = difference(below("random_mask_layerwise", "minimum"), below("random_mask_layerwise", "rewind"))
    tuned = below("fine_tune", "minimum")
    tuned = None if tuned is None else tuned - REFILLING_DELTA
    raw = {"control": "raw"}
    # imp's twin differs in a fraction a hundred times as large as fine-tuning's, of which no twin is measured
    rows = (
        ("training_refills", "training makes new weights below the threshold", refill, floor),
        ("refilling_is_not_rewinding", "fine-tuning refills that region too", tuned, None),
        ("refilling_beyond_random_mask", "imp refills more than random masks do", difference(refill, masked), floor),
    )
    return [
        finding
        for claim, statement, effect, twin in rows
        for finding in order_claim(claim, statement, PAUL, Evidence(effect, twin, labels=raw))
    ]


def _small_weights(study: xr.Dataset) -> list[Finding]:
    def of(name: str, kind: str) -> Values:
        values = pick(study, name, method="imp")
        if values is None:
            return None
        chosen = [r for r in values["removal"].values.tolist() if r.startswith(kind)]
        return values.sel(removal=chosen).mean("removal")

    rows = (
        ("small_weights_cost_less", "the smallest weights cost less than random ones", ("loss_increase", "random")),
        (
            "small_weights_cost_less_than_largest",
            "the smallest cost less than the largest",
            ("loss_increase", "largest"),
        ),
        ("small_weights_are_flat", "the loss is flat along small weights", ("step_curvature", "random")),
    )
    # Differences, not ratios: an increase or a curvature may be negative, and no level may drop out for its sign.
    return [
        finding
        for claim, statement, (name, kind) in rows
        for finding in order_claim(
            claim,
            statement,
            PAUL,
            Evidence(difference(of(name, kind), of(name, "smallest")), labels={"control": "raw"}),
        )
    ]


def _overlaps(study: xr.Dataset) -> list[Finding]:
    """Judge the overlaps of top eigenspaces at the levels where the gap behind the cut is resolved at both minima."""
    claim, source = "eigenspace_persists", "claims.md"
    statement = "top eigenspaces of successive minima overlap more than under random masks"
    if "overlap" not in study:
        return []
    try:
        chosen = study.sel(cut=cut_of(study))
    except InputError as error:
        nothing = Verdict(float("nan"), float("nan"), float("nan"), NOT_RESOLVED, str(error))
        return [Finding(claim, statement, source, float("nan"), nothing, {"control": "raw"})]
    names = ("imp", "random_mask_layerwise", "retrained")
    measured = [pick(chosen, "overlap", method=name) for name in names]
    if "resolved" in chosen:
        chosen = chosen.assign(overlap=chosen["overlap"].where(chosen["resolved"].astype(float) != 0))
    imp, masked, twin = (pick(chosen, "overlap", method=name) for name in names)
    effects, raw = difference(imp, masked), difference(measured[0], measured[1])
    findings = order_claim(
        claim, statement, source, Evidence(effects, difference(imp, twin), raw=raw, labels={"control": "raw"})
    )
    if effects is None and raw is not None:
        reason = "the gap behind the cut is resolved at no level"
        findings = [replace(f, verdict=unresolved(f.verdict, reason)) for f in findings]
    return findings


def _functions(study: xr.Dataset) -> list[Finding]:
    raw = {"control": "raw"}

    def differs(method: str, pair: str) -> Values:
        return pick(study, "disagreement", method=method, split="test", pair=pair)

    own = differs("imp", "projected -> minimum")
    effect = difference(differs("random_init", "projected -> minimum"), own)
    floor = difference(differs("retrained", "projected -> minimum"), own)
    statement = "imp predicts more like the pruned solution than fresh weights under its mask"
    return order_claim("tickets_relearn", statement, "Evci et al. 2022", Evidence(effect, floor, labels=raw))


PARTS: Sequence[Callable[[xr.Dataset], list[Finding]]] = (
    _spectra,
    _barriers,
    _ranking,
    _renewal,
    _small_weights,
    _overlaps,
    _functions,
)


def evaluate(study: xr.Dataset) -> xr.Dataset:
    """Judge all claims on the results of a run (``landscape.open_study``); what was not measured is not resolved."""
    return decisions.table([finding for part in PARTS for finding in part(study)])
