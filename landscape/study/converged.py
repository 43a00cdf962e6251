"""What of a study was measured but did not converge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from landscape import cli, results

FLAGS = ("converged", "chain_converged")
# Quantities whose own commands say so with their exit code.
QUANTITIES = ("spectrum", "volume", "dimension")


def unconverged(root: Path, written: Iterable[Path] | None = None) -> list[Path]:
    """Return the results of a run, or those of them that were written, in which something did not converge."""
    chosen = None if written is None else set(written)
    found = []
    for quantity in QUANTITIES:
        where = results.folder(root, quantity)
        if not results.stamps(where) or not (chosen is None or any(path.parent == where for path in chosen)):
            continue
        rows = results.index(root, quantity)
        bad = np.zeros(rows.sizes["result"], dtype=bool)
        for flag in FLAGS:
            if flag in rows:
                # what a result does not have is padded with NaN
                bad |= (rows[flag] == 0).any([d for d in rows[flag].dims if d != "result"]).values
        paths = [where / f"{name}.nc" for name in rows["fingerprint"].values[bad].tolist()]
        found += [path for path in paths if chosen is None or path in chosen]
    return found


def exit_code(missed: Sequence[Path], quiet: bool) -> int:
    """Name what did not converge, and return the exit code that says so."""
    for path in missed:
        cli.log(f"warning: {path} holds something that did not converge", quiet)
    return cli.NOT_CONVERGED if missed else cli.DONE
