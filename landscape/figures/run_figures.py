"""All figures of a study, each of the panels that its results allow; what is missing is said, not drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.errors import InputError
from landscape.figures import imp_levels, imp_spectra
from landscape.figures.page import Panel, grid_of
from landscape.imp_evidence import pick, spectral_pair

# Levels whose curves and eigenvalues have a panel each, as far as they were measured.
SHOWN_LEVELS = (1, 4, 7, 10, 13, 16, 20)
MOST_PANELS = 4


CAPTIONS = {
    "levels": "Train loss and test accuracy at the end of training, over the levels, of every method.",
    "ways": "Train loss and test accuracy of every way to reach one level: replicates, mean and standard error.",
    "distances": "Distances within a level's subspace between rewind point, projected previous minimum and minimum.",
    "projected_curves": "Train loss over the epochs of a level, and of its mask times the epochs of the level before.",
    "eigenvalues": "Leading positive eigenvalues at a level's minimum and at the previous minimum projected.",
    "ridge": "Spectral density at the minima; hatched where the examples bound the rank of the curvature.",
    "chain": "Leading eigenvalues along the chain from one minimum to the next, and their ratios under the controls.",
    "trajectory": "Leading eigenvalues over the epochs of a training.",
    "barriers": "Barriers in test error on the segment between two solutions; shaded where imp is matching.",
    "barrier_matrix": "Barriers between imp's minima at all pairs of levels.",
    "eigenspaces": "Principal angles and overlap of the top eigenspaces of successive minima.",
    "renewal": "Surviving weights below the threshold that made the mask: how training makes small weights anew.",
}


def _at_levels(values: xr.DataArray | None, panel: Callable[..., Axes]) -> list[Panel]:
    """Return one panel a level at which imp's values were measured, four at most, the first levels first."""
    known = [] if values is None else values["level"].values.tolist()
    chosen = [level for level in SHOWN_LEVELS if level in known][:MOST_PANELS]
    return [partial(panel, level=level) for level in chosen or SHOWN_LEVELS[:1]]


def panels(study: xr.Dataset) -> dict[str, tuple[Sequence[Panel], int]]:
    """Return the panels of every figure by its name, with its number of columns."""
    return {
        "levels": ([imp_levels.plot_train_loss, imp_levels.plot_test_accuracy], 2),
        "ways": ([imp_levels.plot_ways_loss, imp_levels.plot_ways_accuracy], 2),
        "distances": ([imp_levels.plot_distances, imp_levels.plot_rms_distances], 2),
        "projected_curves": (
            _at_levels(pick(study, "projected_loss", method="imp"), imp_levels.plot_projected_curve),
            2,
        ),
        "eigenvalues": (_at_levels(spectral_pair(study, "imp", "raw"), imp_spectra.plot_top_eigenvalues), 2),
        "ridge": ([imp_spectra.plot_ridge], 1),
        "chain": ([imp_spectra.plot_chain, imp_spectra.plot_ratios], 2),
        "trajectory": ([imp_spectra.plot_trajectory], 1),
        "barriers": ([imp_levels.plot_barriers], 1),
        "barrier_matrix": ([imp_levels.plot_barrier_matrix], 1),
        "eigenspaces": ([imp_spectra.plot_principal_angles, imp_spectra.plot_overlap], 2),
        "renewal": ([imp_levels.plot_renewal], 1),
    }


def study_figures(study: xr.Dataset) -> tuple[dict[str, Figure], dict[str, str]]:
    """Draw all figures of a study.

    Returns
    -------
    The figures by name, and, by name, why the others were not drawn. A figure is drawn as a whole or not at all.
    """
    drawn: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    for name, (chosen, columns) in panels(study).items():
        try:
            drawn[name] = grid_of(study, chosen, columns)
        except InputError as error:
            missing[name] = str(error)
    return drawn, missing
