"""What the claims of iterative magnitude pruning rest on: paired numbers over levels and replicates, from a study.

Everything here is ``(level, replicate)``, with ``eigen`` before a mean over it, or None where it was not measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xarray as xr

from landscape.errors import InputError

CONTROLS = ("raw", "loss_matched", "checkpoint_matched", "normalised")

# Classes of the data that a run may name.
CLASSES = {"digits": 10, "mnist": 10, "fashion_mnist": 10, "mnist_binary": 2, "cifar10": 10, "cifar100": 100}
# Mean log ratio below which two measurements of eigenvalues are of the same examples.
SAME = 0.01

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
    converged = pick(study, "converged", **place)
    if converged is not None:
        values = values.where(converged.reindex_like(values) != 0)  # a flag that is absent says nothing
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

    Taken from the control ``earlier_epoch``, else from the eigenvalues along the epochs. The projected point, which the
    method imp is compared with, has no epochs and stays as it is; since the epochs may have been measured on other
    examples, only levels count at which the last epoch has the minimum's eigenvalues.
    """
    found = spectral_pair(study, method, "earlier_epoch")
    if found is not None:
        return found
    own = along_epochs(study, "imp", -2)
    if method != "imp":
        return log_ratio(along_epochs(study, method, -2), own)
    same = log_ratio(along_epochs(study, "imp", -1), eigenvalues(study, "imp", "minimum", "raw"))
    projected = eigenvalues(study, "imp", "projected", "raw")
    if own is None or same is None or projected is None:
        return None
    ratio = log_ratio(projected.drop_vars("num_examples", errors="ignore"), own)
    if ratio is None:
        return None
    ratio = ratio.where(abs(same).reindex_like(ratio) < SAME).dropna("level", how="all")
    return ratio if ratio.size else None


def along_epochs(study: xr.Dataset, method: str, position: int) -> Values:
    """Return the eigenvalues at an epoch of a training, counted from its end; None where there are too few epochs."""
    values, converged = (pick(study, name, method=method) for name in ("epoch_eigenvalue", "epoch_converged"))
    if values is None or values.sizes["epoch"] < -position:
        return None
    if converged is not None:
        values = values.where(converged.reindex_like(values) != 0)
    return values.isel(epoch=position, drop=True)


def test_error(study: xr.Dataset, method: str) -> Values:
    """Return the test error at the minimum, ``(level, replicate)``: as connectivity has it, else that of the curves."""
    found = pick(study, "point_error", method=method, split="test", at="minimum")
    return last_error(study, method) if found is None else found


def last_error(study: xr.Dataset, method: str) -> Values:
    """Return the test error after the last epoch of training, ``(level, replicate)``."""
    accuracy = pick(study, "test_accuracy", method=method)
    if accuracy is None or "epoch" not in accuracy.dims:
        return None
    error = (1 - accuracy.isel(epoch=-1, drop=True)).dropna("level", how="all").dropna("replicate", how="all")
    return error if error.size else None


def error_above_imp(study: xr.Dataset, method: str) -> Values:
    """Return a method's test error minus imp's, both from connectivity or both from the curves."""
    place = {"split": "test", "at": "minimum"}
    found = difference(*(pick(study, "point_error", method=name, **place) for name in (method, "imp")))
    return difference(last_error(study, method), last_error(study, "imp")) if found is None else found


def cut_of(study: xr.Dataset) -> int:
    """Return the stored number of leading eigenvectors that is nearest to C - 1 of C classes.

    Where the study does not name its data, C - 1 is told by the cuts, which always hold both C - 1 and C.

    Raises
    ------
    InputError
        If nothing tells the number of classes.
    """
    cuts = sorted(int(k) for k in study["cut"].values)
    classes = CLASSES.get(_data(study))
    if classes is not None:
        return min(cuts, key=lambda k: abs(k - (classes - 1)))
    pairs = [k for k in cuts if k > 1 and k + 1 in cuts] or [k for k in cuts if k == CLASSES["mnist"] - 1]
    if not pairs:
        raise InputError("the number of classes is not known, and with it the cut of the eigenspaces")
    return pairs[-1]


def _data(study: xr.Dataset) -> str:
    """Return the name of the data of a run, or of the run that a compact study was made of; empty where not known."""
    run = Path(str(study.attrs.get("run", ""))) / "run.json"
    text = run.read_text() if "run" in study.attrs and run.is_file() else study.attrs.get("options", "{}")
    training = json.loads(text).get("description", {}).get("training", {})
    return str(training.get("data", ""))
