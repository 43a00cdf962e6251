"""``python -m landscape.pruning gfs_sweep``: how much pre-training selection needs, over data size, width and targets.

Every cell is one pre-training from which subnetworks of all sizes are selected at every checkpoint. A cell is one task
and one file, RUN/results/gfs/FINGERPRINT.nc; what is there is not computed again. RUN/gfs.nc joins all cells and is
made anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import xarray as xr
from tqdm import tqdm

from landscape import checkpoints, cli, runs, store, tasks
from landscape.checkpoints.problems import DEVICES
from landscape.cli import option
from landscape.errors import InputError
from landscape.pruning.gfs import SelectOptions
from landscape.pruning.gfs_cells import ARMS, PretrainOptions, Spec, grid, run_cell
from landscape.pruning.gfs_convex import SMOOTHNESS
from landscape.pruning.gfs_measure import RIVALS, MeasureOptions
from landscape.tasks import Outcome, Task, TaskOptions

DESCRIPTION = (
    "Pre-train two-layer networks over data size, width and targets, and select subnetworks at every checkpoint."
)
EXAMPLE = (
    "python -m landscape.pruning gfs_sweep --data mnist_binary --num-examples 250,500,...,16000 --widths 512,2048 "
    "--arms data --replicates 5 --out data/runs/gfs"
)
QUANTITY = "gfs"


@dataclass(frozen=True)
class SelectionFlags:
    """Selection."""

    sizes: tuple[int, ...] = option(
        (8, 16, 32, 64, 128, 256, 512), help="numbers of picks", metavar="K,K,...", parse=cli.parse_integer_list
    )
    replacement: bool = option(True, help="let a neuron be picked again, as the theorems have it")
    weighting: str = option("uniform", help="weights of the picks", choices=("uniform", "line_search"))
    rule: str = option("exact", help="best pick, or steepest descent", choices=("exact", "first_order"))
    rivals: tuple[str, ...] = option((), help=f"other choices to compare with: {', '.join(RIVALS)}", metavar="NAME")

    def measuring(self, seed: int) -> MeasureOptions:
        """Return what is measured at a checkpoint."""
        chosen = SelectOptions(self.sizes[-1], self.replacement, self.weighting, self.rule)
        return MeasureOptions(self.sizes, chosen, self.rivals, seed=seed)


@dataclass(frozen=True)
class Extent:
    """Extent."""

    num_examples: tuple[int, ...] = option(
        (250, 500, 1000, 2000, 4000, 8000, 16000),
        help="numbers m of training examples; smaller sets are parts of larger ones",
        metavar="M,M,...",
        parse=cli.parse_integer_list,
    )
    widths: tuple[int, ...] = option(
        (512,), help="numbers N of neurons", metavar="N,N,...", parse=cli.parse_integer_list
    )
    arms: tuple[str, ...] = option(("data",), help="kinds of targets", choices=ARMS)
    replicates: int = option(5, help="repeats with other examples, initialisation and order", metavar="R")


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    out: Path = option(help="directory of the run", metavar="RUN")
    budget: float | None = option(None, help="hours that the cells may take; the rest is listed", metavar="HOURS")
    workers: int = option(1, help="processes side by side", metavar="W")
    scheduler: str | None = option(None, help="address of a Dask scheduler that runs the cells", metavar="ADDRESS")
    threads: int = option(1, help="CPU threads of a cell; they belong to its fingerprint", metavar="N")
    device: str = option("auto", help="device", choices=DEVICES)
    quiet: bool = option(False, help="print nothing but the paths")


@dataclass(frozen=True)
class Arguments:
    """All options."""

    pretraining: PretrainOptions
    selection: SelectionFlags
    extent: Extent
    output: OutputOptions


@dataclass(frozen=True)
class Recipe:
    """All that decides the numbers of a cell, besides which cell it is."""

    pretraining: PretrainOptions
    measuring: MeasureOptions
    threads: int
    device: str

    def fingerprint(self, spec: Spec) -> str:
        """Return the name of a cell's result; the content of a data file enters by its checksum."""
        data = self.pretraining.data
        content = store.file_sha256(data) if data.endswith(".npz") else None
        return store.fingerprint({"quantity": QUANTITY, "cell": asdict(spec), "file": content, **asdict(self)})


def main(argv: Sequence[str]) -> int:
    """Compute the cells that are missing, join what is there, and print the table of cells."""
    parser = cli.Parser("pruning gfs_sweep", DESCRIPTION, EXAMPLE, goes_on=True)
    arguments, _ = cli.parse_arguments(parser, Arguments, argv)
    output = arguments.output
    cli.apply_threads(output.threads)
    device = checkpoints.resolve_device(output.device).type
    measuring = arguments.selection.measuring(arguments.pretraining.seed)
    recipe = Recipe(arguments.pretraining, measuring, output.threads, device)
    run = runs.create(output.out, {"kind": QUANTITY, **asdict(recipe)})
    specs = plan(arguments.extent)
    missing = [spec for spec in specs if not _file(run.root, recipe, spec).exists()]
    chosen, hours = within_budget(missing, recipe, output.budget)
    cli.log(
        f"{run.root}: {len(specs)} cells, {len(missing)} to do, about {hours:.2f} hours of one process", output.quiet
    )
    for spec in missing[len(chosen) :]:
        cli.log(f"missing, beyond --budget: {spec}", output.quiet)
    work = [Task(str(spec), compute, (run.root, recipe, spec)) for spec in chosen]
    bar: tqdm[int]
    with cli.progress(len(work), "cells", output.quiet) as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            cli.log(f"{outcome.name}: {outcome.error or outcome.value}", output.quiet)

        outcomes = tasks.run(work, TaskOptions(output.workers, output.scheduler), report)
    tasks.raise_failures(outcomes)
    if chosen != missing and len(missing) == len(specs) and not chosen:
        return cli.DONE  # what is missing was listed, and there is nothing to join
    joined = join([_file(run.root, recipe, spec) for spec in specs])
    joined.attrs |= {"options": store.as_json(asdict(arguments) | {"output": None}), "seconds": None}
    joined.attrs["fingerprint"] = store.fingerprint({"quantity": QUANTITY, "joined": sorted(_names(joined))})
    path = store.write(joined, run.root / "gfs.nc", QUANTITY, force=True)
    cli.show(table(joined), output.quiet)
    cli.show_paths(path)
    return cli.DONE


def plan(extent: Extent) -> list[Spec]:
    """Return the cells in the order in which they are wanted: a full range of m first, repeats and widths later."""
    if extent.replicates < 1 or min(extent.num_examples) < 2 or min(extent.widths) < 1:
        raise InputError("--replicates and --widths must be at least 1, --num-examples at least 2")
    return [
        Spec(arm, m, width, replicate)
        for arm in extent.arms
        for replicate in range(extent.replicates)
        for width in extent.widths
        for m in extent.num_examples
    ]


def compute(root: Path, recipe: Recipe, spec: Spec) -> str:
    """Compute one cell and write it. This is the task."""
    path = _file(root, recipe, spec)
    if path.exists():
        return "done before"
    if recipe.device == "cpu":
        torch.set_num_threads(recipe.threads)
    started = time.perf_counter()
    cell = run_cell(spec, recipe.pretraining, recipe.measuring, torch.device(recipe.device))
    seconds = time.perf_counter() - started
    cell = cell.assign(smoothness=("cell", [SMOOTHNESS[recipe.pretraining.loss]]))
    cell.attrs |= {
        "fingerprint": recipe.fingerprint(spec),
        "options": store.as_json({"cell": asdict(spec), **asdict(recipe)}),
        "greedy_bounds": int(recipe.measuring.greedy_bounds),
        "loss": recipe.pretraining.loss,
        "threads": recipe.threads,
        "device": recipe.device,
        "world_size": 1,
        "seconds": seconds,
    }
    store.write(cell, path, QUANTITY)
    return f"{seconds:.0f} s, dense loss {float(cell['dense_loss'][0, -1]):.4g}"


def join(paths: Sequence[Path]) -> xr.Dataset:
    """Return all cells that are there as one Dataset; what a cell did not measure is NaN there."""
    parts = [store.open_result(path) for path in paths if path.exists()]
    if not parts:
        raise InputError("no cell is finished yet")
    common = {"greedy_bounds", "loss", "threads", "device"}
    attrs = {name: value for name, value in parts[0].attrs.items() if name in common}
    joined = xr.concat(parts, "cell", join="outer", combine_attrs="drop")
    return joined.assign_coords(cell=range(len(parts))).assign_attrs(attrs)


def within_budget(missing: Sequence[Spec], recipe: Recipe, budget: float | None) -> tuple[list[Spec], float]:
    """Return the cells, from the first on, that fit into the budget, and the hours of all that are missing."""
    rate = speed(recipe.device)
    hours = [work_of(spec, recipe) / rate / 3600 for spec in missing]
    chosen: list[Spec] = []
    spent = 0.0
    for spec, needed in zip(missing, hours, strict=True):
        spent += needed
        if budget is not None and spent > budget:
            break
        chosen.append(spec)
    return chosen, sum(hours)


def work_of(spec: Spec, recipe: Recipe) -> float:
    """Return about how many operations a cell takes: training, activations, Gram matrices (for MNIST's 784 inputs)."""
    inputs, pretraining = 784, recipe.pretraining
    training = 6.0 * pretraining.steps * min(pretraining.batch_size, spec.num_examples) * inputs * spec.width
    once = 2.0 * spec.num_examples * spec.width * (inputs + spec.width)
    return training + once * len(grid(pretraining.steps))


def speed(device: str) -> float:
    """Return the operations per second of a float32 matrix product here, halved for all that is not one."""
    a = torch.ones(1024, 1024, device=device)
    _ = (a @ a).sum().item()
    started = time.perf_counter()
    for _ in range(4):
        b = a @ a
    _ = b.sum().item()
    return 0.5 * 4 * 2 * 1024.0**3 / (time.perf_counter() - started)


def table(joined: xr.Dataset) -> str:
    """Return one line for each cell: the losses at its end."""
    lines = [f"{'cell':32s} {'dense loss':>11s} {'selected':>11s} {'random':>11s} {'distinct':>9s}"]
    for name, i in zip(_names(joined), range(joined.sizes["cell"]), strict=True):
        cell = joined.isel(cell=i, step=-1)
        last = cell.isel(size=-1)
        numbers = (float(cell["dense_loss"]), float(last["loss"]), float(last["random_loss_distinct"]))
        lines.append(f"{name:32s} " + " ".join(f"{v:11.5g}" for v in numbers) + f" {int(last['num_distinct']):9d}")
    return "\n".join(lines)


def _file(root: Path, recipe: Recipe, spec: Spec) -> Path:
    return root / "results" / QUANTITY / f"{recipe.fingerprint(spec)}.nc"


def _names(joined: xr.Dataset) -> list[str]:
    columns = zip(
        *(joined[n].values.tolist() for n in ("arm", "num_examples", "num_neurons", "replicate")), strict=True
    )
    return [str(Spec(*labels)) for labels in columns]
