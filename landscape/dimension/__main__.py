"""The command ``python -m landscape.dimension``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from landscape import checkpoints, cli, figures, identity, parallel, store
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.dimension import trajectory
from landscape.dimension.gather import DEFAULT_MEMORY, Effort
from landscape.dimension.measure import Training, measure
from landscape.dimension.options import (
    DimensionOptions,
    check,
    check_given,
    check_inputs,
    check_training,
    with_training,
)
from landscape.dimension.report import describe_plan, describe_problem, describe_result
from landscape.journal import Journal
from landscape.problem import Problem

DESCRIPTION = "Measure whether the conditions of a slow (inertial) manifold hold around a trained network."
EXAMPLE = "python -m landscape.dimension minimum.pt --trajectory RUN/replicate_0/imp/level_00 --fast 20"


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    checkpoint: Path = cli.option(help="checkpoint of the base point", flag="CKPT")
    problem: ProblemOptions = ProblemOptions()
    dimension: DimensionOptions = DimensionOptions()
    run: cli.RunOptions = cli.RunOptions()


def main(argv: Sequence[str]) -> int:
    """Measure as the arguments say; print the outcome and the paths of the files."""
    options, given = cli.parse_arguments(cli.Parser("dimension", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    run, quiet = options.run, options.run.quiet
    parallel.init_from_environment(checkpoints.resolve_device(options.problem.device))
    threads = cli.apply_threads(run.threads)
    cli.allow_tf32(run.allow_tf32)
    check_training(options.dimension)
    memory = cli.memory_bytes(run.memory, DEFAULT_MEMORY)
    checkpoint = checkpoints.read(options.checkpoint)
    chosen = _completed(options.dimension, checkpoint)
    check(chosen)
    check_inputs(chosen, chosen.trajectory is not None, chosen.preconditioner is not None)
    problem = checkpoints.problem_of(checkpoint, options.problem)
    check_given(chosen, given, problem.num_params)
    paths = [] if chosen.trajectory is None else trajectory.find(chosen.trajectory, options.checkpoint)
    asked = _asked(options, chosen, checkpoint, problem, paths) | {"threads": threads}
    fingerprint = store.fingerprint({"quantity": "dimension", **asked})
    out = run.out or options.checkpoint.with_name(f"{options.checkpoint.stem}.dimension.nc")
    figure = run.figure or out.with_suffix(".png")
    figures.check_format(figure)
    result = store.find_existing(out, fingerprint, run.force)
    for line in describe_problem(problem):
        cli.log(line, quiet)
    if result is None:
        cli.log(describe_plan(problem, chosen), quiet)
        store.check_writable(out)
        journal = Journal(out.with_name(f".{out.name}.state"), fingerprint, run.resume, parallel.rank() == 0)
        effort = Effort(options.problem.seed, memory, journal, quiet)
        result = measure(problem, chosen, effort, _training(problem, chosen, paths))
        result.attrs |= identity.attributes(problem, asked, fingerprint, threads)
        if parallel.rank() == 0:
            store.write(result, out, "dimension", run.force)
        journal.finish()
    else:
        cli.log(f"{out} holds this result already", quiet)
    return _tell(result, out, figure, quiet)


def _completed(options: DimensionOptions, checkpoint: Checkpoint) -> DimensionOptions:
    """Fill in what the checkpoint says about its training; the momentum only where the dynamics has one."""
    known = trajectory.training_of(checkpoint)
    momentum = known.get("momentum")
    return with_training(options, known.get("lr"), momentum, known.get("time"))


def _asked(
    options: CommandOptions,
    chosen: DimensionOptions,
    checkpoint: Checkpoint,
    problem: Problem,
    paths: list[Path],
) -> dict[str, Any]:
    """Return all that decides the numbers; files enter by their content."""
    diagonal = chosen.preconditioner
    return {
        "checkpoint_sha256": checkpoint.sha256,
        "data_sha256": problem.data_sha256,
        "problem": identity.numbers_of(options.problem),
        "dimension": replace(chosen, trajectory=None, preconditioner=None),
        "trajectory_sha256": [store.file_sha256(path) for path in paths],
        "preconditioner_sha256": None if diagonal is None else store.file_sha256(diagonal),
        "allow_tf32": options.run.allow_tf32,
        "device": problem.device.type,
    }


def _training(problem: Problem, options: DimensionOptions, paths: list[Path]) -> Training:
    states = trajectory.read(paths, problem) if paths else None
    diagonal = None
    if options.preconditioner is not None:
        diagonal = trajectory.preconditioner(options.preconditioner, problem)
    return Training(states, diagonal)


def _tell(result: xr.Dataset, out: Path, figure: Path, quiet: bool) -> int:
    """Print the table, draw the figure, print the paths, and return the exit code."""
    cli.show(describe_result(result), quiet)
    if parallel.rank() == 0:
        figures.save(figures.dimension_figure(result), figure)
    cli.show_paths(out, figure)
    done = bool(result["converged"].all())
    if not done:
        missing = result["eigen"].values[~result["converged"].values].tolist()
        cli.log(f"warning: eigenvalues {missing} did not converge; their gaps are judged with their residuals", quiet)
    return cli.DONE if done else cli.NOT_CONVERGED


if __name__ == "__main__":
    cli.run(main)
