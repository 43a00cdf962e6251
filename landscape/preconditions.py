"""``python -m landscape.preconditions RUN --theory NAME``: what the theories claim, judged on the results of a run.

Every theory has a module with a function ``evaluate(study) -> Dataset``, which reads stored results and no tensors. The
rule that turns an effect and its noise into a word is in ``landscape.decisions``; the claims of a theory, with their
statistics, are listed in its module.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape import cli, results, runs, store
from landscape.decisions import NOT_APPLICABLE
from landscape.errors import InputError

# Theory -> the module that judges its claims, and the quantities that it reads (None: all that were measured).
THEORIES: dict[str, tuple[str, str | None]] = {
    "imc": ("landscape.compression_claims", None),
    "gfs": ("landscape.pretraining.claims", "gfs"),
    "imp": ("landscape.imp_claims", None),
    "inertial_manifold": ("landscape.manifold_claims", "dimension"),
    "volume": ("landscape.volume_claims", "volume"),
}
EXAMPLE = "python -m landscape.preconditions data/runs/lenet --theory imp"
NUMBERS = ("effect", "noise", "margin")


@dataclass(frozen=True)
class Arguments:
    """Verdicts."""

    run: Path = cli.option(flag="RUN", help="directory of a run, or a file of study compact")
    theory: str = cli.option(help="whose claims", choices=tuple(THEORIES))
    out: Path | None = cli.option(None, help="table (default: in RUN/results or beside FILE)", metavar="FILE")
    quiet: bool = cli.option(False, help="print nothing but the path of the table")


def evaluate_preconditions(root: str | Path, theory: str) -> xr.Dataset:
    """Judge the claims of a theory on the results of a run.

    Parameters
    ----------
    root
        Directory of a run, or the file that ``study compact`` made of one.

    Returns
    -------
    Over ``claim`` and those of method, level, replicate, point, control that the theory tells apart:
    ``verdict`` (``holds``, ``fails``, ``not resolved``), ``statistic``, ``effect``, ``noise``, ``margin`` and
    ``reason``. Where a claim is about every level, the same for single levels is in ``level_*``.

    Raises
    ------
    InputError
        If the theory is unknown or the run holds no results for it.
    """
    if theory not in THEORIES:
        raise InputError(f"unknown theory {theory!r}; use one of {', '.join(THEORIES)}")
    started = time.monotonic()
    root = Path(root)
    module, quantity = THEORIES[theory]
    judge = importlib.import_module(module)
    # A theory whose cells have labels of their own reads the run itself.
    own = getattr(judge, "evaluate_run", None)
    asked = {"quantity": "preconditions", "theory": theory, **inputs(root)}
    judged: xr.Dataset = judge.evaluate(results.open_study(root, quantity)) if own is None else own(root)
    judged.attrs = {
        **results.conditions_of(root),
        "theory": theory,
        "fingerprint": store.fingerprint(asked),
        "options": store.as_json({"theory": theory, "run": asked["run"]}),
        "seconds": time.monotonic() - started,
    }
    return judged


def inputs(root: Path) -> dict[str, Any]:
    """Return what names the results of a run, or of a compact study's file, that a table is made of."""
    if root.is_file():
        return {"run": store.open_result(root).attrs["fingerprint"], "results": store.file_sha256(root)}
    used = {q: sorted(results.stamps(results.folder(root, q))) for q in results.quantities(root)}
    return {"run": runs.read(root).fingerprint, "results": used}


def path_of(root: Path, theory: str) -> Path:
    """Return where the table of a theory lies: among a run's results, or beside a compact study."""
    return results.derived_path(root, f"preconditions_{theory}")


def rows(judged: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the verdicts of a table one by one; combinations that do not apply, or were not measured, are left out.

    Each has ``claim``, ``where`` (its labels in words), ``effect``, ``noise``, ``margin``, ``verdict``, ``reason``.
    """
    dims = [str(d) for d in judged["verdict"].dims if d != "claim"]
    for claim in judged["claim"].values.tolist():
        for place in itertools.product(*(judged[d].values.tolist() for d in dims)):
            one = judged[["verdict", "reason", *NUMBERS]].sel({"claim": claim, **dict(zip(dims, place, strict=True))})
            if str(one["reason"].values) in (NOT_APPLICABLE, "not measured"):
                continue
            yield {
                "claim": claim,
                "where": " ".join(str(value) for value in place if value not in ("", -1)),
                **{name: float(np.asarray(one[name])) for name in NUMBERS},
                "verdict": str(one["verdict"].item()),
                "reason": str(one["reason"].item()),
            }


def describe(judged: xr.Dataset) -> str:
    """Return the verdicts as text, one a line."""
    lines = [f"{'claim':44s} {'where':28s} {'effect':>10s} {'noise':>9s} {'margin':>8s}  verdict"]
    for row in rows(judged):
        word = f"{row['verdict']}{f' ({reason})' if (reason := row['reason']) else ''}"
        numbers = f"{row['effect']:10.3g} {row['noise']:9.2g} {row['margin']:8.3g}"
        lines.append(f"{row['claim']:44s} {row['where']:28s} {numbers}  {word}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Judge, print and store."""
    parser = cli.Parser("preconditions", "Judge what theories claim on the results of a run.", EXAMPLE)
    arguments, _ = cli.parse_arguments(parser, Arguments, argv)
    judged = evaluate_preconditions(arguments.run, arguments.theory)
    out = arguments.out or path_of(arguments.run, arguments.theory)
    store.write_derived(judged, out, "preconditions")
    cli.show(describe(judged), arguments.quiet)
    cli.show_paths(out)
    return cli.DONE


if __name__ == "__main__":
    cli.run(main)
