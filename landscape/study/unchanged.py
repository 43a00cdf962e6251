"""Refuse to add results to those of other data: a file that was overwritten since the first of them was measured.

The name of a result holds the name of its data, not their content, which is not known before they are loaded. Every
result stores their checksum, so that one result of a quantity tells whether the next would be of the same examples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landscape import results, store
from landscape.checkpoints import ProblemOptions
from landscape.errors import InputError
from landscape.runs import Run
from landscape.study.points import point_of
from landscape.study.requests import Request

# The options that decide what the checksum is taken of.
DECIDING = ("data", "split", "num_examples", "examples", "normalize", "dtype", "seed")


def check_data(run: Run, missing: Sequence[Request], options: ProblemOptions) -> None:
    """Compare the data with those of the results that are stored.

    Parameters
    ----------
    missing
        The results that are about to be measured; only their quantities matter.

    Raises
    ------
    InputError
        If a stored result of one of these quantities, on the same examples by name, was measured on others.
    """
    quantities = dict.fromkeys(request.quantity for request in missing)
    stored = [found for name in quantities if (found := _stored(run, name, options)) is not None]
    cells = run.cells()
    if not stored or not cells:
        return
    now = point_of(run, cells[0], "minimum", options).problem.data_sha256
    for file, sha256 in stored:
        if sha256 != now:
            raise InputError(
                f"the data changed since {file.relative_to(run.root)} of {run.root} was measured (their checksum was "
                f"{sha256[:12]} and is {now[:12]}): restore them, or train and measure the new ones under another --out"
            )


def _stored(run: Run, quantity: str, options: ProblemOptions) -> tuple[Path, str] | None:
    """Return one stored result of a quantity on the same examples, with the checksum of its data."""
    wanted = _sample(json.loads(store.as_json(dataclasses.asdict(options))))
    folder = results.folder(run.root, quantity)
    for name in results.stamps(folder):
        file = folder / f"{name}.nc"
        try:
            attrs = store.attributes(file)
            asked = json.loads(attrs["options"])
        except (InputError, ValueError, KeyError):
            continue  # damaged files are reported where they are read
        if _sample(asked.get("problem", {})) == wanted and "data_sha256" in attrs:
            return file, str(attrs["data_sha256"])
    return None


def _sample(problem: dict[str, Any]) -> dict[str, Any]:
    return {name: problem.get(name) for name in DECIDING}
