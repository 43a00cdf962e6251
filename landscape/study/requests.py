"""What a study asks for: the options that decide its numbers, and one request for every result."""

from __future__ import annotations

from dataclasses import dataclass

from landscape.checkpoints import ProblemOptions
from landscape.cli import option
from landscape.connectivity import PathOptions
from landscape.dimension import DimensionOptions
from landscape.journal import Journal
from landscape.runs import Cell, Run
from landscape.spectrum import SpectrumOptions
from landscape.volume import VolumeOptions

# Options, by their group, that a study decides itself for every point.
DECIDED = {"problem": ("mask", "subspace", "params", "split"), "dimension": ("trajectory", "preconditioner")}


@dataclass(frozen=True)
class AlignmentOptions:
    """Alignment."""

    num_aligned: int = option(20, metavar="K", help="leading eigenpairs of alignment, pruning steps and trajectories")
    alignment_tolerance: float = option(1e-4, metavar="T", help="their residual, relative to the largest |eigenvalue|")


@dataclass(frozen=True)
class MeasureOptions:
    """All that decides the numbers of a study's results.

    Parameters
    ----------
    problem
        Data, loss and precision of every measurement.
    threads
        Of every task.
    memory
        Bytes that a measurement may take.
    """

    problem: ProblemOptions
    spectrum: SpectrumOptions
    path: PathOptions
    alignment: AlignmentOptions
    threads: int = 1
    memory: int = 4 << 30
    volume: VolumeOptions = VolumeOptions()
    dimension: DimensionOptions = DimensionOptions()


@dataclass(frozen=True)
class Request:
    """One result: a quantity at a cell, and at one of its points under a control where it has these.

    Parameters
    ----------
    levels
        The levels of a quantity that compares several.
    """

    quantity: str
    cell: Cell
    point: str | None = None
    control: str | None = None
    levels: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the request in words, which name its task."""
        return " ".join(part for part in (self.quantity, str(self.cell), self.point, self.control) if part)


@dataclass(frozen=True)
class Job:
    """What the computation of a request is given."""

    run: Run
    request: Request
    options: MeasureOptions
    journal: Journal
