"""The state of a long measurement on disk, so that a killed run loses seconds, not hours.

A measurement is a sequence of named stages. Each stage hands its state (a dict of tensors and plain values) to
``saver``, which writes it now and then; a finished stage is kept whole. ``--resume`` finds the states of the same
fingerprint and goes on from there. The folder is removed when the result is written.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from landscape.errors import InputError
from landscape.store import atomic_path

State = dict[str, Any]

# Writing may take this share of the running time: a large Krylov basis is written rarely, a small one every second.
WRITING_SHARE = 0.05
SHORTEST_PAUSE = 1.0


class Journal:
    """Keeps the states of one measurement in a folder beside its result.

    Parameters
    ----------
    folder
        Where the states lie; None keeps nothing (an in-memory measurement, or a rank that does not write).
    fingerprint
        Names what was asked; states of another fingerprint are not used.
    resume
        Whether states that are found are continued, or thrown away.
    writes
        Whether this rank writes; all ranks read.
    remedy
        What to do about a state of other options, for the message; commands differ in their flags.
    """

    def __init__(
        self,
        folder: Path | None = None,
        fingerprint: str = "",
        resume: bool = False,
        writes: bool = True,
        remedy: str = "run without --resume to start again, or choose --out",
    ) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.writes = writes and folder is not None
        self.resume = resume
        self.remedy = remedy
        if self.writes and not resume:
            self.finish()

    def load(self, stage: str) -> State | None:
        """Return the last state of a stage, or None where there is none."""
        if self.folder is None or not self.resume or not (path := self.folder / f"{stage}.pt").is_file():
            return None
        try:
            found = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise InputError(f"the saved state {path} cannot be read; delete {self.folder} and start again") from error
        if found["fingerprint"] != self.fingerprint:
            raise InputError(f"{self.folder} holds the state of other options; {self.remedy}")
        return found["state"]

    def save(self, stage: str, state: State) -> None:
        """Write the state of a stage now."""
        if self.writes and self.folder is not None:
            with atomic_path(self.folder / f"{stage}.pt") as temporary:
                torch.save({"fingerprint": self.fingerprint, "state": state}, temporary)

    def saver(self, stage: str) -> Callable[[Callable[[], State], bool], None] | None:
        """Return a function that is called often with a maker of the state and with whether it is the last one.

        It writes the state as often as it pays, and the last one always.
        """
        if not self.writes:
            return None
        last, cost = time.monotonic(), 0.0

        def maybe_save(make_state: Callable[[], State], final: bool = False) -> None:
            nonlocal last, cost
            if not final and time.monotonic() - last < max(SHORTEST_PAUSE, cost / WRITING_SHARE):
                return
            start = time.monotonic()
            self.save(stage, make_state())
            last = time.monotonic()
            cost = last - start

        return maybe_save

    def finish(self) -> None:
        """Remove the states: the result is on disk."""
        if self.writes and self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)
