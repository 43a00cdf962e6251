"""What the claims of iterative magnitude pruning rest on: paired numbers over levels and replicates, from a study.

Everything here is ``(level, replicate)``, with ``eigen`` before a mean over it, or None where it was not measured.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

CONTROLS = ("raw", "loss_matched", "checkpoint_matched", "normalised")

# (level, replicate) arrays of a statistic, or None where it was not measured.
Values = xr.DataArray | None


def pick(study: xr.Dataset, name: str, **labels: str) -> Values:
    """Return a variable at labels, over what is left of its dims, or None where it was not measured."""
    if name not in study:
        return None
    values = study[name]
    for label, value in labels.items():
        if label not in values.dims or value not in values[label].values:
            return None
        values = values.sel({label: value})
    values = values.astype(float).dropna("level", how="all").dropna("replicate", how="all")
    return values if values.size else None


def difference(first: Values, second: Values) -> Values:
    """Return first minus second at the levels and replicates of both."""
    if first is None or second is None:
        return None
    first, second = xr.align(first, second, join="inner", exclude=("eigen",))
    return (first - second) if first.size else None


def log_ratio(upper: Values, lower: Values) -> Values:
    """Return the mean over the leading positive eigenvalues of log(upper / lower), ``(level, replicate)``.

    At a level only those eigenvalues enter that all its replicates have, so that replicates are the same statistic. Two
    points that were measured on different numbers of examples are not compared.
    """
    if upper is None or lower is None:
        return None
    upper, lower = xr.align(upper, lower, join="inner")
    both = (upper > 0) & (lower > 0) & (upper["eigen"] > 0)
    if "num_examples" in upper.coords and "num_examples" in lower.coords:
        both &= upper.coords["num_examples"] == lower.coords["num_examples"]
    both &= (both | ~both.any("eigen")).all("replicate")
    ratio = logarithm(upper.where(both) / lower.where(both)).mean("eigen").dropna("level", how="all")
    return ratio if ratio.size else None


def logarithm(values: xr.DataArray) -> xr.DataArray:
    """Return the natural logarithm with its labels."""
    result: xr.DataArray = xr.apply_ufunc(np.log, values)
    return result


def eigenvalues(study: xr.Dataset, method: str, point: str, control: str) -> Values:
    """Return the eigenvalues of a point of a pair under a control, ``(eigen, level, replicate)``, with their examples.

    Under loss and checkpoint matching one of the two points was replaced, and the other stays raw; ``normalised`` is
    J'J over the spread of the outputs.
    """
    raw = control == "normalised"
    place = {"method": method, "point": point, "control": "raw" if raw else control}
    place["curvature"] = "jtj" if raw else "hessian"
    values, examples = (pick(study, name, **place) for name in ("eigenvalue", "num_examples"))
    if values is None:
        return None
    if examples is not None:
        values = values.assign_coords(num_examples=examples.reindex_like(values.isel(eigen=0)))
    if control != "normalised":
        return values
    spread = pick(study, "output_spread", **place)
    return None if spread is None else values / spread


def spectral_pair(study: xr.Dataset, method: str, control: str) -> Values:
    """Return log(other / imp) of a pair: (projected, imp) for the method imp, else (method, imp)."""
    other = ("imp", "projected") if method == "imp" else (method, "minimum")
    own = ("imp", "minimum")
    if control == "earlier_epoch" and method == "imp":
        return log_ratio(
            eigenvalues(study, *other, "raw"), eigenvalues(study, *own, control)
        )  # projected has no epochs
    if control not in ("loss_matched", "checkpoint_matched"):
        return log_ratio(eigenvalues(study, *other, control), eigenvalues(study, *own, control))
    replaced = eigenvalues(study, method, "minimum", control)
    which = f"matched_{'point' if method == 'imp' else 'method'}"
    if replaced is None or which not in study:
        return None
    names = study[which].sel({"method": method, "point": "minimum", "control": control, "curvature": "hessian"})
    target = other[1] if method == "imp" else other[0]
    upper, lower = eigenvalues(study, *other, "raw"), eigenvalues(study, *own, "raw")
    if upper is None or lower is None:
        return None
    replaced, upper, lower, names = xr.align(replaced, upper, lower, names, join="inner")
    is_other = names == target
    return log_ratio(xr.where(is_other, replaced, upper), xr.where(is_other, lower, replaced))


def earlier_pair(study: xr.Dataset, method: str) -> Values:
    """Return log(other / imp) of a pair one checkpoint before the end, to see whether its sign has settled.

    Taken from the control ``earlier_epoch``, else (between two trainings) from the eigenvalues along the epochs.
    """
    found = spectral_pair(study, method, "earlier_epoch")
    if found is not None or method == "imp":
        return found
    both = [pick(study, "epoch_eigenvalue", method=name) for name in (method, "imp")]
    last_but_one = [None if v is None or v.sizes["epoch"] < 2 else v.isel(epoch=-2, drop=True) for v in both]
    return log_ratio(*last_but_one)
