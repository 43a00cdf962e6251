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
``refilling_is_not_rewinding``      fine-tuning, without rewinding, refills that region too (fraction at its minimum; >)
``refilling_beyond_random_mask``    imp's refilling minus that of random masks of equal layer counts (>)
``small_weights_cost_less``         removing the smallest weights raises the loss less than removing as many random ones
                                    of every layer (log ratio, random over smallest; >)
``small_weights_cost_less_than_largest``  the same against the largest
``small_weights_are_flat``          curvature along the step, per squared length (log ratio, random over smallest; >):
                                    what is left when the length of the step is taken out
``eigenspace_persists``             overlap of the top eigenspaces of successive minima (cut C - 1), imp minus random
                                    masks of equal layer counts (>)
``tickets_relearn``                 imp predicts more like the solution that it was pruned from than fresh weights under
                                    the same mask do (disagreement, random_init minus imp; >)
==================================  ====================================================================================

All are judged at every level above 0 (Holm), raw and, for the spectra, under the controls. Noise: replicates and
`retrained`. Sources: Saleem, Ahuja, Prasad, Lall 2024, arXiv:2403.15022; Paul et al. 2023, arXiv:2210.03044; Frankle et
al. 2020, arXiv:1912.05671; Evci et al. 2022, arXiv:2010.03533 (lottery tickets relearn). The deltas are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from landscape import decisions
from landscape.decisions import HOLDS, NOT_RESOLVED, Finding, Verdict, decide, decide_every, unresolved
from landscape.imp_evidence import CONTROLS, Values, difference, earlier_pair, logarithm, pick, spectral_pair

BARRIER_DELTA = 0.005
MATCHING_DELTA = 0.005
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
        Standard error of a single effect from the estimator, 0 where it is exact.
    earlier
        The differences at the checkpoint before the last, or None.
    pool
        Differences at more levels, from which the replicate noise is pooled; ``effects`` where None.
    """

    effects: Values
    floor: Values = None
    estimator_se: float = 0.0
    earlier: Values = None
    pool: Values = None
    labels: dict[str, str] = field(default_factory=dict)


# ---- verdicts ------------------------------------------------------------------------------------------------------


def judge(evidence: Evidence) -> tuple[Verdict, dict[int, Verdict], dict[int, float]]:
    """Return the verdict over every level, those of single levels, and the mean effects."""
    if evidence.effects is None:
        nothing = Verdict(float("nan"), float("nan"), float("nan"), NOT_RESOLVED, "not measured")
        return nothing, {}, {}
    effects = evidence.effects.transpose("level", "replicate")
    effects = effects.isel(level=effects["level"].values > 0) if effects.sizes["level"] > 1 else effects
    pool = effects if evidence.pool is None else evidence.pool.transpose("level", "replicate")
    se = decisions.pooled_se(pool.values)
    floor = float("nan") if evidence.floor is None else decisions.retrained_sd(evidence.floor.values)
    means = effects.mean("replicate")
    noises = [
        decisions.total_noise(se, floor, int(np.isfinite(row).sum()), evidence.estimator_se) for row in effects.values
    ]
    levels = effects["level"].values.tolist()
    single = {level: decide(float(m), n) for level, m, n in zip(levels, means.values, noises, strict=True)}
    whole = decide_every(means.values.tolist(), noises)
    if evidence.earlier is not None:
        before = evidence.earlier.mean("replicate").reindex(level=levels)
        flipped = (before * means < 0).values
        single = {
            level: unresolved(v, "not converged: the sign changes between the last checkpoints") if f else v
            for (level, v), f in zip(single.items(), flipped, strict=True)
        }
        if flipped.any():
            whole = unresolved(whole, "not converged: the sign changes between the last checkpoints")
    return whole, single, {level: float(m) for level, m in zip(levels, means.values, strict=True)}


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
            earlier = earlier_pair(study, method) if control == "raw" else None
            effects = spectral_pair(study, method, control)
            evidence = Evidence(effects, floor, relative_error, earlier, labels={"control": control})
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


def test_error(study: xr.Dataset, method: str) -> Values:
    """Return the test error at the minimum, ``(level, replicate)``."""
    return pick(study, "point_error", method=method, split="test", at="minimum")


def barrier_error(study: xr.Dataset, method: str, pair: str) -> Values:
    """Return the barrier of a pair in test error, ``(level, replicate)``."""
    return pick(study, "barrier_error", method=method, split="test", pair=pair)


def _per_level(values: Values, verdict: Callable[[float, float], Verdict]) -> dict[int, Verdict]:
    """Return the verdict of every level above 0 from its mean and noise."""
    if values is None:
        return {}
    values = values.transpose("level", "replicate")
    se = decisions.pooled_se(values.values)
    count = {
        level: int(np.isfinite(row).sum())
        for level, row in zip(values["level"].values.tolist(), values.values, strict=True)
    }
    return {
        level: verdict(float(values.sel(level=level).mean()), decisions.total_noise(se, float("nan"), count[level]))
        for level in count
        if level > 0
    }


def matching(study: xr.Dataset) -> dict[int, Verdict]:
    """Return, by level, whether imp is matching: test error at most that of the dense networks plus epsilon."""
    errors = test_error(study, "imp")
    if errors is None or 0 not in errors["level"].values:
        return {}
    dense = errors.sel(level=0)
    spread = float(dense.std(ddof=1)) if dense.notnull().sum() > 1 else 0.0
    margin = max(spread, MATCHING_DELTA) - (errors - dense)
    return _per_level(margin, decide)


def _barriers(study: xr.Dataset) -> list[Finding]:
    successive = barrier_error(study, "imp", "previous -> minimum")
    absent = _per_level(successive, lambda effect, noise: decide(effect, noise, "absence", BARRIER_DELTA))
    condition = matching(study)
    levels = sorted(set(absent) & set(condition))
    verdict = decisions.decide_exactly_where([absent[v] for v in levels], [condition[v] for v in levels])
    claim, statement = "barrier_vanishes_where_matching", "no barrier between successive minima exactly where matching"
    raw = {"control": "raw"}
    found = [Finding(claim, statement, PAUL, verdict.effect, verdict, raw)]
    found += [Finding(claim, statement, PAUL, absent[v].effect, absent[v], {**raw, "level": v}) for v in levels]
    once, imp = (barrier_error(study, m, "dense -> minimum") for m in ("one_shot", "imp"))
    floor = difference(barrier_error(study, "retrained", "dense -> minimum"), imp)
    found += order_claim(
        "one_shot_barrier_above_imp", "one-shot pruning has the higher barrier to the dense minimum", PAUL,
        Evidence(difference(once, imp), floor, labels=raw),
    )  # fmt: skip
    none = _per_level(imp, lambda effect, noise: decide(effect, noise, "absence", BARRIER_DELTA))
    connected = [level for level, v in none.items() if v.verdict == HOLDS]
    chosen = None if once is None else once.isel(level=[level in connected for level in once["level"].values.tolist()])
    empty = chosen is None or not chosen.size
    statement = "one-shot pruning has a barrier to the dense minimum where imp has none"
    evidence = Evidence(None if chosen is None or empty else chosen - BARRIER_DELTA, floor, labels=raw)
    return found + order_claim("one_shot_barrier", statement, PAUL, evidence)


def _ranking(study: xr.Dataset) -> list[Finding]:
    found = []
    imp = test_error(study, "imp")
    if imp is None:
        return []
    floor = difference(test_error(study, "retrained"), imp)
    for method in study["method"].values.tolist():
        effect = difference(test_error(study, method), imp)
        if method in ("imp", "retrained") or effect is None:
            continue
        levels = [level for level in effect["level"].values.tolist() if level <= RANKING_LEVEL]
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
    raw = {"control": "raw"}
    rows = (
        ("training_refills", "training makes new weights below the threshold", refill),
        ("refilling_is_not_rewinding", "fine-tuning refills that region too", below("fine_tune", "minimum")),
        ("refilling_beyond_random_mask", "imp refills more than random masks do", difference(refill, masked)),
    )
    return [
        finding
        for claim, statement, effect in rows
        for finding in order_claim(claim, statement, PAUL, Evidence(effect, floor, labels=raw))
    ]


def _small_weights(study: xr.Dataset) -> list[Finding]:
    def of(name: str, kind: str) -> Values:
        values = pick(study, name, method="imp")
        if values is None:
            return None
        chosen = [r for r in values["removal"].values.tolist() if r.startswith(kind)]
        return values.sel(removal=chosen).mean("removal")

    def ratio(name: str, kind: str) -> Values:
        upper, lower = of(name, kind), of(name, "smallest")
        if upper is None or lower is None:
            return None
        return logarithm(upper.where(upper > 0) / lower.where(lower > 0)).dropna("level", how="all")

    rows = (
        ("small_weights_cost_less", "the smallest weights cost less than random ones", ("loss_increase", "random")),
        (
            "small_weights_cost_less_than_largest",
            "the smallest cost less than the largest",
            ("loss_increase", "largest"),
        ),
        ("small_weights_are_flat", "the loss is flat along small weights", ("step_curvature", "random")),
    )
    return [
        finding
        for claim, statement, place in rows
        for finding in order_claim(claim, statement, PAUL, Evidence(ratio(*place), labels={"control": "raw"}))
    ]


def cut_of(study: xr.Dataset) -> int:
    """Return the number of leading eigenvectors that is nearest to C - 1 of ten classes."""
    return int(min(study["cut"].values.tolist(), key=lambda k: abs(k - 9)))


def _functions(study: xr.Dataset) -> list[Finding]:
    raw = {"control": "raw"}
    found = []
    if "overlap" in study:
        chosen = study.sel(cut=cut_of(study))
        imp, masked, twin = (pick(chosen, "overlap", method=m) for m in ("imp", "random_mask_layerwise", "retrained"))
        evidence = Evidence(difference(imp, masked), difference(imp, twin), labels=raw)
        statement = "top eigenspaces of successive minima overlap more than under random masks"
        found += order_claim("eigenspace_persists", statement, "claims.md", evidence)

    def differs(method: str, pair: str) -> Values:
        return pick(study, "disagreement", method=method, split="test", pair=pair)

    own = differs("imp", "projected -> minimum")
    effect = difference(differs("random_init", "projected -> minimum"), own)
    floor = difference(differs("retrained", "projected -> minimum"), own)
    statement = "imp predicts more like the pruned solution than fresh weights under its mask"
    return found + order_claim("tickets_relearn", statement, "Evci et al. 2022", Evidence(effect, floor, labels=raw))


PARTS: Sequence[Callable[[xr.Dataset], list[Finding]]] = (
    _spectra,
    _barriers,
    _ranking,
    _renewal,
    _small_weights,
    _functions,
)


def evaluate(study: xr.Dataset) -> xr.Dataset:
    """Judge all claims on the results of a run (``landscape.open_study``); what was not measured is not resolved."""
    return decisions.table([finding for part in PARTS for finding in part(study)])
