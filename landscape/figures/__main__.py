"""The command ``python -m landscape.figures``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from landscape import cli, figures, results, store
from landscape.errors import InputError
from landscape.figures.page import FORMATS

DESCRIPTION = "Draw the figure of a stored result, or all figures of a run; the networks are not needed."
EXAMPLE = (
    "python -m landscape.figures ckpt.spectrum.nc --out spectrum.pdf\n"
    "  python -m landscape.figures data/runs/lenet --out data/figures/lenet"
)
SUFFIXES = (".pdf", ".png")


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    result: Path = cli.option(help="a result (.nc), the directory of a run, or a file of study compact", flag="RESULT")
    out: Path | None = cli.option(
        None,
        help="figure (.png, .pdf, .svg; default: beside the result), or directory of the figures of a run",
        metavar="FILE|DIR",
    )
    quiet: bool = cli.option(False, help="print nothing but the paths of the figures")


def main(argv: Sequence[str]) -> int:
    """Draw the figure of a result, and print its path."""
    options, _ = cli.parse_arguments(cli.Parser("figures", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    study = results.open_study(options.result) if options.result.is_dir() else store.open_result(options.result)
    quantity = study.attrs.get("quantity", "study")
    if quantity == "study":
        folder = options.result / "figures" if options.result.is_dir() else options.result.with_suffix("")
        return draw_study(study, options.out or folder, options.quiet)
    if quantity not in figures.FIGURES:
        raise InputError(
            f"{options.result} holds {quantity}, which has no figure; there are {', '.join(figures.FIGURES)}"
        )
    cli.show_paths(figures.save(figures.FIGURES[quantity](study), options.out or options.result.with_suffix(".pdf")))
    return cli.DONE


def draw_study(study: xr.Dataset, folder: Path, quiet: bool = False) -> int:
    """Draw all figures of a study into a directory, as PDF and PNG, and say which are missing and why."""
    if folder.is_file() or (folder.suffix.lower() in FORMATS and not folder.is_dir()):
        raise InputError(f"--out {folder}: a study has many figures, so this must be a directory")
    drawn, missing = figures.study_figures(study)
    for name, reason in missing.items():
        cli.log(f"no figure of {name}: {reason}", quiet)
    if not drawn:
        raise InputError("the results allow no figure")
    for name, figure in drawn.items():
        for suffix in SUFFIXES:
            cli.show_paths(figures.save(figure, folder / f"{name}{suffix}"))
    return cli.DONE


if __name__ == "__main__":
    cli.run(main)
