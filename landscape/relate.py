"""Does any measured number predict test error beyond the train loss? Rank correlations over the networks of a run.

Within a level, over all methods and replicates, Kendall's tau-b of every scalar with the test error and with the train
loss, and partial on the train loss. Levels are not mixed: over levels everything is correlated with sparsity. Only
networks of one replicate are paired: they share seed and data order, so that what a replicate does to all its networks
predicts nothing.

Error: the networks of one method are no independent samples, so methods are permuted (``p_value``, two-sided: the
scalar's methods against those of error and loss, alike in all replicates and levels) and resampled (``lo``, ``hi``,
``se``) as a whole. With M methods no p-value is below 1 / M!; fewer than five are not related at all. The numbers
describe these methods and no population of methods.

References
----------
Kendall 1938, A new measure of rank correlation; Kendall 1942, Partial rank correlation, Biometrika 32.
Jiang, Neyshabur, Mobahi, Krishnan, Bengio 2020, Fantastic generalization measures, arXiv:1912.02178.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import xarray as xr

from landscape import seeds
from landscape.decisions import ALPHA, FAILS, HOLDS, NOT_RESOLVED
from landscape.errors import InputError
from landscape.schemas import SCHEMAS
from landscape.schemas.words import MODEL

LEAST_METHODS = 5
# A partial correlation below this is no prediction worth the name.
SMALL = 0.2
CELL = ("method", "level", "replicate")
# Labels that are chosen, and labels over which a variable is split into several scalars (of some only these values).
CHOSEN = {"point": "minimum", "control": "raw", "at": "minimum"}
SPLIT = ("curvature", "pair", "split", "eigen", "sampler", "order", "section_size", "prior_factor", "rule", "shell")
SPLIT_VALUES = {"eigen": (1,), "shell": (0,)}
# Not properties of a network, or what is to be predicted, or what it is to be predicted beyond.
LEFT_OUT = (
    "measured_",
    "pruning_",
    "accuracy",
    "num_",
    "point_error",
    "path_",
    "target_loss",
    "matched_",
    "output_scale",
    "whole_network",
    "residual",
    "converged",
    "kept",
    "rank_bound",
    "log_volume_",
    "pilot_",
    "passes_",
    "star_",
    "radius_error",
)
# What knows the test labels cannot count as a prediction of the test error.
LABELLED = ("barrier_", "instability_", "point_")
# What one quantity told of the point, another tells once more, on other examples.
AGAIN = {f"{quantity}_{fact}" for quantity in SCHEMAS for fact in MODEL}
LEFT_OUT_ENDS = ("_seconds", "_se", "_lo", "_hi", "_bias", "_valid", "_resolved", "_accuracy")


@dataclass(frozen=True)
class RelateOptions:
    """Rank correlations."""

    permutations: int = field(
        default=4999, metadata={"metavar": "P", "help": "permutations of the methods behind a p-value"}
    )
    resamples: int = field(
        default=500, metadata={"metavar": "B", "help": "resamples of the methods behind an interval"}
    )
    seed: int = field(default=0, metadata={"help": "seed of permutations and resamples"})


def scalars(study: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return every scalar of a network's minimum by name, ``(method, level, replicate)``."""
    found: dict[str, xr.DataArray] = {}
    for key, values in study.data_vars.items():
        name = str(key)
        if name.startswith(LEFT_OUT) or name.endswith(LEFT_OUT_ENDS) or values.dtype.kind not in "fi":
            continue
        if name in AGAIN:
            continue
        for label, value in CHOSEN.items():
            if label in values.dims:
                if value not in values[label].values:
                    break
                values = values.sel({label: value}, drop=True)
        rest = [str(d) for d in values.dims if d not in CELL]
        if not set(CELL) <= set(values.dims) or not set(rest) <= set(SPLIT):
            continue
        for place in product(*(_split(values, d) for d in rest)):
            if "test" in place and name.startswith(LABELLED):
                continue
            suffix = f"[{', '.join(map(str, place))}]" if place else ""
            found[f"{name}{suffix}"] = values.sel(dict(zip(rest, place, strict=True)), drop=True).transpose(*CELL)
    return found


def _split(values: xr.DataArray, dim: str) -> list[object]:
    """Return the labels of a dim that make scalars of their own; pairs of other points than the minimum make none."""
    labels = values[dim].values.tolist()
    if dim == "pair":
        return [label for label in labels if "minimum" in label]
    return [label for label in labels if label in SPLIT_VALUES.get(dim, labels)]


def signs(x: np.ndarray) -> np.ndarray:
    """Return sign(x_i - x_j) for all pairs, ``(..., n, n)``."""
    return np.sign(x[..., :, None] - x[..., None, :])


def tau(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b from two sign matrices ``(..., n, n)``; NaN where one of them is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt((first**2).sum((-1, -2)) * (second**2).sum((-1, -2)))
        result: np.ndarray = (first * second).sum((-1, -2)) / scale
    return result


def partial(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
    """Return the partial correlation of x and y given z."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result: np.ndarray = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    return np.where(np.isfinite(result), result, np.nan)


def correlations(x: np.ndarray, error: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tau with the error, with the loss, and partial on the loss; pairs are within a replicate.

    Each ``(..., replicate, method)``; networks of which anything is NaN are in no pair.
    """
    known = np.isfinite(x) & np.isfinite(error) & np.isfinite(loss)
    paired = known[..., :, None] & known[..., None, :]
    with np.errstate(invalid="ignore"):
        sx, sy, sz = (np.where(paired, signs(v), 0.0) for v in (x, error, loss))
    flat = [s.reshape(*s.shape[:-3], 1, -1) for s in (sx, sy, sz)]
    xy, xz, yz = (tau(flat[i], flat[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    return xy, xz, partial(xy, xz, yz)


@dataclass(frozen=True)
class Relation:
    """One scalar against error and loss: numbers of each level, and of their mean."""

    levels: dict[str, np.ndarray]
    effect: float
    noise: float
    p_value: float


def relate_one(x: np.ndarray, error: np.ndarray, loss: np.ndarray, options: RelateOptions) -> Relation | None:
    """Relate one scalar with test error and train loss, each ``(level, replicate, method)``; None if it can't be."""
    known = np.isfinite(x) & np.isfinite(error) & np.isfinite(loss)
    with np.errstate(invalid="ignore"):
        xy, xz, part = (np.where(known.any(1).sum(1) >= LEAST_METHODS, v, np.nan) for v in correlations(x, error, loss))
    if not np.isfinite(part).any():
        return None
    used = np.isfinite(part)
    levels = {"tau_error": xy, "tau_loss": xz, "tau_partial": part, "num_networks": known.sum((1, 2)).astype(float)}
    there = known[used].any((0, 1))  # only methods of which the scalar is known change places
    x, error, loss = (values[used][:, :, there] for values in (x, error, loss))
    effect = float(part[used].mean())
    stream, methods = seeds.numpy_generator(options.seed, "relate"), x.shape[-1]
    noise = p_value = float("nan")
    if options.permutations:
        orders = stream.permuted(np.tile(np.arange(methods), (options.permutations, 1)), axis=1)
        null = correlations(x[:, :, orders].transpose(2, 0, 1, 3), error, loss)[2]
        levels["p_value"] = np.full(len(part), np.nan)
        levels["p_value"][used] = _p_values(null, part[used])
        p_value = float(_p_values(null.mean(1), np.array(effect)))
    if options.resamples:
        chosen = stream.integers(methods, size=(options.resamples, methods))
        draws = correlations(*(v[:, :, chosen].transpose(2, 0, 1, 3) for v in (x, error, loss)))[2]
        for name, values in _spread(draws).items():
            levels[name] = np.full(len(part), np.nan)
            levels[name][used] = values
        noise = float(_spread(draws.mean(1))["tau_partial_se"])
    return Relation(levels, effect, noise, p_value)


def _p_values(null: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return (1 + permutations at least as far from 0) / (1 + permutations); those without a value count as as far."""
    beyond = (~(np.abs(null) < np.abs(found) - 1e-12)).sum(0)
    result: np.ndarray = (1 + beyond) / (1 + len(null))
    return result


def _spread(draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return standard error and 95 % interval over resamples; those in which a tau has no value do not count."""
    lo, hi = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return {"tau_partial_se": np.nanstd(draws, axis=0, ddof=1), "tau_partial_lo": lo, "tau_partial_hi": hi}


NUMBERS = ("tau_error", "tau_loss", "tau_partial", "tau_partial_se", "tau_partial_lo", "tau_partial_hi", "p_value")


def relate(study: xr.Dataset, options: RelateOptions | None = None) -> xr.Dataset:
    """Relate every scalar of a study with test error and train loss, level by level.

    Parameters
    ----------
    study
        What ``landscape.open_study`` returns; ``point_error`` and ``point_loss`` of connectivity must be measured.

    Returns
    -------
    Over ``scalar`` and ``level``: ``tau_error``, ``tau_loss``, ``tau_partial`` with ``_se``, ``_lo``, ``_hi``,
    ``p_value``, ``num_networks``; over ``scalar``: ``verdict`` on "predicts test error beyond the train loss" with the
    mean ``effect`` over the levels, its ``noise`` and ``effect_p_value``. It holds if the p-value passes Holm's
    correction over the scalars (dozens are tried) at the two-sided error of two standard errors, and fails if |effect|
    + 2 noise < 0.2.
    """
    options = options or RelateOptions()
    if "point_error" not in study or "point_loss" not in study:
        raise InputError("relating needs the errors and losses of connectivity; measure --quantities connectivity")
    order = ("level", "replicate", "method")
    error = study["point_error"].sel(split="test", at="minimum").transpose(*order).values
    loss = study["point_loss"].sel(split="train", at="minimum").transpose(*order).values
    tried = {n: relate_one(v.transpose(*order).values, error, loss, options) for n, v in scalars(study).items()}
    rows = {name: relation for name, relation in tried.items() if relation is not None}
    if not rows:
        raise InputError(f"no scalar is known of {LEAST_METHODS} methods at one level; measure more methods")
    empty = np.full(study.sizes["level"], np.nan)
    data = {
        name: (("scalar", "level"), np.array([row.levels.get(name, empty) for row in rows.values()]))
        for name in (*NUMBERS, "num_networks")
    }
    result = xr.Dataset(data, {"scalar": list(rows), "level": study["level"].values})
    return result.assign(_verdicts(list(rows.values())))


def _verdicts(rows: Sequence[Relation]) -> Mapping[str, tuple[str, np.ndarray]]:
    """Judge each scalar by its mean partial correlation over the levels."""
    effect, noise, p_value = (np.array([getattr(row, name) for row in rows]) for name in ("effect", "noise", "p_value"))
    holds = _holm(p_value)
    fails = ~holds & (np.abs(effect) + 2 * noise < SMALL)
    words = np.where(holds, HOLDS, np.where(fails, FAILS, NOT_RESOLVED))
    numbers = {"effect": effect, "noise": noise, "effect_p_value": p_value}
    return {**{name: ("scalar", values) for name, values in numbers.items()}, "verdict": ("scalar", words)}


def _holm(p_values: np.ndarray) -> np.ndarray:
    """Return which p-values pass Holm's step-down procedure at the error 2 ``ALPHA``."""
    order = np.argsort(p_values)
    passed = p_values[order] <= 2 * ALPHA / np.arange(len(order), 0, -1)
    result = np.zeros(len(order), dtype=bool)
    result[order] = np.logical_and.accumulate(passed)
    return result


def describe(result: xr.Dataset) -> str:
    """Return the scalars as text, the strongest partial correlation first."""
    lines = [f"{'scalar':58s} {'tau error':>10s} {'tau loss':>9s} {'partial':>8s} {'noise':>7s} {'p':>7s}  beyond"]
    order = np.argsort(-np.abs(result["effect"].values))
    for position in order.tolist():
        one = result.isel(scalar=position)
        means = (float(one[name].mean()) for name in ("tau_error", "tau_loss"))
        text = " ".join(f"{value:>9.3f}" for value in means)
        lines.append(
            f"{one['scalar'].item():58s} {text} {one['effect'].item():>8.3f} {one['noise'].item():>7.3f} "
            f"{one['effect_p_value'].item():>7.4f}  "
            f"{one['verdict'].item()}"
        )
    return "\n".join(lines)
