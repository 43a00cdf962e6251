"""Figures: each a function from a stored Dataset to Axes, so that a figure never needs the network again.

``python -m landscape.figures RESULT.nc --out FILE`` draws the figure that belongs to a result, and
``python -m landscape.figures RUN --out DIR`` all that the results of a run allow.
"""

from collections.abc import Callable

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
from landscape.figures.paper import MissingResultsError, Studies
from landscape.figures.paper_spectra import spectra_figure
from landscape.figures.pretraining import (
    gfs_figure,
    plot_examples_law,
    plot_rivals,
    plot_selected_loss,
    plot_size_slopes,
    plot_slack,
)
from landscape.figures.pruning import comparison_figure, conditions_figure, plot_accuracy, plot_accuracy_effective
from landscape.figures.run_figures import study_figures
from landscape.figures.spectra import plot_density, plot_eigenvalues, plot_gaps, spectrum_figure
from landscape.figures.surfaces import plot_line, plot_surface, surface_figure
from landscape.figures.volumes import calibration_figure, volume_figure, volume_levels_figure

# Figures of a whole study with their captions, by the names of their files.
STUDY_FIGURES: dict[str, tuple[Callable[[Studies], Figure], str]] = {
    "F1_spectra": (
        spectra_figure,
        "F1. Left: leading eigenvalues of the Hessian at each level's minimum, mean over the replicates. Right: "
        "relative gaps below the first C - 1, C and all outlying eigenvalues: at the previous minimum, seen on the new "
        "mask's coordinates (restricted) and moved onto them (projected), and after training (minimum). Error bars: "
        "standard error of the replicates; dotted: four standard errors over the examples, below which a gap may be "
        "none; grey: random masks of equal layer counts.",
    ),
}

__all__ = [
    "STUDY_FIGURES",
    "STYLE",
    "MissingResultsError",
    "Studies",
    "calibration_figure",
    "check_format",
    "comparison_figure",
    "conditions_figure",
    "dimension_figure",
    "dimension_levels_figure",
    "gfs_figure",
    "grid_of",
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
    "save",
    "spectra_figure",
    "spectrum_figure",
    "study_figures",
    "style",
    "surface_figure",
    "volume_figure",
    "volume_levels_figure",
]
