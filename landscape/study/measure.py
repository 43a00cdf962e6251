"""Measure what is missing of a plan: one task a result, each whole or absent, under Dask where there are workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from landscape import cli, results, runs, store, tasks
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.runs import POINTS, Run
from landscape.study.plan import Selection, asked, expand, path_of
from landscape.study.points import CONTROLS, UnmatchableError, point_of
from landscape.study.quantities import QUANTITIES, estimate_seconds
from landscape.study.requests import Job, MeasureOptions, Request
from landscape.study.unchanged import check_data
from landscape.tasks import Outcome, Task, TaskOptions

BYTES_EACH = 60_000
# What a task returns instead of a path: nothing to measure there, or no time left.
UNMATCHED, NO_TIME = "unmatched", "no time left"


@dataclass(frozen=True)
class Effort:
    """How a plan is carried out; nothing here changes a number.

    Parameters
    ----------
    budget
        Hours after which no result is begun that would not be finished in time; None for no limit.
    """

    where: TaskOptions
    budget: float | None = None
    quiet: bool = True


@dataclass(frozen=True)
class Done:
    """What became of a plan.

    Parameters
    ----------
    written
        Files of the results, old ones included.
    missing
        Requests that were not measured for lack of time.
    unmatched
        Controls that do not exist, because the pair has no matched point.
    """

    written: list[Path]
    missing: list[Request]
    unmatched: list[Request]


def measure(run: Run, selection: Selection, options: MeasureOptions, effort: Effort) -> Done:
    """Carry out the missing part of a plan.

    Raises
    ------
    InputError
        If no result fits the selection, the data are not those of the results that are stored, or a measurement failed
        (the others are finished first).
    """
    requests = expand(run, selection)
    if not requests:
        raise InputError(nothing_fits(run, selection))
    paths = {request: path_of(run, request, options) for request in requests}
    missing = [request for request in requests if not paths[request].exists()]
    check_data(run, missing, options.problem)
    seconds = _predict(run, missing, options)
    for line in describe(requests, missing, seconds, effort):
        cli.log(line, effort.quiet)
    deadline = None if effort.budget is None else time.time() + 3600 * effort.budget
    work = [Task(str(r), measure_one, (run.root, r, options, _latest_start(deadline, seconds[r]))) for r in missing]
    bar: tqdm[int]
    with cli.progress(len(work), "results", effort.quiet) as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            if outcome.error is not None:
                cli.log(f"{outcome.name}: {outcome.error}", effort.quiet)

        outcomes = tasks.run(work, effort.where, report)
    tasks.raise_failures(outcomes)
    values = dict(zip(missing, (outcome.value for outcome in outcomes), strict=True))
    return Done(
        [paths[r] for r in requests if values.get(r) not in (UNMATCHED, NO_TIME)],
        [r for r, value in values.items() if value == NO_TIME],
        [r for r, value in values.items() if value == UNMATCHED],
    )


def nothing_fits(run: Run, selection: Selection) -> str:
    """Say in one line that a selection is empty, and where its quantities can be measured."""
    everywhere = replace(selection, points=POINTS, controls=CONTROLS, levels=None, replicates=None, methods=None)
    there: dict[str, dict[str, list[int]]] = {}
    for request in expand(run, everywhere):
        control = "" if request.control in (None, "raw") else f" {request.control}"
        place = f"{request.quantity}{f' at {request.point}' if request.point else ''}{control}"
        there.setdefault(place, {}).setdefault(request.cell.method, []).append(request.cell.level)
    if not there:
        trained = ", ".join(dict.fromkeys(f"{cell.method} level {cell.level}" for cell in run.cells()))
        return f"{run.root} has nothing that this selection needs; trained are {trained}"
    words = (
        f"{place} of {', '.join(f'{method} (levels {_ranges(sorted(set(levels)))})' for method, levels in by.items())}"
        for place, by in there.items()
    )
    return f"no result of {run.root} fits this selection; there are {'; '.join(words)}"


def _latest_start(deadline: float | None, seconds: float) -> float | None:
    return None if deadline is None else deadline - seconds


def _predict(run: Run, missing: Sequence[Request], options: MeasureOptions) -> dict[Request, float]:
    """Return the predicted seconds of every missing result, from the time of one forward pass here."""
    if not missing:
        return {}
    problem = point_of(run, missing[0].cell, "minimum", options.problem).problem
    started = time.perf_counter()
    problem.loss()
    one = time.perf_counter() - started
    return {request: estimate_seconds(request.quantity, options, one) for request in missing}


def describe(
    requests: Sequence[Request], missing: Sequence[Request], seconds: dict[Request, float], effort: Effort
) -> list[str]:
    """Return the plan in words: for every quantity how many results are there and what the missing ones cost."""
    lines = []
    for quantity in dict.fromkeys(request.quantity for request in requests):
        wanted = [r for r in requests if r.quantity == quantity]
        todo = [r for r in missing if r.quantity == quantity]
        hours = sum(seconds[r] for r in todo) / 3600
        lines.append(f"{quantity}: {len(wanted) - len(todo)} of {len(wanted)} measured, the rest takes {hours:.2f} h")
    workers = max(1, effort.where.workers)
    total = sum(seconds.values()) / 3600 / workers
    lines.append(
        f"{len(missing)} results to measure: about {total:.2f} h with {workers} worker(s) and "
        f"{len(missing) * BYTES_EACH / 2**20:.1f} MiB"
    )
    if effort.budget is not None and total > effort.budget:
        lines.append(
            f"the budget of {effort.budget:g} h does not reach for all; the first in the order of priority run"
        )
    return lines


def measure_one(root: Path, request: Request, options: MeasureOptions, latest_start: float | None = None) -> str:
    """Measure one result, or find it there, and return its path. This is the task.

    Of two processes that are asked for the same result one waits for the other.
    """
    if latest_start is not None and time.time() > latest_start:
        return NO_TIME
    torch.set_num_threads(options.threads)
    run = runs.read(root)
    out = path_of(run, request, options)
    with _alone(out):
        if out.exists():
            store.open_result(out)  # a damaged file is reported, not replaced
            return str(out)
        try:
            result = _computed(run, request, options, out)
        except UnmatchableError:
            return UNMATCHED
        store.write(result, out, QUANTITIES[request.quantity].schema)
    return str(out)


def _computed(run: Run, request: Request, options: MeasureOptions, out: Path) -> xr.Dataset:
    """Compute a result and give it its labels and provenance."""
    started = time.monotonic()
    wanted = asked(run, request, options)
    journal = Journal(out.with_name(f".{out.stem}.state"), out.stem, resume=True)
    result = QUANTITIES[request.quantity].compute(Job(run, request, options, journal))
    labels = {"method": request.cell.method, "level": request.cell.level, "replicate": request.cell.replicate}
    if request.levels:
        del labels["level"]
    labels |= {name: value for name in ("point", "control") if (value := getattr(request, name))}
    result = result.assign_coords({name: _scalar(value) for name, value in labels.items()})
    result.attrs |= {
        "fingerprint": store.fingerprint(wanted),
        "options": store.as_json(wanted),
        "seconds": time.monotonic() - started,
    }
    journal.finish()
    return result


def _scalar(value: object) -> np.ndarray:
    return np.array(value, dtype="int64") if isinstance(value, int) else np.array(value)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of a result; it goes away with the process, however that ends."""
    lock = out.with_name(f".{out.stem}.lock")
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as error:
            raise InputError(f"cannot write {lock}: {error.strerror}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held it before has removed the file: a lock on that one would keep no newcomer out.
            if not _is_at(file.fileno(), lock):
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
            return


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is the one that a path names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def status(run: Run) -> str:
    """Return what is trained and what is measured of a run, as text."""
    cells = run.cells()
    lines = [f"{run.root}: {run.fingerprint}, {len(cells)} trainings"]
    for method in dict.fromkeys(cell.method for cell in cells):
        mine = [cell for cell in cells if cell.method == method]
        levels = sorted({cell.level for cell in mine})
        replicates = sorted({cell.replicate for cell in mine})
        lines.append(f"  {method:22s} levels {_ranges(levels)}, replicates {_ranges(replicates)}")
    for quantity in results.quantities(run.root):
        rows = results.index(run.root, quantity)
        hours = float(rows["seconds"].sum()) / 3600
        lines.append(f"{quantity}: {rows.sizes['result']} results, {hours:.2f} h of measuring")
        for label in ("method", "level", "replicate", "point", "control", "curvature"):
            values = sorted({v for v in rows[label].values.tolist() if v not in ("", -1)})
            if values:
                text = _ranges(values) if isinstance(values[0], int) else ", ".join(values)
                lines.append(f"  {label + 's':12s} {text}")
    return "\n".join(lines)


def _ranges(values: Sequence[int]) -> str:
    """Return ``0-3, 7`` for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
