"""All results of a run in one small file, which ``landscape.open_study`` reads like the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from landscape import results, store
from landscape.errors import InputError
from landscape.runs import Run


@dataclass(frozen=True)
class Compact:
    """How a run is gathered.

    Parameters
    ----------
    keep
        Names of bulky variables that stay.
    eigenvalues
        How many eigenvalues of either end stay; None: all. Where results hold different numbers of them, the shorter
        ones are padded.
    num_examples
        Which of several measurements of a cell are gathered; None as `landscape.results.open_study` chooses.
    command
        What made the file, for its attributes.
    force
        Whether a different file at the same path is replaced.
    """

    keep: tuple[str, ...] = ()
    eigenvalues: int | None = None
    num_examples: int | None = None
    command: str = ""
    force: bool = False


def write_compact(run: Run, out: Path, names: Sequence[str], how: Compact) -> xr.Dataset:
    """Write quantities of a run into one file, without bulky variables, and return what was written."""
    where = {} if how.num_examples is None else {"num_examples": how.num_examples}
    study = results.open_study(run.root, names, **where)
    if unknown := sorted(set(how.keep) - set(map(str, study.data_vars))):
        raise InputError(f"--keep {unknown[0]}: the study has no such variable")
    if how.eigenvalues is not None:
        if how.eigenvalues < 1 or "eigen" not in study.dims:
            raise InputError(
                f"--eigenvalues {how.eigenvalues}: it must be at least 1, and the study must hold a spectrum"
            )
        study = study.sel(eigen=abs(study["eigen"]) <= how.eigenvalues)
    small = results.compact(study, how.keep)
    used = {name: results.used(run.root, name, **where) for name in names}
    asked: dict[str, Any] = {"quantity": "study", "run": run.fingerprint, "keep": sorted(how.keep), "results": used}
    asked |= {} if how.eigenvalues is None else {"eigenvalues": how.eigenvalues}
    small.attrs = results.conditions(
        [results.folder(run.root, name) / f"{result}.nc" for name in names for result in used[name]]
    )
    small.attrs |= {
        "fingerprint": store.fingerprint(asked),
        "options": store.as_json({"run": run.fingerprint, "description": run.description}),
        "measured": store.as_json({name: results.options(run.root, name, used[name]) for name in names}),
        "command": how.command,
    }
    small.attrs |= {"left_out": study.attrs["left_out"]} if "left_out" in study.attrs else {}
    store.write(small, out, "study", how.force, compress=True)
    return small
