"""The plan of a study: which results are wanted of a run, in which order, which are missing, what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from landscape import results, store
from landscape.cli import option, parse_integer_list
from landscape.errors import InputError
from landscape.runs import CONTINUED, METHODS, PERTURBED, POINTS, Cell, Run
from landscape.study.points import CONTROLS, exists, partner, sources
from landscape.study.quantities import FROM_LEVEL_ONE, ONLY_IMP, QUANTITIES, Quantity
from landscape.study.requests import MeasureOptions, Request

# Levels that come first under a budget; the order in which methods follow the chain.
FIRST_LEVELS = (0, 1, 4, 7, 10, 13)
CHAIN = ("imp", "fine_tune")


@dataclass(frozen=True)
class Selection:
    """Selection."""

    quantities: tuple[str, ...] = option(
        ("curves", "connectivity"), help=f"what to measure: {', '.join(QUANTITIES)}", metavar="NAME"
    )
    points: tuple[str, ...] = option(
        ("minimum", "projected"), help=f"where: {', '.join(POINTS)} (quantities of points only)", metavar="POINT"
    )
    controls: tuple[str, ...] = option(
        ("raw",), help=f"{', '.join(CONTROLS)} (quantities of points only)", metavar="CONTROL"
    )
    levels: tuple[int, ...] | None = option(
        None, help="levels (default: all that are trained)", metavar="L,L,...", parse=parse_integer_list
    )
    replicates: tuple[int, ...] | None = option(
        None, help="replicates (default: all that are trained)", metavar="R,R,...", parse=parse_integer_list
    )
    methods: tuple[str, ...] | None = option(None, help="methods (default: all that are trained)", metavar="METHOD")


def words(given: Sequence[str], known: Sequence[str], flag: str) -> list[str]:
    """Return the words of a flag, which may be separated by commas or spaces."""
    chosen = list(dict.fromkeys(part for text in given for part in text.split(",") if part))
    unknown = [word for word in chosen if word not in known]
    if unknown:
        raise InputError(f"{flag}: unknown {unknown[0]!r}; use {', '.join(known)}")
    return chosen


def expand(run: Run, selection: Selection, planned: Sequence[Cell] | None = None) -> list[Request]:
    """Return the requests of a selection on the cells that are trained, in the order of priority.

    With ``planned``, on these cells, as if they were trained.

    First comes the chain (imp's points and fine_tune's minimum) at the first levels, then the other methods there, then
    the rest; within these, quantities in the order given, by level and replicate.
    """
    quantities = words(selection.quantities, tuple(QUANTITIES), "--quantities")
    points = words(selection.points, POINTS, "--points")
    controls = words(selection.controls, CONTROLS, "--controls")
    trained = run.cells() if planned is None else list(planned)
    # Methods of other pruning commands are known by their cells.
    known = tuple(dict.fromkeys((*METHODS, *PERTURBED, *(cell.method for cell in trained))))
    cells = [cell for cell in trained if _wanted(cell, selection, known)]
    if not cells:
        raise InputError(f"{run.root} has no finished training of this selection")
    requests: list[Request] = []
    for quantity in quantities:
        entry = QUANTITIES[quantity]
        possible = [cell for cell in cells if _defined(quantity, cell) and _possible(run, entry, cell, set(trained))]
        if quantity == "barrier_matrix":
            requests += _matrices(quantity, possible)
        elif entry.points:
            fitting = controls if entry.controlled else [c for c in controls if c == "raw"]
            found = _at_points(run, quantity, possible, points, fitting)
            requests += [request for request, files in found if planned is not None or all(f.exists() for f in files)]
        else:
            requests += [Request(quantity, cell) for cell in possible]
    order = {name: number for number, name in enumerate([*quantities, *points, *controls, *METHODS])}

    def rank(request: Request) -> tuple[int, ...]:
        labels = (request.quantity, request.cell.method, request.point, request.control)
        quantity, method, point, control = (order.get(label or "", len(order)) for label in labels)
        return _priority(request), quantity, request.cell.level, method, request.cell.replicate, point, control

    return sorted(requests, key=rank)


def _wanted(cell: Cell, selection: Selection, known: Sequence[str]) -> bool:
    methods = None if selection.methods is None else words(selection.methods, known, "--methods")
    return (
        (selection.levels is None or cell.level in selection.levels)
        and (selection.replicates is None or cell.replicate in selection.replicates)
        and (methods is None or cell.method in methods)
    )


def _defined(quantity: str, cell: Cell) -> bool:
    if quantity in FROM_LEVEL_ONE and cell.level == 0:
        return False
    return cell.method == "imp" or quantity not in ONLY_IMP


def _matrices(quantity: str, cells: Sequence[Cell]) -> list[Request]:
    """Return one request a replicate, for all pairs of its levels."""
    requests = []
    for replicate in sorted({cell.replicate for cell in cells}):
        levels = tuple(sorted(cell.level for cell in cells if cell.replicate == replicate))
        if len(levels) > 1:
            requests.append(Request(quantity, Cell(replicate, "imp", levels[-1]), levels=levels))
    return requests


def _possible(run: Run, entry: Quantity, cell: Cell, trained: set[Cell]) -> bool:
    """Tell whether what a quantity reads is there; an adopted run measures what its files allow."""
    if run.adopted:
        return not entry.trained_here and set(entry.least(cell)) <= trained
    return set(entry.needs(cell)) <= trained


def _at_points(
    run: Run, quantity: str, cells: Sequence[Cell], points: Sequence[str], controls: Sequence[str]
) -> list[tuple[Request, list[Path]]]:
    """Return the requests at points with the files that they read.

    Methods that continue imp's level before share projected, restricted and rewind with imp, which stands for them.
    """
    requests = []
    for cell, point, control in product(cells, points, controls):
        shared = point != "minimum" and cell.method in CONTINUED and cell.method != "imp"
        if not exists(cell, point) or shared:
            continue
        other = partner(cell, point)
        if control in ("loss_matched", "checkpoint_matched"):
            files = [] if other is None else [*sources(run, cell, point), *sources(run, *other)]
        else:
            files = sources(run, cell, point) if control == "raw" or point == "minimum" else []
        if files:
            requests.append((Request(quantity, cell, point, control), files))
    return requests


def trainings_of(request: Request) -> set[Cell]:
    """Return the cells whose checkpoints a request reads."""
    cell = request.cell
    wanted = {
        cell,
        *QUANTITIES[request.quantity].needs(cell),
        *(replace(cell, level=level) for level in request.levels),
    }
    if request.point in ("projected", "restricted"):
        wanted.add(Cell(cell.replicate, "imp", cell.level - 1))
    if request.control in ("loss_matched", "checkpoint_matched"):
        other = partner(cell, str(request.point))
        wanted |= set() if other is None else {other[0]}
    return wanted


def _priority(request: Request) -> int:
    cell = request.cell
    if cell.level not in FIRST_LEVELS:
        return 2
    return 0 if cell.method in CHAIN else 1


def asked(run: Run, request: Request, options: MeasureOptions) -> dict[str, Any]:
    """Return everything that decides the numbers of a result.

    The run's fingerprint stands for all its checkpoints, so that a result has its name before they exist.
    """
    entry = QUANTITIES[request.quantity]
    values: dict[str, Any] = {name: getattr(options, name) for name in entry.uses}
    if "problem" in values:
        values["problem"] = {
            name: value for name, value in dataclasses.asdict(options.problem).items() if name != "device"
        }
    return {
        "quantity": request.quantity,
        "run": run.fingerprint,
        "cell": str(request.cell),
        "point": request.point,
        "control": request.control,
        "levels": request.levels,
        "threads": options.threads,
        **values,
    }


def path_of(run: Run, request: Request, options: MeasureOptions) -> Path:
    """Return the file of a result."""
    name = store.fingerprint(asked(run, request, options))
    return results.folder(run.root, request.quantity) / f"{name}.nc"
