"""What the figures of a whole study share: how they ask for results, and what they say about their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from landscape.errors import InputError

# Arm -> its results (``landscape.open_study``).
Studies = Mapping[str, xr.Dataset]
MARKERS = "osD^vP*X"


class MissingResultsError(InputError):
    """A figure cannot be drawn; the message says which results to make."""


def need(figure: str, studies: Studies, wanted: Mapping[str, str]) -> Studies:
    """Return the arms that hold the variables that a figure cannot do without.

    Parameters
    ----------
    wanted
        Variable -> the options of ``python -m landscape.study measure RUN`` that make it.

    Raises
    ------
    MissingResultsError
        If no arm holds all; the message names for every arm what to measure.
    """
    complete = {name: study for name, study in studies.items() if all(_holds(study, wanted))}
    if complete:
        return complete
    lines = []
    for name, study in studies.items() or {"": xr.Dataset()}.items():
        known = _holds(study, wanted)
        missing = dict.fromkeys(how for how, there in zip(wanted.values(), known, strict=True) if not there)
        lines.append(f"{f'{name}: ' if name else ''}{'; '.join(missing)}")
    raise MissingResultsError(f"{figure} needs results that are not there; measure {', '.join(lines)}")


def _holds(study: xr.Dataset, variables: Iterable[str]) -> list[bool]:
    return [name in study and bool(study[name].notnull().any()) for name in variables]


def pick(study: xr.Dataset, name: str, **labels: str | int) -> xr.DataArray | None:
    """Return a variable at labels, over ``level`` and ``replicate`` and what else is left; None if not measured."""
    if name not in study:
        return None
    values = study[name]
    for label, value in labels.items():
        if label not in values.dims:
            continue
        if value not in values[label].values:
            return None
        values = values.sel({label: value})
    for dim in ("level", "replicate"):
        if dim in values.dims:
            values = values.dropna(dim, how="all")
    return values if values.size else None


def level_axis(ax: Axes, study: xr.Dataset) -> None:
    """Label the axis of the levels, over all levels of a study."""
    ax.set_xlabel("pruning level")
    if "level" in study.dims:
        ax.set_xlim(float(study["level"].min()) - 0.4, float(study["level"].max()) + 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def count_text(studies: Iterable[xr.Dataset]) -> str:
    """Return how many replicates and examples the results rest on, for a title."""
    parts = []
    for study in studies:
        replicates = study.sizes.get("replicate", 1)
        examples = study.get("num_examples")
        known = "" if examples is None else f", {int(np.nanmax(examples.values)):,} examples"
        parts.append(f"{replicates} replicate{'s' if replicates > 1 else ''}{known}")
    return "; ".join(dict.fromkeys(parts))
