"""The figures F1 to F5 of a study with their captions, by the names of their files."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from landscape.figures.paper import Arms
from landscape.figures.paper_basins import basins_figure, manifold_figure
from landscape.figures.paper_pruning import pruning_figure
from landscape.figures.paper_spectra import chain_figure, spectra_figure

PAPER_FIGURES: dict[str, tuple[Callable[[Arms], Figure], str]] = {
    "F1_spectra": (
        spectra_figure,
        "F1. Left: leading eigenvalues of the Hessian at each level's minimum, mean over the replicates. Right: "
        "relative gaps below the first C - 1, C and all outlying eigenvalues: at the previous minimum, seen on the new "
        "mask's coordinates (restricted) and moved onto them (projected), and after training (minimum). Error bars: "
        "standard error of the replicates; dotted: four standard errors over the examples, below which a gap may be "
        "none; grey: random masks of equal layer counts.",
    ),
    "F2_chain": (
        chain_figure,
        "F2. Mean change of the logarithm of the leading eigenvalues over each step from one minimum to the next: the "
        "new mask at the unmoved minimum, the displacement onto it, training on from there, and rewinding and training "
        "instead. Above 0 a step sharpens. The controls tell geometry from confidence: loss and checkpoint matched "
        "compare at equal loss, normalised is J'J over the spread of the outputs. Grey: standard deviation between "
        "trainings that differ only in the order of the data.",
    ),
    "F3_volume": (
        basins_figure,
        "F3. Left: noise per weight of a ball of the basin's volume, over the root mean square of the weights, at the "
        "minimum and at the previous minimum projected (hollow: a lower bound; grey: levels where the number of "
        "examples bounds the rank of the curvature). Middle: fraction that the spectrum predicts can go. Right: "
        "test error against noise tolerance across methods at one level. Raw log volumes are not comparable between "
        "levels and are not shown.",
    ),
    "F4_manifold": (
        manifold_figure,
        "F4. Left: the best gap over twice the sampled change of the Hessian within a radius, against that radius over "
        "the way that the training travelled; a slow manifold around the minimum needs values above 1, and one that "
        "holds the training needs them at 1. Both are upper bounds, as sampling finds no largest change. Middle and "
        "right: fast directions and the step from which the training stays inside the radius; hatched where no gap is "
        "wide enough.",
    ),
    "F5_pruning": (
        pruning_figure,
        "F5. Left: test error against the weights kept on a path from input to output: a line a method, dotted and "
        "open for the layer-wise shuffles of its masks, stars where a rule chose the fraction itself; dashed the dense "
        "network. Middle (and legend of the left): the same at one fraction, open for the shuffle; hatched no better "
        "than random masks with the same share of every layer. Right: what the steps of IMC (a reconstruction) before "
        "its mask allow over what is asked, a marker a replicate; hatched where a condition fails.",
    ),
}
