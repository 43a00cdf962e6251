"""``python -m landscape.connectivity A.pt B.pt [C.pt ...]``: how checkpoints of one network are connected."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from landscape import checkpoints, cli, connectivity, identity, models, store
from landscape.batches import as_batches
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.cli import option
from landscape.connectivity.barriers import PathOptions
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.sanity import describe_point

EXAMPLE = "python -m landscape.connectivity a.pt b.pt --num-examples 10000"
# What other commands can do with a problem, and a comparison of networks cannot.
MEANINGLESS = ("params", "subspace", "weight_decay")


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    threads: int | None = option(None, help="CPU threads (default: as torch decides)", metavar="N")
    out: Path | None = option(None, help="result (default: A.connectivity.nc beside the first)", metavar="FILE")
    force: bool = option(False, help="replace a different result at the same path")
    quiet: bool = option(False, help="print nothing but the paths of what was written")


@dataclass(frozen=True)
class Arguments:
    """Comparison."""

    checkpoint: tuple[Path, ...] = option(flag="CHECKPOINT", help="two or more checkpoints of one network")
    pairs: str = option("all", help="which of them are compared", choices=("all", "successive", "first"))
    test: bool = option(True, help="evaluate everything on the test split too (default)")
    path: PathOptions = field(default_factory=PathOptions)
    problem: ProblemOptions = field(default_factory=ProblemOptions)
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The networks, and the data on which they are compared."""

    points: dict[str, Problem]
    held_out: Data | None


def main(argv: Sequence[str]) -> int:
    """Compare checkpoints and write the result."""
    parser = cli.Parser("connectivity", "Distances, barriers and disagreement of trained networks.", EXAMPLE)
    arguments, given = cli.parse_arguments(parser, Arguments, argv)
    refused = [name for name in MEANINGLESS if name in given]
    if refused:
        raise InputError(f"connectivity compares whole networks; leave out --{refused[0].replace('_', '-')}")
    threads = cli.apply_threads(arguments.output.threads)
    problem = arguments.problem if "batchnorm" in given else replace(arguments.problem, batchnorm="recalibrate")
    arguments = replace(arguments, problem=problem, path=replace(arguments.path, seed=problem.seed))
    if twice := [path for path in arguments.checkpoint if arguments.checkpoint.count(path) > 1]:
        raise InputError(f"{twice[0]} is named twice; give each checkpoint once")
    read = {_name(path, arguments.checkpoint): checkpoints.read(path) for path in arguments.checkpoint}
    inputs = _opened(read, arguments)
    some = next(iter(inputs.points.values()))
    wanted = {
        "quantity": "connectivity",
        "checkpoints": {name: checkpoint.sha256 for name, checkpoint in read.items()},
        "options": {name: getattr(arguments, name) for name in ("pairs", "test", "path")},
        "problem": identity.numbers_of(problem),
        "data_sha256": [some.data_sha256, None if inputs.held_out is None else inputs.held_out.sha256],
        "device": some.device.type,
        "threads": threads,
    }
    first = arguments.checkpoint[0]
    out = arguments.output.out or first.with_name(f"{first.stem}.connectivity.nc")
    result = store.find_existing(out, store.fingerprint(wanted), arguments.output.force)
    for name, point in inputs.points.items():
        for line in describe_point(point):
            cli.log(f"{name}: {line}", arguments.output.quiet)
    if result is None:
        result = compare(read, inputs, arguments)
        result.attrs |= {"fingerprint": store.fingerprint(wanted), "options": store.as_json(wanted)}
        store.write(result, out, "connectivity", arguments.output.force)
    cli.show(table(result), arguments.output.quiet)
    cli.show_paths(out)
    return cli.DONE


def _name(path: Path, paths: Sequence[Path]) -> str:
    """Return a short name: the stem, or the whole path where two stems are the same."""
    stems = [p.stem for p in paths]
    return path.stem if stems.count(path.stem) == 1 else path.with_suffix("").as_posix()


def _opened(read: Mapping[str, Checkpoint], arguments: Arguments) -> Inputs:
    """Load the networks on shared data, and the test split where it is evaluated too."""
    options, first = arguments.problem, next(iter(read.values()))
    data = checkpoints.open_data(first, options)
    points = {name: checkpoints.problem_of(checkpoint, options, data) for name, checkpoint in read.items()}
    held_out = None
    if arguments.test and options.split == "train":
        held_out = checkpoints.open_data(first, replace(options, split="test", num_examples=None))
    return Inputs(points, held_out)


def compare(read: Mapping[str, Checkpoint], inputs: Inputs, arguments: Arguments) -> xr.Dataset:
    """Measure the pairs."""
    started = time.monotonic()
    options, points, held_out = arguments.problem, inputs.points, inputs.held_out
    some = next(iter(points.values()))
    test: tuple[Any, ...] = ()
    if held_out is not None:
        test = tuple(
            as_batches(
                (models.as_inputs(some.model, held_out.x), held_out.y), options.batch_size, some.dtype, some.device
            )
        )
    pairs = connectivity.choose_pairs(list(points), arguments.pairs)
    result = connectivity.measure(points, pairs, arguments.path, test)
    names = ",".join(str(checkpoint.sha256) for checkpoint in read.values())
    result.attrs = identity.conditions(some, names, torch.get_num_threads()) | {"seconds": time.monotonic() - started}
    return result


def table(result: xr.Dataset) -> str:
    """Return the pairs with their main numbers as text, the test split where there is one."""
    shown = result.isel(split=-1)
    split = str(shown["split"].values)
    wanted = ["distance", "barrier_loss", "instability_loss", "barrier_error", "disagreement"]
    names = [name for name in wanted if name in shown]
    width = max(len(str(pair)) for pair in shown["pair"].values)
    lines = [" ".join([f"{f'pair ({split})':{width + 8}}", *(f"{name:>16}" for name in names)])]
    for pair in shown["pair"].values:
        row = shown.sel(pair=pair)
        lines.append(" ".join([f"{pair:{width + 8}}", *(f"{float(row[name]):16.6g}" for name in names)]))
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
