"""What can be measured on a run: a table from the name of a quantity to how it is computed and what it costs.

A quantity of a point (a spectrum, a volume) is computed from its problem; a quantity of a cell (connectivity, curves,
renewal, alignment) from several checkpoints of the run. A new quantity is one more entry in ``QUANTITIES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import xarray as xr

from landscape.dimension.report import num_products
from landscape.problem import Problem
from landscape.runs import Cell
from landscape.study import computations
from landscape.study.requests import Job, MeasureOptions
from landscape.study.trajectory import trajectory_of
from landscape.volume.report import cost as volume_cost

# Curvature-vector products cost about this many forward passes.
PASSES_PER_PRODUCT = 6


@dataclass(frozen=True)
class Quantity:
    """How a quantity is measured.

    Parameters
    ----------
    schema
        Its table in ``landscape.schemas``.
    compute
        Returns the Dataset, without coordinates and provenance.
    passes
        Returns its cost in forward passes over the examples.
    uses
        The groups of options that decide its numbers.
    needs
        Returns the cells whose minima it reads, beside the run's rewind point.
    least
        Returns the cells without which there is nothing to measure, for adopted runs that lack others.
    points
        Whether it is measured at points (and under controls), or once a cell.
    controlled
        Whether it is measured under controls: the point that replaces another need not lie on any training's path.
    trained_here
        Whether it needs what only this project's trainer writes.
    """

    schema: str
    compute: Callable[[Job], xr.Dataset]
    passes: Callable[[MeasureOptions], float]
    uses: tuple[str, ...]
    needs: Callable[[Cell], list[Cell]]
    least: Callable[[Cell], list[Cell]]
    points: bool = False
    controlled: bool = True
    trained_here: bool = False


def _spectrum_passes(options: MeasureOptions) -> float:
    chosen = options.spectrum
    pairs = (20 if chosen.largest is None else chosen.largest) + (5 if chosen.smallest is None else chosen.smallest)
    probes = 10 if chosen.num_probes is None else chosen.num_probes
    depth = 80 if chosen.depth is None else chosen.depth
    return PASSES_PER_PRODUCT * (4.0 * pairs + probes * depth)


def _volume_passes(options: MeasureOptions) -> float:
    products, passes = volume_cost(options.volume)
    return float(PASSES_PER_PRODUCT * products + passes)


def _dimension_passes(options: MeasureOptions) -> float:
    return PASSES_PER_PRODUCT * sum(num_products(options.dimension).values())


def _path_passes(pairs: int) -> Callable[[MeasureOptions], float]:
    return lambda options: 1.3 * pairs * (options.path.num_positions + options.path.num_refinements)


def _frame_passes(frames: int) -> Callable[[MeasureOptions], float]:
    return lambda options: PASSES_PER_PRODUCT * (5.0 * options.alignment.num_aligned * frames + 20)


def _own(cell: Cell) -> list[Cell]:
    return [cell]


def _with_previous(cell: Cell) -> list[Cell]:
    return sorted({cell, Cell(cell.replicate, "imp", cell.level), Cell(cell.replicate, "imp", max(cell.level - 1, 0))})


def _chain(cell: Cell) -> list[Cell]:
    return sorted({*_with_previous(cell), Cell(cell.replicate, "imp", 0)})


def _at_points(
    name: str,
    measure: Callable[[Problem, Job], xr.Dataset],
    passes: Callable[[MeasureOptions], float],
    *groups: str,
) -> Quantity:
    """Return a quantity that is measured at points, from their problems."""
    compute = computations.point_quantity(measure)
    return Quantity(name, compute, passes, ("problem", *groups), _own, _own, points=True)


_WITH_VECTORS = ("problem", "alignment", "memory")

QUANTITIES: dict[str, Quantity] = {
    "curves": Quantity(
        "curves", computations.curves_of, lambda _: 12.0, ("problem",), _with_previous, _own, trained_here=True
    ),
    "connectivity": Quantity(
        "connectivity", computations.connectivity_of, _path_passes(6), ("problem", "path"), _chain, _own
    ),
    "renewal": Quantity(
        "renewal", computations.renewal_of, lambda _: 1.0, ("problem",), _with_previous, _with_previous
    ),
    "barrier_matrix": Quantity(
        "barrier_matrix", computations.barrier_matrix_of, _path_passes(28), ("problem", "path"), _own, _own
    ),
    "spectrum": _at_points("spectrum", computations.spectrum_of, _spectrum_passes, "spectrum", "memory"),
    "volume": _at_points("volume", computations.volume_of, _volume_passes, "volume", "memory"),
    "dimension": replace(
        _at_points("dimension", computations.dimension_of, _dimension_passes, "dimension", "memory"), controlled=False
    ),
    "convergence": _at_points("convergence", computations.convergence_of, lambda _: PASSES_PER_PRODUCT * 30.0),
    "pruning_steps": Quantity(
        "pruning_steps", computations.pruning_steps_of, _frame_passes(1), _WITH_VECTORS, _with_previous, _with_previous
    ),
    "alignment": Quantity(
        "alignment", computations.alignment_of, _frame_passes(2), _WITH_VECTORS, _with_previous, _with_previous
    ),
    # Ten epochs are meant; more of them cost more.
    "trajectory": Quantity(
        "trajectory", trajectory_of, _frame_passes(10), _WITH_VECTORS, _own, _own, trained_here=True
    ),
}
# Quantities that compare a level with the one before it.
FROM_LEVEL_ONE = ("renewal", "alignment", "pruning_steps")
# Quantities that only imp has.
ONLY_IMP = ("barrier_matrix", "pruning_steps")


def estimate_seconds(quantity: str, options: MeasureOptions, seconds_per_pass: float) -> float:
    """Return the predicted time of one result."""
    return QUANTITIES[quantity].passes(options) * seconds_per_pass
