"""Every estimator against known truth: ``python -m landscape.volume.calibrate``.

Bodies of known volume, masses and evidences in closed form, learning coefficients of singular models, and a trained
network against all eigenvalues of its curvature. Each case is repeated over independent seeds; bias, spread, coverage
and cost are stored, and the valid ranges in the docstrings are read off them.
"""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from landscape import cli, figures, store, tasks
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.tasks import Outcome, Task, TaskOptions
from landscape.volume import bodies, references
from landscape.volume.benchmark import MOST_SEEDS, Case, Draw
from landscape.volume.radial import RayOptions

DESCRIPTION = "Measure bias, spread and coverage of every volume estimator against known truth."
EXAMPLE = "python -m landscape.volume.calibrate --out data/results/calibration.nc"
KINDS = {
    **dict.fromkeys(("off-centre", "sheared", "tilted"), "off-centre, sheared, tilted ellipsoids"),
    **{" ellipsoid ": "ellipsoids", "ball": "balls", "crossing": "normal crossings"},
}
Row = dict[str, float | str | int]


def bisection_passes(size: int) -> float:
    """Return the passes of plain bisection from a bracket of one doubling to the same tolerance of n log r."""
    return 2.0 + float(np.ceil(np.log2(np.log(2) * size / RayOptions().tolerance)))


def label(case: Case) -> str:
    """Return the name of a case in the table."""
    return f"{case.estimator}: {case.body}, n = {case.size}, condition {case.condition:g}"


@functools.cache
def chosen_cases(only: str | None) -> dict[str, Case]:
    """Return the cases whose estimator and body contain a text, by label; each process builds them once."""
    every = [*bodies.cases(), *references.cases()]
    return {label(c): c for c in every if only is None or only in f"{c.estimator}: {c.body}"}


def measure(name: str, only: str | None, most_seeds: int) -> Row:
    """Run the seeds of a case, found again by its label, since bodies do not travel between processes."""
    case = chosen_cases(only)[name]
    return summarise(case, [case.draw(seed) for seed in range(min(case.seeds, most_seeds))])


def summarise(case: Case, draws: Sequence[Draw]) -> Row:
    """Return the row of a case."""
    values, low, high = (np.array([getattr(d, name) for d in draws]) for name in ("value", "low", "high"))
    error = values - case.truth
    spread = float(values.std(ddof=1))
    finite = np.isfinite(high - low)
    ideal = 2 * 1.96 * spread
    passes = float(np.mean([d.passes for d in draws]))
    row: Row = {
        "case": label(case),
        "estimator": case.estimator,
        "body": case.body,
        "dimension_of_body": case.size,
        "condition": case.condition,
        "repetitions": len(draws),
        "truth": case.truth,
        "bias": float(error.mean()),
        "spread": spread,
        "error_95": float(np.quantile(np.abs(error), 0.95)),
        "coverage": float(((low <= case.truth) & (case.truth <= high)).mean()),
        "calibrated_share": float(np.mean([d.calibrated for d in draws])),
        "sampling_error": float(np.mean([d.sampling_se for d in draws])),
        "determinant_error": float(np.mean([d.determinant_se for d in draws])),
        "quadrature_bias": float(np.mean([d.bias for d in draws])),
        "products": float(np.mean([d.products for d in draws])),
        "passes": passes,
        "bisection_passes": bisection_passes(case.size) if np.isfinite(passes) else np.nan,
    }
    row["error_per_weight"] = float(row["error_95"]) / case.size
    usable = finite.all() and ideal > 1e-9
    row["width_ratio"] = float((high - low).mean() / ideal) if usable else np.nan
    return row


def table(rows: Sequence[Row]) -> xr.Dataset:
    """Return the rows as a Dataset over ``case``."""
    return xr.Dataset({name: ("case", [row[name] for row in rows]) for name in rows[0]}).set_coords("case")


def calibrate(
    work: Sequence[Task], where: TaskOptions | None = None, quiet: bool = True, journal: Journal | None = None
) -> xr.Dataset:
    """Run tasks that return rows, and return their table; what an interrupted run has done is not done again."""
    journal = journal or Journal()
    saved = journal.load("rows") or {"rows": {}, "seconds": 0.0}
    started, rows = time.monotonic() - saved["seconds"], dict(saved["rows"])
    waiting = [task for task in work if task.name not in rows]
    bar: tqdm[Any]
    with cli.progress(len(work), "calibration", quiet, len(work) - len(waiting), unit="case") as bar:

        def report(outcome: Outcome) -> None:
            bar.update()
            if outcome.error is None:
                rows[outcome.name] = outcome.value
                journal.save("rows", {"rows": rows, "seconds": time.monotonic() - started})

        tasks.raise_failures(tasks.run(waiting, where, report))
    result = table([rows[task.name] for task in work])
    result.attrs["seconds"] = time.monotonic() - started
    return result


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    only: str | None = cli.option(None, help="cases whose label contains this text", metavar="TEXT")
    out: Path = cli.option(Path("data/results/calibration.nc"), help="result file", metavar="FILE")
    seeds: int = cli.option(MOST_SEEDS, help="most seeds of a case; a coverage needs all", metavar="N")
    threads: int | None = cli.option(None, help="CPU threads", metavar="N")
    workers: int = cli.option(1, help="local processes of one thread each; 1: this process", metavar="W")
    resume: bool = cli.option(False, help="continue an interrupted run from its saved state")
    force: bool = cli.option(False, help="replace a different result at the same path")
    quiet: bool = cli.option(False, help="print nothing but the paths of what was written")


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; write its table and figure."""
    options, _ = cli.parse_arguments(cli.Parser("volume.calibrate", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    threads = cli.apply_threads(options.threads)
    store.check_writable(options.out)
    if options.seeds < 2:
        raise InputError(f"--seeds must be at least 2, not {options.seeds}: a spread needs two")
    asked = {"only": options.only, "seeds": options.seeds, "threads": threads, "products": bodies.PRODUCTS}
    fingerprint = store.fingerprint({"quantity": "calibration", **asked})
    result = store.find_existing(options.out, fingerprint, options.force)
    if result is None:
        work = [Task(name, measure, (name, options.only, options.seeds)) for name in chosen_cases(options.only)]
        if not work:
            raise InputError(f"no case contains the text {options.only!r}; without --only the table shows all")
        journal = Journal(options.out.with_name(f".{options.out.name}.state"), fingerprint, options.resume)
        result = calibrate(work, TaskOptions(options.workers), options.quiet, journal)
        command = f"python -m landscape.volume.calibrate {shlex.join(argv)}"
        result.attrs |= {"fingerprint": fingerprint, "options": store.as_json(asked), "threads": threads}
        result.attrs["command"] = command
        store.write(result, options.out, "calibration", options.force)
        journal.finish()
    cli.show("\n".join([describe(result), "", *valid_ranges(result)]), options.quiet)
    figure = figures.save(figures.calibration_figure(result), options.out.with_suffix(".png"))
    cli.show_paths(options.out, figure)
    return cli.DONE


def describe(result: xr.Dataset) -> str:
    """Return the table in words."""
    lines = [
        f"{'case':58s} {'bias':>9} {'spread':>9} {'95%/n':>9} {'cover':>6} {'width':>6} {'sure':>5} {'products':>8} "
        f"{'passes':>6} {'bisection':>9}"
    ]
    for i, label in enumerate(result["case"].values):
        row = result.isel(case=i)
        lines.append(
            f"{label:58s} {float(row['bias']):9.3g} {float(row['spread']):9.3g} {float(row['error_per_weight']):9.2g} "
            f"{float(row['coverage']):6.2f} {float(row['width_ratio']):6.2f} {float(row['calibrated_share']):5.2f} "
            f"{float(row['products']):8.0f} {float(row['passes']):6.1f} {float(row['bisection_passes']):9.0f}"
        )
    return "\n".join(lines)


def valid_ranges(result: xr.Dataset) -> list[str]:
    """Return a Markdown table of where each estimator was right and how right, and where it said that it was low.

    Errors, coverage and widths are the worst over the cases that called themselves calibrated, whose parameters and
    conditions stand before them; the last column counts those labelled lower bounds, with the worst mean shortfall.
    """
    lines = [
        "| estimator | truth | parameters | condition | error / weight | coverage | width / ideal | lower bounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds = [(str(e), kind_of(str(b))) for e, b in zip(result["estimator"].values, result["body"].values, strict=True)]
    for kind in dict.fromkeys(kinds):
        rows = result.isel(case=[i for i, k in enumerate(kinds) if k == kind])
        sure = rows["calibrated_share"].values >= 0.5
        good, low = rows.isel(case=sure), -rows["bias"].values[~sure]
        worst = float(f"{low.max(initial=0.0):.2g}")
        random = good.isel(case=np.isfinite(good["width_ratio"].values))
        error = float(good["error_per_weight"].max()) if sure.any() else np.nan
        cells = [
            *(f"`{kind[0]}`", kind[1], span(good["dimension_of_body"].values), span(good["condition"].values)),
            "-" if np.isnan(error) else f"{error:.2g}" if error > 1e-9 else "rounding",
            f"{span(np.round(100 * random['coverage'].values))} %" if random.sizes["case"] else "-",
            f"{float(random['width_ratio'].max()):.1f}" if random.sizes["case"] else "-",
            f"{len(low)} of {len(sure)}, by up to {worst:,g} nats" if len(low) else "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def kind_of(body: str) -> str:
    """Return what kind of truth a body is."""
    return next((kind for text, kind in KINDS.items() if text in f" {body} "), body)


def span(values: np.ndarray) -> str:
    """Return the least and the largest of some numbers in words."""
    if not len(values):
        return "-"
    ends = [f"{end:,.0f}" if end < 1e6 else f"{end:g}" for end in (values.min(), values.max())]
    return "-".join(dict.fromkeys(ends))


if __name__ == "__main__":
    cli.run(main)
