"""The command ``python -m landscape.training``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from landscape import cli
from landscape.training.files import Control, train
from landscape.training.options import OutputOptions, TrainOptions

DESCRIPTION = "Train a network deterministically, with checkpoints from which everything else starts."
EXAMPLE = "python -m landscape.training --model lenet_300_100 --data mnist --out ckpt.pt"


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    training: TrainOptions
    output: OutputOptions


def main(argv: Sequence[str]) -> int:
    """Train as the arguments say, print the outcome and the paths of the files."""
    parser = cli.Parser("training", DESCRIPTION, EXAMPLE)
    options, _ = cli.parse_arguments(parser, CommandOptions, argv)
    output = options.output
    cli.apply_threads(output.threads)
    trained = train(
        options.training,
        output.out,
        control=Control(resume=output.resume, force=output.force, quiet=output.quiet),
    )
    last = trained.curves.isel(epoch=-1)
    for name, values in last.data_vars.items():
        cli.show(f"{str(name).replace('_', ' '):15s} {float(values):.6f}", output.quiet)
    cli.show_paths(*trained.paths)
    return cli.DONE


if __name__ == "__main__":
    cli.run(main)
