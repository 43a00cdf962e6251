"""``dataset.landscape.plot_density()`` and friends: the figures of a result as methods of the result itself.

The accessor is there once ``landscape.accessor`` was imported; ``landscape.open_result`` and ``open_study`` do so. Each
``plot_NAME`` of ``landscape.figures`` that draws one Dataset is a method; without ``ax`` it draws on axes of its own in
the project's style. ``figure()`` is the figure that belongs to the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import figures
from landscape.errors import InputError


@xr.register_dataset_accessor("landscape")
class LandscapeAccessor:
    """The plots of a Dataset.

    Examples
    --------
    >>> result = landscape.open_result("ckpt.spectrum.nc")  # doctest: +SKIP
    >>> result.landscape.plot_density()  # doctest: +SKIP
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def figure(self) -> Figure:
        """Return the figure that belongs to the result, by the quantity that it holds.

        Raises
        ------
        InputError
            If results of its quantity have no figure.
        """
        quantity = str(self._dataset.attrs.get("quantity", ""))
        if quantity not in figures.FIGURES:
            raise InputError(f"there is no figure of {quantity or 'a Dataset without a quantity'}; use a plot_ method")
        return figures.FIGURES[quantity](self._dataset)

    def __getattr__(self, name: str) -> Callable[..., Axes]:
        """Return a plot of ``landscape.figures`` bound to the Dataset."""
        if not name.startswith("plot_") or name not in figures.__all__:
            raise AttributeError(f"there is no {name!r}; there are figure and {', '.join(_plots())}")
        return functools.partial(_draw, getattr(figures, name), self._dataset)

    def __dir__(self) -> list[str]:
        return ["figure", *_plots()]


def _plots() -> list[str]:
    return [name for name in figures.__all__ if name.startswith("plot_")]


def _draw(plot: Callable[..., Axes], dataset: xr.Dataset, *given: Any, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw on the given axes, or on new ones in the project's style."""
    with figures.style():
        return plot(dataset, plt.figure().subplots() if ax is None else ax, *given, **options)
