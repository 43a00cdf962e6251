"""All results of a run as one labelled Dataset, through one consolidated index a quantity.

A run's results are single netCDF files. For every quantity their variables are gathered along a dim ``result`` in
``RUN/results/QUANTITY/index.nc``, padded with NaN (flags as 1 and 0). It is brought up to date when files came, went or
changed, and is all that `open_study` reads. Arrays of more than `LARGEST` numbers a result (eigenvectors) stay in their
files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape import schemas, store
from landscape.errors import InputError
from landscape.schemas import LABELS, PLAIN

LARGEST = 20_000
INDEX = "index.nc"
CONDITIONS = ("checkpoint_sha256", "data_sha256", "dtype", "device", "world_size", "threads", "batchnorm")
# Facts of a point that are the same whatever is measured on the same examples.
SHARED = ("loss", "accuracy", "gradient_norm", "num_params", "num_params_total", "kept", "num_examples")


def by_quantity(root: str | Path) -> dict[str, xr.Dataset]:
    """Return the results of a run, or of a compact study's file, one Dataset a quantity (see `open_study`)."""
    return {name: open_study(root, name) for name in quantities(Path(root))}


def folder(root: Path, quantity: str) -> Path:
    """Return where the results of a quantity lie."""
    return root / "results" / quantity


def derived_path(root: Path, name: str) -> Path:
    """Return where a table made of all results lies: among a run's results, or beside a compact study's file."""
    return root.with_suffix(f".{name}.nc") if root.is_file() else root / "results" / f"{name}.nc"


def quantities(root: Path) -> list[str]:
    """Return the quantities of which there is a result in a run, or in a compact study's file."""
    if root.is_file():
        stored = store.open_result(root)
        return [str(name).removeprefix("measured_") for name in stored if str(name).startswith("measured_")]
    base = root / "results"
    return [name for name in schemas.SCHEMAS if (base / name).is_dir() and any(_files(base / name))]


def _files(where: Path) -> Iterator[Path]:
    return (p for p in sorted(where.glob("*.nc")) if p.name != INDEX and not p.name.startswith("."))


def stamps(where: Path) -> dict[str, str]:
    """Return size and time of change of every result file by its name."""
    found = {}
    for file in _files(where):
        with contextlib.suppress(FileNotFoundError):  # another process may have replaced it
            status = file.stat()
            found[file.stem] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def used(root: Path, quantity: str, **where: Any) -> list[str]:
    """Return the fingerprints of the results that `open_study` takes."""
    return sorted(_matching(index(root, quantity), where, quantity)["fingerprint"].values.tolist())


def options(root: Path, quantity: str, fingerprints: Sequence[str]) -> list[dict[str, Any]]:
    """Return the different options under which some results of a quantity were measured, with the number of each.

    What names a single result (its cell, point, control) is left out. Cost: a file a result is opened.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in fingerprints:
        asked = json.loads(store.attributes(folder(root, quantity) / f"{name}.nc")["options"])
        asked = {name: value for name, value in asked.items() if isinstance(value, dict) or name == "threads"}
        entry = found.setdefault(store.as_json(asked), {**asked, "num_results": 0})
        entry["num_results"] += 1
    return list(found.values())


def conditions(files: Sequence[Path]) -> dict[str, Any]:
    """Return of what, on what and how long several results were measured, as attributes of what is made of them.

    Where they differ, the different values are joined by commas; more than one checkpoint is named by the SHA-256 of
    their sorted names; ``seconds`` is the sum. Cost: the attributes of each file are read.
    """
    attrs = [store.attributes(file) for file in files]
    found: dict[str, Any] = {}
    for name in CONDITIONS:
        values = sorted({str(one[name]) for one in attrs if name in one})
        if values:
            found[name] = ",".join(values)
    if "," in (names := found.get("checkpoint_sha256", "")):
        found["checkpoint_sha256"] = hashlib.sha256(names.encode()).hexdigest()
    found |= {name: int(found[name]) for name in ("threads", "world_size") if found.get(name, "").isdigit()}
    return found | {"seconds": float(sum(one.get("seconds", 0.0) for one in attrs))}


def conditions_of(root: Path) -> dict[str, Any]:
    """Return the conditions of all results of a run, or of a compact study's file."""
    if root.is_file():
        return {name: value for name, value in store.attributes(root).items() if name in CONDITIONS}
    return conditions([file for name in quantities(root) for file in _files(folder(root, name))])


def index(root: Path, quantity: str) -> xr.Dataset:
    """Return the gathered results of a quantity over ``result``; only new and changed files are read.

    Notes
    -----
    The index is derived: it is replaced without asking, and where it cannot be written (a run that is only read) it is
    made anew each time.
    """
    where = folder(root, quantity)
    wanted = stamps(where)
    if not wanted:
        raise InputError(f"{root} holds no result of {quantity}")
    old = _read_index(where / INDEX)
    known: dict[str, str] = {}
    if old is not None:
        known = dict(zip(old["fingerprint"].values.tolist(), old["stamp"].values.tolist(), strict=True))
    if known == wanted:
        assert old is not None
        return old
    kept = [name for name, stamp in known.items() if wanted.get(name) == stamp]
    rows = [_row(where / f"{name}.nc", wanted[name]) for name in wanted if name not in kept]
    parts = [old.isel(result=[name in kept for name in known])] if old is not None and kept else []
    gathered = xr.concat(
        [*parts, *rows], "result", data_vars="all", coords="minimal", join="outer", combine_attrs="drop"
    )
    gathered = gathered.isel(result=np.argsort(gathered["fingerprint"].values.astype(str)))
    text = {name: values for name, values in gathered.data_vars.items() if values.dtype.kind in "OUT"}
    gathered = gathered.assign({name: values.where(values.notnull(), "").astype(str) for name, values in text.items()})
    with contextlib.suppress(InputError):
        _write_index(gathered, where / INDEX)
    return gathered


def _row(file: Path, stamp: str) -> xr.Dataset:
    """Return one result as a row: labels and attributes as variables, large arrays left out."""
    result = store.open_result(file)
    small = [name for name, values in result.data_vars.items() if values.size <= LARGEST]
    labels = {label: _label(result, label) for label in LABELS}
    row = result[small].drop_vars([name for name in LABELS if name in result.coords])
    row = row.assign({name: row[name].astype(float) for name in row.data_vars if row[name].dtype == bool})
    row = row.drop_vars([name for name in row.coords if name not in row.dims]).drop_encoding()
    # Results of different sizes are padded along such dims, so these need labels too.
    row = row.assign_coords({d: np.arange(size) for d, size in row.sizes.items() if d not in row.coords})
    facts = {"fingerprint": file.stem, "stamp": stamp, "seconds": float(result.attrs.get("seconds", np.nan))}
    row = row.assign({**facts, **labels}).expand_dims("result")
    row.attrs = {}
    return row


def _label(result: xr.Dataset, label: str) -> Any:
    if label not in result.coords:
        return -1 if label in ("level", "replicate") else ""
    return result.coords[label].item()


def _read_index(file: Path) -> xr.Dataset | None:
    """Return the index as it stands, or None where there is none that can be read."""
    try:
        with xr.open_dataset(file, engine=store.ENGINE) as opened:
            return opened.load()
    except (OSError, ValueError, KeyError, RuntimeError):
        return None


def _write_index(gathered: xr.Dataset, file: Path) -> None:
    content = gathered.to_netcdf(engine=store.ENGINE)
    with store.atomic_path(file) as temporary:
        temporary.write_bytes(content)


def open_study(root: str | Path, quantity: str | Sequence[str] | None = None, **where: Any) -> xr.Dataset:
    """Return the results of a run as one Dataset with the dims method, level, replicate, point, control, curvature.

    Parameters
    ----------
    root
        Directory of a run, or the file that ``study compact`` made of one.
    quantity
        One or several; all that were measured where None. Labels that a quantity does not have are no dims of its
        variables, and a label with one value is kept as a dim.
    where
        Values that variables of a result must have, for example ``num_examples=10000``: which of several results of
        one cell is meant.

    Returns
    -------
    Missing cells are NaN (text: empty); ``measured_QUANTITY`` says which are not. A quantity (of one curvature) has
    one number of examples, as numbers over different samples must not be compared: that of the most cells, and of
    these the largest. The attribute ``left_out`` counts the results on other numbers, which ``where`` chooses. Where
    several results fit one cell, that with the most variables is taken, and of these with the most numbers. With
    several quantities, a variable that an earlier one in ``PLAIN`` also has is called ``QUANTITY_name``; facts of the
    point (``loss``, ``kept``, ...) are one variable for all quantities of the same labels and number of examples.

    Notes
    -----
    Single results may leave out what was not measured; only here they are padded. Cost: one file a quantity is read.
    Choose a method with ``study.sel({"method": "imp"})``: the keyword ``method`` of xarray's ``sel`` is something else.
    """
    root = Path(root)
    names = [quantity] if isinstance(quantity, str) else quantity
    if root.is_file():
        stored = store.open_result(root)
        if where or stored.attrs["quantity"] != "study":
            raise InputError(f"{root} is no study of several results; choose by {where or 'labels'} in the run itself")
        return _part(stored.transpose(..., *(label for label in LABELS if label in stored.dims)), names)
    chosen = list(names) if names is not None else quantities(root)
    if not chosen:
        raise InputError(f"{root} holds no results; measure some with python -m landscape.study measure {root}")
    order = sorted(chosen, key=[*PLAIN, *schemas.SCHEMAS].index)
    tables = {name: _unstacked(_matching(index(root, name), where, name), name) for name in order}
    study = xr.Dataset()
    for name, table in tables.items():
        study = _joined(study, name, table) if len(tables) > 1 else study.merge(table)
    for name in tables:
        study[f"measured_{name}"] = study[f"measured_{name}"].fillna(0).astype(bool)
    text = {name: values for name, values in study.data_vars.items() if values.dtype.kind in "OUT"}
    study = study.assign({name: values.where(values.notnull(), "").astype(str) for name, values in text.items()})
    study.attrs = {"run": str(root)}
    left = {name: table.attrs["left_out"] for name, table in tables.items() if table.attrs["left_out"]}
    study.attrs |= {"left_out": store.as_json(left)} if left else {}
    return schemas.describe(study, "study")


# Variables that a compact study leaves out: every point of a segment, single tensors, classes of magnitudes.
BULKY = ("path_", "position", "eigenvector", "layer_", "flow")


def compact(study: xr.Dataset, keep: Sequence[str] = ()) -> xr.Dataset:
    """Return a study without its bulky variables, and without labels at which nothing is left.

    Parameters
    ----------
    keep
        Names of bulky variables that stay all the same.
    """
    names = [str(n) for n in study.data_vars if str(n) in keep or not str(n).startswith(BULKY)]
    small = _trimmed(study[names])
    # counts are whole only where no cell is missing; in a stored study they are always padded numbers
    counts = {name: values.astype(float) for name, values in small.data_vars.items() if values.dtype.kind in "iu"}
    small = small.assign(counts)
    return small.drop_vars([name for name in small.coords if not small[name].ndim])


def _trimmed(study: xr.Dataset) -> xr.Dataset:
    """Leave out the labels at which nothing is there."""
    for dim in study.dims:
        over = [_known(v).any([d for d in v.dims if d != dim]) for v in study.data_vars.values() if dim in v.dims]
        study = study.isel({dim: np.any([known.values for known in over], axis=0)})
    return study


def _known(values: xr.DataArray) -> xr.DataArray:
    """Tell which entries are there; text is absent where it is empty, and a flag where it is not set."""
    if values.dtype.kind in "OUT":
        return values != ""
    return values if values.dtype.kind == "b" else values.notnull()


def _part(study: xr.Dataset, names: Sequence[str] | None) -> xr.Dataset:
    """Return single quantities of a study that was stored as one; one alone has no prefixes, as in `open_study`."""
    if names is None:
        return study
    missing = [name for name in names if f"measured_{name}" not in study]
    if missing:
        raise InputError(f"the study holds no result of {missing[0]}")
    several = sum(str(name).startswith("measured_") for name in study.data_vars) > 1
    parts = []
    for name in names:
        words = _stored_names(study, name) if several else {w: w for w in schemas.table(name) if w in study}
        part = study[[*words, f"{name}_seconds", f"measured_{name}"]]
        parts.append(_alone(part.rename(words), name) if len(names) == 1 else part)
    return _trimmed(xr.merge(parts, join="outer", compat="override", combine_attrs="override"))


def _stored_names(study: xr.Dataset, quantity: str) -> dict[str, str]:
    """Return the variables of a quantity in a study of several: name there -> word."""
    shared, labels = _shared(quantity), set(study[f"measured_{quantity}"].dims)
    found: dict[str, str] = {}
    for word in schemas.table(quantity):
        own = f"{quantity}_{word}"
        if own in study and word in (*shared, *SHARED):
            found[own] = word
        elif word in study and word in SHARED:
            # over other labels than this quantity has, the fact is another quantity's
            found |= {word: word} if set(study[word].dims) == labels else {}
        elif word in study and word not in shared:
            found[word] = word
    return found


def _alone(part: xr.Dataset, quantity: str) -> xr.Dataset:
    """Return one quantity of a study without the facts that only another one told of a cell."""
    measured = part[f"measured_{quantity}"]
    return part.assign({word: part[word].where(measured) for word in SHARED if word in part})


def _joined(study: xr.Dataset, quantity: str, table: xr.Dataset) -> xr.Dataset:
    """Return a study with one more quantity.

    Of a fact that both tell, there is one variable where labels and examples are the same, and two otherwise.
    """
    again = [word for word in SHARED if word in table and word in study]
    counts = [np.unique(part["num_examples"].values) for part in (study, table) if "num_examples" in part]
    alike = len(counts) < 2 or np.array_equal(*(known[np.isfinite(known)] for known in counts))
    same = [word for word in again if alike and set(study[word].dims) == set(table[word].dims)]
    facts = study[same].combine_first(table[same])
    names = _prefixed(quantity, table) | {word: f"{quantity}_{word}" for word in again if word not in same}
    rest = table.drop_vars(same).rename({word: name for word, name in names.items() if word not in same})
    return study.drop_vars(same).merge(rest, join="outer").merge(facts, join="outer")


def _shared(quantity: str) -> set[str]:
    """Return the words that a quantity shares with one before it in ``PLAIN``, facts apart.

    It depends on the tables of ``landscape.schemas`` alone, so that a name does not change with what else was measured.
    """
    before = PLAIN[: PLAIN.index(quantity)] if quantity in PLAIN else PLAIN
    return {name for other in before if other in schemas.SCHEMAS for name in schemas.SCHEMAS[other]} - set(SHARED)


def _prefixed(quantity: str, table: xr.Dataset) -> dict[str, str]:
    """Return new names for the variables whose words an earlier quantity has too."""
    shared = _shared(quantity)
    return {str(name): f"{quantity}_{name}" for name in table.data_vars if name in shared}


def _matching(rows: xr.Dataset, where: dict[str, Any], quantity: str) -> xr.Dataset:
    """Return the rows that are wanted, one for each cell."""
    keep = np.ones(rows.sizes["result"], dtype=bool)
    for name, value in where.items():
        if name not in rows or rows[name].dims != ("result",):
            raise InputError(f"the results of {quantity} have no scalar {name!r} to choose by")
        keep &= rows[name].values == value
    rows = rows.isel(result=keep)
    if not rows.sizes["result"]:
        raise InputError(f"no result of {quantity} has {where}")
    rows, left = _one_sample(rows)
    numbers = [rows[v].notnull().sum([d for d in rows[v].dims if d != "result"]).values for v in rows.data_vars]
    fullest = (np.sum(numbers, axis=0), np.count_nonzero(numbers, axis=0))
    best: dict[tuple[Any, ...], int] = {}
    for position in np.lexsort((rows["fingerprint"].values.astype(str), *fullest)).tolist():
        best[_cell(rows, position)] = position
    return rows.isel(result=sorted(best.values())).assign_attrs(left_out=left)


def _cell(rows: xr.Dataset, position: int) -> tuple[Any, ...]:
    return tuple(rows[label].values[position].item() for label in LABELS)


def _one_sample(rows: xr.Dataset) -> tuple[xr.Dataset, dict[str, dict[int, int]]]:
    """Return the rows whose number of examples is that of the most cells of their curvature, and a count of the others.

    Curvature on n examples depends on n (its rank is at most n (C - 1)), so a trend or a pair over mixed samples is one
    of the samples.
    """
    if "num_examples" not in rows or rows["num_examples"].dims != ("result",):
        return rows, {}
    examples, curvatures = rows["num_examples"].values, rows["curvature"].values.astype(str)
    keep = np.isnan(examples.astype(float))
    left: dict[str, dict[int, int]] = {}
    for curvature in np.unique(curvatures):
        own = (curvatures == curvature) & ~keep
        sizes = np.unique(examples[own]).tolist()
        at = {n: np.flatnonzero(own & (examples == n)).tolist() for n in sizes}
        covered = {n: len({_cell(rows, position) for position in at[n]}) for n in sizes}
        chosen = max(sizes, key=lambda n: (covered[n], n), default=None)
        keep |= own & (examples == chosen)
        others = {int(n): len(at[n]) for n in sizes if n != chosen}
        left |= {str(curvature) or "all": others} if others else {}
    return rows.isel(result=keep), left


def _unstacked(rows: xr.Dataset, quantity: str) -> xr.Dataset:
    """Turn the dim ``result`` into the labels that the quantity has."""
    present = [label for label in LABELS if any(value not in ("", -1) for value in rows[label].values.tolist())]
    left = rows.attrs["left_out"]
    rows = rows.drop_vars([*(label for label in LABELS if label not in present), "stamp", "fingerprint"])
    rows = rows.rename({"seconds": f"{quantity}_seconds"})
    rows[f"measured_{quantity}"] = ("result", np.ones(rows.sizes["result"]))
    return rows.set_index(result=present).unstack("result").assign_attrs(left_out=left)
