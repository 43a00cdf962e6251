"""IMC pruning and its rivals as steps of a study: the tasks of ``landscape.pruning.imc``, each with a note when done.

A network that is pruned once may have no outcome of its own (a rule without an answer prunes nothing), so that no
result file says whether a task is done. Its note in ``RUN/notes`` does: what it was asked, and what came out in words.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape import store
from landscape.pruning import imc, rivals
from landscape.pruning.imc import Extent, Wanted
from landscape.pruning.imc_options import BaseOptions, ChoiceOptions, choices_of
from landscape.pruning.methods import Recipe
from landscape.pruning.settings import Settings
from landscape.runs import Cell, Run
from landscape.study.costs import BYTES_PER_RESULT, Costs
from landscape.study.measure import NO_TIME
from landscape.study.quantities import PASSES_PER_PRODUCT
from landscape.tasks import Task

GROUPS = {"extent": Extent, "choice": ChoiceOptions, "base": BaseOptions}


@dataclass(frozen=True)
class Pruned:
    """One ``[[imc]]`` of a study file: the options of ``python -m landscape.pruning imc``."""

    extent: Extent
    choice: ChoiceOptions
    base: BaseOptions

    def settings(self, recipe: Recipe) -> Settings:
        """Return what decides the masks and trainings."""
        return Settings(recipe, self.base)

    def wanted(self) -> Wanted:
        """Return which networks are pruned."""
        return Wanted(
            choices=choices_of(self.choice, self.base),
            kept=imc.fractions(self.extent.kept),
            rivals=tuple(rivals.chosen(self.extent.rivals)),
            shuffles=self.extent.shuffles,
            replicates=self.extent.replicates,
            start=self.choice.start or "rewind",
        )


@dataclass(frozen=True)
class Planned:
    """A task of IMC pruning with its note, the dense networks it needs, and its predicted seconds and bytes."""

    task: Task
    note: Path
    dense: Cell
    seconds: float
    size: int


def plan(run: Run, recipe: Recipe, pruned: Pruned, costs: Costs) -> list[Planned]:
    """Return the tasks of one ``[[imc]]``; the dense networks are those of the study.

    Raises
    ------
    InputError
        If an option cannot be honoured.
    """
    settings, wanted = pruned.settings(recipe), pruned.wanted()
    imc.check(settings, wanted)
    found = []
    work = imc.plan(run.root, settings, wanted)
    names = {task.name: f"{run.root.name}/imc {task.name} {_note(run, task).stem[:6]}" for task in work}
    dense = {f"dense {r}": Cell(r, "imp", 0) for r in range(wanted.replicates)}
    for task in work:
        if task.name in dense:
            continue
        after = tuple(names[name] for name in task.after if name not in dense)
        notes = tuple(_note(run, other) for other in work if other.name in task.after and other.name not in dense)
        cell = next(dense[name] for name in task.after if name in dense)
        arguments = (task.function, task.arguments, _note(run, task), (run.minimum(cell), *notes))
        seconds, size = _cost(task, pruned.base, costs)
        done = Task(names[task.name], prune_there, arguments, after)
        found.append(Planned(done, _note(run, task), cell, seconds, size))
    return found


def _note(run: Run, task: Task) -> Path:
    asked = {"run": run.fingerprint, "task": task.name, "arguments": task.arguments[1:]}
    return run.root / "notes" / f"{store.fingerprint(asked)}.txt"


def _cost(task: Task, base: BaseOptions, costs: Costs) -> tuple[float, int]:
    """Return the predicted seconds and bytes: of a training, or of the curvature at a base point."""
    if not task.name.startswith("conditions"):
        return costs.training(Cell(0, task.name, 1))
    products = 10 * (base.fast + base.smallest) + 40 * base.depth
    examples = min(base.curvature_examples, costs.num_examples)
    return PASSES_PER_PRODUCT * products * examples * costs.pass_seconds, BYTES_PER_RESULT


def prune_there(
    function: Callable[..., str],
    arguments: Sequence[Any],
    note: Path,
    needed: Sequence[Path],
    latest_start: float | None,
) -> str:
    """Do one task of IMC pruning in time if what it needs was done in time, or return `NO_TIME`. This is the task."""
    if (latest_start is not None and time.time() > latest_start) or not all(path.exists() for path in needed):
        return NO_TIME
    outcome = function(*arguments)
    with store.atomic_path(note) as temporary:
        temporary.write_text(outcome + "\n")
    return outcome


def of_table(table: Mapping[str, Any], build: Callable[..., Any], where: str, replicates: int) -> Pruned:
    """Return one ``[[imc]]``: the fields of all groups stand side by side; replicates are the study's by default."""
    parts = {}
    for group, cls in GROUPS.items():
        names = {field.name for field in dataclasses.fields(cls)}
        own = {"replicates": replicates} if "replicates" in names else {}
        parts[group] = build(cls, {**own, **{key: value for key, value in table.items() if key in names}}, where)
    return Pruned(**parts)


def keys() -> list[str]:
    """Return what may stand in an ``[[imc]]``."""
    return [field.name for cls in GROUPS.values() for field in dataclasses.fields(cls)]
