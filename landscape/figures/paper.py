"""What the figures F1 to F5 share: the results they read, by arm and quantity, and how they say what is not there.

``Arms`` maps the name of an arm (``relu``, ``gelu``; empty where there is one) to its results by quantity:
``{"spectrum": open_study(run, "spectrum"), ...}``. One file may hold several quantities and stand under all of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from landscape.errors import InputError

Parts = Mapping[str, xr.Dataset]
Arms = Mapping[str, Parts]
MARKERS = "osD^vP*X"
LINES = ("-", "--", ":")
# How a quantity is measured, for the message of a figure that lacks it.
HOW = {
    "spectrum": "study measure RUN --quantities spectrum --points minimum,projected,restricted",
    "curves": "study measure RUN --quantities curves",
    "volume": "study measure RUN --quantities volume --points minimum,projected",
    "dimension": "study measure RUN --quantities dimension --points minimum",
    "pruning": "pruning imc --kept ... --rivals ... --shuffles --out RUN",
}


class MissingResultsError(InputError):
    """A figure cannot be drawn; the message says which results to make."""


def need(figure: str, arms: Arms, wanted: Iterable[tuple[str, str]]) -> Arms:
    """Return the arms that hold everything that a figure cannot do without.

    Parameters
    ----------
    wanted
        Pairs of quantity and variable.

    Raises
    ------
    MissingResultsError
        If no arm holds all of them; the message names the commands that make them.
    """
    pairs = list(wanted)
    lacking = {
        name: [quantity for quantity, variable in pairs if not _holds(parts, quantity, variable)]
        for name, parts in (arms or {"": {}}).items()
    }
    complete = {name: arms[name] for name, missing in lacking.items() if not missing}
    if complete:
        return complete
    lines = dict.fromkeys(
        f"python -m landscape.{HOW[quantity]}{f' ({name})' if name else ''}"
        for name, missing in lacking.items()
        for quantity in missing
    )
    raise MissingResultsError(f"{figure} is not drawn for lack of results: {'; '.join(lines)}")


def _holds(parts: Parts, quantity: str, variable: str) -> bool:
    part = parts.get(quantity)
    return part is not None and variable in part and bool(part[variable].notnull().any())


def title(what: str, drawn: Arms, arms: Arms, quantity: str, lacking: Iterable[str] = ()) -> str:
    """Return the title of a figure: what it shows, on how much, at which levels, and what of it is missing."""
    parts = [one[quantity] for one in drawn.values()]
    levels = sorted({int(level) for part in parts if "level" in part.coords for level in part["level"].values})
    text = f"{what}\n{count_text(parts)}; levels {', '.join(map(str, levels))}"
    left_out = [*(name for name in arms if name not in drawn), *lacking]
    return "\n".join([text, *textwrap.wrap(f"not measured: {', '.join(left_out)}", 110)]) if left_out else text


def count_text(parts: Iterable[xr.Dataset]) -> str:
    """Return how many replicates and examples the results rest on."""
    said = []
    for part in parts:
        replicates = part.sizes.get("replicate", 1)
        examples = part.get("num_examples")
        known = "" if examples is None else f", {int(np.nanmax(examples.values)):,} examples"
        said.append(f"{replicates} replicate{'s' if replicates > 1 else ''}{known}")
    return " / ".join(dict.fromkeys(said))


def absent(ax: Axes, text: str) -> None:
    """Say in an empty panel what was not measured."""
    ax.text(
        0.5, 0.5, f"not measured:\n{text}", ha="center", va="center", color="0.4", transform=ax.transAxes, wrap=True
    )
    ax.tick_params(bottom=False, labelbottom=False, left=False, labelleft=False)


def pick(part: xr.Dataset | None, name: str, **labels: Any) -> xr.DataArray | None:
    """Return a variable at labels, over ``level`` and ``replicate`` and what else is left; None if not measured.

    Labels that the results do not have are left out.
    """
    if part is None or name not in part:
        return None
    values = part[name]
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


def level_axis(ax: Axes, levels: np.ndarray) -> None:
    """Label the axis of the levels, over all of them."""
    ax.set_xlabel("pruning level")
    ax.set_xlim(float(levels.min()) - 0.4, float(levels.max()) + 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
