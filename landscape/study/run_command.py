"""``python -m landscape.study run FILE`` and ``report RUN``: a whole study from a file to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from landscape import cli, report, results, runs, store, tasks
from landscape.checkpoints.problems import DEVICES
from landscape.cli import option
from landscape.errors import InputError
from landscape.report import Page
from landscape.study import converged
from landscape.study import file as study_file
from landscape.study.compact import Compact, write_compact
from landscape.study.conduct import check_out, conduct, left_undone
from landscape.study.file import Study
from landscape.study.measure import Effort
from landscape.tasks import TaskOptions

RUN_EXAMPLE = "python -m landscape.study run digits --budget 0.5 --workers 2"
REPORT_EXAMPLE = "python -m landscape.study report data/runs/digits"
COPY = "study.toml"


@dataclass(frozen=True)
class RunArguments:
    """Study."""

    study: str = option(flag="FILE.toml", help=f"study file, or a preset: {', '.join(study_file.presets())}")
    out: Path | None = option(None, help="directory of the study (default: data/runs/NAME)", metavar="DIR")
    budget: float | None = option(None, help="begin nothing that would not be finished in time", metavar="HOURS")
    workers: int = option(1, help="processes that work side by side", metavar="W")
    scheduler: str | None = option(None, help="address of a Dask scheduler that works instead", metavar="ADDRESS")
    device: str | None = option(None, help="device (default: as the file says)", choices=DEVICES)
    quiet: bool = option(False, help="print nothing but the path of the report")


@dataclass(frozen=True)
class ReportArguments:
    """Report."""

    run: Path = option(flag="RUN", help="directory of a study, or of a run")
    quiet: bool = option(False, help="print nothing but the path of the report")


def run_main(argv: Sequence[str]) -> int:
    """Train and measure what is missing of a study, and make its report."""
    description = "Train, measure, judge and draw what a study file asks for, as far as it is missing."
    parser = cli.Parser("study run", description, RUN_EXAMPLE, goes_on=True)
    a, _ = cli.parse_arguments(parser, RunArguments, argv)
    study = study_file.read(a.study, a.device)
    out = a.out or Path("data/runs") / study.name
    check_out(out)
    conducted = conduct(study, out, Effort(TaskOptions(a.workers, a.scheduler), a.budget, a.quiet))
    with store.atomic_path(out / COPY) as temporary:
        temporary.write_text(study.text)
    notes = left_undone(conducted)
    for line in notes:
        cli.show(line, a.quiet)
    paths = [*_gather(study, out), _report(study, out, notes)]
    tasks.raise_failures(conducted.outcomes)
    cli.show_paths(*paths)
    missed = [path for arm in study.arms for path in converged.unconverged(study.root(out, arm))]
    return converged.exit_code(missed, a.quiet)


def report_main(argv: Sequence[str]) -> int:
    """Make the report of what is stored."""
    description = "Judge, draw and report what is stored of a study; nothing is trained or measured."
    a, _ = cli.parse_arguments(cli.Parser("study report", description, REPORT_EXAMPLE), ReportArguments, argv)
    if (a.run / COPY).is_file():
        path = _report(study_file.read(a.run / COPY), a.run, [])
    else:
        run = runs.read(a.run)
        path = report.build({"": run.root}, Page(a.run.name), a.run)[-1]
    cli.show_paths(path)
    return cli.DONE


def _gather(study: Study, out: Path) -> list[Path]:
    """Write the results of every arm into one small file beside the report."""
    written = []
    for arm in study.arms:
        root = study.root(out, arm)
        if (root / "run.json").is_file() and (names := results.quantities(root)):
            path = out / f"{arm.name or 'study'}.nc"
            write_compact(runs.read(root), path, names, Compact(command=f"study {study.name}", force=True))
            written.append(path)
    return written


def _report(study: Study, out: Path, notes: Sequence[str]) -> Path:
    """Write the report on the arms that exist."""
    roots: Mapping[str, Path] = {arm.name: study.root(out, arm) for arm in study.arms}
    there = {name: root for name, root in roots.items() if (root / "run.json").is_file()}
    if not there:
        raise InputError(f"{out} holds no run of the study {study.name}; start it with python -m landscape.study run")
    return report.build(there, Page(study.title, study.description, tuple(notes), study.text), out)[-1]
