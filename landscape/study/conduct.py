"""Carry out a study: one list of trainings and measurements in the order of priority, each whole or absent.

A training comes right before the first measurement that needs it, so that an interrupted study has finished results of
what matters most. Nothing is kept in memory between the steps: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from landscape import cli, runs, store, tasks
from landscape.errors import InputError
from landscape.pruning import imp
from landscape.pruning.methods import Recipe
from landscape.runs import Cell, Run
from landscape.study import pruned
from landscape.study.costs import Costs, measure_costs
from landscape.study.file import Arm, Study
from landscape.study.measure import NO_TIME, UNMATCHED, Effort, measure_one
from landscape.study.plan import expand, path_of, trainings_of
from landscape.study.pruned import Pruned
from landscape.study.requests import MeasureOptions, Request
from landscape.study.unchanged import check_data
from landscape.tasks import Outcome, Task


@dataclass(frozen=True)
class Step:
    """A training or a measurement.

    Parameters
    ----------
    what
        ``training``, or the quantity.
    path
        The file that exists when it is done.
    seconds, size
        Predicted time, and bytes on the disk.
    """

    what: str
    path: Path
    seconds: float
    size: int
    task: Task

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.path.exists()


@dataclass(frozen=True)
class Conducted:
    """What became of a study: the runs, and the names of steps by their fate."""

    roots: tuple[Path, ...]
    missing: tuple[str, ...]
    unmatched: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


class Log:
    """The log file of a study: everything, with the time; what is said also goes to stderr."""

    def __init__(self, path: Path, quiet: bool) -> None:
        self.path, self.quiet = path, quiet
        store.check_writable(path)

    def keep(self, line: str) -> None:
        """Add a line to the file."""
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def say(self, line: str) -> None:
        """Add a line to the file and show it."""
        self.keep(line)
        cli.log(line, self.quiet)


def conduct(study: Study, out: Path, effort: Effort) -> Conducted:
    """Train and measure what is missing of a study.

    A step that fails does not stop the others; the outcomes say why (``tasks.raise_failures``).

    Raises
    ------
    InputError
        If a directory holds a run of another description, or nothing can be measured as asked.
    """
    roots = tuple(study.root(out, arm) for arm in study.arms)
    steps = unique(step for part in _interleaved([plan_arm(study, arm, out) for arm in study.arms]) for step in part)
    todo = [step for step in steps if not step.done]
    log = Log(out / "study.log", effort.quiet)
    for line in describe(steps, todo, effort):
        log.say(line)
    deadline = None if effort.budget is None else time.time() + 3600 * effort.budget
    left = {step.task.name for step in todo}
    work = [_timed(step, deadline, left) for step in todo]
    bar: tqdm[Any]
    with cli.progress(len(work), "steps", effort.quiet, unit="step") as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            if outcome.error is not None:
                log.say(f"{outcome.name}: {outcome.error}")
            else:
                log.keep(f"{outcome.name}: {_short(outcome.value)}")

        outcomes = tasks.run(work, effort.where, report)
    return Conducted(
        roots,
        tuple(o.name for o in outcomes if o.value == NO_TIME),
        tuple(o.name for o in outcomes if o.value == UNMATCHED),
        tuple(outcomes),
    )


def _short(value: Any) -> str:
    """Return the outcome of a step without the directory of its file."""
    return Path(value).name if str(value).endswith(".nc") else str(value)


def _timed(step: Step, deadline: float | None, left: set[str]) -> Task:
    """Return the task with the latest moment to begin it, after those of its needs that are still to do."""
    latest = None if deadline is None else deadline - step.seconds
    task = step.task
    return replace(task, arguments=(*task.arguments, latest), after=tuple(name for name in task.after if name in left))


def _interleaved(arms: Sequence[Sequence[Sequence[Step]]]) -> Iterable[Sequence[Step]]:
    """Return the blocks of all arms: the first block of every arm, then the second ones."""
    for number in range(max(map(len, arms))):
        yield from (blocks[number] for blocks in arms if number < len(blocks))


def unique(steps: Iterable[Step]) -> list[Step]:
    """Return the steps without those whose file an earlier one makes."""
    found: dict[Path, Step] = {}
    for step in steps:
        found.setdefault(step.path, step)
    return list(found.values())


def plan_arm(study: Study, arm: Arm, out: Path) -> list[list[Step]]:
    """Return the steps of an arm: a list for every measurement of the file, in its order, and the other trainings.

    Raises
    ------
    InputError
        If the recipe of the arm cannot be followed, or its directory holds a run of another description or results of
        other data.
    """
    imp.check(arm.recipe)
    run = runs.create(study.root(out, arm), imp.describe(arm.recipe))
    cells = imp.plan(arm.extent)
    blocks = []
    for measurement in arm.measurements:
        costs = measure_costs(arm.recipe, measurement.options.problem)
        steps: list[Step] = []
        requests = expand(run, measurement.selection, cells)
        missing = [request for request in requests if not path_of(run, request, measurement.options).exists()]
        check_data(run, missing, measurement.options.problem)
        for request in requests:
            needed = _closed(trainings_of(request))
            steps += [_training(run, arm.recipe, cell, costs) for cell in cells if cell in needed]
            steps.append(_measurement(run, request, measurement.options, costs, needed))
        blocks.append(steps)
    costs = measure_costs(arm.recipe, arm.measurements[0].options.problem)
    blocks += [_pruning(run, arm.recipe, block, costs) for block in arm.pruned]
    return [*blocks, [_training(run, arm.recipe, cell, costs) for cell in cells]]


def _pruning(run: Run, recipe: Recipe, block: Pruned, costs: Costs) -> list[Step]:
    """Return the steps of one ``[[imc]]``, each after the dense training that it starts from."""
    steps = []
    for one in pruned.plan(run, recipe, block, costs):
        steps.append(_training(run, recipe, one.dense, costs))
        task = replace(one.task, after=(_name(run, one.dense), *one.task.after))
        steps.append(Step("imc", one.note, one.seconds, one.size, task))
    return steps


def _closed(cells: set[Cell]) -> set[Cell]:
    """Return the cells and all that they follow from."""
    found, waiting = set(cells), list(cells)
    while waiting:
        for cell in imp.needs(waiting.pop()):
            if cell not in found:
                found.add(cell)
                waiting.append(cell)
    return found


def _training(run: Run, recipe: Recipe, cell: Cell, costs: Costs) -> Step:
    after = tuple(_name(run, c) for c in imp.needs(cell))
    task = Task(_name(run, cell), train_one, (run.root, cell, recipe), after)
    return Step("training", run.minimum(cell), *costs.training(cell), task)


def _name(run: Run, cell: Cell) -> str:
    return f"{run.root.name}/{cell} training"


def _measurement(run: Run, request: Request, options: MeasureOptions, costs: Costs, needed: set[Cell]) -> Step:
    path = path_of(run, request, options)
    after = tuple(_name(run, cell) for cell in needed)
    # The first digits of the fingerprint: the same request may be made with several options.
    task = Task(f"{run.root.name}/{request} {path.stem[:6]}", measure_there, (run.root, request, options), after)
    return Step(request.quantity, path, *costs.measurement(request, options), task)


def train_one(root: Path, cell: Cell, recipe: Recipe, latest_start: float | None) -> str:
    """Train one cell in time, or return `NO_TIME`. This is the task."""
    run = runs.read(root)
    if _late(latest_start) or not all(run.minimum(c).exists() for c in imp.needs(cell)):
        return NO_TIME
    return imp.train_cell(root, cell, recipe)


def measure_there(root: Path, request: Request, options: MeasureOptions, latest_start: float | None) -> str:
    """Measure one result in time if what it needs was trained in time, or return `NO_TIME`. This is the task."""
    run = runs.read(root)
    if not all(run.minimum(cell).exists() for cell in trainings_of(request)):
        return NO_TIME
    return measure_one(root, request, options, latest_start)


def _late(latest_start: float | None) -> bool:
    return latest_start is not None and time.time() > latest_start


def describe(steps: Sequence[Step], todo: Sequence[Step], effort: Effort) -> list[str]:
    """Return the plan in words: of every kind how many there are and what the missing ones cost in hours and bytes."""
    lines = []
    for what in dict.fromkeys(step.what for step in steps):
        count = sum(step.what == what for step in steps)
        missing = [step for step in todo if step.what == what]
        hours, size = sum(s.seconds for s in missing) / 3600, sum(s.size for s in missing) / 2**20
        lines.append(
            f"{what:15s} {count - len(missing):5d} of {count:5d} done; {hours:8.3f} h and {size:8.1f} MiB left"
        )
    workers = max(1, effort.where.workers)
    total = sum(step.seconds for step in todo) / 3600 / workers
    size = sum(step.size for step in todo) / 2**20
    lines.append(f"{len(todo)} steps to do: about {total:.3g} h with {workers} worker(s), and {size:.1f} MiB")
    if effort.budget is not None and total > effort.budget:
        lines.append(f"the budget of {effort.budget:g} h does not reach for all; the first in order of priority run")
    return lines


def left_undone(conducted: Conducted) -> list[str]:
    """Return what was not measured, or failed, as lines of text."""
    lines = [f"{name}: no matched point exists" for name in conducted.unmatched]
    lines += [f"{o.name} failed: {o.error}" for o in conducted.outcomes if o.error is not None]
    if conducted.missing:
        lines += [f"missing for lack of time: {len(conducted.missing)} steps"]
        lines += [f"missing: {name}" for name in conducted.missing]
    return lines


def check_out(out: Path) -> None:
    """Refuse an output that is a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; a study needs a directory")
