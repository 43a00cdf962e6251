"""``python -m landscape.study COMMAND RUN``: measure a run, and say what is measured."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from landscape import cli, datasets, figures, preconditions, results, runs, store
from landscape.checkpoints import ProblemOptions
from landscape.cli import option
from landscape.connectivity import PathOptions
from landscape.dimension import DimensionOptions
from landscape.errors import InputError
from landscape.relate import RelateOptions, relate
from landscape.relate import describe as describe_relations
from landscape.spectrum import SpectrumOptions
from landscape.study import compare, converged
from landscape.study.adopt import adopt
from landscape.study.compact import Compact, write_compact
from landscape.study.measure import Effort, measure, status
from landscape.study.plan import Selection, words
from landscape.study.requests import DECIDED, AlignmentOptions, MeasureOptions
from landscape.study.run_command import report_main, run_main
from landscape.tasks import TaskOptions
from landscape.volume import VolumeOptions

EXAMPLE = (
    "python -m landscape.study measure data/runs/lenet --quantities curves,connectivity,spectrum "
    "--points minimum,projected,restricted --levels 0,1,4,7,10 --budget 1.5"
)
ADOPT_EXAMPLE = "python -m landscape.study adopt files.csv --model resnet20 --data cifar10 --out data/runs/theirs"


@dataclass(frozen=True)
class RunOptions:
    """How to run."""

    workers: int = option(1, help="processes that measure side by side", metavar="W")
    scheduler: str | None = option(None, help="address of a Dask scheduler that measures instead", metavar="ADDRESS")
    budget: float | None = option(None, help="begin nothing that would not be finished in time", metavar="HOURS")
    threads: int = option(1, help="CPU threads of every measurement", metavar="N")
    memory: float | None = option(None, help="most memory that one measurement may take", metavar="GIB")
    quiet: bool = option(False, help="print nothing but the paths of what was written")


@dataclass(frozen=True)
class MeasureArguments:
    """Study."""

    run: Path = option(flag="RUN", help="directory of a run")
    selection: Selection = field(default_factory=Selection)
    problem: ProblemOptions = field(default_factory=ProblemOptions)
    spectrum: SpectrumOptions = field(default_factory=SpectrumOptions)
    path: PathOptions = field(default_factory=PathOptions)
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    volume: VolumeOptions = field(default_factory=VolumeOptions)
    dimension: DimensionOptions = field(default_factory=DimensionOptions, metadata={"prefix": "dimension"})
    how: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class StatusArguments:
    """Study."""

    run: Path = option(flag="RUN", help="directory of a run")


def measure_main(argv: Sequence[str]) -> int:
    """Measure what is missing of a selection."""
    parser = cli.Parser("study measure", "Measure what is missing of a run.", EXAMPLE, goes_on=True)
    arguments, given = cli.parse_arguments(parser, MeasureArguments, argv)
    decided = (*DECIDED["problem"], *(f"dimension_{name}" for name in DECIDED["dimension"]))
    refused = [name for name in decided if name in given]
    if refused:
        raise InputError(f"a study chooses --{refused[0].replace('_', '-')} itself, for every point; leave it out")
    how = arguments.how
    options = MeasureOptions(
        arguments.problem,
        arguments.spectrum,
        arguments.path,
        arguments.alignment,
        how.threads,
        cli.memory_bytes(how.memory, MeasureOptions.memory),
        arguments.volume,
        arguments.dimension,
    )
    run = runs.read(arguments.run)
    effort = Effort(TaskOptions(how.workers, how.scheduler), how.budget, how.quiet)
    done = measure(run, arguments.selection, options, effort)
    for request in done.unmatched:
        cli.log(f"{request}: no matched point exists", how.quiet)
    if done.missing:
        cli.show(f"missing for lack of time: {len(done.missing)} results", how.quiet)
        for request in done.missing:
            cli.show(f"  {request}", how.quiet)
    cli.show_paths(*done.written)
    return converged.exit_code(converged.unconverged(run.root, done.written), how.quiet)


@dataclass(frozen=True)
class AdoptArguments:
    """Adoption."""

    manifest: Path = option(flag="MANIFEST.csv", help="table of files, or a lottery_* directory of open_lth")
    out: Path = option(help="directory of the new run", metavar="RUN")
    model: str | None = option(None, help="network", metavar="NAME|MODULE:FACTORY")
    model_arg: tuple[str, ...] = option((), help="arguments of the network", metavar="K=V")
    data: str | None = option(None, help="data", metavar="NAME|FILE.npz|MODULE:CALLABLE")
    normalize: str | None = option(None, help="scaling of the inputs in training", choices=datasets.NORMALIZE)
    loss: str | None = option(
        None, help="loss (default: cross_entropy)", metavar="cross_entropy|mse|bce|MODULE:CALLABLE"
    )
    quiet: bool = option(False, help="print nothing but the path of the run")


def adopt_main(argv: Sequence[str]) -> int:
    """Make a run of other people's checkpoints."""
    parser = cli.Parser("study adopt", "Bring in checkpoints and masks that this project did not make.", ADOPT_EXAMPLE)
    a, _ = cli.parse_arguments(parser, AdoptArguments, argv)
    options = ProblemOptions(model=a.model, model_arg=a.model_arg, data=a.data, normalize=a.normalize, loss=a.loss)
    run = adopt(a.manifest, a.out, options)
    cli.show(status(run), a.quiet)
    cli.show_paths(run.root)
    return cli.DONE


def status_main(argv: Sequence[str]) -> int:
    """Print what is trained and measured."""
    parser = cli.Parser(
        "study status", "Say what is trained and measured of a run.", "python -m landscape.study status R"
    )
    arguments, _ = cli.parse_arguments(parser, StatusArguments, argv)
    cli.show(status(runs.read(arguments.run)))
    return cli.DONE


@dataclass(frozen=True)
class RelateArguments:
    """Relations."""

    run: Path = option(flag="RUN", help="directory of a run, or a file of study compact")
    options: RelateOptions = field(default_factory=RelateOptions)
    out: Path | None = option(None, help="table (default: RUN/results/relate.nc or FILE.relate.nc)", metavar="FILE")
    quiet: bool = option(False, help="print nothing but the path of the table")


def relate_main(argv: Sequence[str]) -> int:
    """Relate what was measured with test error, beyond the train loss."""
    description = "Does any measured number predict test error beyond the train loss?"
    parser = cli.Parser("study relate", description, "python -m landscape.study relate data/runs/lenet")
    arguments, _ = cli.parse_arguments(parser, RelateArguments, argv)
    asked = {"quantity": "relate", "options": arguments.options, **preconditions.inputs(arguments.run)}
    started = time.monotonic()
    table = relate(results.open_study(arguments.run), arguments.options)
    table.attrs = results.conditions_of(arguments.run) | {"seconds": time.monotonic() - started}
    table.attrs |= {"fingerprint": store.fingerprint(asked), "options": store.as_json(asked["options"])}
    out = arguments.out or results.derived_path(arguments.run, "relate")
    store.write_derived(table, out, "relate")
    cli.show(describe_relations(table), arguments.quiet)
    cli.show_paths(out)
    return cli.DONE


@dataclass(frozen=True)
class CompactArguments:
    """Compact study."""

    run: Path = option(flag="RUN", help="directory of a run")
    out: Path = option(help="one file with all results", metavar="FILE")
    quantities: tuple[str, ...] | None = option(None, help="only these quantities", metavar="NAME")
    keep: tuple[str, ...] = option((), help="bulky variables that stay (paths, flows, ...)", metavar="VARIABLE")
    eigenvalues: int | None = option(
        None, help="how many eigenvalues of either end stay (default: all that any result holds)", metavar="K"
    )
    num_examples: int | None = option(
        None, help="results on so many examples (default: the number of which there are most)", metavar="N"
    )
    force: bool = option(False, help="replace a different file at the same path")
    quiet: bool = option(False, help="print nothing but the path of the file")


def compact_main(argv: Sequence[str]) -> int:
    """Write all results of a run into one small file."""
    example = "python -m landscape.study compact data/runs/lenet --out data/reference/imp_mnist.nc"
    parser = cli.Parser("study compact", "Gather the results of a run in one small file.", example)
    a, _ = cli.parse_arguments(parser, CompactArguments, argv)
    run = runs.read(a.run)
    measured = results.quantities(run.root)
    names = measured if a.quantities is None else words(a.quantities, measured, "--quantities")
    command = f"python -m landscape.study compact {shlex.join(argv)}"
    small = write_compact(run, a.out, names, Compact(a.keep, a.eigenvalues, a.num_examples, command, a.force))
    cli.show(f"{len(small.data_vars)} variables, {a.out.stat().st_size / 2**20:.2f} MiB", a.quiet)
    cli.show_paths(a.out)
    return cli.DONE


@dataclass(frozen=True)
class CompareArguments:
    """Comparison."""

    runs: tuple[Path, ...] = option(flag="RUN", help="directories of runs, or files that compact made of them")
    out: Path | None = option(
        None, help="table (default: RUN/results/comparison.nc of the first, or FILE.comparison.nc)", metavar="FILE"
    )
    figure: Path | None = option(None, help="figure (default: beside the table)", metavar="FILE")
    quiet: bool = option(False, help="print nothing but the paths of table and figure")


def compare_main(argv: Sequence[str]) -> int:
    """Compare all pruned networks of runs."""
    description = "Compare pruned networks: accuracy against kept weights, the cost of masks, the solutions."
    parser = cli.Parser("study compare", description, "python -m landscape.study compare data/runs/lenet")
    arguments, _ = cli.parse_arguments(parser, CompareArguments, argv)
    table, out = compare.write(arguments.runs, arguments.out)
    cli.show(compare.describe(table), arguments.quiet)
    figure = arguments.figure or out.with_suffix(".png")
    cli.show_paths(out, figures.save(figures.comparison_figure(table), figure))
    return cli.DONE


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run_main,
    "report": report_main,
    "measure": measure_main,
    "status": status_main,
    "adopt": adopt_main,
    "relate": relate_main,
    "compact": compact_main,
    "compare": compare_main,
}


def main(argv: Sequence[str]) -> int:
    """Hand the arguments to a command."""
    parser = cli.Parser("study", "Measure runs; every command has a --help of its own.", EXAMPLE)
    parser.add_argument("command", choices=sorted(COMMANDS))
    chosen = parser.parse_args(argv[:1]).command
    return COMMANDS[chosen](argv[1:])


if __name__ == "__main__":
    cli.run(main)
