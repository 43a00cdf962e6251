"""Figures: each a function from a stored Dataset to Axes, so that a figure never needs the network again.

``python -m landscape.figures RESULT.nc --out FILE`` draws the figure that belongs to a result, and
``python -m landscape.figures RUN --out DIR`` all that the results of a run allow.
"""

from collections.abc import Callable

import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.imp_levels import (
    plot_barrier_matrix,
    plot_barriers,
    plot_distances,
    plot_projected_curve,
    plot_renewal,
    plot_rms_distances,
    plot_test_accuracy,
    plot_train_loss,
    plot_ways_accuracy,
    plot_ways_loss,
)
from landscape.figures.imp_spectra import (
    plot_chain,
    plot_overlap,
    plot_principal_angles,
    plot_ratios,
    plot_ridge,
    plot_top_eigenvalues,
    plot_trajectory,
)
from landscape.figures.manifolds import (
    dimension_figure,
    dimension_levels_figure,
    plot_cone_gap,
    plot_coverage,
    plot_gap_ratio,
)
from landscape.figures.page import STYLE, check_format, grid_of, save, style
from landscape.figures.paper import Arms, MissingResultsError
from landscape.figures.paper_basins import basins_figure, manifold_figure
from landscape.figures.paper_figures import PAPER_FIGURES
from landscape.figures.paper_pruning import pruning_figure
from landscape.figures.paper_spectra import chain_figure, spectra_figure
from landscape.figures.pretraining import (
    gfs_figure,
    plot_examples_law,
    plot_rivals,
    plot_selected_loss,
    plot_size_slopes,
    plot_slack,
)
from landscape.figures.pruning import comparison_figure, conditions_figure, plot_accuracy, plot_accuracy_effective
from landscape.figures.run_figures import CAPTIONS, study_figures
from landscape.figures.spectra import plot_density, plot_eigenvalues, plot_gaps, spectrum_figure
from landscape.figures.surfaces import plot_line, plot_surface, surface_figure
from landscape.figures.volumes import calibration_figure, volume_figure, volume_levels_figure

# The figure of a result by its quantity.
FIGURES: dict[str, Callable[[xr.Dataset], Figure]] = {
    "spectrum": spectrum_figure,
    "dimension": dimension_figure,
    "gfs": gfs_figure,
    "comparison": comparison_figure,
    "imc": conditions_figure,
    "volume": volume_figure,
    "calibration": calibration_figure,
    "surface": surface_figure,
}

__all__ = [
    "CAPTIONS",
    "FIGURES",
    "PAPER_FIGURES",
    "STYLE",
    "Arms",
    "MissingResultsError",
    "basins_figure",
    "calibration_figure",
    "chain_figure",
    "check_format",
    "comparison_figure",
    "conditions_figure",
    "dimension_figure",
    "dimension_levels_figure",
    "gfs_figure",
    "grid_of",
    "manifold_figure",
    "plot_accuracy",
    "plot_accuracy_effective",
    "plot_barrier_matrix",
    "plot_barriers",
    "plot_chain",
    "plot_cone_gap",
    "plot_coverage",
    "plot_density",
    "plot_distances",
    "plot_eigenvalues",
    "plot_examples_law",
    "plot_gap_ratio",
    "plot_gaps",
    "plot_line",
    "plot_overlap",
    "plot_principal_angles",
    "plot_projected_curve",
    "plot_ratios",
    "plot_renewal",
    "plot_ridge",
    "plot_rivals",
    "plot_rms_distances",
    "plot_selected_loss",
    "plot_size_slopes",
    "plot_slack",
    "plot_surface",
    "plot_test_accuracy",
    "plot_top_eigenvalues",
    "plot_train_loss",
    "plot_trajectory",
    "plot_ways_accuracy",
    "plot_ways_loss",
    "pruning_figure",
    "save",
    "spectra_figure",
    "spectrum_figure",
    "study_figures",
    "style",
    "surface_figure",
    "volume_figure",
    "volume_levels_figure",
]
