"""The page: one style for all figures, panels side by side, whole files or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from landscape.errors import InputError
from landscape.store import atomic_path

STYLE = str(Path(__file__).with_name("paper.mplstyle"))
# Inches: a panel is a third of a two-column page.
PANEL_WIDTH, PANEL_HEIGHT = 2.25, 2.4
# Inches: one column of a two-column page, and the page.
COLUMN_WIDTH, PAGE_WIDTH = 3.375, 6.75
FORMATS = (".png", ".pdf", ".svg")

Panel = Callable[[xr.Dataset, Axes], Axes]


def panels_of(result: xr.Dataset, panels: Sequence[Panel], title: str) -> Figure:
    """Return a figure with lettered panels side by side, each drawn from the same Dataset."""
    return side_by_side([partial(panel, result) for panel in panels], title)


def side_by_side(panels: Sequence[Callable[[Axes], Axes]], title: str) -> Figure:
    """Return a figure with lettered panels side by side."""
    with style():
        figure, axes = plt.subplots(
            1, len(panels), squeeze=False, figsize=(PANEL_WIDTH * len(panels) + 0.2, PANEL_HEIGHT)
        )
        for letter, ax, panel in zip("abcdef", axes[0], panels, strict=False):
            panel(ax)
            ax.set_title(letter, loc="left", fontweight="bold")
        figure.suptitle(title, fontsize=8)
    return figure


def grid_of(result: xr.Dataset, panels: Sequence[Panel], columns: int = 2, height: float = 2.3) -> Figure:
    """Return a figure as wide as a column (one panel) or the page (several), with lettered panels in rows.

    Parameters
    ----------
    height
        Of a row, in inches.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    with style():
        figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=(width, height * rows))
        try:
            for number, ax in enumerate(axes.flat):
                if number >= len(panels):
                    ax.set_visible(False)
                    continue
                panels[number](result, ax)
                if len(panels) > 1:
                    ax.set_title("abcdefghijkl"[number], loc="left", fontweight="bold")
        except Exception:
            plt.close(figure)  # pyplot keeps what nobody can close any more
            raise
    return figure


def log_axes(ax: Axes) -> None:
    """Make both axes logarithmic, falling to the right and upwards, with plain numbers: error over weights kept."""
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        scale("log")
        axis.set_inverted(True)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def check_format(path: Path) -> None:
    """Raise unless a figure can be written to a file with this suffix; cheap enough to ask before measuring."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path}: a figure is a file with the suffix {', '.join(FORMATS)}")


def style() -> contextlib.AbstractContextManager[None]:
    """Return the context in which figures have the project's style."""
    return plt.style.context(STYLE)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure (PNG, PDF or SVG by its suffix), complete or not at all, and close it."""
    target = Path(path)
    check_format(target)
    try:
        # Colours of the cycle are looked up when a figure is drawn, so the style must hold here too.
        with style(), atomic_path(target) as temporary:
            figure.savefig(temporary, metadata={"Date": None} if target.suffix == ".svg" else None)
    finally:
        plt.close(figure)
    return target
