"""``python -m landscape.pruning children RUN``: from which step on the children of a training agree, and its masks.

Children of a checkpoint are copies of it, trained to the end in different data orders under one mask. The first step
from which no barrier rises on the segment between them is where the outcome is decided: the earliest rewind point in
the sense of Frankle et al. (2020). An early-bird ticket (You et al. 2020) is drawn as soon as the mask of the last few
checkpoints is stable, which needs no further training. This command measures both along one dense training.

For a run of ``imp`` the checkpoints are those of level 0, the children are trained by the run's own recipe from there
on, under the mask of ``--level``, and the early-bird masks keep as many of the largest weights. For a run of the
subnetworks that ``gfs --subnetworks`` wrote, each has its own mask, and is fine-tuned for ``--epochs``. Momentum starts
at zero again in every child.

References
----------
Frankle, Dziugaite, Roy, Carbin 2020, Linear mode connectivity and the lottery ticket hypothesis, arXiv:1912.05671.
You et al. 2020, Drawing early-bird tickets, arXiv:1909.11957.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from landscape import checkpoints, cli, connectivity, masks, models, runs, seeds, store
from landscape.batches import as_batches
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.cli import option
from landscape.connectivity.barriers import PathOptions
from landscape.errors import InputError
from landscape.pruning import criteria, early_bird
from landscape.pruning.early_bird import StableOptions
from landscape.pruning.gfs_subnetworks import METHODS as SELECTED
from landscape.pruning.methods import PruneOptions, Recipe, at_level
from landscape.runs import Cell, Run
from landscape.training import Branch, TrainOptions
from landscape.training import files as trainer
from landscape.training.files import Control

DESCRIPTION = "Train children of the checkpoints of a dense training, and compare when they and the masks settle."
EXAMPLE = "python -m landscape.pruning children data/runs/lenet --level 7 --num-examples 10000"
QUANTITY = "children"
SHOWN = ("instability_loss", "instability_error", "child_error", "mask_distance", "mask_drift")


@dataclass(frozen=True)
class ChildOptions:
    """Children."""

    level: int = option(0, help="level of imp whose mask the children have; 0: none", metavar="L")
    epochs: int | None = option(None, help="epochs of fine-tuning (subnetworks of gfs only)", metavar="E")
    lr: float | None = option(None, help="its learning rate (subnetworks of gfs only)", metavar="RATE")
    train_batch_size: int = option(128, help="its examples in one step (subnetworks of gfs only)", metavar="B")
    parents: tuple[int, ...] | None = option(
        None,
        help="steps of the checkpoints whose children are trained (default: all); masks are compared at all",
        metavar="S,S,...",
        parse=cli.parse_integer_list,
    )
    num_examples: int | None = option(None, help="training examples of the barriers (default: all)", metavar="N")
    limit: float = option(0.02, help="barrier, in fractions of the test examples, that counts as none", metavar="E")


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    threads: int = option(1, help="CPU threads; they belong to the fingerprint", metavar="N")
    out: Path | None = option(None, help="result (default: RUN/children_level_LL.nc)", metavar="FILE.nc")
    force: bool = option(False, help="replace a different result at the same path")
    quiet: bool = option(False, help="print nothing but the path")


@dataclass(frozen=True)
class Arguments:
    """All options."""

    run: Path = option(flag="RUN", help="directory of a run of imp, or of subnetworks of gfs")
    children: ChildOptions = field(default_factory=ChildOptions)
    path: PathOptions = field(default_factory=lambda: PathOptions(11, 4, 50))
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, eq=False)
class Parent:
    """A checkpoint whose children are trained.

    Attributes
    ----------
    mask
        Of the children; None for none.
    bird
        The mask that would be drawn here, as bits; empty where none is.
    first_step
        Steps of the recipe that are done.
    """

    checkpoint: Checkpoint
    step: int
    mask: dict[str, torch.Tensor] | None
    bird: np.ndarray
    first_step: int


@dataclass(frozen=True, eq=False)
class Family:
    """The parents of one training, in the order of their steps, and how their children are trained."""

    method: str
    replicate: int
    parents: list[Parent]
    training: TrainOptions

    def order(self, child: int) -> int:
        """Return the seed of the data order of a child."""
        key = "children", self.method, self.replicate, child
        return int(seeds.sequence(self.training.seed, *key).generate_state(1, np.uint64)[0]) >> 1


def main(argv: Sequence[str]) -> int:
    """Train the children, measure, print and write."""
    parser = cli.Parser("pruning children", DESCRIPTION, EXAMPLE)
    arguments, given = cli.parse_arguments(parser, Arguments, argv)
    cli.apply_threads(arguments.output.threads)
    run, chosen = runs.read(arguments.run), arguments.children
    asked: dict[str, Any] = {
        "quantity": QUANTITY,
        "run": run.fingerprint,
        "children": asdict(chosen),
        "path": asdict(arguments.path),
    }
    asked["threads"] = arguments.output.threads
    out = arguments.output.out or run.root / f"children_level_{chosen.level:02d}.nc"
    result = store.find_existing(out, store.fingerprint(asked), arguments.output.force)
    cells = cells_of(run, chosen)
    # A run that was extended has the same name; its table is one of fewer trainings, and the same command completes it.
    if result is None or not covers(result, cells):
        started = time.monotonic()
        found = list(families(run, chosen, given))
        result = measure(run, found, arguments)
        result.attrs |= {"fingerprint": store.fingerprint(asked), "options": store.as_json(asked)}
        result.attrs |= {"threads": arguments.output.threads, "seconds": time.monotonic() - started}
        result.attrs |= {"cells": store.as_json([str(cell) for cell in cells])}
        store.write(result, out, QUANTITY, arguments.output.force)
    cli.show(describe(result), arguments.output.quiet)
    cli.show_paths(out)
    return cli.DONE


# ---- parents --------------------------------------------------------------------------------------------------------


def families(run: Run, options: ChildOptions, given: Set[str]) -> Iterator[Family]:
    """Yield the parents of every training of a run."""
    kind = run.description.get("kind")
    own = {"epochs", "lr", "train_batch_size"} & given
    if kind == "imp":
        if own:
            raise InputError(f"children of imp follow the run's own recipe; leave out --{min(own).replace('_', '-')}")
        yield from _of_imp(run, options)
    elif kind == "gfs_subnetworks":
        if options.level or options.epochs is None or options.lr is None:
            raise InputError("subnetworks of gfs have masks of their own: give --epochs and --lr, and no --level")
        yield from _of_selection(run, options)
    else:
        raise InputError(f"{run.root} is no run of imp and none of gfs --subnetworks")


def cells_of(run: Run, options: ChildOptions) -> list[Cell]:
    """Return the finished trainings whose masks and checkpoints make the table."""
    if run.description.get("kind") == "imp":
        return [cell for cell in run.cells() if cell.method == "imp" and cell.level == options.level]
    return [cell for cell in run.cells() if cell.method in SELECTED]


def covers(result: xr.Dataset, cells: Sequence[Cell]) -> bool:
    """Tell whether a table was made of all these trainings; older tables name only methods and replicates."""
    if "cells" in result.attrs:
        return bool(json.loads(result.attrs["cells"]) == [str(cell) for cell in cells])
    replicates = {cell.replicate for cell in cells}
    return replicates <= set(result["replicate"].values.tolist()) and (
        {cell.method for cell in cells} <= set(result["method"].values.tolist())
    )


def recipe_of(run: Run) -> Recipe:
    """Return the recipe by which a run of imp was trained, from its description."""
    known = dict(run.description)
    training: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in known["training"].items()}
    return Recipe(TrainOptions(**training), PruneOptions(**known["pruning"]), known["threads"])


def _of_imp(run: Run, options: ChildOptions) -> Iterator[Family]:
    """Yield the dense trainings of a run of imp; its last checkpoint has no children to train."""
    recipe = recipe_of(run)
    wanted = [cell for cell in run.cells() if cell.method == "imp" and cell.level == options.level]
    if not wanted:
        raise InputError(f"{run.root} has no finished level {options.level} of imp")
    for cell in wanted:
        mask = checkpoints.read(run.minimum(cell)).mask if options.level else None
        dense = Cell(cell.replicate, "imp", 0)
        read = [checkpoints.read(path) for path in (run.start(dense), *run.trajectory(dense))]
        last = checkpoints.read(run.minimum(dense)).step
        by_step = {int(c.step or 0): c for c in read if c.step != last}
        parents = []
        for step in sorted(by_step):
            state = by_step[step].state_dict
            bird = np.zeros(0, dtype=bool)
            if mask is not None:
                full = criteria.dense(state, list(mask))
                drawn = at_level(criteria.magnitude(state, full), full, recipe.pruning, options.level)
                bird = np.concatenate([drawn[name].numpy().ravel() for name in mask])
            parents.append(Parent(by_step[step], step, mask, bird, step))
        training = replace(recipe.training, checkpoint_steps=())
        yield Family("imp", cell.replicate, parents, training)


def _of_selection(run: Run, options: ChildOptions) -> Iterator[Family]:
    """Yield the subnetworks of each method over pre-training."""
    assert options.epochs is not None
    assert options.lr is not None
    for method in SELECTED:
        cells = [cell for cell in run.cells() if cell.method == method]
        for replicate in sorted({cell.replicate for cell in cells}):
            own = [cell for cell in cells if cell.replicate == replicate]
            parents = []
            for cell in own:
                read = checkpoints.read(run.minimum(cell))
                assert read.mask is not None
                bits = np.concatenate([m.numpy().ravel() for m in read.mask.values()])
                parents.append(Parent(read, int(read.step or 0), read.mask, bits, 0))
            training = _tuning(parents[0].checkpoint, options)
            yield Family(method, replicate, parents, training)


def _tuning(checkpoint: Checkpoint, options: ChildOptions) -> TrainOptions:
    """Return the training of the children of a subnetwork: on the data that its parent was trained on."""
    trained = json.loads(checkpoint.options or "{}")
    if not trained:
        raise InputError("the subnetworks do not say how their parents were trained; train these with this package")
    names = ("model", "data", "num_examples", "examples", "normalize", "loss", "seed")
    kept: dict[str, Any] = {name: trained[name] for name in names}
    arguments = tuple(trained["model_arg"])
    assert options.epochs is not None
    assert options.lr is not None
    return TrainOptions(
        **kept, model_arg=arguments, epochs=options.epochs, lr=options.lr, batch_size=options.train_batch_size
    )


# ---- children -------------------------------------------------------------------------------------------------------


def measure(run: Run, found: Sequence[Family], arguments: Arguments) -> xr.Dataset:
    """Train two children of every parent and compare them; return the table over method, replicate and step.

    Notes
    -----
    Cost: two trainings for each checkpoint of ``--parents``. Finished children are kept under
    RUN/replicate_R/children/, and are found there when the command is given again.
    """
    chosen = [_chosen(family, arguments.children.parents) for family in found]
    columns: dict[tuple[str, int], xr.Dataset] = {}
    bar: tqdm[int]
    with cli.progress(sum(map(len, chosen)), "parents", arguments.output.quiet) as bar:
        for family, parents in zip(found, chosen, strict=True):
            data = trainer.load_data(family.training)
            rows = []
            for parent in parents:
                rows.append(_compare(run, family, parent, arguments, data))
                bar.update()
            column = xr.concat(rows, xr.Variable("step", [parent.step for parent in parents]))
            settled = _settled(family, column, arguments)
            everywhere = column.reindex(step=[parent.step for parent in family.parents])
            columns[family.method, family.replicate] = everywhere.assign(settled)
    methods, replicates = (list(dict.fromkeys(part)) for part in zip(*columns, strict=True))
    joined = [xr.concat([columns[m, r] for r in replicates], xr.Variable("replicate", replicates)) for m in methods]
    return xr.concat(joined, xr.Variable("method", methods)).transpose("method", "replicate", ...)


def _chosen(family: Family, steps: Sequence[int] | None) -> list[Parent]:
    """Return the parents whose children are trained."""
    there = [parent.step for parent in family.parents]
    if steps is not None and (missing := set(steps) - set(there)):
        raise InputError(f"no checkpoint of step {min(missing)}; there are {', '.join(map(str, there))}")
    return [parent for parent in family.parents if steps is None or parent.step in steps]


def _compare(run: Run, family: Family, parent: Parent, arguments: Arguments, data: Any) -> xr.Dataset:
    """Train the two children of a parent, and return how they are connected."""
    folder = run.root / f"replicate_{family.replicate}" / "children" / f"{family.method}_{arguments.children.level:02d}"
    found = {}
    for number in range(2):
        branch = Branch(
            start=masks.apply(parent.checkpoint.state_dict, parent.mask or {}),
            mask=parent.mask,
            first_step=parent.first_step,
            data_seed=family.order(number),
            method="children",
            replicate=family.replicate,
        )
        out = folder / f"step_{parent.step:06d}_{'ab'[number]}.pt"
        found["ab"[number]] = trainer.train(family.training, out, branch, data, Control(resume=True)).checkpoint
    options = ProblemOptions(num_examples=arguments.children.num_examples, batchnorm="recalibrate")
    train, test = checkpoints.open_data(found["a"], options), data[1]
    points = {name: checkpoints.problem_of(child, options, train) for name, child in found.items()}
    held: tuple[Any, ...] = ()
    if test is not None:
        some = points["a"]
        held = tuple(as_batches((models.as_inputs(some.model, test.x), test.y), 1000, some.dtype, some.device))
    seen = connectivity.measure(points, [("a", "b")], arguments.path, held).isel(split=-1)
    names = ("instability_loss", "instability_error", "instability_error_se")
    values = {name: float(seen[name].item()) for name in names if name in seen}
    values["child_loss"] = float(seen["point_loss"].mean())
    if "point_error" in seen:
        values["child_error"] = float(seen["point_error"].mean())
    return xr.Dataset(values)


def _settled(family: Family, column: xr.Dataset, arguments: Arguments) -> dict[str, Any]:
    """Return the distances of the masks, and the steps from which the children in ``column`` and masks have settled."""
    steps, rule = np.array([parent.step for parent in family.parents]), StableOptions()
    found: dict[str, Any] = {}
    if "instability_error" in column:
        place = first_settled(column["instability_error"].values, arguments.children.limit)
        found["stable_step"] = float("nan") if place is None else float(column["step"][place])
    birds = [parent.bird for parent in family.parents]
    if birds[0].size:
        for name, distance in (("mask_distance", early_bird.hamming), ("mask_drift", early_bird.relative_hamming)):
            before = [birds[max(0, i - rule.memory + 1) : i] for i in range(len(birds))]
            worst = [max((distance(birds[i], old) for old in before[i]), default=np.nan) for i in range(len(birds))]
            found[name] = ("step", np.array(worst, dtype=float))
            place = early_bird.first_stable(birds, distance, rule)
            found[f"{name}_step"] = float("nan") if place is None else float(steps[place])
    return found


def first_settled(values: np.ndarray, limit: float) -> int | None:
    """Return the first position from which on all values are at most the limit, or None."""
    above = np.flatnonzero(~(np.asarray(values) <= limit))
    place = int(above[-1]) + 1 if len(above) else 0
    return place if place < len(values) else None


def describe(result: xr.Dataset) -> str:
    """Return one line for each checkpoint, and what settled when."""
    names = [name for name in SHOWN if name in result]
    lines = [f"{'method':16s} {'replicate':>9s} {'step':>8s} " + " ".join(f"{name:>18s}" for name in names)]
    for method in result["method"].values:
        for replicate in result["replicate"].values:
            at = result.sel({"method": method, "replicate": replicate})
            for step in result["step"].values:
                numbers = " ".join(f"{float(at[name].sel(step=step)):18.5g}" for name in names)
                lines.append(f"{method:16s} {int(replicate):9d} {int(step):8d} {numbers}")
            settled = {"children agree": "stable_step", "masks (Hamming)": "mask_distance_step"}
            settled["masks (relative to chance)"] = "mask_drift_step"
            words = [f"{text} from step {float(at[n]):g}" for text, n in settled.items() if n in result]
            lines.append(f"{method:16s} {int(replicate):9d} {'; '.join(words)}".replace("nan", "none"))
    return "\n".join(lines)
