"""Compare pruned networks of one or several runs: accuracy against kept weights, the cost of masks, the solutions.

Every finished cell counts, whichever command made it. What was measured of the solutions (spectra, volumes, dimensions)
comes along as one scalar a method and level.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from landscape import results, runs, store
from landscape.errors import InputError
from landscape.pruning import record
from landscape.relate import scalars
from landscape.schemas import SCHEMAS

SOLUTIONS = ("spectrum", "volume", "dimension")
CELL = ("method", "level", "replicate")


def compare(roots: Sequence[Path]) -> xr.Dataset:
    """Return the comparison of the networks of runs, or of files that ``study compact`` made of them.

    Returns
    -------
    Over (``directory``, ``method``, ``level``): means over replicates of ``kept``, ``kept_effective``,
    ``test_accuracy`` and the rest of ``schemas.COMPARISON``, with ``_se`` where there are two replicates or more, and
    ``num_replicates``; ``solution`` over ``scalar`` for what was measured of the minima. NaN where nothing is known.

    Raises
    ------
    InputError
        If there is no run, or one holds no finished training.
    """
    if not roots:
        raise InputError("name at least one run")
    names = [root.stem if root.is_file() else root.name for root in roots]
    if len(set(names)) < len(names):
        raise InputError("two runs have the same name; rename one, so that a reader can tell them apart")
    parts = [_compared(root) for root in roots]
    return xr.concat(parts, xr.Variable("directory", np.array(names, dtype=object)), join="outer")


def _compared(root: Path) -> xr.Dataset:
    if not root.is_file():
        _record(root)
    networks = results.open_study(root, "pruning")
    if "kept" not in networks:
        raise InputError(f"{root} does not say what its networks keep; gather it anew with study compact")
    found = means(networks)
    return found.merge(_solutions(root, found), join="left")


def _record(root: Path) -> None:
    """Bring what is stored of the networks of a run up to date."""
    run = runs.read(root)
    cells = run.cells()
    if not cells:
        raise InputError(f"{root} has no finished training")
    if run.adopted:
        raise InputError(f"{root} was adopted; its trainings have no curves to be compared by")
    for cell in cells:
        record.write(run, cell)


def means(study: xr.Dataset) -> xr.Dataset:
    """Return the means and errors over replicates of the pruned networks of a study."""
    found = xr.Dataset(coords={"method": study["method"], "level": study["level"]})
    count = study["kept"].notnull().sum("replicate")
    for name in SCHEMAS["comparison"]:
        if name in study:
            values = study[name].astype(float).transpose(*CELL)
            found[name] = values.mean("replicate")
            if f"{name}_se" in SCHEMAS["comparison"]:
                known = values.notnull().sum("replicate")
                found[f"{name}_se"] = (values.std("replicate", ddof=1) / np.sqrt(known)).where(known > 1)
    found["num_replicates"] = count.transpose("method", "level").astype(float)
    return found


def _solutions(root: Path, cells: xr.Dataset) -> xr.Dataset:
    """Return the scalars that were measured of the minima, mean over replicates."""
    measured = [name for name in SOLUTIONS if name in results.quantities(root)]
    if not measured:
        return xr.Dataset()
    known = scalars(results.open_study(root, measured))
    columns = {name: values.mean("replicate").reindex_like(cells["kept"]) for name, values in known.items()}
    if not columns:
        return xr.Dataset()
    joined = xr.concat(list(columns.values()), xr.Variable("scalar", np.array(list(columns), dtype=object)))
    return xr.Dataset({"solution": joined.transpose("scalar", "method", "level").drop_vars(_other(joined))})


def _other(array: xr.DataArray) -> list[str]:
    return [str(name) for name in array.coords if name not in ("scalar", "method", "level")]


def write(roots: Sequence[Path], out: Path | None = None) -> tuple[xr.Dataset, Path]:
    """Compare runs and store the table, by default in the results of the first; it is derived and replaced."""
    table = compare(roots)
    names = table["directory"].values.tolist()
    asked = {"quantity": "comparison", "runs": [_identity(root) for root in roots]}
    table.attrs = {"fingerprint": store.fingerprint(asked), "options": store.as_json({"runs": names})}
    file = out or results.derived_path(roots[0], "comparison")
    return table, store.write_derived(table, file, "comparison")


def _identity(root: Path) -> list[object]:
    if root.is_file():
        return [store.open_result(root).attrs["fingerprint"]]
    return [runs.read(root).fingerprint, results.stamps(results.folder(root, "pruning"))]


def describe(table: xr.Dataset) -> str:
    """Return the comparison as text: level by level, the best test accuracy first."""
    head = f"{'method':36s} {'kept':>9s} {'on path':>9s} {'test accuracy':>16s} {'train loss':>10s} {'R':>2s}"
    lines = [f"{head} {'products':>8s} {'gradients':>9s} {'seconds':>8s} {'steps':>7s}"]
    for directory in table["directory"].values.tolist():
        if table.sizes["directory"] > 1:
            lines.append(str(directory))
        for level in table["level"].values.tolist():
            rows = table.sel({"directory": directory, "level": level})
            accuracy = rows["test_accuracy"] if "test_accuracy" in rows else -rows["train_loss"]
            order = np.argsort(-np.where(np.isfinite(accuracy.values), accuracy.values, -np.inf), kind="stable")
            for position in order.tolist():
                row = rows.isel(method=position)
                if float(row["num_replicates"]) > 0:
                    lines.append(_line(row))
    return "\n".join(lines)


def _line(row: xr.Dataset) -> str:
    def text(name: str, form: str, width: int) -> str:
        value = float(row[name]) if name in row else np.nan
        return format(value, form) if np.isfinite(value) else " " * (width - 1) + "-"

    error = text("test_accuracy_se", "6.4f", 6)
    numbers = [text(n, f"{w}.0f", w) for n, w in (("mask_products", 8), ("mask_gradients", 9))]
    numbers += [text("mask_seconds", "8.1f", 8), text("mask_steps", "7.0f", 7)]
    return (
        f"{row['method'].item()!s:36s} {text('kept', '9.5f', 9)} {text('kept_effective', '9.5f', 9)} "
        f"{text('test_accuracy', '7.4f', 7)} +- {error} {text('train_loss', '10.4g', 10)} "
        f"{int(row['num_replicates']):2d} {' '.join(numbers)}"
    )
