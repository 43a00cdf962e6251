"""The command ``python -m landscape.volume``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from landscape import checkpoints, cli, figures, identity, parallel, store
from landscape.checkpoints import ProblemOptions
from landscape.journal import Journal
from landscape.spectrum.report import describe_problem
from landscape.volume.measure import measure
from landscape.volume.options import CURVATURES, Effort, VolumeOptions, check, check_given
from landscape.volume.report import describe_plan, describe_result

DESCRIPTION = "Estimate the volume of the basin around a trained, possibly pruned, network."
EXAMPLE = "python -m landscape.volume ckpt.pt --estimators section,occam,star,preconditioned --cutoff 1e-2"


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    checkpoint: Path = cli.option(help="checkpoint: own format, state_dict, .safetensors, pruned modules", flag="CKPT")
    problem: ProblemOptions = ProblemOptions()
    volume: VolumeOptions = VolumeOptions()
    curvature: str | None = cli.option(
        None, choices=CURVATURES, help="curvature of the spectral estimates (default: ggn, jtj for function)"
    )
    run: cli.RunOptions = cli.RunOptions()


def main(argv: Sequence[str]) -> int:
    """Measure as the arguments say; print the outcome and the paths of the files."""
    options, given = cli.parse_arguments(cli.Parser("volume", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    run, quiet = options.run, options.run.quiet
    parallel.init_from_environment(checkpoints.resolve_device(options.problem.device))
    threads = cli.apply_threads(run.threads)
    cli.allow_tf32(run.allow_tf32)
    checkpoint = checkpoints.read(options.checkpoint)
    data = checkpoints.open_data(checkpoint, options.problem)
    problem = checkpoints.problem_of(checkpoint, options.problem, data)
    chosen = replace(options.volume, curvature=options.curvature)
    check(chosen, problem.num_params)
    check_given(chosen, given)
    memory = cli.memory_bytes(run.memory, Effort.memory)
    asked = {
        "checkpoint_sha256": checkpoint.sha256,
        "data_sha256": problem.data_sha256,
        "problem": identity.numbers_of(options.problem),
        "volume": chosen,
        "threads": threads,
        "memory": memory,
        "allow_tf32": run.allow_tf32,
        "device": problem.device.type,
    }
    fingerprint = store.fingerprint({"quantity": "volume", **asked})
    out = run.out or options.checkpoint.with_name(f"{options.checkpoint.stem}.volume.nc")
    figure = run.figure or out.with_suffix(".png")
    figures.check_format(figure)
    result = store.find_existing(out, fingerprint, run.force)
    for line in describe_problem(problem, data):
        cli.log(line, quiet)
    if result is None:
        cli.log(describe_plan(problem, chosen), quiet)
        store.check_writable(out)
        journal = Journal(out.with_name(f".{out.name}.state"), fingerprint, run.resume, parallel.rank() == 0)
        result = measure(problem, chosen, Effort(options.problem.seed, memory, journal, quiet))
        result.attrs |= identity.attributes(problem, asked, fingerprint, threads)
        if parallel.rank() == 0:
            store.write(result, out, "volume", run.force)
        journal.finish()
    else:
        cli.log(f"{out} holds this result already", quiet)
    return _tell(result, out, figure, quiet)


def _tell(result: xr.Dataset, out: Path, figure: Path, quiet: bool) -> int:
    """Print the table, draw the figure, print the paths, and return the exit code."""
    cli.show(describe_result(result), quiet)
    if parallel.rank() == 0:
        figures.save(figures.volume_figure(result), figure)
    cli.show_paths(out, figure)
    if "chain_converged" in result and not bool(result["chain_converged"]):
        cli.log("warning: the chains of the learning coefficient have not converged; use more --draws", quiet)
        return cli.NOT_CONVERGED
    return cli.DONE


if __name__ == "__main__":
    cli.run(main)
