"""``python -m landscape.pruning METHOD ...``: a table of commands, each in a module of its own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from landscape import cli

# Command -> module whose ``main(argv)`` it is.
COMMANDS = {
    "children": "landscape.pruning.children",
    "gfs": "landscape.pruning.gfs_command",
    "gfs_channels": "landscape.pruning.gfs_channels",
    "gfs_sweep": "landscape.pruning.gfs_sweep",
    "imc": "landscape.pruning.imc",
    "imp": "landscape.pruning.imp",
    "score": "landscape.pruning.score",
}
DESCRIPTION = "Prune networks; every command has a --help of its own."
EXAMPLE = "python -m landscape.pruning imp --model lenet_300_100 --data mnist --out data/runs/lenet"


def main(argv: Sequence[str]) -> int | None:
    """Hand the arguments to a command."""
    parser = cli.Parser("pruning", DESCRIPTION, EXAMPLE)
    parser.add_argument("command", choices=sorted(COMMANDS))
    chosen = parser.parse_args(argv[:1]).command
    command = importlib.import_module(COMMANDS[chosen])
    code: int | None = command.main(argv[1:])
    return code


if __name__ == "__main__":
    cli.run(main)
