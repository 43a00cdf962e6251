"""``python -m landscape.pruning imp``: iterative magnitude pruning and its controls, as a run that can be resumed.

The run is a graph of trainings: imp's level L follows from its level L - 1, every other method from imp's level above.
Each training is one task; a task whose files are complete is done at once, and one that was killed continues after its
last finished epoch, so the same command always ends with the same tensors.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from landscape import checkpoints, cli, runs, store, tasks
from landscape.cli import option
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.pruning import preflight
from landscape.pruning.methods import PruneOptions, Recipe, branch_of, read, training_of
from landscape.runs import METHODS, PERTURBED, Cell, Run
from landscape.tasks import Outcome, Task, TaskOptions
from landscape.training import TrainOptions
from landscape.training import files as trainer
from landscape.training.files import Control

DESCRIPTION = "Iterative magnitude pruning: train, prune, rewind, level by level, with the methods it is compared with."
EXAMPLE = (
    "python -m landscape.pruning imp --model lenet_300_100 --data mnist --levels 10 --replicates 3 "
    "--methods imp fine_tune retrained --out data/runs/lenet"
)


@dataclass(frozen=True)
class Extent:
    """Extent."""

    levels: int = option(10, help="last level; 0 is the dense network", metavar="L")
    replicates: int = option(3, help="repeats with other initialisation and data order", metavar="R")
    methods: tuple[str, ...] = option(
        ("imp",),
        help=f"methods: {', '.join(METHODS)}, random_mask (both kinds), all of these; perturbed (4 kinds)",
        metavar="METHOD",
    )
    method_levels: tuple[int, ...] | None = option(
        None,
        help="levels at which methods other than imp are trained (default: all)",
        metavar="L,L,...",
        parse=cli.parse_integer_list,
    )


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    out: Path = option(help="directory of the run", metavar="RUN")
    workers: int = option(1, help="processes that train side by side", metavar="W")
    scheduler: str | None = option(None, help="address of a Dask scheduler that trains instead", metavar="ADDRESS")
    threads: int = option(1, help="CPU threads of every training; they belong to the description", metavar="N")
    quiet: bool = option(False, help="print nothing but the path of the run")


@dataclass(frozen=True)
class Arguments:
    """All options."""

    extent: Extent
    pruning: PruneOptions
    training: TrainOptions
    output: OutputOptions


def main(argv: Sequence[str]) -> int:
    """Train what is missing of a run."""
    parser = cli.Parser("pruning imp", DESCRIPTION, EXAMPLE, goes_on=True)
    arguments, _ = cli.parse_arguments(parser, Arguments, argv)
    output = arguments.output
    recipe = Recipe(arguments.training, arguments.pruning, output.threads)
    train_run(output.out, recipe, arguments.extent, TaskOptions(output.workers, output.scheduler), output.quiet)
    cli.show_paths(output.out)
    return cli.DONE


def train_run(root: Path, recipe: Recipe, extent: Extent, where: TaskOptions | None = None, quiet: bool = True) -> Run:
    """Train all cells of a run that are not finished.

    Raises
    ------
    InputError
        If the recipe cannot be followed, the directory holds a run of another description, or a training failed (the
        others are finished first).
    """
    cells = plan(extent)
    check(recipe)
    run = runs.create(root, describe(recipe))
    work = [
        Task(str(cell), train_cell, (root, cell, recipe), tuple(str(c) for c in needs(cell) if c in set(cells)))
        for cell in cells
    ]
    missing = sum(not run.minimum(cell).exists() for cell in cells)
    cli.log(f"{run.root}: {len(cells)} trainings, {missing} to do", quiet)
    bar: tqdm[Any]
    with cli.progress(len(cells), "trainings", quiet) as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            cli.log(f"{outcome.name}: {outcome.error or outcome.value}", quiet)

        outcomes = tasks.run(work, where, report)
    tasks.raise_failures(outcomes)
    return run


def check(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be followed, before a run is created.

    Raises
    ------
    InputError
        With the name of the option.
    """
    preflight.check_pruning(recipe.pruning)
    preflight.check(recipe, load_data(recipe.training)[0])


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return the description of a run: everything that decides its tensors, and how far it goes left out."""
    device = checkpoints.resolve_device(recipe.training.device).type
    resolved = replace(recipe, training=replace(recipe.training, device=device))
    return dict(json.loads(store.as_json({"kind": "imp", **asdict(resolved)})))


def chosen_methods(names: Sequence[str]) -> list[str]:
    """Return the methods that were asked for, imp first (the others branch off it)."""
    wanted: list[str] = []
    for name in (part for text in names for part in text.split(",") if part):
        groups = {"all": METHODS, "random_mask": tuple(m for m in METHODS if m.startswith("random_mask"))}
        wanted += {**groups, "perturbed": tuple(PERTURBED)}.get(name, (name,))
    known = (*METHODS, *PERTURBED)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"unknown method {unknown[0]!r}; use {', '.join(known)}, random_mask, perturbed or all")
    return ["imp", *(name for name in known[1:] if name in wanted)]


def plan(extent: Extent) -> list[Cell]:
    """Return the cells of a run in the order of training: imp level by level, then the other methods."""
    if extent.levels < 0 or extent.replicates < 1:
        raise InputError("--levels must be at least 0 and --replicates at least 1")
    methods = chosen_methods(extent.methods)
    levels = range(extent.levels + 1) if extent.method_levels is None else extent.method_levels
    outside = [level for level in levels if not 0 <= level <= extent.levels]
    if outside:
        raise InputError(f"--method-levels {outside[0]} lies outside the levels 0 to {extent.levels}")
    cells = [Cell(r, "imp", level) for level in range(extent.levels + 1) for r in range(extent.replicates)]
    for level in sorted(set(levels)):
        for method in methods[1:]:
            if level > 0 or method == "retrained" or method in PERTURBED:
                cells += [Cell(r, method, level) for r in range(extent.replicates)]
    return cells


def needs(cell: Cell) -> list[Cell]:
    """Return the cells that must be finished before a cell can start."""
    if cell.method == "imp":
        return [Cell(cell.replicate, "imp", cell.level - 1)] if cell.level else []
    level = 0 if cell.method == "one_shot" else max(cell.level - 1, 0)
    if cell.method in PERTURBED:
        level = cell.level
    return [Cell(cell.replicate, "imp", level)]


def train_cell(root: Path, cell: Cell, recipe: Recipe) -> str:
    """Train one cell, or find it finished, and return its last losses as text. This is the task."""
    torch.set_num_threads(recipe.threads)
    run = runs.read(root)
    if run.minimum(cell).exists():
        read(run.minimum(cell))  # a damaged file is reported with what to do
    data = load_data(recipe.training)
    steps_per_epoch = -(-len(data[0]) // recipe.training.batch_size)
    trained = trainer.train(
        training_of(recipe, cell, steps_per_epoch),
        run.folder(cell),
        branch_of(run, recipe, cell),
        data,
        Control(resume=True),
    )
    last = trained.curves.isel(epoch=-1)
    return ", ".join(f"{str(name).replace('_', ' ')} {float(value):.4g}" for name, value in last.data_vars.items())


@functools.lru_cache(maxsize=1)
def load_data(options: TrainOptions) -> tuple[Data, Data | None]:
    """Load the data once a process."""
    return trainer.load_data(options)
