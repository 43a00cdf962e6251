"""Claims about how much pre-training selection needs, and what stored cells say of them.

=======================  ===============================================================================================
claim                    statement (kind)
=======================  ===============================================================================================
``ordered``              t_nec <= t_emp <= t_suff at every checkpoint, size and cell (condition; a failure is a bug)
``assumptions``          N d > m^2 and m > d in every cell, which the imported convergence theorems need (condition)
``printed_bound``        no loss exceeds the printed bound B1 (condition)
``bound_informative``    at the last checkpoint the bound at the largest k is below the loss without neurons (order)
``target_outside_hull``  no weighting of the neurons attains zero loss before training (condition)
``beats_random``         greedy beats random at equal numbers of distinct neurons, at every size (order, every size)
``log_k``                at the target C/k the threshold grows as log k / (-log rho) within 20 %, rho the dense decay
``before_random``        t_emp is earlier than t_random (order)
``before_dense``         t_emp is earlier than t_dense (order)
``grows_steps``          the exponent of m is positive, in training steps (order)
``grows_epochs``         the same in epochs (order)
``grows_samples``        the same in samples seen (order)
``logarithmic_in_m``     the AICc of a + b log m is lower by 2 than that of every other law
``printed_power_sgd``    the exponent is 2 within 0.25, where the printed formula of theorem 3 is a power (absence)
``printed_power_gd``     the exponent is 1 within 0.25, likewise theorem 10 (absence)
``as_dense``             t_emp / t_dense does not depend on m: |exponent| < 0.1, selection adds no law (absence)
``width_independent``    t_emp does not depend on the width: |exponent of N| < 0.1 (absence)
=======================  ===============================================================================================

Logarithms in k or m are the text's claims (Wolfe et al., arXiv 2108.00259), the powers are what its formulas say; the
tolerances are ours. ``log_k`` is not resolved as a statement about selection unless ``beats_random`` holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats
import xarray as xr

from landscape import store
from landscape.decisions import HOLDS, Verdict, decide, decide_every, over_levels, unresolved
from landscape.errors import InputError
from landscape.noise import pooled_sd, total_noise
from landscape.pretraining import bounds, laws, targets, thresholds
from landscape.pretraining.laws import SlopeOptions

LAWS_IN_M = (
    *(f"grows_{axis}" for axis in ("steps", "epochs", "samples")),
    *("logarithmic_in_m", "printed_power_sgd", "printed_power_gd", "as_dense"),
)
NEED_ORDER = ("beats_random", "log_k", "before_random", "before_dense", *LAWS_IN_M, "width_independent")
LEAST_SIZES, LEAST_DECADES = 6, 1.5  # of m, for a law in m
GRID_NOISE = float(np.log(2) / 2 / np.sqrt(12))  # of the log of a threshold on a grid of ratio sqrt 2, spread evenly


@dataclass(frozen=True)
class ClaimOptions:
    """Where the claims are evaluated.

    Parameters
    ----------
    size
        The k of the laws in m and N; the largest where None.
    target
        Their loss tau; where None the geometric mean of the worst last and the best first loss, which all cells cross.
    constant
        C of the targets C/k; where None 1.1 times V/2 at the last checkpoint, for which the bound is finite.
    width
        The N of the laws in m; the one with most cells where None.
    bootstrap
        Resamples for the interval of an exponent.
    """

    size: int | None = None
    target: float | None = None
    constant: float | None = None
    width: int | None = None
    bootstrap: int = 200


@dataclass(frozen=True)
class Row:
    """One claim: its statistic and the verdict."""

    claim: str
    statistic: float
    verdict: Verdict


def evaluate(result: xr.Dataset, options: ClaimOptions | None = None) -> xr.Dataset:
    """Return the verdicts over ``claim`` and ``method``, the kind of targets, for a ``gfs`` Dataset of many cells.

    Returns
    -------
    xarray.Dataset
        ``statistic``, ``effect``, ``noise``, ``margin``, ``verdict``, ``reason``. The statistic is the exponent or the
        ratio that the claim is about, the effect its distance from what is claimed.
    """
    options = options or ClaimOptions()
    arms = list(dict.fromkeys(result["arm"].values.tolist()))
    columns = [_of_arm(result.isel(cell=np.flatnonzero(result["arm"].values == arm)), options) for arm in arms]
    names = [row.claim for row in columns[0]]
    table: dict[str, tuple[tuple[str, str], np.ndarray]] = {}
    table["statistic"] = ("claim", "method"), np.array([[row.statistic for row in rows] for rows in columns]).T
    for field in ("effect", "noise", "margin", "verdict", "reason"):
        table[field] = (
            ("claim", "method"),
            np.array([[getattr(row.verdict, field) for row in rows] for rows in columns]).T,
        )
    return xr.Dataset(table, {"claim": names, "method": arms})


def evaluate_run(root: Path) -> xr.Dataset:
    """Return the verdicts of the joined cells, RUN/gfs.nc, of a run of ``python -m landscape.pruning gfs_sweep``.

    Raises
    ------
    InputError
        If this is a file, or there are no joined cells.
    """
    if root.is_file():
        raise InputError(f"the claims of gfs are judged on the directory of a run, not on {root}")
    return evaluate(store.open_result(root / "gfs.nc"))


def _of_arm(cells: xr.Dataset, options: ClaimOptions) -> list[Row]:
    """Return the rows of one arm."""
    try:
        thresholds.check_order(cells)
        ordered = Verdict(1.0, 0.0, 1.0, HOLDS)
    except ArithmeticError as error:
        ordered = Verdict(-1.0, 0.0, -1.0, "fails", str(error))
    rows = [Row("ordered", ordered.effect, ordered), *_conditions(cells)]
    if ordered.verdict != HOLDS:
        return rows + [
            _not_resolved(claim, "the losses are not in the order that they must have") for claim in NEED_ORDER
        ]
    widths, counts = np.unique(cells["num_neurons"], return_counts=True)
    width = options.width or int(widths[np.argmax(counts)])
    chosen = cells.isel(cell=np.flatnonzero(cells["num_neurons"].values == width))
    if not chosen.sizes["cell"]:
        raise InputError(f"no cell has {width} neurons; there are {', '.join(map(str, widths))}")
    against_random = _beats_random(chosen)
    rows += [against_random, _log_k(chosen, options, against_random.verdict)]
    found = _at_target(chosen, options)
    rows += [_earlier(found, name) for name in ("random", "dense")]
    rows += _laws_in_m(found, options)
    return [*rows, _width_law(_at_target(cells, options))]


def _conditions(cells: xr.Dataset) -> list[Row]:
    """Return the claims that are settled by single numbers."""
    rows = [_assumptions(cells)]
    if "diameter" in cells and cells.attrs["greedy_bounds"]:
        printed = xr.apply_ufunc(
            bounds.bound_printed, cells["first_loss"], cells["dense_loss"], cells["diameter"] ** 2, cells["size"]
        )
        ratio = float((cells["loss"] / printed).max())
        rows.append(Row("printed_bound", ratio, decide(1 + thresholds.ROUNDING - ratio, 0.0)))
    else:
        rows.append(Row("printed_bound", float("nan"), decide(float("nan"), 0.0)))
    bound = thresholds.sufficient_loss(cells.isel(step=[-1], size=[-1])).values.ravel()
    gain = np.log(cells["empty_loss"].isel(step=-1).values / bound)
    noise = float(gain.std(ddof=1) / np.sqrt(gain.size)) if gain.size > 1 else float("nan")
    rows.append(Row("bound_informative", float(np.exp(-gain.mean())), decide(float(gain.mean()), noise)))
    outside = float((cells["hull_loss_lo"] / cells["empty_loss"]).isel(step=0).min())
    return [*rows, Row("target_outside_hull", outside, decide(outside - thresholds.ROUNDING, 0.0))]


def _assumptions(cells: xr.Dataset) -> Row:
    """Return the claim that the cells meet the assumptions of theorems 8 and 9 on m, N and d."""
    if "input_size" not in cells:
        return _not_resolved("assumptions", "the number of inputs is not known")
    m, width, d = (cells[name].values.astype(float) for name in ("num_examples", "num_neurons", "input_size"))
    met = (width * d > m**2) & (m > d)
    verdict = decide(float(met.mean()) - 1 + 0.5 / len(met), 0.0)
    return Row("assumptions", float(met.mean()), _because(verdict, f"met by {int(met.sum())} of {len(met)} cells"))


def _beats_random(cells: xr.Dataset) -> Row:
    """Compare with random neurons at equal numbers of distinct ones, at the last checkpoint, at every size."""
    at = cells.isel(step=-1)
    gain: xr.DataArray = xr.apply_ufunc(np.log, at["random_loss_distinct"] / at["loss"])
    means, noises = gain.mean("cell").values, []
    for size in gain["size"].values:
        values = gain.sel(size=size)
        rows = [values.values[cells["num_examples"].values == m] for m in np.unique(cells["num_examples"])]
        noises.append(_standard_error(rows, values.size))
    verdict = over_levels(decide_every(list(means), noises), gain["size"].values.tolist(), noun="size")
    return Row("beats_random", float(np.exp(means.min())), verdict)


def _standard_error(rows: list[np.ndarray], count: int, estimator: float = 0.0) -> float:
    """Return the standard error of a mean over all cells from the scatter of replicates at equal m: sd / sqrt(count).

    It needs no equal variances: with as many replicates at every m, the pooled variance is the mean of the variances.
    """
    length = max(len(row) for row in rows)
    padded = np.array([np.pad(row.astype(float), (0, length - len(row)), constant_values=np.nan) for row in rows])
    return total_noise(pooled_sd(padded) / np.sqrt(count), float("nan"), 1, estimator / np.sqrt(count))


def _log_k(cells: xr.Dataset, options: ClaimOptions, against_random: Verdict) -> Row:
    """Compare the slope of t_emp against log k, at the target C/k, with the one that the dense curve predicts."""
    slopes = targets.size_slopes(cells, options.constant)
    ratios = (slopes["slope"] / slopes["predicted"]).values
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < 2:
        return Row("log_k", float("nan"), decide(float("nan"), 0.0))
    mean, noise = float(np.mean(ratios)), float(np.std(ratios, ddof=1) / np.sqrt(len(ratios)))
    verdict = decide(mean - 1, noise, "absence", 0.2)
    if verdict.verdict == HOLDS and against_random.verdict != HOLDS:
        verdict = unresolved(verdict, "greedy does not beat random neurons, whose threshold has the same logarithm")
    return Row("log_k", mean, verdict)


def _at_target(cells: xr.Dataset, options: ClaimOptions) -> xr.Dataset | None:
    """Return the thresholds at one size and one target that every cell crosses, or None."""
    size = options.size or int(cells["size"].values[-1])
    crossed = targets.common_loss(cells, size)
    target = crossed if options.target is None else options.target
    return None if target is None else thresholds.thresholds(cells.sel(size=[size]), target).isel(size=0)


NO_TARGET = "no loss is crossed by all cells: train longer, or give a target"


def _not_resolved(claim: str, reason: str) -> Row:
    return Row(claim, float("nan"), unresolved(decide(float("nan"), 0.0), reason))


def _earlier(found: xr.Dataset | None, rival: str) -> Row:
    """Compare t_emp with another threshold in the mean log ratio over cells in which both were reached."""
    claim = f"before_{rival}"
    if found is None:
        return _not_resolved(claim, NO_TARGET)
    ends = [found[f"t_{name}_{end}"].values for name in (rival, "emp") for end in ("lo", "hi")]
    both = np.isfinite(ends[1]) & np.isfinite(ends[3])
    if not both.any():
        return _not_resolved(claim, f"t_{rival} or t_emp is reached in no cell")
    middle = [np.log(np.maximum((lo + hi) / 2, 0.5)) for lo, hi in ((ends[0], ends[1]), (ends[2], ends[3]))]
    ratio = np.where(both, middle[0] - middle[1], np.nan)
    rows = [ratio[found["num_examples"].values == m] for m in np.unique(found["num_examples"])]
    count = int(both.sum())
    noise = _standard_error(rows, count, np.sqrt(2) * GRID_NOISE)
    reason = "" if both.all() else f"from the {count} of {len(both)} cells in which both were reached"
    verdict = decide(float(np.nanmean(ratio)), noise)
    return Row(claim, float(np.exp(np.nanmean(ratio))), verdict if verdict.reason else _because(verdict, reason))


def _because(verdict: Verdict, reason: str) -> Verdict:
    return Verdict(verdict.effect, verdict.noise, verdict.margin, verdict.verdict, reason)


def _laws_in_m(found: xr.Dataset | None, options: ClaimOptions) -> list[Row]:
    """Return the claims about the dependence on the number of examples."""
    reason = NO_TARGET if found is None else _too_few(found["num_examples"].values)
    if found is None or reason:
        return [_not_resolved(name, reason) for name in LAWS_IN_M]
    slopes = {axis: _exponent(found, "emp", options, axis) for axis in ("steps", "epochs", "samples")}
    own = slopes["steps"]
    if own is None:
        return [
            _not_resolved(name, "the thresholds are not bounded from both sides at two sizes") for name in LAWS_IN_M
        ]
    rows = [_exponent_row(f"grows_{axis}", slope) for axis, slope in slopes.items() if slope is not None]
    rows.append(_logarithmic(found))
    rows += [_exponent_row("printed_power_sgd", own, 2.0), _exponent_row("printed_power_gd", own, 1.0)]
    ratio = _ratio_exponent(found, options)
    if ratio is None:
        return [*rows, _not_resolved("as_dense", "t_dense is not bounded from both sides at two sizes")]
    return [*rows, Row("as_dense", ratio.value, decide(ratio.value, _noise(ratio), "absence", 0.1))]


def _too_few(num_examples: np.ndarray) -> str:
    sizes = np.unique(num_examples)
    if len(sizes) >= LEAST_SIZES and np.log10(sizes[-1] / sizes[0]) >= LEAST_DECADES:
        return ""
    return f"a law in m wants {LEAST_SIZES} sizes over {LEAST_DECADES} decades"


def _exponent(found: xr.Dataset, name: str, options: ClaimOptions, axis: str = "steps") -> laws.Slope | None:
    """Return the exponent of a threshold in m, or None where the intervals say nothing."""
    data = thresholds.intervals(found, name, found["num_examples"], found["replicate"], axis)
    return _or_none(data, options)


def _ratio_exponent(found: xr.Dataset, options: ClaimOptions) -> laws.Slope | None:
    """Return the exponent of t_emp / t_dense in m, from the intervals in which the ratio of each cell lies."""
    lo = found["t_emp_lo"] / found["t_dense_hi"]
    hi = found["t_emp_hi"] / found["t_dense_lo"].where(found["t_dense_lo"] > 0, 1e-300)
    ends = found.assign(t_ratio_lo=lo, t_ratio_hi=hi.where(found["t_dense_lo"] > 0, np.inf))
    return _or_none(thresholds.intervals(ends, "ratio", found["num_examples"], found["replicate"]), options)


def _or_none(data: laws.Intervals, options: ClaimOptions) -> laws.Slope | None:
    try:
        return laws.exponent(data, SlopeOptions(options.bootstrap))
    except InputError:
        return None


def _noise(slope: laws.Slope) -> float:
    """Return the standard error that the 95 % interval of a slope stands for."""
    return (slope.hi - slope.lo) / (2 * float(scipy.stats.norm.ppf(0.975)))


def _exponent_row(claim: str, slope: laws.Slope, power: float | None = None) -> Row:
    """Return the claim that an exponent is positive, or within 0.25 of a power."""
    if power is None:
        verdict = decide(slope.value, _noise(slope))
    else:
        verdict = decide(slope.value - power, _noise(slope), "absence", 0.25)
    interval = f"exponent {slope.value:.3g}, 95 % interval {slope.lo:.3g} to {slope.hi:.3g}"
    return Row(claim, slope.value, _because(verdict, interval))


def _logarithmic(found: xr.Dataset) -> Row:
    """Compare a + b log m with the other laws by AICc; the constant, its special case, counts as a rival."""
    fits = {
        f.law: f for f in laws.compare(thresholds.intervals(found, "emp", found["num_examples"], found["replicate"]))
    }
    rival = min((f for f in fits.values() if f.law != "logarithm"), key=lambda f: f.aicc)
    lead = rival.aicc - fits["logarithm"].aicc
    verdict = decide(lead, 1.0)
    return Row("logarithmic_in_m", lead, _because(verdict, f"AICc below {rival.law} by {lead:.1f}"))


def _width_law(found: xr.Dataset | None) -> Row:
    """Return the claim that the width does not matter, from pairs of the least and largest at equal m and repeat."""
    claim = "width_independent"
    if found is None:
        return _not_resolved(claim, NO_TARGET)
    least, most = int(found["num_neurons"].min()), int(found["num_neurons"].max())
    if least == most:
        return _not_resolved(claim, "there is one width only")
    middle = {}
    for i in range(found.sizes["cell"]):
        cell = found.isel(cell=i)
        key = (int(cell["num_neurons"]), int(cell["num_examples"]), int(cell["replicate"]))
        middle[key] = (float(cell["t_emp_lo"]) + float(cell["t_emp_hi"])) / 2
    pairs = [(middle[least, m, r], t, m) for (n, m, r), t in middle.items() if n == most and (least, m, r) in middle]
    pairs = [pair for pair in pairs if np.isfinite(pair[0]) and np.isfinite(pair[1])]
    if not pairs:
        return _not_resolved(claim, "no pair of cells with the least and the largest width reaches the target")
    octaves = float(np.log(most / least))
    exponent = np.array([np.log(wide / narrow) / octaves for narrow, wide, _ in pairs])
    of = np.array([m for _, _, m in pairs])
    noise = _standard_error([exponent[of == m] for m in np.unique(of)], len(of), np.sqrt(2) * GRID_NOISE / octaves)
    return Row(claim, float(exponent.mean()), decide(float(exponent.mean()), noise, "absence", 0.1))
