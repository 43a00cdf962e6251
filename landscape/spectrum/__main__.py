"""The command ``python -m landscape.spectrum``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from landscape import checkpoints, cli, figures, identity, parallel, store
from landscape.checkpoints import ProblemOptions
from landscape.journal import Journal
from landscape.spectrum.engines import DEFAULT_MEMORY, Effort
from landscape.spectrum.measure import measure
from landscape.spectrum.options import SpectrumOptions, check_given, plan
from landscape.spectrum.report import describe_plan, describe_problem, describe_result

DESCRIPTION = "Measure the Hessian eigenspectrum and its gaps of a trained, possibly pruned, network."
EXAMPLE = "python -m landscape.spectrum ckpt.pt --largest 20 --smallest 5 --per-layer"


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    checkpoint: Path = cli.option(help="checkpoint: own format, state_dict, .safetensors, pruned modules", flag="CKPT")
    problem: ProblemOptions = ProblemOptions()
    spectrum: SpectrumOptions = SpectrumOptions()
    run: cli.RunOptions = cli.RunOptions()


def main(argv: Sequence[str]) -> int:
    """Measure as the arguments say; print the outcome and the paths of the files."""
    options, given = cli.parse_arguments(cli.Parser("spectrum", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    run, quiet = options.run, options.run.quiet
    device = checkpoints.resolve_device(options.problem.device)
    parallel.init_from_environment(device)
    threads = cli.apply_threads(run.threads)
    cli.allow_tf32(run.allow_tf32)
    checkpoint = checkpoints.read(options.checkpoint)
    data = checkpoints.open_data(checkpoint, options.problem)
    problem = checkpoints.problem_of(checkpoint, options.problem, data)
    sizes = plan(options.spectrum, problem.num_params)
    check_given(options.spectrum, given)
    memory = cli.memory_bytes(run.memory, DEFAULT_MEMORY)
    asked = {
        "checkpoint_sha256": checkpoint.sha256,
        "data_sha256": problem.data_sha256,
        "problem": identity.numbers_of(options.problem),
        "spectrum": options.spectrum,
        "threads": threads,
        "memory": memory,
        "allow_tf32": run.allow_tf32,
        "device": problem.device.type,
    }
    fingerprint = store.fingerprint({"quantity": "spectrum", **asked})
    out = run.out or options.checkpoint.with_name(f"{options.checkpoint.stem}.spectrum.nc")
    figure = run.figure or out.with_suffix(".png")
    figures.check_format(figure)
    existing = store.find_existing(out, fingerprint, run.force)
    for line in describe_problem(problem, data):
        cli.log(line, quiet)
    if existing is None:
        cli.log(describe_plan(problem, sizes, options.spectrum, memory), quiet)
        store.check_writable(out)
        store.check_writable(figure)
        journal = Journal(out.with_name(f".{out.name}.state"), fingerprint, run.resume, parallel.rank() == 0)
        effort = Effort(options.problem.seed, memory, journal, quiet)
        result = measure(problem, options.spectrum, effort)
        result.attrs |= identity.attributes(problem, asked, fingerprint, threads)
        _write(result, out, run.force)
        journal.finish()
    else:
        cli.log(f"{out} holds this result already", quiet)
        result = existing
    return _tell(result, out, figure, options.spectrum, quiet)


def _write(result: xr.Dataset, out: Path, force: bool) -> None:
    if parallel.rank() == 0:
        store.write(result, out, "spectrum", force)


def _tell(result: xr.Dataset, out: Path, figure: Path, options: SpectrumOptions, quiet: bool) -> int:
    """Print the table, draw the figure, print the paths, and return the exit code."""
    cli.show(describe_result(result), quiet)
    if parallel.rank() == 0:
        with figures.style():
            figures.save(figures.spectrum_figure(result), figure)
    cli.show_paths(out, figure)
    done = "converged" not in result or bool(result["converged"].all())
    if not done:
        missing = result["eigen"].values[~result["converged"].values].tolist()
        cli.log(f"warning: eigenvalues {missing} did not converge to --tolerance {options.tolerance:g}", quiet)
    return cli.DONE if done else cli.NOT_CONVERGED


if __name__ == "__main__":
    cli.run(main)
