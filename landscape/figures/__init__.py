"""Figures: each a function from a stored Dataset to Axes, so that a figure never needs the network again.

``python -m landscape.figures RESULT.nc --out FILE`` draws the figure that belongs to a result.
"""

from landscape.figures.manifolds import (
    dimension_figure,
    dimension_levels_figure,
    plot_cone_gap,
    plot_coverage,
    plot_gap_ratio,
)
from landscape.figures.page import STYLE, check_format, save, style
from landscape.figures.pretraining import (
    gfs_figure,
    plot_examples_law,
    plot_rivals,
    plot_selected_loss,
    plot_size_slopes,
    plot_slack,
)
from landscape.figures.spectra import plot_density, plot_eigenvalues, plot_gaps, spectrum_figure
from landscape.figures.volumes import calibration_figure, volume_figure, volume_levels_figure

__all__ = [
    "STYLE",
    "calibration_figure",
    "check_format",
    "dimension_figure",
    "dimension_levels_figure",
    "gfs_figure",
    "plot_cone_gap",
    "plot_coverage",
    "plot_density",
    "plot_eigenvalues",
    "plot_examples_law",
    "plot_gap_ratio",
    "plot_gaps",
    "plot_rivals",
    "plot_selected_loss",
    "plot_size_slopes",
    "plot_slack",
    "save",
    "spectrum_figure",
    "style",
    "volume_figure",
    "volume_levels_figure",
]
