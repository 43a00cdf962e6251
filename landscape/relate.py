"""Does any measured number predict test error beyond the train loss? Rank correlations over the networks of a run.

Within a level, over all methods and replicates, Kendall's tau-b of every scalar with the test error and with the train
loss, and partial on the train loss. Levels are not mixed: over levels everything is correlated with sparsity.

Error: ``p_value`` is two-sided, by permuting the scalar against the two others; ``lo``, ``hi`` and ``se`` are by
resampling networks. Replicates of one method are not independent of the choice of methods, so the numbers describe
these methods and no population of methods.

References
----------
Kendall 1938, A new measure of rank correlation; Kendall 1942, Partial rank correlation, Biometrika 32.
Jiang, Neyshabur, Mobahi, Krishnan, Bengio 2020, Fantastic generalization measures, arXiv:1912.02178.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import xarray as xr

from landscape import seeds
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED, holm_widths
from landscape.errors import InputError

LEAST_NETWORKS = 8
# A partial correlation below this is no prediction worth the name.
SMALL = 0.2
CELL = ("method", "level", "replicate")
# Labels that are chosen, and labels over which a variable is split into several scalars.
CHOSEN = {"point": "minimum", "control": "raw", "at": "minimum"}
SPLIT = ("curvature", "pair", "split")
# Not properties of a network, or what is to be predicted.
LEFT_OUT = (
    "measured_",
    "pruning_",
    "accuracy",
    "num_examples",
    "num_params_total",
    "point_error",
    "path_",
    "target_loss",
)
# What knows the test labels cannot count as a prediction of the test error.
LABELLED = ("barrier_", "instability_", "point_")
LEFT_OUT_ENDS = ("_seconds", "_se", "_lo", "_hi", "num_products", "_accuracy")


@dataclass(frozen=True)
class RelateOptions:
    """Rank correlations."""

    permutations: int = field(default=999, metadata={"metavar": "P", "help": "permutations behind a p-value"})
    resamples: int = field(
        default=500, metadata={"metavar": "B", "help": "resamples of the networks behind an interval"}
    )
    seed: int = field(default=0, metadata={"help": "seed of permutations and resamples"})


def scalars(study: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return every scalar of a network's minimum by name, ``(method, level, replicate)``."""
    found: dict[str, xr.DataArray] = {}
    for key, values in study.data_vars.items():
        name = str(key)
        if name.startswith(LEFT_OUT) or name.endswith(LEFT_OUT_ENDS) or values.dtype.kind not in "fi":
            continue
        for label, value in CHOSEN.items():
            if label in values.dims:
                if value not in values[label].values:
                    break
                values = values.sel({label: value})
        rest = [d for d in values.dims if d not in CELL]
        if not set(CELL) <= set(values.dims) or not set(rest) <= set(SPLIT):
            continue
        for place in product(*(values[d].values.tolist() for d in rest)):
            if "test" in place and name.startswith(LABELLED):
                continue
            suffix = f"[{', '.join(map(str, place))}]" if place else ""
            found[f"{name}{suffix}"] = values.sel(dict(zip(rest, place, strict=True))).transpose(*CELL)
    return found


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


def relate_one(x: np.ndarray, error: np.ndarray, loss: np.ndarray, options: RelateOptions) -> dict[str, float]:
    """Relate one scalar of n networks with their test error and train loss, each ``(n,)``."""
    known = np.isfinite(x) & np.isfinite(error) & np.isfinite(loss)
    x, error, loss = x[known], error[known], loss[known]
    size = len(x)
    if size < LEAST_NETWORKS or np.ptp(x) == 0:
        return {"num_networks": float(size)}
    sx, sy, sz = signs(x), signs(error), signs(loss)
    yz = tau(sy, sz)
    result = {"num_networks": float(size), "tau_error": float(tau(sx, sy)), "tau_loss": float(tau(sx, sz))}
    result["tau_partial"] = float(partial(np.array(result["tau_error"]), np.array(result["tau_loss"]), yz))
    if np.isnan(result["tau_partial"]):  # the scalar orders the networks as the train loss does
        return {"num_networks": float(size)}
    stream = seeds.numpy_generator(options.seed, "relate")
    if options.permutations:
        orders = stream.permuted(np.tile(np.arange(size), (options.permutations, 1)), axis=1)
        shuffled = sx[orders[:, :, None], orders[:, None, :]]
        null = partial(tau(shuffled, sy), tau(shuffled, sz), yz)
        beyond = int((np.abs(null) >= abs(result["tau_partial"]) - 1e-12).sum())
        result["p_value"] = (1 + beyond) / (1 + options.permutations)
    if options.resamples:
        chosen = stream.integers(size, size=(options.resamples, size))
        a, b, c = signs(x[chosen]), signs(error[chosen]), signs(loss[chosen])
        draws = partial(tau(a, b), tau(a, c), tau(b, c))
        draws = draws[np.isfinite(draws)]
        result["tau_partial_se"] = float(draws.std(ddof=1))
        result["tau_partial_lo"], result["tau_partial_hi"] = (float(q) for q in np.quantile(draws, [0.025, 0.975]))
    return result


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
    mean ``effect`` over the levels and its ``noise``. It holds if |effect| > 2 noise after Holm's correction over the
    scalars (dozens are tried), and fails if |effect| + 2 noise < 0.2.
    """
    options = options or RelateOptions()
    if "point_error" not in study or "point_loss" not in study:
        raise InputError("relating needs the errors and losses of connectivity; measure --quantities connectivity")
    error = study["point_error"].sel(split="test", at="minimum").transpose(*CELL)
    loss = study["point_loss"].sel(split="train", at="minimum").transpose(*CELL)
    rows = {
        name: [
            relate_one(values[:, i].values.ravel(), error[:, i].values.ravel(), loss[:, i].values.ravel(), options)
            for i in range(study.sizes["level"])
        ]
        for name, values in scalars(study).items()
    }
    rows = {name: levels for name, levels in rows.items() if any("tau_partial" in row for row in levels)}
    if not rows:
        raise InputError(f"no scalar is known of {LEAST_NETWORKS} networks of one level; measure more methods")
    names = ("tau_error", "tau_loss", "tau_partial", "tau_partial_se", "tau_partial_lo", "tau_partial_hi", "p_value")
    data = {
        name: (("scalar", "level"), np.array([[row.get(name, np.nan) for row in levels] for levels in rows.values()]))
        for name in (*names, "num_networks")
    }
    result = xr.Dataset(data, {"scalar": list(rows), "level": study["level"].values})
    return result.assign(_verdicts(result))


def _verdicts(result: xr.Dataset) -> Mapping[str, tuple[str, np.ndarray]]:
    """Judge each scalar by its mean partial correlation over the levels."""
    known = result["tau_partial"].notnull()
    effect = result["tau_partial"].mean("level").values
    count = np.maximum(known.sum("level").values, 1)
    noise = np.sqrt((result["tau_partial_se"].where(known) ** 2).sum("level").values) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        margins = np.nan_to_num(np.abs(effect) / noise, nan=-np.inf, posinf=np.inf)
    holds = np.isfinite(holm_widths(margins.tolist()))
    fails = np.abs(effect) + 2 * noise < SMALL
    words = np.where(holds & ~fails, HOLDS, np.where(fails, FAILS, NOT_RESOLVED))
    return {"effect": ("scalar", effect), "noise": ("scalar", noise), "verdict": ("scalar", words)}


def describe(result: xr.Dataset) -> str:
    """Return the scalars as text, the strongest partial correlation first."""
    lines = [f"{'scalar':58s} {'tau error':>10s} {'tau loss':>9s} {'partial':>8s} {'noise':>7s}  beyond train loss"]
    order = np.argsort(-np.abs(result["effect"].values))
    for position in order.tolist():
        one = result.isel(scalar=position)
        means = (float(one[name].mean()) for name in ("tau_error", "tau_loss"))
        text = " ".join(f"{value:>9.3f}" for value in means)
        lines.append(
            f"{one['scalar'].item():58s} {text} {one['effect'].item():>8.3f} {one['noise'].item():>7.3f}  "
            f"{one['verdict'].item()}"
        )
    return "\n".join(lines)
