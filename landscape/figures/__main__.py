"""The command ``python -m landscape.figures``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landscape import cli, figures, store
from landscape.errors import InputError

DESCRIPTION = "Draw the figure that belongs to a stored result; the network is not needed."
EXAMPLE = "python -m landscape.figures ckpt.spectrum.nc --out spectrum.pdf"
FIGURES = {
    "spectrum": figures.spectrum_figure,
    "dimension": figures.dimension_figure,
    "gfs": figures.gfs_figure,
    "volume": figures.volume_figure,
    "calibration": figures.calibration_figure,
}


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    result: Path = cli.option(help="a result (.nc)", flag="RESULT")
    out: Path | None = cli.option(None, help="figure: .png, .pdf or .svg (default: beside the result)", metavar="FILE")


def main(argv: Sequence[str]) -> int:
    """Draw the figure of a result, and print its path."""
    options, _ = cli.parse_arguments(cli.Parser("figures", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    result = store.open_result(options.result)
    quantity = result.attrs["quantity"]
    if quantity not in FIGURES:
        raise InputError(f"{options.result} holds {quantity}, which has no figure; there are {', '.join(FIGURES)}")
    cli.show_paths(figures.save(FIGURES[quantity](result), options.out or options.result.with_suffix(".pdf")))
    return cli.DONE


if __name__ == "__main__":
    cli.run(main)
